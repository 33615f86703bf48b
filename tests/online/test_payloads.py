"""Payloads of each form become rows of the table, and what does not fit is named."""

from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import fastavro
import polars as pl
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2, wrappers_pb2

from bedplate.errors import ConfigError, DefinitionError
from bedplate.online.payloads import Payloads

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MICROS = int(NOON.timestamp()) * 1_000_000


def test_json_becomes_rows_by_the_schema() -> None:
    schema = {
        "user id": pl.Int32(),
        "at": pl.Datetime("ms", "Europe/Berlin"),
        "day": pl.Date(),
        "items": pl.List(pl.Int64()),
        "vector": pl.Array(pl.Float32(), 2),
        "small": pl.UInt8(),
        "is": pl.Boolean(),
        "text": pl.String(),
    }
    events: list[dict[str, Any]] = [
        {"user id": 1, "at": "2026-01-01T12:00:00Z", "day": "2026-01-02", "items": [1, None], "vector": [1, 2.5]},
        {"at": "2026-01-01T13:00:00+01:00", "small": 255, "is": True, "text": "ü", "other": {"a": 1}},
        {"at": MICROS},
        {"at": "2026-01-01T12:00:00"},
    ]
    rows, wrong = Payloads("json", schema).decode([json.dumps(e).encode() for e in events])
    assert wrong == {}
    assert rows.schema == pl.Schema(schema)
    assert rows["at"].to_list() == [NOON] * 4
    assert rows["user id"].to_list() == [1, None, None, None]
    assert rows["items"].to_list()[0] == [1, None]
    assert rows["vector"].to_list()[0] == [1.0, 2.5]
    assert (rows["day"][0], rows["small"][1], rows["is"][1], rows["text"][1]) == (date(2026, 1, 2), 255, True, "ü")


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"", "truncated"),
        (b"[]", "Expected `object`"),
        (b"\xef\xbb\xbf{}", "begins with a byte order mark"),
        (b'{"s": "caf\xe9"}', "a text is not UTF-8: byte 0xe9"),
        (b'{"n": "1"}', r"\$\.n"),
        (b'{"n": 128}', "<= 127"),
        (b'{"n": 1.5}', r"\$\.n"),
        (b'{"v": [1.0]}', r"\$\.v"),
        (b'{"t": "yesterday"}', r"\$\.t"),
        (b'{"n": 1} {', "trailing"),
        (None, "no payload"),
    ],
)
def test_what_does_not_fit_is_named_and_the_others_are_kept(payload: bytes | None, text: str) -> None:
    schema = {"n": pl.Int8(), "v": pl.Array(pl.Float64(), 2), "t": pl.Datetime(), "s": pl.String()}
    rows, wrong = Payloads("json", schema).decode([b'{"n": 1}', payload, b'{"n": 2}'])
    assert rows["n"].to_list() == [1, 2]
    assert list(wrong) == [1]
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(wrong[1])


def test_avro_is_decoded_by_its_schema(tmp_path: Path) -> None:
    at = {"type": "long", "logicalType": "timestamp-micros"}
    fields = [
        {"name": "user", "type": ["null", "long"]},
        {"name": "at", "type": at},
        {"name": "more", "type": "string"},
    ]
    schema = {"type": "record", "name": "Event", "fields": fields}
    (tmp_path / "event.avsc").write_text(json.dumps(schema))

    def encoded(**event: object) -> bytes:
        file = io.BytesIO()
        fastavro.schemaless_writer(file, fastavro.parse_schema(schema), event)
        return file.getvalue()

    payloads = Payloads("avro:event.avsc", {"user": pl.Int64(), "at": pl.Datetime("us", "UTC")}, tmp_path)
    good = encoded(user=7, at=NOON, more="x")
    rows, wrong = payloads.decode([good, encoded(user=None, at=NOON, more=""), good[:-1], good + b"\0", b""])
    assert rows.rows() == [(7, NOON), (None, NOON)]
    assert list(wrong) == [2, 3, 4]


