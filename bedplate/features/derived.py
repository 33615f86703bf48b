"""Derived features: row expressions over features, evaluated by the same function in training and in serving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
import polars as pl

from bedplate.aggregations.base import to_expression
from bedplate.batch import Column, Dense, Embedding, Ids, Ragged, column_to_series
from bedplate.canonical import expression_form
from bedplate.errors import DefinitionError
from bedplate.features.entity import encode
from bedplate.types import Int64s, type_of

REQUEST_TIME = "request.time"
"""The input that holds the time asked for, a UTC datetime."""


@final
class DerivedFeature:
    """A feature computed from other features of the same row.

    Args:
        name: unique in the project; a feature of a model under this name.
        expression: a Polars expression that works row by row over features by their full names
            (`pl.col("view.feature")`), other derived features, and the time asked for (`pl.col("request.time")`).

    >>> DerivedFeature("hour", pl.col("request.time").dt.hour()).inputs
    ('request.time',)
    """

    __slots__ = ("expression", "inputs", "name")

    def __init__(self, name: str, expression: pl.Expr) -> None:
        self.name = name
        self.expression = to_expression(expression)
        self.inputs: tuple[str, ...] = tuple(dict.fromkeys(self.expression.meta.root_names()))
        if not self.inputs:
            raise DefinitionError("uses no feature", where=f"derived feature '{name}'")

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        return {"expression": expression_form(self.expression, f"derived feature '{self.name}'")}

    def evaluate(self, columns: Mapping[str, Column], times: Int64s) -> Column:
        """The values of n rows.

        Args:
            columns: the inputs by name, each of length n.
            times: [n] int64, the times asked for.
        """
        texts = self._single_text(columns)
        if texts is not None:
            unique, inverse = np.unique(texts.values, return_inverse=True)
            shown = Ids(unique, None, texts.texts)
            column = self._evaluate({self.inputs[0]: shown}, unique)
            taken = column.take(inverse.astype(np.int64))
            return taken if texts.present is None else _blank(taken, texts.present)
        return self._evaluate(columns, times)

    def _single_text(self, columns: Mapping[str, Column]) -> Ids | None:
        """The input when it is one string feature: its few different values are then computed once."""
        only = columns.get(self.inputs[0]) if len(self.inputs) == 1 else None
        if not isinstance(only, Ids) or only.texts is None:
            return None
        return only if only.present is None or bool(only.present.all()) else None

    def _evaluate(self, columns: Mapping[str, Column], times: Int64s) -> Column:
        series = [
            pl.Series(name, times).cast(pl.Datetime("us", "UTC"))
            if name == REQUEST_TIME
            else column_to_series(columns[name], name)
            for name in self.inputs
        ]
        return series_to_column(pl.DataFrame(series).select(self.expression.alias(self.name)).to_series())


def _blank(column: Column, present: np.ndarray[Any, np.dtype[np.bool_]]) -> Column:
    if isinstance(column, Dense):
        return Dense(column.values, present if column.present is None else column.present & present)
    return column


def series_to_column(series: pl.Series) -> Column:
    """The column of a series: strings become ids, lists become ragged, nulls and NaN are not present.

    >>> series_to_column(pl.Series([1.5, None])).present.tolist()
    [True, False]
    """
    if isinstance(series.dtype, pl.Array):
        present = None if not series.null_count() else series.is_not_null().to_numpy()
        width = series.dtype.shape[0]
        filled = series.fill_null(pl.lit([0.0] * width, series.dtype)) if present is not None else series
        return Embedding(np.ascontiguousarray(filled.to_numpy(), np.float32), present)
    if isinstance(series.dtype, pl.List):
        lengths = series.list.len().fill_null(0).to_numpy()
        offsets = np.zeros(len(series) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        inner = series_to_column(series.filter(series.list.len() > 0).explode())
        if not isinstance(inner, Dense | Ids):
            raise DefinitionError(f"'{series.name}' is a list of lists, expected a list of values")
        return Ragged(inner, offsets)
    kind = type_of(series.dtype)
    if kind is None:
        raise DefinitionError(f"'{series.name}' is {series.dtype}, expected numbers, strings, times or lists of them")
    there = series.is_not_null()
    if series.dtype.is_float():
        there = there & series.is_not_nan().fill_null(value=False) & series.is_finite().fill_null(value=False)
    present = None if there.all() else there.to_numpy()
    if kind == "string":
        texts: dict[int, str] = {}
        values = encode(series.cast(pl.String).fill_null(""), texts)
        return Ids(values, present, texts)
    if series.dtype.is_float() or series.dtype.is_decimal():
        return Dense(np.where(there.to_numpy(), series.cast(pl.Float64).fill_null(0.0).to_numpy(), 0.0), present)
    if series.dtype == pl.Boolean:
        return Dense(series.fill_null(value=False).to_numpy(), present)
    return Dense(encode(series.fill_null(strategy="zero") if series.null_count() else series), present)
