"""Values of payloads: the Python type of a column's values, and a column of them that holds each exactly.

A list, an array and a struct hold what columns hold, a struct its fields by name.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, TypedDict, cast

import msgspec
import polars as pl

from bedplate.errors import DefinitionError, reason
from bedplate.types import SECOND, format_time, likely_unit, to_micros, unit_hint

_BITS: dict[type[pl.DataType], int] = {
    pl.Int8: 7,
    pl.Int16: 15,
    pl.Int32: 31,
    pl.Int64: 63,
    pl.UInt8: 8,
    pl.UInt16: 16,
    pl.UInt32: 32,
    pl.UInt64: 63,  # more is no value of a feature
}

_FIRST_TIME, _END_TIME = -62_135_596_800 * SECOND, 253_402_300_800 * SECOND
"""Microseconds of the years 1 to 9999, which a text can say."""

_NANOS = (1 << 63) // 1000
"""Microseconds before and after 1970 whose nanoseconds are within int64."""

_TYPES: dict[type[pl.DataType], Any] = {
    pl.Binary: bytes,
    pl.Boolean: bool,
    pl.Date: date,
    pl.Datetime: datetime | Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)],
    pl.Float32: float,
    pl.Float64: float,
    pl.String: str,
    pl.Categorical: str,
    pl.Decimal: Decimal,
    pl.Duration: timedelta,
    pl.Enum: str,
    pl.Null: type(None),
    pl.Time: time,
}


def type_of(dtype: pl.DataType, column: str) -> Any:
    """The Python type of a column's values, as msgspec checks it.

    Raises:
        DefinitionError: no payload can hold such a value.
    """
    if type(dtype) in _BITS:
        bits = _BITS[type(dtype)]
        low, high = (-(1 << bits), (1 << bits) - 1) if dtype.is_signed_integer() else (0, (1 << bits) - 1)
        return Annotated[int, msgspec.Meta(ge=low, le=high)]
    match dtype:
        case pl.List():
            return list[_type_within(dtype.inner, column)]
        case pl.Array():
            size = msgspec.Meta(min_length=dtype.size, max_length=dtype.size)
            return Annotated[list[_type_within(dtype.inner, column)], size]
        case pl.Struct():
            fields = {field.name: _type_within(field.dtype, f"{column}.{field.name}") for field in dtype.fields}
            return _struct_type(fields)
        case _ if type(dtype) in _TYPES:
            return _TYPES[type(dtype)]
        case _:
            raise DefinitionError(
                f"the column is {dtype}, which no payload of a stream can hold",
                where=f"column '{column}'",
                hint="feed the stream with files, or give the source's table another column type",
            )


def _type_within(dtype: Any, column: str) -> Any:
    """The type of what a list or a struct holds."""
    if isinstance(dtype, pl.Enum) and len(dtype.categories):
        # Within another value the library takes a text that is no category for null.
        literal: Any = Literal
        return literal[tuple(dtype.categories.to_list())] | None
    return type_of(dtype, column) | None


def _struct_type(fields: dict[str, Any]) -> Any:
    """The type of a dict by names, which need not be such as Python has; those that lack are null."""
    made: Any = TypedDict
    return made("Struct", fields, total=False)


def exact(name: str, values: list[Any], dtype: pl.DataType, unfit: dict[int, str]) -> list[Any]:
    """The values with times as microseconds, null in place of those that the column would change.

    Args:
        name: of the column.
        values: of the type that `type_of` gives.
        dtype: of the column.
        unfit: takes by number what is wrong with a value.
    """
    if not _is_converted(dtype):
        return values
    found: list[Any] = []
    for number, value in enumerate(values):
        try:
            found.append(_exact(value, dtype, name))
        except ValueError as error:
            unfit.setdefault(number, reason(error))
            found.append(None)
    return found


def series(name: str, values: list[Any], dtype: pl.DataType) -> pl.Series:
    """A column of what `exact` gives."""
    if _is_converted(dtype):
        return pl.Series(name, values, _with_micros(dtype)).cast(dtype)
    return pl.Series(name, values, dtype)


def _is_converted(dtype: Any) -> bool:
    """Whether a type holds times or decimals."""
    match dtype:
        case pl.List() | pl.Array():
            return _is_converted(dtype.inner)
        case pl.Struct():
            return any(_is_converted(field.dtype) for field in dtype.fields)
        case _:
            return isinstance(dtype, pl.Datetime | pl.Decimal)


def _exact(value: Any, dtype: Any, column: str) -> Any:
    """A value with times as microseconds.

    Raises:
        ValueError: the type would change it, or a time is doubtful.
    """
    match dtype:
        case _ if value is None:
            return None
        case pl.Datetime():
            return _micros(value, column, dtype.time_unit)
        case pl.Decimal():
            return _decimal(value, dtype)
        case pl.List() | pl.Array():
            return [_exact(v, dtype.inner, column) for v in value]
        case pl.Struct():
            held = cast("dict[str, Any]", value)
            return {f.name: _exact(held.get(f.name), f.dtype, f"{column}.{f.name}") for f in dtype.fields}
        case _:
            return value


def _with_micros(dtype: Any) -> pl.DataType:
    """The type with times of microseconds, of which any unit can be made."""
    match dtype:
        case pl.List():
            return pl.List(_with_micros(dtype.inner))
        case pl.Array():
            return pl.Array(_with_micros(dtype.inner), dtype.size)
        case pl.Struct():
            return pl.Struct({field.name: _with_micros(field.dtype) for field in dtype.fields})
        case pl.Datetime():
            return pl.Datetime("us", dtype.time_zone)
        case _:
            return dtype


def _micros(value: Any, column: str, unit: str) -> int:
    """Microseconds of a time.

    Raises:
        ValueError: a whole number within the year after 1970, which is likelier seconds or milliseconds; or it is not
            within the years that the unit can hold.
    """
    why = doubt(value, column) if isinstance(value, int) and value else None  # 0 is the epoch in every unit
    if why is not None:
        raise ValueError(why)
    low, high = (-_NANOS, _NANOS) if unit == "ns" else (_FIRST_TIME, _END_TIME)
    micros = to_micros(value)
    if not low <= micros < high:
        years = "1678 to 2261, in which nanoseconds are within int64" if high == _NANOS else "1 to 9999"
        raise ValueError(f"the time '{column}' is {micros} microseconds, expected one of the years {years}")
    return micros


def _decimal(value: Decimal, dtype: pl.Decimal) -> Decimal:
    """A decimal that has no more digits than the type, which would round it or take it for null."""
    exponent = value.normalize().as_tuple().exponent
    if not isinstance(exponent, int) or -exponent > dtype.scale:
        raise ValueError(f"got {value}, expected a decimal with at most {dtype.scale} digits after the point")
    if value.adjusted() >= dtype.precision - dtype.scale and value:
        raise ValueError(f"got {value}, expected a decimal with at most {dtype.precision} digits")
    return value


def doubt(micros: int, column: str) -> str | None:
    """Why a time that is a whole number can't be microseconds, or None: it may be.

    >>> doubt(1_768_669_200_000, "time")[:65]
    "the time 'time' is 1768669200000, as microseconds 1970-01-21T11:1"
    """
    unit = likely_unit(micros) if micros >= 0 else None
    if unit is None:
        return None
    return f"the time '{column}' is {micros}, as microseconds {format_time(micros)}; {unit_hint(unit)}"
