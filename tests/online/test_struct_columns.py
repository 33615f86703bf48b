"""Columns of structs come by streams and in dead letters, and a letter's row is exactly the one that was meant."""

from __future__ import annotations

import io
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import fastavro
import msgspec
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from stream_files import jsonl, put
from test_letters import Topic

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.ordered import Last
from bedplate.features.view import CompiledView, FeatureView
from bedplate.offline.reference import Reference
from bedplate.online.base import OnlineStore
from bedplate.online.fetch import OnlineReader
from bedplate.online.file_rows import rows_as_json
from bedplate.online.files import FileStream
from bedplate.online.ingest import Ingest
from bedplate.online.letters import read_letters
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.payloads import Payloads
from bedplate.online.replay import LetterStream
from bedplate.online.state import read_state
from bedplate.online.streams import Stream
from bedplate.sources.base import Source
from bedplate.testing.columns import mismatches
from bedplate.testing.simulator import START, USER
from bedplate.types import DAY, MINUTE

ORDER = pl.Struct(
    {"amount": pl.Decimal(10, 2), "at": pl.Datetime("us"), "lines": pl.List(pl.Struct({"item": pl.String()}))}
)
SCHEMA: dict[str, pl.DataType] = {"user": pl.Int64(), "time": pl.Int64(), "order": ORDER}
_ORDER = pl.col("order").struct
FEATURES = {
    "n": Count(),
    "total": Sum(_ORDER.field("amount").cast(pl.Float64), windows="1d"),
    "item": Last(_ORDER.field("lines").list.get(0, null_on_oob=True).struct.field("item")),
}
VIEW = FeatureView("v", USER, Source("events", pl.DataFrame(schema=SCHEMA), time="time"), FEATURES).compile()


def row(i: int, **changed: Any) -> dict[str, Any]:
    """A row of the table."""
    lines = [{"item": f"item {i}"}, {"item": None}, None][i % 4 :]
    order = {"amount": Decimal(i) / 4, "at": datetime(2026, 1, 1, 12, 0, i, 7), "lines": lines}
    return {"user": i % 3, "time": START + i * MINUTE, "order": None if i == 5 else order} | changed


