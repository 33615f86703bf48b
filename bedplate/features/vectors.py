"""Columns of vectors: from lists or arrays of numbers to float32 matrices, every length checked."""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from bedplate.aggregations.base import ExpressionLike, to_expression
from bedplate.errors import DefinitionError
from bedplate.types import Bools, Float32s, Type


def vector(expression: ExpressionLike, width: int) -> pl.Expr:
    """The row expression of a column of lists as vectors of one length; a column of arrays is one by itself.

    Args:
        expression: the column's name, or an expression; lists or arrays of numbers.
        width: how many numbers each vector has. A row with another number of them is an error when it is read, which
            names the row; a null, or a vector with a null or NaN in it, counts as no vector.

    Raises:
        DefinitionError: the width is no whole number above zero.

    >>> frame = pl.DataFrame({"image": [[1.0, 2.0], None]})
    >>> frame.select(vector("image", 2).alias("v"))["v"].to_list()
    [[1.0, 2.0], None]
    """
    place = f"vector({expression})"
    if not isinstance(width, int) or isinstance(width, bool) or not 1 <= width < 1_000_000:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DefinitionError(f"got the width {width!r}, expected a whole number from 1 to 999,999", where=place)
    lists = to_expression(expression, place).cast(pl.List(pl.Float32))
    # What has another length must not get lost: infinities are refused, with the row, where values are read.
    wrong = pl.lit([-math.inf] * width, dtype=pl.List(pl.Float32))
    return pl.when(lists.list.len() != width).then(wrong).otherwise(lists).list.to_array(width)


def matrix_of(series: pl.Series) -> tuple[Float32s, Bools | None]:
    """The vectors of a series of arrays.

    Returns:
        [n, width] float32, and which are there (None: all): null, or a null or NaN in it, is none, and 0 there.

    >>> matrix_of(pl.Series([[1.0, 2.0], None], dtype=pl.Array(pl.Float64, 2)))[1].tolist()
    [True, False]
    """
    width = series.dtype.shape[0] if isinstance(series.dtype, pl.Array) else 0
    values: Float32s = series.cast(pl.Array(pl.Float32, width)).to_numpy().reshape(len(series), width)
    there: Bools = ~np.logical_or.reduce(np.isnan(values), axis=1)
    if there.all():
        return np.ascontiguousarray(values), None
    return np.where(there[:, None], values, np.float32(0)), there


def wrong_vectors(values: Float32s) -> tuple[Bools, str] | None:
    """Which of the vectors [n, width] can't be used, and what the first of them is; None: none.

    >>> wrong_vectors(np.array([[1.0, 2.0], [-np.inf, -np.inf]], np.float32))
    (array([False,  True]), 'a list of another length than 2')
    """
    infinite: Bools = np.logical_or.reduce(np.isinf(values), axis=1)
    if not infinite.any():
        return None
    first = values[int(infinite.argmax())]
    other = bool((first == -np.inf).all())
    return infinite, f"a list of another length than {values.shape[1]}" if other else "a vector with an infinite number"


def dtype_of(kind: Type) -> pl.DataType:
    """The Polars type of vectors of a type."""
    return pl.Array(pl.Float32(), kind.width)
