"""Row expressions over integers that a table stores in few bits: hand-computed values, which no width wraps round.

The oracle evaluates the same expressions over the same rows, so it can't tell.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.attribute import Attribute
from bedplate.aggregations.extremes import Max, Min
from bedplate.datasets.labels import Label
from bedplate.datasets.spine import Spine
from bedplate.features.assemble import Candidates
from bedplate.features.entity import Entity
from bedplate.features.rows import prepare_rows
from bedplate.features.view import CompiledView, FeatureView
from bedplate.offline.history import IndexedHistory
from bedplate.offline.reference import Reference
from bedplate.online.fetch import OnlineReader
from bedplate.online.ingest import Ingest
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.payloads import Payloads
from bedplate.sources.base import Source
from bedplate.testing.columns import plain
from bedplate.types import DAY, HOUR

START = 20_000 * DAY
USER = Entity("user", key="user")
ITEM = Entity("item", key="a")
NARROW = [pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt16, pl.UInt32]
SPENT = pl.col("ended") - pl.col("started")
SCHEMA = {
    "user": pl.Int32(),
    "time": pl.Int64(),
    "ended": pl.UInt32(),
    "started": pl.UInt32(),
    "a": pl.UInt32(),
    "b": pl.UInt32(),
    "q": pl.Int8(),
}
# The last event, of another key, is why a stream and labels know of the time of the two before.
EVENTS: list[dict[str, Any]] = [
    {"user": 7, "time": START, "ended": 90, "started": 100, "a": 7, "b": 1, "q": 100},
    {"user": 7, "time": START + HOUR, "ended": 200, "started": 100, "a": 2, "b": 4, "q": 30},
    {"user": 8, "time": START + 2 * HOUR, "ended": 0, "started": 0, "a": 0, "b": 0, "q": 0},
]
FRAME = pl.DataFrame(EVENTS, schema=SCHEMA)
FEATURES = {
    "long": Count(where=SPENT > 60),
    "longest": Max(SPENT),
    "shortest": Min(SPENT, windows="1d"),
    "net": Sum(pl.col("b") - pl.col("a")),
    "square": Sum(pl.col("q") * pl.col("q"), windows="1d"),
    "double": Mean(pl.col("q") * 2),
}
# The net is -6 and 2 together, the square that of 100 and of 30, the double the mean of 200 and 60.
EXPECTED = {"long": [1], "longest": [100], "shortest_1d": [-10], "net": [-4], "square_1d": [10_900], "double": [130.0]}
KEYS, LATER = np.array([[7]]), np.array([START + 3 * HOUR])


def view_of(table: pl.DataFrame | str, **options: Any) -> CompiledView:
    source = Source("events", table, time="time", prepare=options.pop("prepare", None))
    return FeatureView("v", USER, source, FEATURES, **options).compile()


def values(reader: Any, view: CompiledView) -> dict[str, list[Any]]:
    found = reader.read(view, list(view.features), KEYS, LATER)
    return {view.short(n): plain(c) for n, c in found.items()}


def narrowed(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.with_columns(pl.col(c).cast(t) for c, t in SCHEMA.items())


@pytest.mark.parametrize("kind", ["frame", "parquet", "prepare"])
def test_history_and_a_loaded_store_give_the_values_by_hand(kind: str, tmp_path: Path) -> None:
    table, prepare = FRAME, None
    if kind == "prepare":
        table, prepare = FRAME.cast(pl.Int64), narrowed
    if kind == "parquet":
        FRAME.write_parquet(tmp_path / "events.parquet")
    view = view_of(str(tmp_path / "events.parquet") if kind == "parquet" else table, prepare=prepare)
    history = IndexedHistory(tmp_path / "index")
    history.build(view).run()
    assert values(history, view) == EXPECTED
    assert values(Reference(view), view) == EXPECTED
    store = MemoryStore()
    bulk_load(store, view, history.grouped(view), int(LATER[0]))
    assert values(OnlineReader(store), view) == EXPECTED


def test_files_of_a_stream_give_the_values_by_hand(tmp_path: Path) -> None:
    view, store = view_of(FRAME.clear()), MemoryStore()
    bulk_load(store, view, [], START)
    FRAME.write_parquet(tmp_path / "1.parquet")
    Ingest(store, [view], tmp_path).run()
    assert values(OnlineReader(store), view) == EXPECTED


def test_payloads_of_a_stream_give_the_rows_of_the_table() -> None:
    view = view_of(FRAME.clear())
    decoded, wrong = Payloads("json", SCHEMA).decode([json.dumps(e).encode() for e in EVENTS])
    assert (wrong, decoded.schema) == ({}, pl.Schema(SCHEMA))
    rows = prepare_rows(view, decoded.lazy())
    found = {str(s.inputs[0]): r for s, r in zip(view.selections, rows.selections, strict=True) if s.inputs}
    assert found[str(SPENT)].inputs[0].tolist() == [-10, 100, 0]
    assert found[str(pl.col("q") * pl.col("q"))].inputs[0].tolist() == [10_000, 900, 0]


def test_the_condition_of_a_view_and_of_a_spine_is_not_wrapped_round(tmp_path: Path) -> None:
    """Only the first event was ended before it started."""
    view = view_of(FRAME, where=SPENT < 0)
    history = IndexedHistory(tmp_path)
    history.build(view).run()
    assert values(history, view)["square_1d"] == [10_000]
    spine = Spine(Source("events", FRAME, time="time"), request="time", entities=USER, item=ITEM, where=SPENT < 0)
    assert spine.compile().read().rows.times.tolist() == [START]


def test_a_label_is_not_wrapped_round(tmp_path: Path) -> None:
    """Within two hours of the request, which is a moment before both events."""
    label = Label("net", USER, Source("events", FRAME, time="time"), Sum(pl.col("b") - pl.col("a")), within="2h")
    history, compiled = IndexedHistory(tmp_path), label.compile()
    history.build(compiled.view).run()
    one = np.array([0, 1])
    rows = Candidates({"user": KEYS[0]}, "item", np.array([5]), one, np.array([START - 1]), np.array([9]))
    assert compiled.read(history, rows).tolist() == [-4]


def test_what_says_that_an_entity_is_gone_is_not_wrapped_round(tmp_path: Path) -> None:
    source = Source("states", FRAME[:1], time="time", deleted=SPENT < 0)
    view = FeatureView("v", USER, source, {"q": Attribute("q")}).compile()
    history = IndexedHistory(tmp_path)
    history.build(view).run()
    assert values(history, view) == {"q": [None]}


@pytest.mark.parametrize("dtype", NARROW)
def test_each_width_is_read_as_int64_up_to_its_ends(dtype: type[pl.DataType], tmp_path: Path) -> None:
    low, high = pl.select(low=dtype.min(), high=dtype.max()).row(0)  # pyright: ignore
    frame = pl.DataFrame({"user": pl.Series([low, high, None], dtype=dtype), "time": START})
    source = Source("events", frame, time="time")
    assert source.schema()["user"] == pl.Int64
    moved = source.scan().select(up=pl.col("user") + 1, down=pl.col("user") - 1).collect()
    assert moved.rows() == [(low + 1, low - 1), (high + 1, high - 1), (None, None)]
    view = FeatureView("v", USER, Source("events", frame[:2], time="time"), {"n": Count()}).compile()
    history = IndexedHistory(tmp_path)
    history.build(view).run()
    found = history.read(view, ["v.n"], np.array([[low], [high], [5]]), np.full(3, START + HOUR))
    assert plain(found["v.n"]) == [1, 1, 0]


def test_other_columns_keep_their_types() -> None:
    schema = {
        "u": pl.UInt64(),
        "f": pl.Float32(),
        "d": pl.Date(),
        "t": pl.Datetime("ms"),
        "long": pl.Duration("us"),
        "b": pl.Boolean(),
        "list": pl.List(pl.Int8()),
        "vector": pl.Array(pl.Int8(), 2),
    }
    frame = pl.DataFrame(schema={"user": pl.Int8(), "time": pl.UInt32()} | schema)
    source = Source("events", frame, time="time")
    assert source.schema() == {"user": pl.Int64(), "time": pl.Int64()} | schema
    assert {c: t for c, t in source.scan().collect_schema().items() if c in schema} == schema
