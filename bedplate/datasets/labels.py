"""Labels: windows that look forward."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, final

import numpy as np
import polars as pl

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.base import Aggregation
from bedplate.aggregations.distinct import CountDistinct
from bedplate.aggregations.sketches import ApproxCountDistinct
from bedplate.arguments import checks_arguments
from bedplate.batch import Dense
from bedplate.canonical import digest
from bedplate.datasets.checks import check_events, check_kind, check_name, check_number, duration_of
from bedplate.datasets.split import TimeSplit
from bedplate.errors import DataError, DefinitionError
from bedplate.features.assemble import Candidates
from bedplate.features.entity import Entity, entities_of
from bedplate.features.view import CompiledView, FeatureView
from bedplate.offline.base import History
from bedplate.sources.base import Source
from bedplate.types import Array, Bools, Float32s, Int64s, Type, format_duration

_NEVER_NULL = (Count, Sum, CountDistinct, ApproxCountDistinct)

MASKED: Final = "masked"
"""What a label is, for `empty=`, that is left out where its aggregation gives no value."""

REQUEST = "request id"
"""The name of the entity that a label joined by request has beside its own."""


def _of_request(label: Label) -> tuple[Entity, ...]:
    return () if label.request is None else (Entity(REQUEST, key=label.request),)


@checks_arguments
@final
class Label:
    """What a model is to predict: at a request's time `t` the value of an aggregation over `t <= time < t + within`.

    A request is censored where the label's events are not complete yet: `t + within + maturity > end`, where `end` is
    the greatest event time of the label's source, or where the source says by row when it could be known, the greatest
    such time. What happened is not known then: the label is left out for that request, and counted. The delay of the
    source does not matter to a label.

    Args:
        name: the label's name in a batch.
        entities: whose events count; all of them must be known to the dataset's spine. With `request` the spine's item,
            or `()` for a label of the whole request.
        source: the events.
        aggregation: one number, without windows of its own.
        within: the horizon, such as `"7d"`.
        maturity: how long after the end of the horizon it takes until its events are complete, such as `"3d"`; needed
            where the source says by row when it could be known.
        request: the column of the source that holds the id of the request, the same as the spine's: only events of the
            request itself count, such as clicks of one impression. Rows in which it is null are of no request and
            not read, also where `end` is looked for.
        at_least: makes the label binary: 1.0 where the value is at least this, else 0.0.
        empty: what the label is where the aggregation gives no value, as a mean, a maximum or a last value do where
            nothing happened: a number, which `at_least` is compared with too; or `"masked"`, the candidate has no label
            then: NaN in the batch, no weight in the loss and the metrics of this task. With `at_least` it may be left
            out, and nothing that happened is 0.0. Counts and sums are 0 where nothing happened, and take no other
            number; a sum may be `"masked"` where no event had a value. Where it is left out no event may have null, and
            NaN may be only where it is `"masked"`: training refuses such events (`datasets.unknown`).

    Raises:
        DefinitionError: an argument does not fit.

    >>> import polars as pl
    >>> orders = Source("orders", pl.DataFrame({"user": [1], "time": [0]}), time="time")
    >>> Label("buys", Entity("user", key="user"), orders, Count(), within="7d", at_least=1).horizon
    604800000000
    """

    __slots__ = ("aggregation", "at_least", "empty", "entities", "horizon", "maturity", "name", "request", "source")

    def __init__(
        self,
        name: str,
        entities: Entity | Sequence[Entity],
        source: Source,
        aggregation: Aggregation,
        *,
        within: str = "7d",
        maturity: str | None = None,
        request: str | None = None,
        at_least: float | None = None,
        empty: float | Literal["masked"] | None = None,
    ) -> None:
        check_name(name, "label")
        self.name = name
        self.request = request
        if request is not None:
            check_kind(request, str, f"{self.place}: request", hint="the name of a column")
        whole = request is not None and isinstance(entities, Sequence) and not entities
        self.entities = () if whole else entities_of(entities, f"{self.place}: entities")
        check_events(source, self.place)
        self.source = source
        check_kind(aggregation, Aggregation, self.place, hint="for example Count() or Sum('quantity')")
        self.aggregation = aggregation
        self.horizon = duration_of(within, f"{self.place}: within")
        self.maturity = 0 if maturity is None else duration_of(maturity, f"{self.place}: maturity")
        if maturity is None and source.available is not None:
            raise DefinitionError(
                f"the source '{source.name}' has rows that become known late, and the label does not say how long to "
                "wait for them",
                where=self.place,
                hint='say after how long the events of a horizon are complete, for example maturity="3d"',
            )
        if at_least is not None:
            check_number(at_least, f"{self.place}: at_least")
        self.at_least, self.empty = at_least, empty
        self._check_aggregation()
        self._check_empty()

    def _check_aggregation(self) -> None:
        kind = type(self.aggregation).__name__
        if self.aggregation.windows != (None,):
            raise DefinitionError(
                f"{kind} has windows {[w.label for w in self.aggregation.windows if w]}, expected none",
                where=self.place,
                hint=f"the label's window is within={format_duration(self.horizon)}",
            )
        if self.aggregation.looks_back:
            raise DefinitionError(f"{kind} looks back, a label looks forward", where=self.place)

    def _check_empty(self) -> None:
        kind, place = type(self.aggregation).__name__, f"{self.place}: empty"
        if isinstance(self.empty, str):
            if self.empty != MASKED:
                raise DefinitionError(f"got {self.empty!r}, expected a number or '{MASKED}'", where=place)
        elif self.empty is not None:
            check_number(self.empty, place)
            if abs(self.empty) > float(np.finfo(np.float32).max):
                raise DefinitionError(f"the value {self.empty} is too large for float32", where=place)
        if isinstance(self.aggregation, Sum) and self.empty == MASKED:
            return
        if isinstance(self.aggregation, _NEVER_NULL):
            if self.empty not in (None, 0):
                raise DefinitionError(
                    f"got {self.empty!r}, and {kind} is 0 where no event counts",
                    where=place,
                    hint="leave it out; a mean, a maximum or a last value have none then, and a sum may be 'masked'",
                )
        elif self.empty is None and self.at_least is None:
            raise DefinitionError(
                f"{kind} has no value where no event counts, and the label does not say what it is then",
                where=self.place,
                hint=f"say a value, for example empty=0.0, or leave such candidates out of its task: empty='{MASKED}'",
            )

    @property
    def place(self) -> str:
        """What a message calls the label."""
        return f"label '{self.name}'"

    @property
    def complete_after(self) -> int:
        """How long after a request its label is complete: horizon and maturity, microseconds."""
        return self.horizon + self.maturity

    def compile(self, root: Path | None = None) -> CompiledLabel:
        """The label checked against the columns of its source.

        Raises:
            DefinitionError: an unknown column, or a value that is not one number.
        """
        return CompiledLabel(self, root)

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        form = {
            "name": self.name,
            "entities": [e.form() for e in self.entities],
            "source": self.source.form(),
            "aggregation": self.aggregation.form(),
            "within": format_duration(self.horizon),
            "at_least": self.at_least,
            "empty": self.empty,
        }
        # Named only where they are declared: the ids of other labels stay.
        more = {"maturity": format_duration(self.maturity) if self.maturity else None, "request": self.request}
        return form | {part: value for part, value in more.items() if value is not None}


@final
class CompiledLabel:
    """A label checked against its source.

    Attributes:
        label: the definition.
        view: the view that history is asked for: the label's value, and of a sum that may be masked how many events it
            is of.
        id: the hash of the definition, of the cleaning step and of the types.
    """

    __slots__ = ("id", "label", "view")

    def __init__(self, label: Label, root: Path | None) -> None:
        self.label = label
        # Named by the source, not the label: labels that differ in horizon or threshold alone share one view.
        name = f"label.{label.source.name}"
        entities = (*_of_request(label), *label.entities)
        where = None if label.request is None else pl.col(label.request).is_not_null()
        read: dict[str, Aggregation] = {"value": label.aggregation}
        if label.empty == MASKED and isinstance(label.aggregation, Sum):
            read["known"] = Count(label.aggregation.selection.inputs[0], where=label.aggregation.selection.where)
        definition = FeatureView(name, entities, label.source, read, where=where)
        try:
            self.view: CompiledView = definition.compile(root)
        except DefinitionError as error:
            raise DefinitionError(error.message, where=label.place, hint=error.hint) from None
        features = list(self.view.features.values())[: None if len(read) == 1 else 1]
        one_number = len(features) == 1 and not features[0].is_list
        if not one_number or features[0].type not in (Type.INT, Type.FLOAT, Type.BOOL):
            shown = ", ".join(f"list of {f.type}" if f.is_list else f.type for f in features)
            raise DefinitionError(
                f"{type(label.aggregation).__name__} gives {shown}, expected one number", where=label.place
            )
        self.id = digest([label.form(), self.view.id])

    @property
    def feature(self) -> str:
        """The full name of the label's value in its view."""
        return next(iter(self.view.features))

    def key_types(self) -> Mapping[str, Type]:
        """The type of each entity's key in the label's source."""
        kinds = zip(self.view.view.entities, self.view.key_types, strict=True)
        return {e.name: kind for e, kind in kinds if e.name != REQUEST}

    @property
    def is_binary(self) -> bool:
        """Whether it is one of 0 and 1 by definition: a threshold, or an aggregation of a boolean column."""
        if self.label.at_least is not None:
            return True
        return self.view.features[self.feature].type is Type.BOOL and self.label.empty in (0, 1, MASKED)

    @property
    def is_masked(self) -> bool:
        """Whether a candidate has no label where the aggregation gives no value."""
        return self.label.empty == MASKED

    @property
    def request_type(self) -> Type | None:
        """The type of the request's id in the label's source; None: the label is not joined by it."""
        return None if self.label.request is None else self.view.key_types[0]

    def last_time(self, history: History) -> int:
        """The last time at which a request is not censored, microseconds."""
        return history.known(self.view) - self.label.complete_after

    def read(self, history: History, rows: Candidates, split: TimeSplit | None = None) -> Float32s:
        """The label of every candidate.

        A label about the request alone is read once per request.

        Args:
            history: where it is read.
            rows: the requests and their candidates.
            split: the splits that no label may look across; None: there are none.

        Returns:
            [N] float32; NaN where the request is censored, or so near to the next split that it would look into it, or
            where there is no value and the label is masked then.

        Raises:
            DataError: a value is too large for float32.
        """
        names = [e.name for e in self.view.view.entities]
        of_request = {**rows.request_keys, REQUEST: rows.request_ids}
        of_item: Int64s = np.repeat(np.arange(len(rows.times)), np.diff(rows.offsets))
        if rows.item not in names:
            keys = np.stack([of_request[n] for n in names], axis=1)
            return self._known(history, keys, rows.times, split)[of_item]
        columns = [rows.candidates if n == rows.item else of_request[n][of_item] for n in names]
        return self._known(history, np.stack(columns, axis=1), rows.times[of_item], split)

    def _known(self, history: History, keys: Int64s, times: Int64s, split: TimeSplit | None) -> Float32s:
        """[n]: the label of keys at times, NaN where there is none."""
        known = times <= self.last_time(history)
        if split is not None:
            known &= ~split.looks_ahead(times, self.label.complete_after)
        return np.where(known, self._values(history, keys, times), np.float32(np.nan))

    def _values(self, history: History, keys: Int64s, times: Int64s) -> Float32s:
        found = history.ahead(self.view, list(self.view.features), keys, times, self.label.horizon)
        column, *counts = (found[name] for name in self.view.features)
        if not isinstance(column, Dense):
            raise DataError(f"history gave a {type(column).__name__} column, expected numbers", where=self.label.place)
        present: Bools = np.ones(len(keys), np.bool_) if column.present is None else column.present
        for count in counts:
            present = present & (count.values > 0) if isinstance(count, Dense) else present
        result = np.full(len(keys), self._where_empty(), np.float32)
        result[present] = self._told(column.values[present])
        return result

    def _where_empty(self) -> float:
        """What the label is where the aggregation gives no value."""
        empty, least = self.label.empty, self.label.at_least
        if isinstance(empty, str):
            return math.nan
        if empty is None:
            return 0.0
        return float(empty) if least is None else float(empty >= least)

    def _told(self, values: Array) -> Float32s:
        """What the label is where these are the aggregation's values."""
        if self.label.at_least is not None:
            return (values >= self.label.at_least).astype(np.float32)
        with np.errstate(over="ignore"):
            result = values.astype(np.float32)
        if not np.isfinite(result).all():
            raise DataError(
                f"the value {values[~np.isfinite(result)][0]} is too large for float32",
                where=self.label.place,
                hint="scale it in the aggregation's row expression",
            )
        return result
