"""Filters: boolean row expressions over the features of the candidates and of their request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import polars as pl

from bedplate.batch import Batch, column_to_series
from bedplate.errors import DataError, DefinitionError, reason, suggest
from bedplate.features.derived import REQUEST_TIME
from bedplate.features.graph import FeatureGraph
from bedplate.types import Int64s


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
        DefinitionError: a filter reads an unknown feature, none at all, or is not boolean.
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
        frame = pl.DataFrame([self._series(name, batch) for name in self._columns])
        try:
            kept = frame.select(self._all.alias("kept")).to_series().to_numpy()
        except pl.exceptions.PolarsError as error:
            raise DataError(f"a filter fails: {reason(error)}", where=self._place) from error
        return None if kept.all() else np.flatnonzero(kept)

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
    frame = pl.DataFrame(schema={name: graph.dtype(name) for name in read})
    try:  # on no rows: it finds more than asking for the schema
        dtype = frame.select(expression.alias("kept"))["kept"].dtype
    except pl.exceptions.PolarsError as error:
        raise DefinitionError(f"{expression} fails: {reason(error)}", where=place) from error
    if dtype != pl.Boolean:
        raise DefinitionError(f"{expression} is {dtype}, expected a boolean", where=place)
