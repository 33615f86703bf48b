"""Files of a stream in each form, and what was planted in them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import polars as pl
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SCHEMA: dict[str, pl.DataType] = {"user": pl.Int64(), "time": pl.Int64(), "amount": pl.Int64()}
MESSAGE = "E"
FORMS = ("parquet", "jsonl", "avro", "pb")

Row = Mapping[str, Any]


def avro_schema(**types: str) -> dict[str, Any]:
    """Of rows, some columns of other types."""
    fields = [{"name": name, "type": ["null", types.get(name, "long")]} for name in SCHEMA]
    return {"type": "record", "name": MESSAGE, "fields": fields}


def _file() -> descriptor_pb2.FileDescriptorProto:
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="e.proto", syntax="proto2")
    message = file.message_type.add(name=MESSAGE)
    for number, name in enumerate(SCHEMA, 1):
        message.field.add(name=name, number=number, type=kinds.TYPE_INT64, label=kinds.LABEL_OPTIONAL)
    return file


def write_schemas(folder: Path) -> None:
    """The schemas of rows: `e.avsc` and `e.pb`."""
    (folder / "e.avsc").write_text(json.dumps(avro_schema()))
    (folder / "e.pb").write_bytes(descriptor_pb2.FileDescriptorSet(file=[_file()]).SerializeToString())


def parquet(rows: Sequence[Row]) -> bytes:
    file = io.BytesIO()
    pl.DataFrame(rows, SCHEMA, orient="row").write_parquet(file)
    return file.getvalue()


def jsonl(rows: Sequence[Row | bytes]) -> bytes:
    """Lines; bytes are lines as they are."""
    return b"".join((row if isinstance(row, bytes) else msgspec.json.encode(row)) + b"\n" for row in rows)


def avro(rows: Sequence[Row], **types: str) -> bytes:
    file = io.BytesIO()
    fastavro.writer(file, fastavro.parse_schema(avro_schema(**types)), rows, sync_interval=64)
    return file.getvalue()


def pb(rows: Sequence[Row | bytes]) -> bytes:
    """Messages after their lengths; bytes are messages as they are."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName(MESSAGE))
    found = b""
    for row in rows:
        given = {name: value for name, value in row.items() if value is not None} if isinstance(row, Mapping) else {}
        message = made(**given).SerializeToString() if isinstance(row, Mapping) else row
        assert len(message) < 128
        found += bytes([len(message)]) + message
    return found


WRITERS: dict[str, Callable[[Sequence[Row]], bytes]] = {"parquet": parquet, "jsonl": jsonl, "avro": avro, "pb": pb}


def put(folder: Path, name: str, content: bytes) -> Path:
    """A file of a stream, which is there at once."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f"{name}.tmp"
    aside.write_bytes(content)
    return aside.rename(folder / name)
