"""Whatever a payload holds, it becomes a row or a dead letter, and nothing else comes of it."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import polars as pl
import pytest
from google.protobuf import descriptor_pb2, timestamp_pb2
from hypothesis import example, given
from hypothesis import strategies as st

from bedplate.aggregations.arithmetic import Count
from bedplate.features.view import FeatureView
from bedplate.online import refused
from bedplate.online.payloads import Payloads
from bedplate.online.refused import doubtful_times, refused_rows
from bedplate.sources.base import Source
from bedplate.testing.simulator import START, USER

SCHEMA: dict[str, pl.DataType] = {
    "user": pl.Int64(),
    "small": pl.UInt8(),
    "big": pl.UInt64(),
    "at": pl.Datetime("us", "UTC"),
    "nano": pl.Datetime("ns"),
    "ids": pl.List(pl.Int64()),
    "times": pl.List(pl.Datetime("ms")),
    "vector": pl.Array(pl.Float32(), 2),
    "amount": pl.Float32(),
    "text": pl.String(),
    "bytes": pl.Binary(),
    "day": pl.Date(),
}
AVRO = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "user", "type": ["null", "long"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "nano", "type": "long"},
        {"name": "ids", "type": {"type": "array", "items": "long"}},
        {"name": "text", "type": "string"},
        {"name": "bytes", "type": "bytes"},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
    ],
}
NUMBERS = st.one_of(
    st.integers(-(1 << 70), 1 << 70), st.sampled_from([(1 << 63) - 1, 1 << 63, -(1 << 63), 1 << 64, 1768669200000, 0])
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats() | st.text(max_size=5) | st.datetimes().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(SCHEMA)), inner, max_size=3),
    max_leaves=8,
)
GOOD = b'{"user": 1, "text": "good"}'


def protobuf(folder: Path) -> str:
    file = descriptor_pb2.FileDescriptorProto(name="event.proto", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    message, kinds = file.message_type.add(name="Event"), descriptor_pb2.FieldDescriptorProto
    fields = [("user", kinds.TYPE_UINT64), ("nano", kinds.TYPE_INT64), ("text", kinds.TYPE_STRING)]
    for number, (name, kind) in enumerate([*fields, ("bytes", kinds.TYPE_BYTES), ("amount", kinds.TYPE_DOUBLE)], 1):
        message.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL)
    for number, name in ((6, "at"), (7, "other")):
        message.field.add(
            name=name, number=number, type=kinds.TYPE_MESSAGE, type_name=".google.protobuf.Timestamp",
            label=kinds.LABEL_REPEATED if name == "other" else kinds.LABEL_OPTIONAL,
        )  # fmt: skip
    stamp = descriptor_pb2.FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(stamp)
    described = descriptor_pb2.FileDescriptorSet(file=[stamp, file])
    (folder / "event.pb").write_bytes(described.SerializeToString())
    return "protobuf:event.pb:Event"


def check(payloads: Payloads, given: bytes, good: bytes) -> None:
    rows, wrong = payloads.decode([good, given, good])
    assert rows.schema == pl.Schema(SCHEMA)
    assert set(wrong) <= {1}
    assert len(rows) == 3 - len(wrong)
    assert rows["user"].to_list()[0] == rows["user"].to_list()[-1] == 1
    rows.rows()


@given(event=st.dictionaries(st.sampled_from(list(SCHEMA)), VALUES))
@example({"user": 1 << 63})
@example({"at": 1 << 63})
@example({"ids": [1, 1 << 63]})
@example({"nano": "9999-01-01T00:00:00"})
@example({"nano": (1 << 63) - 1})
def test_any_json(event: dict[str, Any]) -> None:
    check(Payloads("json", SCHEMA), json.dumps(event).encode(), GOOD)


@given(payload=st.binary(max_size=40))
def test_any_bytes(payload: bytes) -> None:
    check(Payloads("json", SCHEMA), payload, GOOD)


@given(payload=st.binary(max_size=60), cut=st.integers(0, 60))
def test_any_avro_and_protobuf(tmp_path_factory: pytest.TempPathFactory, payload: bytes, cut: int) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "event.avsc").write_text(json.dumps(AVRO))
    file, now = io.BytesIO(), datetime(2026, 1, 1, tzinfo=UTC)
    event = {"user": 1, "at": now, "nano": START, "ids": [1], "text": "t", "bytes": b"", "day": now.date()}
    fastavro.schemaless_writer(file, fastavro.parse_schema(AVRO), event)
    good = file.getvalue()
    damaged = good[:cut] + payload + good[cut + len(payload) :]
    check(Payloads("avro:event.avsc", SCHEMA, folder), damaged, good)
    check(Payloads(protobuf(folder), SCHEMA, folder), payload, b"\x08\x01")


@pytest.mark.parametrize("time", [1768669200000, 1768669200, 1])
def test_a_time_that_is_no_microseconds_is_a_dead_letter(time: int) -> None:
    schema = {"user": pl.Int64(), "time": pl.Datetime("us"), "seen": pl.List(pl.Datetime("us"))}
    good = msgspec.json.encode({"user": 1, "time": START, "seen": [START]})
    payloads = [good, msgspec.json.encode({"time": time}), msgspec.json.encode({"seen": [START, time]}), good]
    rows, wrong = Payloads("json", schema).decode(payloads)
    assert len(rows) == 2
    assert "the time 'time' is" in wrong[1]
    assert "seconds? An integer is microseconds" in wrong[2]


@pytest.mark.parametrize("prepare", [None, lambda rows: rows.with_columns(user=pl.col("user") + 0)])
def test_a_time_in_an_integer_column_is_checked_by_row(prepare: Any) -> None:
    rows = pl.DataFrame({"user": [1, 2, 3], "time": [START, START // 1000, START]})
    source = Source("e", rows.clear(), time="time", prepare=prepare)
    view = FeatureView("v", USER, source, {"n": Count()}).compile()
    assert doubtful_times(source, rows).keys() == {1}
    (number, why), *others = refused_rows([view], rows).items()
    assert (number, others) == (1, [])
    assert "as microseconds 1970-01-20" in why


def test_a_protobuf_timestamp_says_its_unit(tmp_path: Path) -> None:
    form = protobuf(tmp_path)
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(datetime(1970, 1, 1) + timedelta(days=20))
    data = stamp.SerializeToString()
    more = b"\x3a" + bytes([len(data)]) + data  # of a field that is no column
    rows, wrong = Payloads(form, SCHEMA, tmp_path).decode([b"\x08\x01\x32" + bytes([len(data)]) + data + more])
    assert not wrong
    assert rows["at"].to_list() == [datetime(1970, 1, 21, tzinfo=UTC)]


def test_a_protobuf_timestamp_that_is_none_names_its_field(tmp_path: Path) -> None:
    form = protobuf(tmp_path)
    data = timestamp_pb2.Timestamp(seconds=10**15).SerializeToString()
    _, wrong = Payloads(form, SCHEMA, tmp_path).decode([b"\x08\x01\x32" + bytes([len(data)]) + data])
    assert wrong[0].startswith("the field 'at' is no time of the years 1 to 9999: ")


def test_many_events_without_a_key_are_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in views with a condition, of which only events that fulfil it are wrong."""
    frame = pl.DataFrame({"user": [None, 1] * 500, "time": [START] * 1000, "amount": [1.0, 1.0, -1.0, -1.0] * 250})
    source = Source("events", frame, time="time")
    views = [
        FeatureView(name, USER, source, {"n": Count()}, where=where).compile()
        for name, where in (("some", pl.col("amount") > 0), ("none", pl.col("amount") > 5))
    ]
    asked, prepare = list[int](), refused.prepare_rows

    def counting(*given: Any, **named: Any) -> Any:
        asked.append(1)
        return prepare(*given, **named)

    monkeypatch.setattr(refused, "prepare_rows", counting)
    assert refused_rows(views, frame) == dict.fromkeys(range(0, 1000, 4), "the key 'user' is null")
    assert len(asked) == 2
    assert list(refused_rows(views[1:], frame)) == []
