"""Filters: boolean row expressions over the features of the candidates and of their request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import final

import numpy as np
import polars as pl

from bedplate.batch import Batch, column_to_series
from bedplate.errors import DataError, DefinitionError, reason, suggest
from bedplate.features.derived import REQUEST_TIME
from bedplate.features.expression import check_condition
from bedplate.features.graph import FeatureGraph
from bedplate.types import Bools, Int64s

_PIECE = 128
"""Candidates that are looked at between two looks at the clock, where filters have a budget."""
_TRIES = 64
"""Evaluations of filters that fail, after which what is not yet looked at counts as failed."""


@final
@dataclass(frozen=True, slots=True)
class Kept:
    """What filters let through.

    Attributes:
        rows: [n] positions of candidates; None: all of them.
        failed: candidates on whose values a filter fails.
        late: candidates that were not looked at in time.
    """

    rows: Int64s | None
    failed: int = 0
    late: int = 0


@final
class Filters:
    """All filters of a service, evaluated in one pass.

    Args:
        expressions: the filters.
        graph: the project's features.
        place: what a message calls the service.

    Attributes:
        features: the features that the filters read.

    Raises:
        DefinitionError: a filter reads an unknown feature, none at all, is not boolean, or depends on other candidates
            than its own.
    """

    __slots__ = ("_all", "_columns", "_place", "features")

    def __init__(self, expressions: Sequence[pl.Expr], graph: FeatureGraph, place: str) -> None:
        self._place = place
        columns: dict[str, None] = {}
        for i, expression in enumerate(expressions):
            read = list(dict.fromkeys(expression.meta.root_names()))
            _check(expression, read, graph, f"{place}, filter {i}")
            columns.update(dict.fromkeys(read))
        self._columns = tuple(columns)
        self.features = tuple(c for c in columns if c != REQUEST_TIME)
        self._all = pl.all_horizontal(e.fill_null(value=False) for e in expressions) if expressions else None

    def rows(self, batch: Batch) -> Int64s | None:
        """The positions of the candidates that all filters let through, or None: all of them.

        Args:
            batch: one request with its candidates.

        Raises:
            DataError: a filter fails on these values.
        """
        if self._all is None:
            return None
        kept = self._evaluate(self._all, self._frame(batch))
        return None if kept.all() else np.flatnonzero(kept)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return self._all is not None

    def rows_in_time(self, batch: Batch, seconds: float | None, pieces: int = 1) -> Kept:
        """As `rows`, but candidates that can't be looked at, or not in time, are left out.

        Args:
            batch: one request with its candidates.
            seconds: how long it may take, though the first of them are always looked at; None: no limit.
            pieces: of 128 candidates that are looked at between two looks at the clock.
        """
        if self._all is None or not batch.items:
            return Kept(None)
        frame, size = self._frame(batch), batch.items if seconds is None else _PIECE * pieces
        until = 0.0 if seconds is None else monotonic() + seconds
        kept, failed = np.zeros(batch.items, np.bool_), 0
        tries = [_TRIES]
        for first in range(0, batch.items, size):
            last = min(first + size, batch.items)
            if first and monotonic() >= until:
                return Kept(np.flatnonzero(kept), failed, batch.items - first)
            failed += self._look(self._all, frame, first, last, kept, tries)
        return Kept(None if kept.all() else np.flatnonzero(kept), failed)

    def _look(self, every: pl.Expr, frame: pl.DataFrame, first: int, last: int, kept: Bools, tries: list[int]) -> int:
        """Fills which rows from `first` to `last` are kept; gives on how many the filters fail, which are not kept."""
        try:
            kept[first:last] = self._evaluate(every, frame.slice(first, last - first))
        except DataError:
            tries[0] -= 1
            if last - first == 1 or tries[0] <= 0:
                return last - first
            middle = (first + last) // 2
            return self._look(every, frame, first, middle, kept, tries) + self._look(
                every, frame, middle, last, kept, tries
            )
        return 0

    def _frame(self, batch: Batch) -> pl.DataFrame:
        return pl.DataFrame([self._series(name, batch) for name in self._columns])

    def _evaluate(self, every: pl.Expr, frame: pl.DataFrame) -> Bools:
        try:
            return frame.select(every.alias("kept")).to_series().to_numpy()
        except pl.exceptions.PolarsError as error:
            raise DataError(f"a filter fails: {reason(error)}", where=self._place) from error

    def _series(self, name: str, batch: Batch) -> pl.Series:
        if name == REQUEST_TIME:
            return pl.Series(name, np.repeat(batch.times, batch.items)).cast(pl.Datetime("us", "UTC"))
        column = batch.item[name] if name in batch.item else batch.request[name].take(batch.request_of_item())
        return column_to_series(column, name)


def _check(expression: pl.Expr, read: Sequence[str], graph: FeatureGraph, place: str) -> None:
    if not read:
        raise DefinitionError(f"{expression} reads no feature", where=place)
    for name in read:
        if name != REQUEST_TIME and name not in graph.features:
            raise DefinitionError(f"unknown feature '{name}'", where=place, hint=suggest(name, graph.features))
    check_condition(expression, {name: graph.dtype(name) for name in read}, place, "the filter")
