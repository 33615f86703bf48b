"""Payloads: from the bytes of events to rows of the source's table, by its schema; what does not fit is named.

Field names are the table's columns. A column that a payload lacks is null there, and a field that is no column is left
out. A time is a text as in ISO 8601 (without an offset it is UTC) or whole microseconds since the epoch; a whole number
that is likelier seconds or milliseconds is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, cast, final

import msgspec
import numpy as np
import polars as pl

from bedplate.errors import DefinitionError, reason
from bedplate.online.parsers import Parse, parser
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


@final
class Payloads:
    """Decodes payloads of one form.

    Args:
        form: `json`, `avro:FILE` with a schema in JSON, or `protobuf:FILE:MESSAGE` with a descriptor set as
            `protoc --include_imports --descriptor_set_out` writes it, and the full name of a message in it. Or a parser
            of its own, then payloads are what it takes.
        schema: the columns of the source's table.
        root: where a relative path starts.

    Raises:
        ConfigError: the form is not known, or its file can't be read.
        DefinitionError: a column has a type that no payload can hold.

    >>> rows, wrong = Payloads("json", {"user": pl.Int64()}).decode([b'{"user": 1}', b'{"user": "x"}'])
    >>> rows["user"].to_list(), wrong
    ([1], {1: 'Expected `int | null`, got `str` - at `$.user`'})
    """

    __slots__ = ("_fields", "_parse", "_schema", "_struct")

    def __init__(self, form: str | Parse, schema: Mapping[str, pl.DataType], root: Path | None = None) -> None:
        self._schema = dict(schema)
        self._fields = [f"c{i}" for i in range(len(schema))]  # a column's name need not be one in Python
        self._struct = msgspec.defstruct(
            "Event",
            [
                (f, _type_of(dtype, name) | None, None)
                for f, (name, dtype) in zip(self._fields, schema.items(), strict=True)
            ],
            rename=dict(zip(self._fields, schema, strict=True)),
        )
        self._parse: Parse = parser(form, root or Path()) if isinstance(form, str) else form

    def decode(self, payloads: Sequence[Any]) -> tuple[pl.DataFrame, dict[int, str]]:
        """The rows of the payloads that fit, in their order, and by number what is wrong with each other one."""
        found: list[msgspec.Struct] = []
        numbers: list[int] = []
        wrong: dict[int, str] = {}
        parse, struct = self._parse, self._struct
        for number, payload in enumerate(payloads):
            if payload is None:
                wrong[number] = "the event has no payload"
                continue
            try:
                found.append(parse(payload, struct))
                numbers.append(number)
            except Exception as error:  # noqa: BLE001  (libraries raise what they like, and no payload may stop a stream)
                wrong[number] = reason(error)
        unfit: dict[int, str] = {}
        columns = [
            _fitting(name, [getattr(event, field) for event in found], dtype, unfit)
            for field, (name, dtype) in zip(self._fields, self._schema.items(), strict=True)
        ]
        rows = pl.DataFrame(columns)
        if unfit:
            kept = np.ones(len(found), np.bool_)
            kept[list(unfit)] = False
            rows = rows.filter(pl.Series(kept))
            wrong.update((numbers[row], why) for row, why in unfit.items())
        return rows, wrong


def _fitting(name: str, values: list[Any], dtype: pl.DataType, unfit: dict[int, str]) -> pl.Series:
    """The values as a column, made once: null in place of those that it can't hold, whose reasons go to `unfit`."""
    if _holds_times(dtype):
        values = _all_micros(name, values, dtype, unfit)
    if isinstance(dtype, pl.Decimal):
        values = _all_exact(values, dtype.scale, unfit)
    try:
        return _series(name, values, dtype)
    except (Exception, pl.exceptions.PanicException):  # noqa: BLE001  (which values they are, is found by halving)
        pass
    parts, left = [(0, len(values))], list(values)
    while parts:
        begin, end = parts.pop()
        try:
            _series(name, values[begin:end], dtype)
        except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001  (as above)
            if end - begin == 1:
                unfit.setdefault(begin, reason(error))
                left[begin] = None
            else:
                middle = (begin + end) // 2
                parts += [(middle, end), (begin, middle)]
    return _series(name, left, dtype)


def _all_micros(name: str, values: list[Any], dtype: pl.DataType, unfit: dict[int, str]) -> list[Any]:
    """The times as microseconds, null in place of those that can't be."""
    low, high = (-_NANOS, _NANOS) if _finest(dtype) == "ns" else (_FIRST_TIME, _END_TIME)
    found: list[Any] = []
    for number, value in enumerate(values):
        try:
            found.append(_micros(value, name, low, high))
        except ValueError as error:
            unfit.setdefault(number, reason(error))
            found.append(None)
    return found


