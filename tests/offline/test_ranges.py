"""A range of times is built of what holds its rows, and of nothing else, and answers as the whole index does."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st
from split_table import SplitTable

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.distinct import CountDistinct
from bedplate.aggregations.extremes import Max
from bedplate.aggregations.ordered import First, Last, LastN
from bedplate.aggregations.window import Window
from bedplate.errors import DataError, StoreError
from bedplate.features.view import CompiledView, FeatureView
from bedplate.offline import memory
from bedplate.offline.extend import Build
from bedplate.offline.history import IndexedHistory
from bedplate.offline.reference import Reference, window_start
from bedplate.offline.segment import Span
from bedplate.sources.base import Source
from bedplate.testing.columns import mismatches
from bedplate.testing.simulator import START, USER, simulations
from bedplate.types import DAY, HOUR, to_micros

FIRST = to_micros("2026-01-01")
DAYS, ROWS = 4, 50


def frame(day: int) -> pl.DataFrame:
    begin = datetime(2026, 1, day)
    times = [begin + timedelta(minutes=20 * i) for i in range(ROWS)]
    rows = {"user": [i % 7 for i in range(ROWS)], "day": [begin.date()] * ROWS, "x": range(ROWS)}
    return pl.DataFrame(rows | {"time": times, "micros": [to_micros(t) for t in times]})


def delta(root: Path, days: Sequence[int]) -> Callable[[int], None]:
    for day in days:
        write_deltalake(root / "delta", frame(day), mode="append", partition_by=["day"])

    def remove(day: int) -> None:
        for file in (root / "delta" / f"day=2026-01-0{day}").glob("*"):
            file.unlink()

    return remove


def parquet(root: Path, days: Sequence[int]) -> Callable[[int], None]:
    """Damages the rows, and not the footer."""
    for day in days:
        (root / f"parquet/day=2026-01-0{day}").mkdir(parents=True, exist_ok=True)
        frame(day).drop("day").write_parquet(root / f"parquet/day=2026-01-0{day}/a.parquet")

    def damage(day: int) -> None:
        file = root / f"parquet/day=2026-01-0{day}/a.parquet"
        content = bytearray(file.read_bytes())
        length = int.from_bytes(content[-8:-4], "little")
        content[4 : -8 - length] = bytes(len(content) - 12 - length)
        state = file.stat()
        file.write_bytes(content)
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))

    return damage


KINDS: dict[str, tuple[str, Callable[[Path, Sequence[int]], Callable[[int], None]]]] = {
    "delta": ("delta:delta", delta),
    "parquet": ("parquet", parquet),
}


def doubled(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.with_columns(x=pl.col("x") * 2).filter(pl.col("x") >= 0)


def build_of(root: Path, table: str, span: Span | None = None, **options: Any) -> Build:
    where, options = options.pop("where", None), {"time": "time"} | options
    source = Source("events", table, **options)
    view = FeatureView("v", USER, source, {"n": Count(windows="1d"), "s": Sum("x")}, where=where).compile(root)
    return IndexedHistory(root / "store").build(view, span)


def span(first: int, last: int) -> Span:
    """From one day of January to before another."""
    return Span(FIRST + (first - 1) * DAY, FIRST + (last - 1) * DAY)


def run(build: Build) -> list[str]:
    """The rows that were read, as the progress says."""
    said: list[str] = []
    build.run(said.append)
    return [line.partition(": ")[2] for line in said if "read" in line]


@pytest.mark.parametrize("prepare", [None, doubled])
@pytest.mark.parametrize("time", ["time", "micros", "day"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_range_reads_the_files_of_its_days(tmp_path, kind, time, prepare):
    table, write = KINDS[kind]
    remove = write(tmp_path, range(1, DAYS + 1))
    for day in (1, 4):
        remove(day)
    build = build_of(tmp_path, table, span(2, 4), time=time, prepare=prepare)
    assert build.rows(0) == 2 * ROWS
    assert run(build) == [f"read {2 * ROWS} rows"]
    assert [s.manifest.rows for s in build.segments] == [2 * ROWS]
    (found,) = build.segments
    assert found.manifest.low == FIRST
    assert found.manifest.high is not None
    assert found.manifest.high > FIRST + 3 * DAY - 1
    with pytest.raises(DataError):
        build_of(tmp_path, table, span(2, 5), time=time, prepare=prepare).run()


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_is_missing_beside_ranges_is_read_once(tmp_path, kind):
    """Ranges that were built already are read no more, and what lies between them once."""
    table, write = KINDS[kind]
    remove = write(tmp_path, range(1, DAYS + 1))
    for day in (1, 3):
        assert run(build_of(tmp_path, table, span(day, day + 1))) == [f"read {ROWS} rows"]
        remove(day)
    rest = build_of(tmp_path, table)
    assert run(rest) == ["read 0 rows", f"read {ROWS} rows", f"read {ROWS} rows"]
    assert sum(s.manifest.rows for s in rest.segments) == DAYS * ROWS


@pytest.mark.parametrize("prepare", [None, doubled])
@pytest.mark.parametrize("kind", KINDS)
def test_new_data_is_all_that_an_extension_reads(tmp_path, kind, prepare):
    table, write = KINDS[kind]
    remove = write(tmp_path, [1, 2])
    run(build_of(tmp_path, table, prepare=prepare))
    for day in (1, 2):
        remove(day)
    write(tmp_path, [3])
    assert run(build_of(tmp_path, table, prepare=prepare)) == [f"read {ROWS} rows"]
    assert build_of(tmp_path, table, prepare=prepare).is_complete


def test_a_condition_on_a_folder_s_column_leaves_files_out(tmp_path):
    remove = parquet(tmp_path, range(1, DAYS + 1))
    for day in (1, 2, 3):
        remove(day)
    for prepare in (None, doubled):
        build = build_of(tmp_path, "parquet", prepare=prepare, where=pl.col("day") >= date(2026, 1, 4))
        build.run()
        assert sum(s.manifest.rows for s in build.segments) == ROWS


def test_many_buckets_are_read_from_the_same_files(tmp_path, monkeypatch):
    monkeypatch.setattr(memory.Budget, "buckets", lambda self, view, rows, threads: 4)
    remove = parquet(tmp_path, range(1, DAYS + 1))
    for day in (1, 4):
        remove(day)
    build = build_of(tmp_path, "parquet", span(2, 4))
    assert run(build)[0] == f"read {2 * ROWS} rows into 4 buckets"
    assert [s.manifest.rows for s in build.segments] == [2 * ROWS]


def test_buckets_are_for_the_rows_of_the_range(tmp_path, monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(memory.Budget, "buckets", lambda self, view, rows, threads: asked.append(rows) or 1)
    parquet(tmp_path, range(1, DAYS + 1))
    run(build_of(tmp_path, "parquet", Span(FIRST + DAY, FIRST + DAY + 5 * HOUR)))
    assert asked == [15]


def test_a_cleaning_step_that_makes_the_times_reads_all(tmp_path):
    """A range is of the times that the step makes, and so is what the index says of the times there are."""
    parquet(tmp_path, range(1, DAYS + 1))

    def later(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.with_columns(pl.col("time").dt.offset_by("-1d"))

    build = build_of(tmp_path, "parquet", span(1, 3), prepare=later)
    build.run()
    (found,) = build.segments
    assert (found.manifest.rows, found.manifest.low) == (2 * ROWS, FIRST - DAY)


def test_a_row_that_is_wrong_is_named_where_the_table_has_it(tmp_path):
    """Also where files before it were left out; a row without a time is found in whatever range."""
    for day in (1, 2, 3):
        rows = frame(day)
        if day == 3:
            rows = rows.with_columns(user=pl.when(pl.col("x") != 7).then("user"))
        rows.write_parquet(tmp_path / f"{day}.parquet")
    with pytest.raises(DataError, match=r"1 of 50 rows have no key, the first is row 7 of 3\.parquet"):
        build_of(tmp_path, "*.parquet", span(3, 4)).run()
    frame(1).with_columns(time=pl.when(pl.col("x") != 9).then("time")).write_parquet(tmp_path / "1.parquet")
    with pytest.raises(DataError, match=r"rows have no time, the first is row 9 of 1\.parquet"):
        build_of(tmp_path, "*.parquet", span(2, 3)).run()


USED = {
    "events": Count(windows=["1h", "1d"]),
    "quantity": Sum("quantity", windows="15m"),
    "first": First("price", windows=["1h", "13h"]),
    "last": Last("kind", windows="1d"),
    "high": Max("quantity", windows="1h"),
    "near": LastN("quantity", 3, windows=Window.of("1d", hop="exact", bound=4)),
    "different": CountDistinct("item", windows="1d"),
}


def view_of(events: pl.DataFrame, cuts: Sequence[int], **options: Any) -> CompiledView:
    return FeatureView("v", USER, Source("events", SplitTable(events, cuts), time="time", **options), USED).compile()


def is_held(view: CompiledView, spans: Sequence[Span], time: int) -> bool:
    """Whether one range has every event time that a value at a time may need."""
    windows = [call.window for call in view.calls if call.window is not None]
    begin, end = min(window_start(w, time) for w in windows), time - view.view.source.delay
    return any((s.begin or 0) <= begin and end <= (s.until or 2**62) for s in spans)


def read_or_error(history: IndexedHistory, view: CompiledView, keys: Any, times: Any) -> tuple[Any, str]:
    try:
        return history.read(view, list(view.features), keys, times), ""
    except StoreError as error:
        return None, str(error)


@settings(max_examples=12)
@given(
    simulation=simulations(events=100, questions=30),
    options=st.sampled_from(
        [{}, {"delay": "1h"}, {"available": "known"}, {"sequence": "rank"}, {"available": "known", "sequence": "rank"}]
    ),
    cuts=st.lists(st.integers(0, 100), max_size=3),
    hours=st.lists(st.tuples(st.integers(-10, 90), st.integers(1, 70)), min_size=1, max_size=2),
    buckets=st.sampled_from([1, 3]),
)
def test_what_ranges_answer_is_what_all_events_say(tmp_path_factory, simulation, options, cuts, hours, buckets):
    """Inside of what is built every value is that of the oracle; outside too, or an error says what to run."""
    events, folder = simulation.events, tmp_path_factory.mktemp("history")
    view = view_of(events, sorted(c * len(events) // 100 for c in cuts), **options)
    spans = [Span(START + begin * HOUR, START + (begin + length) * HOUR) for begin, length in hours]
    # Of a range without events nothing is built.
    low, high = events["time"].min() or 0, events["time"].max() or -1
    spans = [s for s in spans if s.meets(Span(low, high + 1)) and len(events)] or [Span()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory.Budget, "buckets", lambda self, view, rows, threads: buckets)
        for each in spans:
            IndexedHistory(folder).build(view, each).run()
    history, names, reference = IndexedHistory(folder), list(view.features), Reference(view)
    keys = simulation.keys((USER,))
    inside = np.array([is_held(view, spans, t) for t in simulation.times.tolist()], np.bool_)
    expected = reference.read(view, names, keys[inside], simulation.times[inside])
    assert mismatches(history.read(view, names, keys[inside], simulation.times[inside]), expected) == []
    for i in np.flatnonzero(~inside)[:6].tolist():
        one = slice(i, i + 1)
        got, said = read_or_error(history, view, keys[one], simulation.times[one])
        if got is None:
            assert "need events" in said
            assert "\n  run: bedplate " in said
        else:
            assert mismatches(got, reference.read(view, names, keys[one], simulation.times[one])) == []
    IndexedHistory(folder).build(view).run()
    whole = IndexedHistory(folder).read(view, names, keys, simulation.times)
    assert mismatches(whole, reference.read(view, names, keys, simulation.times)) == []
