"""An index in segments and buckets equals the oracle, however the events arrive and whatever is merged meanwhile."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from split_table import SplitTable

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.distinct import CountDistinct
from bedplate.aggregations.extremes import Max, Min
from bedplate.aggregations.ordered import Last, LastN
from bedplate.aggregations.window import Window
from bedplate.batch import column_to_series
from bedplate.features.entity import Entity
from bedplate.features.view import FeatureView
from bedplate.offline import memory
from bedplate.offline.history import IndexedHistory
from bedplate.offline.reference import Reference
from bedplate.sources.base import Source
from bedplate.testing.simulator import ITEM, START, USER, every_aggregation, simulate
from bedplate.types import DAY, HOUR, MINUTE, format_duration


def assert_same(got: list, expected: list, name: str) -> None:
    for row, (g, e) in enumerate(zip(got, expected, strict=True)):
        if isinstance(e, float) or (isinstance(e, list) and any(isinstance(v, float) for v in e)):
            assert g == pytest.approx(e, rel=1e-6, abs=1e-9), f"{name}, row {row}"
        else:
            assert g == e, f"{name}, row {row}"


def view_of(table, entities, delay=None, ttl=None, features=None):
    source = Source("events", table, time="time", delay=None if delay is None else format_duration(delay))
    lifetime = None if ttl is None else format_duration(ttl)
    return FeatureView("v", list(entities), source, features or every_aggregation(), ttl=lifetime).compile()


def check(history, view, keys, times):
    names = list(view.features)
    got = history.read(view, names, keys, times)
    reference = Reference(view)
    expected = [reference.values(tuple(k), t) for k, t in zip(keys.tolist(), times.tolist(), strict=True)]
    for name in names:
        assert_same(column_to_series(got[name]).to_list(), [row[name] for row in expected], name)


def cuts(draw, rows, most=4):
    """Where pieces begin: anywhere, so that some may be empty, and late rows and ties lie across their borders."""
    return sorted(draw(st.lists(st.integers(0, rows), max_size=most)))


@pytest.fixture
def buckets(monkeypatch):
    """Sets how many buckets new segments get."""

    def fix(number):
        monkeypatch.setattr(memory.Budget, "buckets", lambda self, view, rows, threads: number)

    return fix


@settings(max_examples=12)
@given(
    seed=st.integers(0, 10_000),
    events=st.integers(1, 160),
    entities=st.sampled_from([(USER,), (ITEM,), (USER, ITEM)]),
    delay=st.sampled_from([None, MINUTE, HOUR]),
    ttl=st.sampled_from([None, HOUR, DAY]),
    data=st.data(),
)
def test_an_extended_index_equals_the_oracle(seed, events, entities, delay, ttl, data):
    """A table that grows by pieces; each new piece becomes a segment, of one bucket or several."""
    simulation = simulate(seed, events=events, questions=25)
    where = cuts(data.draw, events)
    keys, times = simulation.keys(entities), simulation.times
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        history, view = IndexedHistory(Path(folder)), None
        for count in range(1, len(where) + 2):
            frame = simulation.events[: where[count - 1]] if count <= len(where) else simulation.events
            view = view_of(SplitTable(frame, where[: count - 1]), entities, delay, ttl)
            number = data.draw(st.sampled_from([1, 1, 2, 8]))
            patch.setattr(memory.Budget, "buckets", lambda self, view, rows, threads, n=number: n)
            history = IndexedHistory(Path(folder))
            build = history.build(view)
            assert len(build.slots) == count
            build.run()
        assert view is not None
        check(history, view, keys, times)


@pytest.mark.parametrize("cut", [(), (9_000, 15_000)])
@pytest.mark.parametrize("number", [1, 4])
def test_many_rows_over_segments_and_buckets_equal_few(tmp_path, buckets, cut, number):
    draw = np.random.default_rng(1)
    rows, asked = 20_000, 30_000
    frame = pl.DataFrame(
        {
            "user": draw.integers(-50, 300, rows),
            "time": START + draw.integers(0, 10 * DAY, rows),
            "x": draw.integers(-1000, 1000, rows),
            "v": draw.integers(0, 400, rows),
        }
    )
    windows = ["7h", Window.of("2d", hop="exact", bound=7), "9d"]
    features = {
        "n": Count(windows=windows),
        "sum": Sum("x", windows=windows),
        "low": Min("x", windows=windows),
        "high": Max("v"),
        "different": CountDistinct("v", windows=windows),
        "last": Last("x"),
        "list": LastN("v", 3),
    }
    buckets(number)
    table = SplitTable(frame, cut)
    view = FeatureView("v", Entity("user", key="user"), Source("e", table, time="time"), features).compile()
    for count in range(len(cut) + 1):
        grown = SplitTable(frame[: cut[count]], cut[:count]) if count < len(cut) else table
        source = Source("e", grown, time="time")
        IndexedHistory(tmp_path).build(FeatureView("v", Entity("user", key="user"), source, features).compile()).run()
    history = IndexedHistory(tmp_path)
    assert len(history.reader(view).segments) == len(cut) + 1
    keys = draw.integers(-52, 302, (asked, 1))
    times = START + draw.integers(0, 11 * DAY, asked)
    got = history.read(view, list(view.features), keys, times)
    reference = Reference(view)
    for row in draw.integers(0, asked, 60).tolist():
        for name, value in reference.values((int(keys[row, 0]),), int(times[row])).items():
            assert column_to_series(got[name].take(np.array([row]))).to_list()[0] == value, (name, row)


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), within=st.sampled_from([1, MINUTE, HOUR, 2 * DAY]), data=st.data())
def test_forward_windows_over_segments_equal_the_oracle(seed, within, data):
    simulation = simulate(seed, events=120, questions=25)
    features = {
        "n": Count(),
        "spend": Sum("price"),
        "low": Min("price"),
        "last": Last("kind"),
        "different": CountDistinct("item"),
        "list": LastN("quantity", 3),
    }
    where = [30, 60, 90][: data.draw(st.integers(1, 3))]
    keys, times = simulation.keys((USER,)), simulation.times
    with TemporaryDirectory() as folder:
        for count in range(len(where) + 1):
            frame = simulation.events[: where[count]] if count < len(where) else simulation.events
            view = view_of(SplitTable(frame, where[:count]), (USER,), features=features)
            IndexedHistory(Path(folder)).build(view).run()
        history, reference = IndexedHistory(Path(folder)), Reference(view)
        got = history.ahead(view, list(view.features), keys, times, within)
        asked = list(zip(keys.tolist(), times.tolist(), strict=True))
        for name in view.features:
            expected = [reference.ahead(tuple(k), t, within)[name] for k, t in asked]
            assert_same(column_to_series(got[name]).to_list(), expected, name)
        assert history.end(view) == simulation.events["time"].max()


@pytest.mark.parametrize("number", [1, 4])
def test_grouped_events_of_segments_are_the_sources_events_in_order(tmp_path, buckets, number):
    simulation = simulate(3, events=150)
    buckets(number)
    for where in ([], [50], [50, 100]):
        frame = simulation.events[: [50, 100, 150][len(where)]]
        view = view_of(SplitTable(frame, where), (USER, ITEM), features={"n": Count("kind"), "q": LastN("quantity", 2)})
        IndexedHistory(tmp_path).build(view).run()
    rows: list[tuple] = []
    history = IndexedHistory(tmp_path)
    for group in history.grouped(view, keys_at_once=2):
        assert len(group.keys) <= 2
        texts = group.key_texts[1]
        kind = next(s for s in group.selections if s.texts == () or (len(s.inputs) == 1 and s.texts[0] is not None))
        for k, key in enumerate(group.keys.tolist()):
            for i in range(group.offsets[k], group.offsets[k + 1]):
                there = kind.valid is None or kind.valid[i]
                rows.append(
                    (key[0], texts[key[1]], group.times[i], kind.texts[0][kind.inputs[0][i]] if there else None)
                )
    assert len({r[:2] for r in rows}) == len(history.reader(view).all_keys())
    expected = simulation.events.select("user", "item", "time", "kind").sort(
        "user", "item", "time", maintain_order=True
    )
    assert sorted(rows, key=lambda r: r[:2]) == expected.rows()
