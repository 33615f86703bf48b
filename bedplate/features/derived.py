"""Derived features: row expressions and functions over features, evaluated by the same code in training and serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast, final

import numpy as np
import polars as pl

from bedplate.aggregations.base import to_expression
from bedplate.aggregations.text import expression_text
from bedplate.arguments import checks_arguments
from bedplate.batch import Column, Dense, Embedding, Ids, Ragged, column_to_series
from bedplate.canonical import expression_form
from bedplate.errors import DefinitionError
from bedplate.features.context import PREFIX, Context
from bedplate.features.declared import declared_output
from bedplate.features.entity import encode
from bedplate.features.function import RowFunction, VectorFunction
from bedplate.features.memo import Memo
from bedplate.features.vectors import matrix_of
from bedplate.identity import function_form
from bedplate.types import Bools, Int64s, Type, type_of

REQUEST_TIME = "request.time"
"""The input that holds the time asked for: a UTC datetime, to functions int64 microseconds."""

OutputLike: TypeAlias = "type[Any] | Type | str | None"


@checks_arguments
@final
class DerivedFeature:
    """A feature computed from other features of the same row.

    Args:
        name: unique in the project; a feature of a model under this name.
        expression: a Polars expression that works row by row over features by their full names
            (`pl.col("view.feature")`), other derived features, context of the request (`pl.col("request.query")`), and
            the time asked for (`pl.col("request.time")`); or
        function: a function of NumPy arrays that gives an array, row by row (see `function.VectorFunction`).
        inputs: what the function takes, by the same names; context and derived features may stand for themselves.
        type: what the function gives: `float`, `int`, `bool`, `str`, `datetime`, `list[str]`, `"vector[64]"`, ...

    Attributes:
        expression: the expression, or None.
        function: the function, or None.
        inputs: the names of what it is computed from.
        output: the declared type of a function's values and whether these are lists; None for an expression.

    Raises:
        DefinitionError: an argument does not fit, or the function has no identity that stays (see `identity`).

    >>> DerivedFeature("hour", pl.col("request.time").dt.hour()).inputs
    ('request.time',)
    """

    __slots__ = ("_form", "expression", "function", "inputs", "memo", "name", "output")

    def __init__(
        self,
        name: str,
        expression: pl.Expr | None = None,
        *,
        function: RowFunction | None = None,
        inputs: Sequence[str | Context | DerivedFeature] = (),
        type: OutputLike = None,
    ) -> None:
        place = f"derived feature '{name}'"
        if isinstance(name, str) and name.startswith(PREFIX):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"got the name '{name}', and '{PREFIX}' is for the request's own inputs", where=place)
        if not isinstance(name, str) or not name or name == REQUEST_TIME:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"got the name {name!r}, expected a text other than {REQUEST_TIME}", where=place)
        self.name = name
        self.memo = Memo()
        if (expression is None) == (function is None):
            raise DefinitionError("expected an expression or a function=, one of them", where=place)
        self.expression = None if expression is None else to_expression(expression, place)
        self.function: VectorFunction | None = None
        self.output: tuple[Type, bool] | None = None
        if self.expression is not None:
            if inputs or type is not None:
                raise DefinitionError("inputs and type are for a function", where=place, hint="leave them out")
            self.inputs: tuple[str, ...] = tuple(dict.fromkeys(self.expression.meta.root_names()))
            self._form: dict[str, Any] | None = None
        else:
            self.inputs = _names(inputs, place)
            self.output = declared_output(type, place)
            self._form = function_form(function, place) | {"inputs": list(self.inputs), "type": _text(self.output)}
            self.function = VectorFunction(cast("RowFunction", function), *self.output, place)
        if not self.inputs:
            raise DefinitionError("uses no feature", where=place, hint='for example pl.col("view.feature") / 2')

    @property
    def text(self) -> str:
        """The definition for a person to read."""
        if self.expression is not None:
            return expression_text(self.expression)
        form = self._form or {}
        return f"{form['function']}({', '.join(self.inputs)}): {form['type']}"

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        if self.expression is None:
            return dict(self._form or {})
        return {"expression": expression_form(self.expression, f"derived feature '{self.name}'")}

    def text_input(self, columns: Mapping[str, Column]) -> Ids | None:
        """The input when it is one string feature without nulls: its few different values are then computed once."""
        only = columns.get(self.inputs[0]) if len(self.inputs) == 1 else None
        if not isinstance(only, Ids) or only.texts is None:
            return None
        return only if only.present is None or bool(only.present.all()) else None


def _names(inputs: Sequence[str | Context | DerivedFeature], place: str) -> tuple[str, ...]:
    """The names of a function's inputs, in its order."""
    if isinstance(inputs, str) or not isinstance(inputs, list | tuple):
        raise DefinitionError(
            f"got the inputs {inputs!r}, expected a list", where=place, hint='for example inputs=["view.feature"]'
        )
    names: list[str] = []
    for one in inputs:
        named = one.feature.name if isinstance(one, Context) else one
        named = named.name if isinstance(named, DerivedFeature) else named
        if not isinstance(named, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"got the input {named!r}, expected the name of a feature", where=place)
        names.append(named)
    return tuple(names)


