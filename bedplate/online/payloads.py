"""Payloads: from the bytes of events to rows of the source's table, by its schema; what does not fit is named.

Field names are the table's columns. A column that a payload lacks is null there, and a field that is no column is left
out. A time is a text as in ISO 8601 (without an offset it is UTC) or whole microseconds since the epoch; a whole number
that is likelier seconds or milliseconds is refused.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, TypeAlias, cast, final

import msgspec
import polars as pl

from bedplate.errors import ConfigError, DefinitionError, reason
from bedplate.types import format_time, likely_unit, to_micros, unit_hint

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

Parse: TypeAlias = Callable[[bytes, type[msgspec.Struct]], msgspec.Struct]
"""From one payload to a struct with a field a column; what it raises says what is wrong."""

_TYPES: dict[type[pl.DataType], Any] = {
    pl.Binary: bytes,
    pl.Boolean: bool,
    pl.Date: date,
    pl.Datetime: datetime | Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)],
    pl.Float32: float,
    pl.Float64: float,
    pl.String: str,
}


@final
class Payloads:
    """Decodes payloads of one form.

    Args:
        form: `json`, `avro:FILE` with a schema in JSON, or `protobuf:FILE:MESSAGE` with a descriptor set as
            `protoc --include_imports --descriptor_set_out` writes it, and the full name of a message in it.
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

    def __init__(self, form: str, schema: Mapping[str, pl.DataType], root: Path | None = None) -> None:
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
        self._parse = _parser(form, root or Path())

    def decode(self, payloads: Sequence[bytes | None]) -> tuple[pl.DataFrame, dict[int, str]]:
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
        try:
            return self._frame(found), wrong
        except (Exception, pl.exceptions.PanicException):  # noqa: BLE001  (which row it is, is found below)
            pass
        rows = [self._frame([])]
        for number, event in zip(numbers, found, strict=True):
            try:
                rows.append(self._frame([event]))
            except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001  (as above)
                wrong[number] = reason(error)
        return pl.concat(rows), wrong

    def _frame(self, events: Sequence[msgspec.Struct]) -> pl.DataFrame:
        """The rows of events; raises what a value that its column can't hold makes of it."""
        return pl.DataFrame(
            {
                name: _series(name, [getattr(event, field) for event in events], dtype)
                for field, (name, dtype) in zip(self._fields, self._schema.items(), strict=True)
            }
        )


def _type_of(dtype: pl.DataType, column: str) -> Any:
    """The Python type of a column's values."""
    if type(dtype) in _BITS:
        bits = _BITS[type(dtype)]
        low, high = (-(1 << bits), (1 << bits) - 1) if dtype.is_signed_integer() else (0, (1 << bits) - 1)
        return Annotated[int, msgspec.Meta(ge=low, le=high)]
    if isinstance(dtype, pl.List | pl.Array):
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
        return pl.Series(name, [_micros(v, name) for v in values], _with_micros(dtype)).cast(dtype)
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


def _micros(value: Any, column: str) -> Any:
    """Microseconds of a time, or of each in a list.

    Raises:
        ValueError: a whole number within the year after 1970, which is likelier seconds or milliseconds.
    """
    if value is None:
        return None
    if isinstance(value, list):
        return [_micros(v, column) for v in cast("list[Any]", value)]
    why = doubt(value, column) if isinstance(value, int) and value else None  # 0 is the epoch in every unit
    if why is not None:
        raise ValueError(why)
    return to_micros(value)


def doubt(time: int, column: str) -> str | None:
    """Why a time that is a whole number can't be microseconds, or None: it may be.

    >>> doubt(1_768_669_200_000, "time")[:65]
    "the time 'time' is 1768669200000, as microseconds 1970-01-21T11:1"
    """
    unit = likely_unit(time) if time >= 0 else None
    if unit is None:
        return None
    return f"the time '{column}' is {time}, as microseconds {format_time(time)}; {unit_hint(unit)}"


def _parser(form: str, root: Path) -> Parse:
    kind, _, rest = form.partition(":")
    if kind == "json" and not rest:
        return lambda payload, struct: msgspec.json.decode(payload, type=struct)
    try:
        if kind == "avro" and rest:
            return _avro((root / rest).read_bytes())
        if kind == "protobuf" and rest.count(":") >= 1:
            path, _, message = rest.rpartition(":")
            return _protobuf((root / path).read_bytes(), message)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"can't read the schema: {reason(error)}", where=form) from error
    raise ConfigError(
        f"got the form of payloads '{form}', expected json, avro:FILE or protobuf:FILE:MESSAGE", where="--format"
    )


def _avro(text: bytes) -> Parse:
    import fastavro

    read: Any = getattr(fastavro, "schemaless_reader")  # noqa: B009  (its types are unknown)
    schema = fastavro.parse_schema(msgspec.json.decode(text))

    def parse(payload: bytes, struct: type[msgspec.Struct]) -> msgspec.Struct:
        file = io.BytesIO(payload)
        found = read(file, schema, None)
        if file.tell() != len(payload):
            raise ValueError(f"{len(payload) - file.tell()} bytes follow the event")
        return msgspec.convert(found, struct)

    return parse


def _protobuf(described: bytes, name: str) -> Parse:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(described).file:
        pool.Add(file)  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]
    message: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
    fields: list[tuple[str, bool, bool]] = [
        (f.name, f.has_presence, f.message_type is not None and f.message_type.full_name == "google.protobuf.Timestamp")
        for f in message.DESCRIPTOR.fields
    ]

    def parse(payload: bytes, struct: type[msgspec.Struct]) -> msgspec.Struct:
        event, found = message.FromString(payload), dict[str, Any]()
        for field, has_presence, is_time in fields:
            if field in struct.__struct_encode_fields__ and (not has_presence or event.HasField(field)):
                value = getattr(event, field)
                if is_time:
                    found[field] = value.ToDatetime(UTC)  # no whole number whose unit is in doubt
                else:
                    found[field] = value if isinstance(value, _PLAIN) else list(value)
        return msgspec.convert(found, struct)

    return parse


_PLAIN = (int, float, str, bytes, bool)