def _all_exact(values: list[Any], scale: int, unfit: dict[int, str]) -> list[Any]:
    """The decimals, null in place of those that have more digits than the column, which would be rounded."""
    found: list[Any] = []
    for number, value in enumerate(values):
        exponent = 0 if value is None else value.normalize().as_tuple().exponent
        if not isinstance(exponent, int) or -exponent > scale:
            unfit.setdefault(number, f"got {value}, expected a decimal with at most {scale} digits after the point")
        found.append(None if number in unfit else value)
    return found


def _type_of(dtype: pl.DataType, column: str) -> Any:
    """The Python type of a column's values."""
    if type(dtype) in _BITS:
        bits = _BITS[type(dtype)]
        low, high = (-(1 << bits), (1 << bits) - 1) if dtype.is_signed_integer() else (0, (1 << bits) - 1)
        return Annotated[int, msgspec.Meta(ge=low, le=high)]
    if isinstance(dtype, pl.List | pl.Array) and not isinstance(dtype.inner, pl.Decimal):
        inner = _type_of(dtype.inner, column) | None  # pyright: ignore[reportArgumentType]
        if isinstance(dtype, pl.Array):
            return Annotated[list[inner], msgspec.Meta(min_length=dtype.size, max_length=dtype.size)]
        return list[inner]
    if type(dtype) in _TYPES:
        return _TYPES[type(dtype)]
    raise DefinitionError(
        f"the column is {dtype}, which no payload of a stream can hold",
        where=f"column '{column}'",
        hint="feed the stream with files, or give the source's table another column type",
    )


def _series(name: str, values: list[Any], dtype: pl.DataType) -> pl.Series:
    if _holds_times(dtype):
        return pl.Series(name, values, _with_micros(dtype)).cast(dtype)
    return pl.Series(name, values, dtype)


def _holds_times(dtype: pl.DataType) -> bool:
    if isinstance(dtype, pl.List | pl.Array):
        return _holds_times(dtype.inner)  # pyright: ignore[reportArgumentType]
    return isinstance(dtype, pl.Datetime)


def _with_micros(dtype: pl.DataType) -> pl.DataType:
    """The type with times of microseconds, of which any unit can be made."""
    if isinstance(dtype, pl.List):
        return pl.List(_with_micros(dtype.inner))  # pyright: ignore[reportArgumentType]
    if isinstance(dtype, pl.Array):
        return pl.Array(_with_micros(dtype.inner), dtype.size)  # pyright: ignore[reportArgumentType]
    return pl.Datetime("us", dtype.time_zone) if isinstance(dtype, pl.Datetime) else dtype


def _finest(dtype: pl.DataType) -> str:
    """The unit of a type with times."""
    if isinstance(dtype, pl.List | pl.Array):
        return _finest(dtype.inner)  # pyright: ignore[reportArgumentType]
    return dtype.time_unit if isinstance(dtype, pl.Datetime) else "us"


def _micros(value: Any, column: str, low: int, high: int) -> Any:
    """Microseconds of a time, or of each in a list.

    Raises:
        ValueError: a whole number within the year after 1970, which is likelier seconds or milliseconds; or it is not
            between `low` and `high`.
    """
    if value is None:
        return None
    if isinstance(value, list):
        return [_micros(v, column, low, high) for v in cast("list[Any]", value)]
    why = doubt(value, column) if isinstance(value, int) and value else None  # 0 is the epoch in every unit
    if why is not None:
        raise ValueError(why)
    micros = to_micros(value)
    if not low <= micros < high:
        years = "1678 to 2261, in which nanoseconds are within int64" if high == _NANOS else "1 to 9999"
        raise ValueError(f"the time '{column}' is {micros} microseconds, expected one of the years {years}")
    return micros


def doubt(micros: int, column: str) -> str | None:
    """Why a time that is a whole number can't be microseconds, or None: it may be.

    >>> doubt(1_768_669_200_000, "time")[:65]
    "the time 'time' is 1768669200000, as microseconds 1970-01-21T11:1"
    """
    unit = likely_unit(micros) if micros >= 0 else None
    if unit is None:
        return None
    return f"the time '{column}' is {micros}, as microseconds {format_time(micros)}; {unit_hint(unit)}"
