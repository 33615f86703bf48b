"""Parsers: from the bytes of one event to a struct with a field a column, for each form of payloads.

What one raises says what is wrong with the payload, in words for whoever mends it: it is the reason of a dead letter.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import json
from collections.abc import Callable, Mapping
from datetime import UTC
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from bedplate.errors import ConfigError, reason

Parse: TypeAlias = Callable[[Any, type[msgspec.Struct]], msgspec.Struct]
"""From one payload to a struct with a field a column; what it raises says what is wrong."""

_PLAIN = (int, float, str, bytes, bool)
_TIMESTAMP = "google.protobuf.Timestamp"
_FRAME = 5  # bytes that a schema registry's clients put before an event: a zero and the id of its schema


def parser(form: str, root: Path) -> Parse:
    """The parser of a form; see `payloads.Payloads`.

    Raises:
        ConfigError: the form is not known, or its file can't be read.
    """
    kind, _, rest = form.partition(":")
    if kind == "json" and not rest:
        return _json
    try:
        if kind == "avro" and rest:
            return _avro((root / rest).read_bytes())
        if kind == "protobuf" and rest.count(":") >= 1:
            path, _, message = rest.rpartition(":")
            return _protobuf((root / path).read_bytes(), message)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"can't read the schema: {reason(error)}", where=f"--format {form}") from error
    raise ConfigError(
        f"got the form of payloads '{form}', expected json, avro:FILE or protobuf:FILE:MESSAGE", where="--format"
    )


def parse_record(record: Mapping[str, Any], struct: type[msgspec.Struct]) -> msgspec.Struct:
    """The parser of records that are decoded already, such as those of an Avro file."""
    return msgspec.convert(record, struct)


def _json(payload: bytes, struct: type[msgspec.Struct]) -> msgspec.Struct:
    try:
        return msgspec.json.decode(payload, type=struct)
    except UnicodeDecodeError as error:
        raise ValueError(f"a text is not UTF-8: byte {error.object[error.start]:#04x} is no part of it") from error
    except msgspec.DecodeError as error:
        if payload.startswith(codecs.BOM_UTF8):
            raise ValueError("it begins with a byte order mark; expected UTF-8 without one") from error
        if b"\\u" in payload and _has_lone_surrogate(payload):
            raise ValueError(
                "a text has half of a surrogate pair, an escape \\ud800 to \\udfff alone, which is no character; "
                "expected both halves or the character itself"
            ) from error
        raise


def _has_lone_surrogate(payload: bytes) -> bool:
    """Whether all that is wrong with a JSON text may be a half of a pair."""
    with contextlib.suppress(ValueError, RecursionError):
        found = json.dumps(json.loads(payload), ensure_ascii=False)
        try:
            found.encode()
        except UnicodeEncodeError:
            return True
    return False


def _avro(text: bytes) -> Parse:
    import fastavro

    read: Any = getattr(fastavro, "schemaless_reader")  # noqa: B009  (its types are unknown)
    schema = fastavro.parse_schema(msgspec.json.decode(text))

    def parse(payload: bytes, struct: type[msgspec.Struct]) -> msgspec.Struct:
        file = io.BytesIO(payload)
        try:
            found = read(file, schema, None)
        except Exception as error:
            raise ValueError(_avro_reason(payload, file.tell(), error)) from error
        if file.tell() != len(payload):
            raise ValueError(
                f"it is no event by the Avro schema: {len(payload) - file.tell()} bytes follow the {file.tell()} "
                f"of the event{_framed(payload)}"
            )
        return msgspec.convert(found, struct)

    return parse


def _avro_reason(payload: bytes, at: int, error: Exception) -> str:
    """What is wrong, where the library names what happened inside it."""
    match error:
        case UnicodeDecodeError():
            why = f"a text is not UTF-8 ({reason(error)})"
        case OverflowError():
            why = "a date or time is out of range"
        case IndexError() if at < len(payload):
            why = "a union or an enum has a branch that the schema does not have"
        case _ if "Expected -" in str(error):
            why = "a text or a list has a length below zero"
        case _ if at >= len(payload) or isinstance(error, EOFError):
            why = "it ends within a field"
        case _:
            why = reason(error)
    return f"it is no event by the Avro schema: {why}, up to byte {at} of {len(payload)}{_framed(payload)}"


def _framed(payload: bytes) -> str:
    """A hint for an event in the frame of a schema registry."""
    if len(payload) <= _FRAME or payload[0]:
        return ""
    number = int.from_bytes(payload[1:_FRAME], "big")
    return f"; is it framed for a schema registry (byte 0, schema {number})? Then only what follows 5 bytes is Avro"


def _protobuf_value(value: Any, kind: str, field: str) -> Any:
    """The value of a field: plain, a time, or a list of such. No whole number, whose unit would be in doubt, is a time.

    Args:
        value: as the library has it.
        kind: the name of the message that it is, or that its elements are; empty: none.
        field: its name.
    """
    if isinstance(value, _PLAIN):
        return value
    if kind == _TIMESTAMP:
        try:
            return value.ToDatetime(UTC) if hasattr(value, "ToDatetime") else [v.ToDatetime(UTC) for v in value]
        except ValueError as error:
            raise ValueError(f"the field '{field}' is no time of the years 1 to 9999: {reason(error)}") from error
    if kind:
        raise ValueError(f"the field '{field}' is a message, {kind}; expected a plain value, {_TIMESTAMP} or a list")
    return list(value)


def _protobuf(described: bytes, name: str) -> Parse:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from google.protobuf.message import DecodeError

    pool = descriptor_pool.DescriptorPool()
    try:
        files = descriptor_pb2.FileDescriptorSet.FromString(described).file
    except DecodeError as error:
        raise ValueError(
            "it is no descriptor set; protoc --include_imports --descriptor_set_out=FILE writes one"
        ) from error
    for file in files:
        pool.Add(file)  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]
    message: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
    fields: list[tuple[str, bool, str]] = [
        (f.name, f.has_presence, "" if f.message_type is None else f.message_type.full_name)
        for f in message.DESCRIPTOR.fields
    ]

    def parse(payload: bytes, struct: type[msgspec.Struct]) -> msgspec.Struct:
        found: dict[str, Any] = {}
        try:
            event = message.FromString(payload)
        except DecodeError as error:
            raise ValueError(f"its {len(payload)} bytes are no message '{name}' by the descriptor") from error
        for field, has_presence, kind in fields:
            if field in struct.__struct_encode_fields__ and (not has_presence or event.HasField(field)):
                found[field] = _protobuf_value(getattr(event, field), kind, field)
        return msgspec.convert(found, struct)

    return parse