def test_protobuf_is_decoded_by_its_descriptor(tmp_path: Path) -> None:
    file = descriptor_pb2.FileDescriptorProto(name="event.proto", package="shop", syntax="proto3")
    message = file.message_type.add(name="Event")
    kinds = descriptor_pb2.FieldDescriptorProto
    message.field.add(name="user", number=1, type=kinds.TYPE_INT64, label=kinds.LABEL_OPTIONAL)
    message.field.add(name="at", number=2, type=kinds.TYPE_INT64, label=kinds.LABEL_OPTIONAL)
    message.field.add(name="items", number=3, type=kinds.TYPE_INT64, label=kinds.LABEL_REPEATED)
    (tmp_path / "events.pb").write_bytes(descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    event = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Event"))
    schema = {"user": pl.Int64(), "at": pl.Datetime("us"), "items": pl.List(pl.Int64())}
    payloads = Payloads("protobuf:events.pb:shop.Event", schema, tmp_path)
    good = event(user=3, at=MICROS, items=[1, 2]).SerializeToString()
    rows, wrong = payloads.decode([good, b"\xff\xff"])
    assert rows.rows() == [(3, NOON.replace(tzinfo=None), [1, 2])]
    assert list(wrong) == [1]
    with pytest.raises(ConfigError, match="can't read the schema"):
        Payloads("protobuf:events.pb:shop.Missing", schema, tmp_path)


def test_protobuf_has_times_alone_and_in_lists_and_says_of_other_messages_that_they_are_none(tmp_path: Path) -> None:
    kinds, files = descriptor_pb2.FieldDescriptorProto, [timestamp_pb2, wrappers_pb2]
    names = [f.DESCRIPTOR.name for f in files]
    file = descriptor_pb2.FileDescriptorProto(name="event.proto", package="shop", syntax="proto3", dependency=names)
    message = file.message_type.add(name="Event")
    for number, (name, kind, label) in enumerate(
        [
            ("at", ".google.protobuf.Timestamp", kinds.LABEL_OPTIONAL),
            ("times", ".google.protobuf.Timestamp", kinds.LABEL_REPEATED),
            ("count", ".google.protobuf.Int64Value", kinds.LABEL_OPTIONAL),
        ]
    ):
        message.field.add(name=name, number=number + 1, type=kinds.TYPE_MESSAGE, type_name=kind, label=label)
    described = descriptor_pb2.FileDescriptorSet(file=[file])
    for one in files:
        one.DESCRIPTOR.CopyToProto(described.file.add())
    described.file.append(described.file.pop(0))  # a file comes after those that it names
    (tmp_path / "events.pb").write_bytes(described.SerializeToString())
    pool = descriptor_pool.DescriptorPool()
    for one in described.file:
        pool.Add(one)
    event = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Event"))
    schema = {"at": pl.Datetime("us", "UTC"), "times": pl.List(pl.Datetime("us", "UTC")), "count": pl.Int64()}
    stamp = {"seconds": MICROS // 1_000_000}
    good = event(at=stamp, times=[stamp, stamp]).SerializeToString()
    bad = event(at=stamp, count={"value": 3}).SerializeToString()
    rows, wrong = Payloads("protobuf:events.pb:shop.Event", schema, tmp_path).decode([good, bad])
    assert rows.rows() == [(NOON, [NOON, NOON], None)]
    assert wrong[1].startswith("the field 'count' is a message, google.protobuf.Int64Value; expected a plain value")


@pytest.mark.parametrize("form", ["xml", "avro:missing.avsc", "avro:", "protobuf:x", "json:x"])
def test_a_form_that_is_not_known_is_refused(form: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Payloads(form, {}, tmp_path)


def test_a_column_that_no_payload_can_hold_is_refused() -> None:
    with pytest.raises(DefinitionError, match="no payload") as caught:
        Payloads("json", {"price": pl.Struct({"a": pl.Object()})})
    assert caught.value.where == "column 'price.a'"
