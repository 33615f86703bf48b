"""The context of a spine's requests: columns of its source, one value a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import polars as pl

from bedplate.batch import Column, Embedding, Ragged
from bedplate.errors import DataError, DefinitionError, suggest
from bedplate.features.context import PREFIX, Context
from bedplate.features.decimals import decimals_as_floats
from bedplate.features.derived import series_to_column
from bedplate.features.vectors import matrix_of, vector, wrong_vectors
from bedplate.sources.base import Source
from bedplate.types import Bools, Int64s, Type, type_of


@final
class SpineContext:
    """Context checked against the columns of a spine's source.

    Args:
        contexts: the context that is wanted.
        source: the spine's.
        schema: its columns.
        place: what a message calls the spine.

    Attributes:
        expressions: what to read of the source.

    Raises:
        DefinitionError: an unknown column, or one of another type.
    """

    __slots__ = ("_contexts", "_place", "expressions")

    def __init__(
        self, contexts: Sequence[Context], source: Source, schema: Mapping[str, pl.DataType], place: str
    ) -> None:
        self._contexts, self._place = tuple(contexts), place
        for context in contexts:
            _check(context, source, schema, place)
        self.expressions = [_expression(c, schema).alias(f"{PREFIX}{c.name}") for c in contexts]

    def form(self) -> list[Any]:
        """The canonical form: what is read from where."""
        return [[c.form(), c.column] for c in self._contexts]

    def columns(self, frame: pl.DataFrame, by_request: Int64s, starts: Int64s, request: str) -> dict[str, Column]:
        """The value of each request, by full name.

        Args:
            frame: n rows, with the columns of `expressions` and the column "request".
            by_request: [n] positions of the rows, those of a request together.
            starts: [R] where each request begins among them.
            request: what a message calls the column that identifies a request.

        Raises:
            DataError: the rows of a request have different values, or a vector is of another length.
        """
        result: dict[str, Column] = {}
        for context in self._contexts:
            series = frame[f"{PREFIX}{context.name}"]
            if series.dtype.is_decimal():
                place = f"{self._place}, column '{context.column}' of {context.place}"
                series = decimals_as_floats(series, place, lambda i: f"{request} {frame['request'][i]!r}")
            self._check_vectors(context, series, frame["request"], request)
            column = series_to_column(series).take(by_request)
            first = np.repeat(starts, np.diff(np.append(starts, len(by_request))))
            different = _differs(column, column.take(first))
            if different.any():
                row = int(by_request[int(different.argmax())])
                raise DataError(
                    f"a request has rows with different values, the first is {request} {frame['request'][row]!r}",
                    where=f"{self._place}, column '{context.column}' of {context.place}",
                    hint="context belongs to the whole request: choose a request column that tells the rows apart, or "
                    "make them equal in the prepare step",
                )
            result[f"{PREFIX}{context.name}"] = column.take(starts)
        return result

    def _check_vectors(self, context: Context, series: pl.Series, requests: pl.Series, request: str) -> None:
        wrong = wrong_vectors(matrix_of(series)[0]) if context.type.width else None
        if wrong is not None:
            raise DataError(
                f"{np.count_nonzero(wrong[0]):,} rows hold no vector of {context.type.width} numbers: {wrong[1]} is in "
                f"{request} {requests[int(wrong[0].argmax())]!r}",
                where=f"{self._place}, column '{context.column}' of {context.place}",
                hint="repair the rows, or make them null in the prepare step",
            )


def _check(context: Context, source: Source, schema: Mapping[str, pl.DataType], place: str) -> None:
    if context.column not in schema:
        raise DefinitionError(
            f"{context.place} is the column '{context.column}', which source '{source.name}' does not have",
            where=place,
            hint=f"{suggest(context.column, schema, 'columns')}; Context(..., column=...) names another one",
        )
    dtype = schema[context.column]
    got = type_of(dtype)
    whole_for_float = context.type is Type.FLOAT and got is Type.INT
    is_list = bool(context.type.width) and isinstance(dtype, pl.List | pl.Array)
    if got is not context.type and not whole_for_float and not is_list:
        raise DefinitionError(
            f"{context.place} is {context.type}; the column '{context.column}' of source '{source.name}' is {dtype}",
            where=place,
            hint="cast it in the source's prepare step, or declare the type that it has",
        )


def _expression(context: Context, schema: Mapping[str, pl.DataType]) -> pl.Expr:
    column = pl.col(context.column)
    if context.type.width:
        return vector(column, context.type.width)
    if schema[context.column].is_decimal():
        return column
    # The types of what serving gets: a request's numbers are 64 bits wide.
    wide = {Type.FLOAT: pl.Float64, Type.INT: pl.Int64, Type.STRING: pl.String}.get(context.type)
    return column if wide is None or schema[context.column] == wide else column.cast(wide)


def _differs(one: Column, other: Column) -> Bools:
    """[n]: the rows in which two columns of one form differ; what is not present is 0 in both."""
    if isinstance(one, Ragged) or isinstance(other, Ragged):
        raise DataError("context holds lists, expected values", where="spine")
    different: Bools = one.values != other.values
    if isinstance(one, Embedding):
        different = np.logical_or.reduce(different, axis=1)
    if one.present is not None and other.present is not None:
        different |= one.present != other.present
    return different
