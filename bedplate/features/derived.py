"""Derived features: row expressions over features, evaluated by the same function in training and in serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import polars as pl

from bedplate.aggregations.base import to_expression
from bedplate.batch import Column, Dense, Embedding, Ids, Ragged, column_to_series
from bedplate.canonical import expression_form
from bedplate.errors import DefinitionError
from bedplate.features.entity import encode
from bedplate.features.memo import Memo
from bedplate.types import Bools, Int64s, Type, type_of

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

    __slots__ = ("expression", "inputs", "memo", "name")

    def __init__(self, name: str, expression: pl.Expr) -> None:
        place = f"derived feature '{name}'"
        if not isinstance(name, str) or not name or name == REQUEST_TIME:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"got the name {name!r}, expected a text other than {REQUEST_TIME}", where=place)
        self.name = name
        self.memo = Memo()
        self.expression = to_expression(expression, place)
        self.inputs: tuple[str, ...] = tuple(dict.fromkeys(self.expression.meta.root_names()))
        if not self.inputs:
            raise DefinitionError("uses no feature", where=place, hint='for example pl.col("view.feature") / 2')

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        return {"expression": expression_form(self.expression, f"derived feature '{self.name}'")}

    def text_input(self, columns: Mapping[str, Column]) -> Ids | None:
        """The input when it is one string feature without nulls: its few different values are then computed once."""
        only = columns.get(self.inputs[0]) if len(self.inputs) == 1 else None
        if not isinstance(only, Ids) or only.texts is None:
            return None
        return only if only.present is None or bool(only.present.all()) else None


def evaluate(derived: Sequence[DerivedFeature], columns: Mapping[str, Column], times: Int64s) -> dict[str, Column]:
    """The values of n rows of several derived features, none of which is an input of another.

    Args:
        derived: the features.
        columns: their inputs by name, each of length n.
        times: [n] int64 microseconds, the times asked for.

    Returns:
        a column of length n for each, by name.

    >>> half = DerivedFeature("half", pl.col("price") / 2)
    >>> evaluate([half], {"price": Dense(np.array([3.0]))}, np.array([0]))["half"].values.tolist()
    [1.5]
    """
    result: dict[str, Column] = {}
    together: list[DerivedFeature] = []
    for feature in derived:
        texts = feature.text_input(columns)
        if texts is None:
            together.append(feature)
        else:
            result[feature.name] = _of_texts(feature, texts)
    if together:
        names = dict.fromkeys(n for f in together for n in f.inputs)
        series = [_input(n, columns, times) for n in names]
        frame = pl.DataFrame(series).select_seq([f.expression.alias(f.name) for f in together])
        result |= {f.name: series_to_column(frame[f.name]) for f in together}
    return result


def _input(name: str, columns: Mapping[str, Column], times: Int64s) -> pl.Series:
    if name == REQUEST_TIME:
        return pl.Series(name, times).cast(pl.Datetime("us", "UTC"))
    return column_to_series(columns[name], name)


def _of_texts(feature: DerivedFeature, texts: Ids) -> Column:
    """The values for strings; each different string is computed once and then remembered."""

    def compute(ids: Int64s) -> Column:
        strings = column_to_series(Ids(ids, None, texts.texts), feature.inputs[0])
        return series_to_column(pl.DataFrame([strings]).select_seq(feature.expression.alias(feature.name)).to_series())

    return feature.memo.values(texts.values, compute)


def series_to_column(series: pl.Series) -> Column:
    """The column of a series: strings become ids, lists ragged, arrays embeddings; nulls, NaN, infinities not present.

    >>> series_to_column(pl.Series([1.5, None])).present.tolist()
    [True, False]
    """
    if isinstance(series.dtype, pl.Array):
        return _embedding(series, series.dtype)
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
    if kind is Type.FLOAT:
        values = series.cast(pl.Float64).to_numpy()
        finite = np.isfinite(values)
        return Dense(values, None) if finite.all() else Dense(np.where(finite, values, 0.0), finite)
    present = None if not series.null_count() else series.is_not_null().to_numpy()
    if kind is Type.STRING:
        texts: dict[int, str] = {}
        return Ids(encode(series.cast(pl.String).fill_null(""), texts), present, texts)
    if kind is Type.BOOL:
        return Dense(series.fill_null(value=False).to_numpy(), present)
    whole = series.dt.epoch("us") if kind is Type.TIME else series.cast(pl.Int64)
    return Dense(whole.fill_null(0).to_numpy(), present)


def _embedding(series: pl.Series, dtype: pl.Array) -> Embedding:
    """Vectors; one with a null, NaN or infinity in it is not present."""
    if len(dtype.shape) != 1 or not dtype.inner.is_numeric():
        raise DefinitionError(f"'{series.name}' is {dtype}, expected vectors of numbers")
    flat = series.cast(pl.Array(pl.Float32, dtype.shape)).to_list()
    empty = [None] * dtype.shape[0]
    values = np.array([v or empty for v in flat], np.float32).reshape(len(series), dtype.shape[0])
    there: Bools = np.logical_and.reduce(np.isfinite(values), axis=1)
    return Embedding(values) if there.all() else Embedding(np.where(there[:, None], values, np.float32(0)), there)
