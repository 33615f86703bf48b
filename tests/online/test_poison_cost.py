"""What a worker does with poison events costs no more than in proportion to how many there are: counted, not timed."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import polars as pl
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.sketches import Quantile
from bedplate.features.view import FeatureView
from bedplate.online import refused
from bedplate.online.parsers import parser
from bedplate.online.payloads import Payloads
from bedplate.online.refused import refused_rows
from bedplate.sources.base import Source
from bedplate.testing.simulator import START, USER

EVENTS = 400
SCHEMA: dict[str, pl.DataType] = {
    "user": pl.Int8(),
    "time": pl.Datetime("us"),
    "page": pl.String(),
    "price": pl.Float64(),
    "nano": pl.Datetime("ns"),
}
GOOD: dict[str, Any] = {"user": 1, "time": START, "page": "a page", "price": 1.5, "nano": START}
FIELDS = [("user", "long"), ("time", "long"), ("page", "string"), ("price", "double"), ("nano", "long")]


def json_form(_: Path) -> tuple[str, Callable[[Mapping[str, Any]], bytes]]:
    return "json", msgspec.json.encode


def avro_form(folder: Path) -> tuple[str, Callable[[Mapping[str, Any]], bytes]]:
    schema = {"type": "record", "name": "E", "fields": [{"name": n, "type": ["null", t]} for n, t in FIELDS]}
    (folder / "e.avsc").write_text(json.dumps(schema))
    parsed = fastavro.parse_schema(schema)

    def encode(event: Mapping[str, Any]) -> bytes:
        file = io.BytesIO()
        fastavro.schemaless_writer(file, parsed, event)
        return file.getvalue()

    return "avro:e.avsc", encode


def protobuf_form(folder: Path) -> tuple[str, Callable[[Mapping[str, Any]], bytes]]:
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="e.proto", syntax="proto3")
    message = file.message_type.add(name="E")
    types = {"long": kinds.TYPE_INT64, "string": kinds.TYPE_STRING, "double": kinds.TYPE_DOUBLE}
    for number, (name, kind) in enumerate(FIELDS, 1):
        message.field.add(name=name, number=number, type=types[kind], label=kinds.LABEL_OPTIONAL)
    (folder / "e.pb").write_bytes(descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName("E"))
    return "protobuf:e.pb:E", lambda event: made(**event).SerializeToString()


FORMS = {"json": json_form, "avro": avro_form, "protobuf": protobuf_form}
POISONS: dict[str, Mapping[str, Any] | bytes] = {
    "milliseconds": {"time": START // 1000},
    "out of range": {"user": 1 << 40},
    "beyond nanoseconds": {"nano": START * 1000},
    "bad UTF-8": b"a \xffpage",
    "broken": b"",
    "wrong type": b"",
}


def poison(kind: str, form: str, encode: Callable[[Mapping[str, Any]], bytes]) -> bytes:
    good, change = encode(GOOD), POISONS[kind]
    if kind == "bad UTF-8":
        return good.replace(b"a page", b"a\xffpage")
    if kind == "broken":
        return good[:-3]
    if kind == "wrong type":
        return good.replace(b'"a page"', b"7") if form == "json" else b"\xff" + good
    assert isinstance(change, Mapping)
    return encode(GOOD | dict(change))


def calls(run: Callable[[], object]) -> int:
    """How many functions were called, Python's and C's."""
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", POISONS)
def test_bad_payloads_cost_no_more_than_good_ones(form: str, kind: str, tmp_path: Path) -> None:
    name, encode = FORMS[form](tmp_path)
    payloads, good = Payloads(name, SCHEMA, tmp_path), encode(GOOD)
    bad = poison(kind, form, encode)
    clean = [good] * EVENTS
    one, half = [bad, *clean[1:]], [bad, good] * (EVENTS // 2)
    payloads.decode(half)
    rows, wrong = payloads.decode(half)
    assert (len(rows), list(wrong)) == (EVENTS // 2, list(range(0, EVENTS, 2)))
    assert rows["user"].to_list() == [1] * (EVENTS // 2)
    at_best = calls(lambda: payloads.decode(clean))
    assert calls(lambda: payloads.decode(one)) <= 1.5 * at_best
    assert calls(lambda: payloads.decode(half)) <= 3 * at_best


def test_infinite_values_and_missing_fields_are_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 1000
    known = [START, None, START, START, START + 1] * (count // 5)
    price = [1.0, 1.0, float("inf"), 1.0, float("-inf")] * (count // 5)
    frame = pl.DataFrame({"user": [1] * count, "time": [START] * count, "price": price, "known": known})
    source = Source("events", frame.clear(), time="time", available="known")
    views = [
        FeatureView("all", USER, source, {"n": Count(), "sum": Sum("price"), "q": Quantile("price", 0.5)}).compile(),
        FeatureView("some", USER, source, {"sum": Sum("price")}, where=pl.col("price") < 5).compile(),
    ]
    asked, prepare = list[int](), refused.prepare_rows

    def counting(*given: Any, **named: Any) -> Any:
        asked.append(1)
        return prepare(*given, **named)

    monkeypatch.setattr(refused, "prepare_rows", counting)
    found = refused_rows(views, frame)
    assert sorted(found) == [n for n in range(count) if n % 5 in (1, 2, 4)]
    assert found[1] == "the column 'known' is null"
    assert "the value is infinite" in found[2]
    assert len(asked) == len(views)
    # A view passes over an infinite value that its condition leaves out.
    assert sorted(refused_rows(views[1:], frame)) == [n for n in range(count) if n % 5 in (1, 4)]


def test_the_reason_of_a_lone_surrogate_names_it() -> None:
    payloads = Payloads("json", {"text": pl.String(), "n": pl.Int64()})
    given = [rb'{"text": "\ud800"}', rb'{"text": "\ud800 and more"}', rb'{"text": "\udc00"}', rb'{"other": "\ud800"}']
    _, wrong = payloads.decode(given)
    assert len(wrong) == len(given)
    assert all("half of a surrogate pair" in why for why in wrong.values())
    rows, wrong = payloads.decode([rb'{"text": "\ud83d\ude00"}', rb'{"text": "\ud83d\ude00', rb'{"n": "\ud83d\ude00"}'])
    assert rows["text"].to_list() == ["\U0001f600"]
    assert "truncated" in wrong[1]
    assert "$.n" in wrong[2]


def test_the_reason_of_bad_avro_says_what_it_has(tmp_path: Path) -> None:
    symbols = {"type": "enum", "name": "K", "symbols": ["a", "b"]}
    day = {"type": "int", "logicalType": "date"}
    kinds = [("text", "string"), ("kind", symbols), ("day", day), ("is", "boolean")]
    schema = {"type": "record", "name": "E", "fields": [{"name": n, "type": t} for n, t in kinds]}
    (tmp_path / "e.avsc").write_text(json.dumps(schema))
    file = io.BytesIO()
    event = {"text": "ab", "kind": "a", "day": datetime(2026, 1, 1, tzinfo=UTC).date(), "is": True}
    fastavro.schemaless_writer(file, fastavro.parse_schema(schema), event)
    good, parse = file.getvalue(), parser("avro:e.avsc", tmp_path)
    whole = msgspec.defstruct("Event", [("text", str)])
    assert parse(good, whole) == whole("ab")
    for payload, why in (
        (b"", "it ends within a field, up to byte 0 of 0"),
        (good[:-1], f"it ends within a field, up to byte {len(good) - 1} of {len(good) - 1}"),
        (b"\x60" + good[1:], "it ends within a field"),
        (b"\x03" + good[1:], "length below zero"),
        (b"\x04\xff" + good[2:], "a text is not UTF-8"),
        (good[:3] + b"\x08" + good[4:], "a branch that the schema does not have, up to byte 4 of"),
        (good[:4] + b"\xfe\xff\xff\xff\x0f" + good[-1:], "a date or time is out of range"),
        (good + b"x", "1 bytes follow the"),
        (b"\0\0\0\0\x07" + good, "is it framed for a schema registry (byte 0, schema 7)"),
    ):
        with pytest.raises(ValueError, match="it is no event by the Avro schema") as caught:
            parse(payload, whole)
        assert why in str(caught.value), payload