def parquet(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    pl.DataFrame(rows, SCHEMA, orient="row").write_parquet(file)
    return file.getvalue()


def avro(rows: list[dict[str, Any]]) -> bytes:
    line = {"type": "record", "name": "line", "fields": [{"name": "item", "type": ["null", "string"]}]}
    amount = {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}
    at = {"type": "long", "logicalType": "local-timestamp-micros"}
    types = {"amount": amount, "at": at, "lines": {"type": "array", "items": ["null", line]}}
    order = {"type": "record", "name": "order", "fields": [{"name": n, "type": t} for n, t in types.items()]}
    fields = {"user": ["null", "long"], "time": ["null", "long"], "order": ["null", order]}
    schema = {"type": "record", "name": "e", "fields": [{"name": n, "type": t} for n, t in fields.items()]}
    file = io.BytesIO()
    fastavro.writer(file, fastavro.parse_schema(schema), rows)
    return file.getvalue()


WRITERS = {"parquet": parquet, "jsonl": jsonl, "avro": avro}


def assert_oracle(store: OnlineStore, view: CompiledView, rows: list[dict[str, Any]]) -> None:
    """The store reads as history of these rows does, and has counted each once."""
    frame = pl.DataFrame(rows, SCHEMA, orient="row")
    asked, times = np.arange(3).reshape(-1, 1), np.full(3, START + DAY)
    whole = Reference(view, frame.lazy()).read(view, list(view.features), asked, times)
    assert mismatches(OnlineReader(store).read(view, list(view.features), asked, times), whole) == []
    assert read_state(store, view).events == len(rows)


@pytest.mark.parametrize("kind", [*WRITERS, "topic"])
def test_rows_with_structs_are_taken_once_when_they_are_mended(tmp_path: Path, kind: str) -> None:
    good = [row(i) for i in range(12)]
    bad = {3: row(3, user=None), 5: row(5, time=None), 7: row(7, time=0), 8: row(8, user=None)}
    rows, letters = [bad.get(i, each) for i, each in enumerate(good)], tmp_path / "letters"
    if kind == "topic":
        made: Stream = Topic(list(map(msgspec.json.encode, rows)), letters, SCHEMA)
    else:
        put(tmp_path / "stream", f"1.{kind}", WRITERS[kind](rows))
        made = FileStream(tmp_path / "stream", VIEW, letters)
    store = MemoryStore()
    bulk_load(store, VIEW, [], START)
    Ingest(store, [VIEW], made, batch=5).run()
    assert_oracle(store, VIEW, [each for i, each in enumerate(good) if i not in bad])
    for path in letters.glob("*.jsonl"):
        found = read_letters(path)
        for number, letter in enumerate(found):
            at = max(letter.row, letter.offset)
            same = pl.DataFrame([bad[at]], SCHEMA, orient="row")
            assert_frame_equal(Payloads("json", SCHEMA).decode([letter.data])[0], same)
            payload = msgspec.json.decode(letter.payload)
            payload |= {name: good[at][name] for name in ("user", "time")}
            found[number] = msgspec.structs.replace(letter, payload=msgspec.json.encode(payload).decode())
        path.write_bytes(b"".join(msgspec.json.encode(letter) + b"\n" for letter in found))
    for expected in (len(bad), 0):
        taken = [
            Ingest(store, [VIEW], LetterStream(path, VIEW, store), late=True).run() for path in letters.glob("*.jsonl")
        ]
        assert sum(done.events for done in taken) == expected
    assert_oracle(store, VIEW, good)


WITHIN: dict[str, tuple[pl.DataType, list[Any]]] = {
    "whole": (pl.Int64(), [-(2**63), 2**63 - 1]),
    "byte": (pl.UInt8(), [0, 255]),
    "float": (pl.Float64(), [0.1, -1e308]),
    "half": (pl.Float32(), [0.10000000149011612, -0.0]),
    "decimal": (pl.Decimal(10, 3), [Decimal("-1234567.125"), Decimal(0)]),
    "is": (pl.Boolean(), [True, False]),
    "a text": (pl.String(), ["", "ü"]),
    "bytes": (pl.Binary(), [b"\xff\0", b""]),
    "enum": (pl.Enum(["a", "b"]), ["b", "a"]),
    "category": (pl.Categorical(), ["x", "y"]),
    "day": (pl.Date(), [date(1, 1, 1), date(2026, 2, 3)]),
    "hour": (pl.Time(), [time(23, 59, 59, 999_999), time()]),
    "span": (pl.Duration("us"), [timedelta(days=-3, microseconds=1), timedelta()]),
    "at": (pl.Datetime("us"), [datetime(9999, 1, 1, 0, 0, 0, 1), datetime(1, 1, 1)]),
    "nanos": (pl.Datetime("ns", "UTC"), [datetime(1678, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 1, 1, 1, 1, UTC)]),
    "zoned": (
        pl.Datetime("ms", "Europe/Amsterdam"),  # whose offsets had seconds, and an hour is there twice in October
        [
            datetime(1890, 1, 1, tzinfo=ZoneInfo("Europe/Amsterdam")),
            datetime(2025, 10, 26, 2, 30, tzinfo=ZoneInfo("Europe/Amsterdam"), fold=1),
        ],
    ),
}


@pytest.mark.parametrize("name", WITHIN)
def test_what_a_struct_holds_is_the_same_after_a_letter(name: str) -> None:
    inner, values = WITHIN[name]
    within = pl.Struct({name: inner, "list": pl.List(inner), "deep": pl.List(pl.Struct({name: inner}))})
    schema = {"s": within, "pair": pl.Array(pl.Struct({name: inner}), 2), "list": pl.List(inner)}
    one, other = values
    rows = [
        {
            "s": {name: one, "list": [other, None, one], "deep": [{name: other}, None, {name: None}]},
            "pair": [{name: one}, {name: other}],
            "list": [other, None],
        },
        {"s": {name: None, "list": [], "deep": None}, "pair": [None, {name: one}], "list": []},
        {"s": None, "pair": None, "list": None},
    ]
    frame = pl.DataFrame(rows, schema, orient="row")
    decoded, wrong = Payloads("json", schema).decode(rows_as_json(frame))
    assert wrong == {}
    assert decoded.schema == frame.schema
    assert_frame_equal(decoded, frame)


@pytest.mark.parametrize(
    ("dtype", "value", "why"),
    [
        (pl.Enum(["a"]), "b", "Invalid enum value 'b' - at `$.s.x`"),
        (pl.Int8(), 128, "<= 127 - at `$.s.x`"),
        (pl.Int8(), "1", "Expected `int | null`, got `str` - at `$.s.x`"),
        (pl.Decimal(4, 1), "1.25", "got 1.25, expected a decimal with at most 1 digits after the point"),
        (pl.Decimal(4, 1), "1000", "got 1000, expected a decimal with at most 4 digits"),
        (pl.Datetime("us"), START // 1_000_000, "the time 's.x' is "),
        (pl.Datetime("ns"), "2300-01-01", "Invalid RFC3339"),
        (pl.Datetime("ns"), "2300-01-01T00:00:00", "expected one of the years 1678 to 2261"),
        (pl.List(pl.Enum(["a"])), ["b"], "Invalid enum value 'b' - at `$.s.x[0]`"),
    ],
)
def test_what_a_struct_can_not_hold_is_named(dtype: pl.DataType, value: Any, why: str) -> None:
    schema = {"n": pl.Int64(), "s": pl.Struct({"x": dtype})}
    events = [{"n": 1, "s": {"x": None}}, {"n": 2, "s": {"x": value}}, {"n": 3, "s": {"y": 1}}, {"n": 4}]
    rows, wrong = Payloads("json", schema).decode([msgspec.json.encode(event) for event in events])
    assert list(wrong) == [1]
    assert why in wrong[1]
    assert rows.rows() == [(1, {"x": None}), (3, {"x": None}), (4, None)]
