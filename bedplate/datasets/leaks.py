"""Leaks: ways in which a training row could know what the served model can't; those that definitions show.

A forward window can't be a feature and a split's gap is at least a label's horizon and maturity: there is no way round
these. The other leaks have names, such as `fresh feature 'clicks'`. Each is an error unless the dataset allows it by
this name and gives a reason (`Dataset(allow=...)`), which then is part of the dataset's id and of the record of every
run and model. What can be seen in definitions is found here when they are loaded, what only data show by `audit`.

    fresh feature VIEW     the view reads the source of a label whose events become known up to its maturity late, as if
                           they were known at once
    coarse times VIEW      all times of the view's source, which a label or the spine reads too, are whole days, and
                           those of requests are not: a row of the morning may tell of the evening
    early feedback LABEL   events of a label that is joined by the request's id are from before their request
    future events LABEL    the label's source has events after now, so that no request is censored
    future value FEATURE   a feature that is a time lies after the time of the request
    equals label FEATURE   a feature is the label, or a linear function of it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from bedplate.datasets.labels import Label
from bedplate.errors import DefinitionError, suggest
from bedplate.features.view import CompiledView
from bedplate.types import format_duration


class Leak(StrEnum):
    """The leaks that a dataset may allow; see the top of this file."""

    FRESH = "fresh feature"
    COARSE = "coarse times"
    EARLY = "early feedback"
    FUTURE_EVENTS = "future events"
    FUTURE_VALUE = "future value"
    EQUAL = "equals label"

    def of(self, subject: str) -> str:
        """The name of the leak of a view, a label or a feature.

        >>> Leak.EARLY.of("clicked")
        "early feedback 'clicked'"
        """
        return f"{self.value} '{subject}'"


def check_allowed(
    allow: Mapping[str, str], views: Sequence[str], features: Sequence[str], labels: Sequence[str], place: str
) -> None:
    """Checks that what a dataset allows are names of leaks that it could have.

    Args:
        allow: reasons by the name of the leak.
        views: the names of the dataset's views.
        features: of its features.
        labels: of its labels.
        place: what a message calls the dataset.

    Raises:
        DefinitionError: there is no such leak, or no reason.
    """
    subjects = {
        Leak.FRESH: views,
        Leak.COARSE: views,
        Leak.EARLY: labels,
        Leak.FUTURE_EVENTS: labels,
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


def check_fresh(labels: Sequence[Label], views: Sequence[CompiledView], allow: Mapping[str, str], place: str) -> None:
    """Checks that no view reads a label's source fresher than the label says that it is.

    Args:
        labels: of the dataset.
        views: of its features.
        allow: as for `check_allowed`.
        place: what a message calls the dataset.

    Raises:
        DefinitionError: one does, and it is not allowed.
    """
    for label in labels:
        for view in views:
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