def _text(output: tuple[Type, bool]) -> str:
    return f"list of {output[0]}" if output[1] else output[0].value


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
        if texts is not None:
            result[feature.name] = _of_texts(feature, texts)
        elif feature.expression is None:
            result[feature.name] = _called(feature, columns, times)
        else:
            together.append(feature)
    if together:
        names = dict.fromkeys(n for f in together for n in f.inputs)
        series = [_input(n, columns, times) for n in names]
        expressions = [f.expression.alias(f.name) for f in together if f.expression is not None]
        frame = pl.DataFrame(series).select_seq(expressions)
        result |= {f.name: series_to_column(frame[f.name]) for f in together}
    return result


def _called(feature: DerivedFeature, columns: Mapping[str, Column], times: Int64s) -> Column:
    """The values of a function's feature."""
    if feature.function is None:
        raise RuntimeError(f"'{feature.name}' has no function")
    inputs = [Dense(times) if name == REQUEST_TIME else columns[name] for name in feature.inputs]
    return feature.function.column(inputs, len(times))


def _input(name: str, columns: Mapping[str, Column], times: Int64s) -> pl.Series:
    if name == REQUEST_TIME:
        return pl.Series(name, times).cast(pl.Datetime("us", "UTC"))
    return column_to_series(columns[name], name)


def _of_texts(feature: DerivedFeature, texts: Ids) -> Column:
    """The values for strings; each different string is computed once and then remembered."""

    def compute(ids: Int64s) -> Column:
        different = Ids(ids, None, texts.texts)
        if feature.expression is None:
            return _called(feature, {feature.inputs[0]: different}, ids)
        strings = column_to_series(different, feature.inputs[0])
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
        lengths = _without_null(series.list.len(), 0).to_numpy()
        offsets = np.zeros(len(series) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        inner = series_to_column((series if lengths.all() else series.filter(pl.Series(lengths > 0))).explode())
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
        return Ids(encode(_without_null(series.cast(pl.String), ""), texts), present, texts)
    if kind is Type.BOOL:
        return Dense(_without_null(series, value=False).to_numpy(), present)
    whole = series.dt.epoch("us") if kind is Type.TIME else series.cast(pl.Int64)
    return Dense(_without_null(whole, 0).to_numpy(), present)


def _without_null(series: pl.Series, value: str | int | bool) -> pl.Series:
    """The series with a value in place of each null; asking first spares a query where there is none."""
    return series.fill_null(value) if series.null_count() else series


def _embedding(series: pl.Series, dtype: pl.Array) -> Embedding:
    """Vectors; one with a null, NaN or infinity in it is not present."""
    if len(dtype.shape) != 1 or not dtype.inner.is_numeric():
        raise DefinitionError(f"'{series.name}' is {dtype}, expected vectors of numbers")
    values, present = matrix_of(series)
    there: Bools = np.logical_and.reduce(np.isfinite(values), axis=1)
    there = there if present is None else there & present
    return Embedding(values) if there.all() else Embedding(np.where(there[:, None], values, np.float32(0)), there)
