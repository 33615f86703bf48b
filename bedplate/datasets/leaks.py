"""Leaks: ways in which a training row could know what the served model can't; those that definitions show.

A forward window can't be a feature and no label looks into the next split: there is no way round these. The other leaks
have names, such as `fresh feature 'clicks'`. Each is an error unless the dataset allows it by this name and gives a
reason (`Dataset(allow=...)`), which then is part of the dataset's id and of the record of every run and model. What can
be seen in definitions is found here when they are loaded, what only data show by `audit`.

    fresh feature VIEW     the view reads the source of a label whose events become known up to its maturity late, as if
                           they were known at once
    outcome column FEATURE a label of the requests' own rows and the feature read the same column of the spine's log,
                           such as whether the row was clicked, and the feature as if it were known at once; named as
                           the view defines it, without windows
    coarse times VIEW      all times of the view's source, which a label or the spine reads too, are whole days, and
                           those of requests are not: a row of the morning may tell of the evening
    early feedback LABEL   events of a label that is joined by the request's id are from before their request
    future events LABEL    the label's source has events after now, so that no request is censored
    stray end LABEL        a few rows of the label's source are much later than all others: the end of the data is taken
                           from them, and requests that are not complete yet count as if they were
    future value FEATURE   a feature that is a time lies after the time of the request
    equals label FEATURE   a feature is the label, a linear function of it, or so near to one that it leaves no doubt
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TypeAlias

import polars as pl

from bedplate.aggregations.base import Aggregation
from bedplate.datasets.labels import Label
from bedplate.datasets.spine import Spine
from bedplate.errors import DefinitionError, suggest
from bedplate.features.view import CompiledView
from bedplate.types import format_duration


class Leak(StrEnum):
    """The leaks that a dataset may allow; see the top of this file."""

    FRESH = "fresh feature"
    OUTCOME = "outcome column"
    COARSE = "coarse times"
    EARLY = "early feedback"
    FUTURE_EVENTS = "future events"
    STRAY_END = "stray end"
    FUTURE_VALUE = "future value"
    EQUAL = "equals label"

    def of(self, subject: str) -> str:
        """The name of the leak of a view, a label or a feature.

        >>> Leak.EARLY.of("clicked")
        "early feedback 'clicked'"
        """
        return f"{self.value} '{subject}'"


Reads: TypeAlias = Sequence[tuple[CompiledView, Sequence[str]]]
"""Views with the full names of the features that a dataset reads from each."""


def _defined(view: CompiledView, names: Sequence[str]) -> dict[str, Aggregation]:
    """The aggregations behind features of a view, by view and name as the view defines them, without windows."""
    short = {view.short(name) for name in names}
    used = {call.feature for call in view.calls if not short.isdisjoint(call.names)}
    return {f"{view.name}.{name}": view.view.features[name] for name in view.view.features if name in used}


def check_allowed(
    allow: Mapping[str, str], reads: Reads, features: Sequence[str], labels: Sequence[str], place: str
) -> None:
    """Checks that what a dataset allows are names of leaks that it could have.

    Args:
        allow: reasons by the name of the leak.
        reads: what the dataset reads.
        features: the names of its features.
        labels: of its labels.
        place: what a message calls the dataset.

    Raises:
        DefinitionError: there is no such leak, or no reason.
    """
    views = [view.name for view, _ in reads]
    subjects = {
        Leak.FRESH: views,
        Leak.OUTCOME: [name for view, names in reads for name in _defined(view, names)],
        Leak.COARSE: views,
        Leak.EARLY: labels,
        Leak.FUTURE_EVENTS: labels,
        Leak.STRAY_END: labels,
        Leak.FUTURE_VALUE: features,
        Leak.EQUAL: features,
    }
    known = [leak.of(subject) for leak, names in subjects.items() for subject in names]
    for name, reason in allow.items():
        if name not in known:
            raise DefinitionError(
                f"it allows '{name}', which is no leak that it could have",
                where=f"{place}: allow",
                hint=suggest(str(name), known, "leaks"),
            )
        if not isinstance(reason, str) or not reason.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(
                f'it allows "{name}" for the reason {reason!r}, expected a text', where=f"{place}: allow"
            )


def check_fresh(labels: Sequence[Label], reads: Reads, allow: Mapping[str, str], place: str) -> None:
    """Checks that no view reads a label's source fresher than the label says that it is.

    Args:
        labels: of the dataset.
        reads: what the dataset reads.
        allow: as for `check_allowed`.
        place: what a message calls the dataset.

    Raises:
        DefinitionError: one does, and it is not allowed.
    """
    for label in labels:
        for view, _ in reads:
            source, name = view.view.source, Leak.FRESH.of(view.name)
            is_fresh = source.available is None and source.delay < label.maturity
            after = f"after {format_duration(source.delay)}" if source.delay else "at once"
            if source.name == label.source.name and is_fresh and name not in allow:
                raise DefinitionError(
                    f"{name}: {view.place} takes events of source '{source.name}' as known {after}, and {label.place} "
                    f"says that it takes up to {format_duration(label.maturity)} until they are",
                    where=place,
                    hint="declare available= (the column that says when a row could be known) or delay= at the source; "
                    f'or allow it with a reason: allow={{"{name}": "..."}}',
                )


def check_outcomes(spine: Spine, labels: Sequence[Label], reads: Reads, allow: Mapping[str, str], place: str) -> None:
    """Checks that no feature reads a column of the spine's log, known at once, that a label says comes later.

    Args:
        spine: of the dataset.
        labels: of the dataset.
        reads: what the dataset reads.
        allow: as for `check_allowed`.
        place: what a message calls the dataset.

    Raises:
        DefinitionError: some do, and it is not allowed; all of them are named.
    """
    found: dict[str, tuple[Label, str]] = {}
    for label in labels:
        outcomes, wait = _outcome_columns(spine, label), label.complete_after
        for view, names in reads:
            source, where = view.view.source, view.view.where
            if source.name != label.source.name or source.available is not None or source.delay >= wait:
                continue
            everywhere = _read_by(where)
            for feature, aggregation in _defined(view, names).items():
                read = sorted(outcomes & (aggregation.columns | everywhere))
                if read and Leak.OUTCOME.of(feature) not in allow:
                    found.setdefault(Leak.OUTCOME.of(feature), (label, read[0]))
    if not found:
        return
    first, (label, column) = next(iter(found.items()))
    wait = format_duration(label.complete_after)
    raise DefinitionError(
        f"{', '.join(found)}: read the column '{column}' of source '{label.source.name}' as known with its row, and "
        f"{label.place} tells from it what becomes of the row within {wait}",
        where=place,
        hint=f'if it is filled in later, declare available= (the column that says when) or delay="{wait}" at the '
        f'source; if it is known when the row is written, allow it with a reason: allow={{"{first}": "..."}}',
    )


def _read_by(condition: pl.Expr | None) -> frozenset[str]:
    return frozenset[str]() if condition is None else frozenset(condition.meta.root_names())


def _outcome_columns(spine: Spine, label: Label) -> frozenset[str]:
    """The columns of the spine's rows that a label of these very rows reads; none for another label.

    A label is of the rows themselves where it is joined by the request's id, or is about the candidate and somebody
    whose request it is: what is filled in later then is its value. A sum over all that a user does from now on is not
    that. Where the label's condition and the spine's are about the same column, they are rows of different kinds, such
    as impressions and clicks, each written when it happened.
    """
    about = {e.name for e in label.entities}
    of_the_pair = spine.item.name in about and (not spine.entities or any(e.name in about for e in spine.entities))
    if label.source.name != spine.source.name or not (label.request is not None or of_the_pair):
        return frozenset()
    columns = {spine.source.time, spine.source.available, spine.source.sequence, spine.request, label.request}
    columns |= {e.key for e in (*spine.entities, spine.item, *label.entities)}
    chosen = _read_by(spine.where) - columns
    if any(chosen & _read_by(selection.where) for selection in label.aggregation.selections):
        return frozenset()
    return label.aggregation.columns - columns - chosen
