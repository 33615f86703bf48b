"""Decimals as float64: exactly the digits that they have, or refused where a float does not hold them."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import polars as pl

from bedplate.errors import DataError

DIGITS = 15
"""So many significant digits of any decimal number come back from the float64 that is nearest to it."""


def decimals_as_floats(series: pl.Series, place: str, row: Callable[[int], str]) -> pl.Series:
    """Decimals as the nearest float64, from which all their digits can be told again.

    Args:
        series: of decimals.
        place: what a message says the values are.
        row: what a message calls a row.

    Returns:
        [n] float64, null where the decimal is.

    Raises:
        DataError: a value has more digits than that.

    >>> decimals_as_floats(pl.Series([Decimal("0.10"), None]), "x", str).to_list()
    [0.1, None]
    """
    greatest = series.to_physical().abs().max()
    if not isinstance(greatest, int) or greatest < 10**DIGITS:
        return series.cast(pl.Float64)
    # The nearest float of more digits is that of their text; zeros at the end are digits of the type, not the value's.
    texts = series.cast(pl.String)
    floats = texts.cast(pl.Float64)
    digits = texts.str.replace(".", "", literal=True).str.strip_chars_start("-0").str.strip_chars_end("0")
    long = (digits.str.len_bytes() > DIGITS).fill_null(value=False).arg_true().to_list()
    lost = [i for i in long if Decimal(repr(floats[i])) != Decimal(texts[i])]
    if lost:
        raise DataError(
            f"{len(lost):,} of {len(series):,} decimals have more digits than a float64 holds, the first, "
            f"{texts[lost[0]]}, in {row(lost[0])}",
            where=place,
            hint="if they may be lost, cast the row expression to pl.Float64; to keep them, take integers of the last "
            'digit, such as (pl.col("price") * 100).cast(pl.Int64) for cents',
        )
    return floats
