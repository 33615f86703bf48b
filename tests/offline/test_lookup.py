"""The as-of index equals the oracle, whatever the history and the question."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.distinct import CountDistinct
from bedplate.aggregations.extremes import Max, Min
from bedplate.aggregations.ordered import Last, LastN
from bedplate.batch import Ragged, column_to_series
from bedplate.errors import DefinitionError, StoreError
from bedplate.features.entity import Entity
from bedplate.features.view import FeatureView
from bedplate.offline.history import IndexedHistory
from bedplate.offline.reference import Reference
from bedplate.sources.base import Source
from bedplate.testing.columns import mismatches
from bedplate.testing.simulator import ITEM, START, USER, simulate, simulated_view
from bedplate.types import DAY, HOUR, MINUTE


def assert_same(got: list, expected: list, name: str) -> None:
    """Floats at float32 precision, all else exact."""
    assert len(got) == len(expected), name
    for row, (g, e) in enumerate(zip(got, expected, strict=True)):
        if isinstance(e, float) or (isinstance(e, list) and any(isinstance(v, float) for v in e)):
            assert g == pytest.approx(e, rel=1e-6, abs=1e-9), f"{name}, row {row}"
        else:
            assert g == e, f"{name}, row {row}"


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    events=st.integers(0, 220),
    entities=st.sampled_from([(USER,), (ITEM,), (USER, ITEM)]),
    delay=st.sampled_from([None, MINUTE, HOUR]),
    ttl=st.sampled_from([None, HOUR, DAY]),
)
def test_index_equals_the_oracle(seed, events, entities, delay, ttl):
    simulation = simulate(seed, events=events)
    view = simulated_view(simulation, entities, delay=delay, ttl=ttl)
    keys, times = simulation.keys(entities), simulation.times
    names = list(view.features)
    with TemporaryDirectory() as folder:
        history = IndexedHistory(Path(folder))
        history.build(view).run()
        got = history.read(view, names, keys, times)
        reference = Reference(view)
        expected = [reference.values(tuple(k), t) for k, t in zip(keys.tolist(), times.tolist(), strict=True)]
        for name in names:
            assert_same(column_to_series(got[name]).to_list(), [row[name] for row in expected], name)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    within=st.sampled_from([1, MINUTE, HOUR, 2 * DAY]),
    where=st.sampled_from([None, pl.col("kind") == "buy"]),
)
def test_forward_windows_equal_the_oracle(seed, within, where):
    simulation = simulate(seed, events=120)
    source = Source("events", simulation.events, time="time", delay="1h")
    features = {
        "n": Count(where=where),
        "spend": Sum("price", where=where),
        "mean": Mean("quantity", where=where),
        "low": Min("price", where=where),
        "high": Max("quantity", where=where),
        "last": Last("kind", where=where),
        "different": CountDistinct("item", where=where),
        "list": LastN("quantity", 3, where=where),
    }
    view = FeatureView("ahead", USER, source, features).compile()
    keys, times = simulation.keys((USER,)), simulation.times
    with TemporaryDirectory() as folder:
        history = IndexedHistory(Path(folder))
        history.build(view).run()
        got = history.ahead(view, list(view.features), keys, times, within)
        reference = Reference(view)
        for name in view.features:
            expected = [
                reference.ahead(tuple(k), t, within)[name] for k, t in zip(keys.tolist(), times.tolist(), strict=True)
            ]
            assert_same(column_to_series(got[name]).to_list(), expected, name)


@settings(max_examples=4)
@given(seed=st.integers(0, 1000), threads=st.sampled_from([1, 2]), rows=st.sampled_from([20_000, 40_001]))
def test_large_lookups_equal_small_ones(seed, threads, rows):
    simulation = simulate(seed, events=300, questions=40)
    view = simulated_view(simulation)
    draw = np.random.default_rng(seed).integers(0, 40, rows)
    names = list(view.features)
    with TemporaryDirectory() as folder:
        history = IndexedHistory(Path(folder), threads)
        history.build(view).run()
        keys = simulation.keys((USER,))
        small = history.read(view, names, keys, simulation.times)
        large = history.read(view, names, keys[draw], simulation.times[draw])
        for name in names:
            assert_equal_columns(small[name].take(draw), large[name])


def assert_equal_columns(one, other):
    if isinstance(one, Ragged):
        np.testing.assert_array_equal(one.offsets, other.offsets)
        assert_equal_columns(one.values, other.values)
    elif one.present is None:
        np.testing.assert_array_equal(one.values, other.values)
    else:
        np.testing.assert_array_equal(one.present, other.present)
        np.testing.assert_array_equal(one.values[one.present], other.values[other.present])


def long_key(rows: int, seed: int) -> pl.DataFrame:
    draw = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "user": np.where(draw.random(rows) < 0.8, 1, draw.integers(0, 50, rows)),
            "time": START + draw.integers(0, 10 * DAY, rows),
            "x": draw.integers(-1000, 1000, rows),
            "y": np.round(draw.normal(size=rows), 3),
            "v": draw.integers(0, 300, rows),
        }
    )


@pytest.mark.parametrize("seed", range(4))
def test_long_keys_reach_every_level_of_blocks(tmp_path, seed):
    """A key with more values than a block of the second level, whose windows begin and end anywhere."""
    frame = long_key(20_000, seed)
    windows = ["5m", "7h", "2d", "9d"]
    features = {
        "low": Min("x", windows=windows),
        "high": Max("y", windows=windows),
        "different": CountDistinct("v", windows=windows),
        "sum": Sum("x", windows=windows),
    }
    view = FeatureView("long", Entity("user", key="user"), Source("events", frame, time="time"), features).compile()
    history = IndexedHistory(tmp_path)
    history.build(view).run()
    times = START + np.random.default_rng(seed).integers(0, 11 * DAY, 50)
    keys = np.ones((50, 1), np.int64)
    got = history.read(view, list(view.features), keys, times)
    reference = Reference(view)
    for row, time in enumerate(times.tolist()):
        for name, value in reference.values((1,), time).items():
            assert column_to_series(got[name])[row] == value, name


def test_keys_beyond_two_to_the_53_and_negative_ones_stay_apart(tmp_path):
    keys = [2**53, 2**53 + 1, -(2**62), 2**63 - 1]
    frame = pl.DataFrame({"user": [k for k in keys for _ in range(2)], "time": [START, START + 1] * 4, "x": range(8)})
    view = FeatureView("v", Entity("user", key="user"), Source("e", frame, time="time"), {"s": Sum("x")}).compile()
    history = IndexedHistory(tmp_path)
    history.build(view).run()
    asked = np.array([[k] for k in [*keys, 2**53 + 2]])
    got = history.read(view, ["v.s"], asked, np.full(5, START + 2))["v.s"]
    assert column_to_series(got).to_list() == [1, 5, 9, 13, 0]


def test_labels_that_share_key_and_time_are_all_answered_in_order(tmp_path):
    frame = pl.DataFrame({"user": [1, 2], "time": [START, START], "x": [10, 20]})
    view = FeatureView("v", Entity("user", key="user"), Source("e", frame, time="time"), {"s": Sum("x")}).compile()
    history = IndexedHistory(tmp_path)
    history.build(view).run()
    keys = np.array([[2], [1], [2], [2], [1]])
    got = history.read(view, ["v.s"], keys, np.full(5, START + 1))["v.s"]
    assert column_to_series(got).to_list() == [20, 10, 20, 20, 10]


def test_reading_without_an_index_says_what_to_run(tmp_path):
    view = simulated_view(simulate(1))
    with pytest.raises(StoreError, match="bedplate apply"):
        IndexedHistory(tmp_path).read(view, list(view.features), np.array([[1]]), np.array([START]))


def test_a_forward_lookup_refuses_windows(tmp_path):
    frame = pl.DataFrame({"user": [1], "time": [START]})
    view = FeatureView("v", USER, Source("e", frame, time="time"), {"n": Count(windows="1d")}).compile()
    history = IndexedHistory(tmp_path)
    history.build(view).run()
    with pytest.raises(DefinitionError, match="window"):
        history.ahead(view, ["v.n_1d"], np.array([[1]]), np.array([START]), DAY)


def test_grouped_events_are_the_sources_events(tmp_path):
    simulation = simulate(3, events=150)
    view = simulated_view(simulation, (USER, ITEM))
    history = IndexedHistory(tmp_path)
    history.build(view).run()
    seen = 0
    for group in history.grouped(view, keys_at_once=2):
        assert len(group.offsets) == len(group.keys) + 1
        for k in range(len(group.keys)):
            times = group.times[group.offsets[k] : group.offsets[k + 1]]
            assert (np.diff(times) >= 0).all()
            seen += len(times)
    assert seen == simulation.events.height


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    events=st.integers(0, 220),
    entities=st.sampled_from([(USER,), (ITEM,), (USER, ITEM)]),
    available=st.sampled_from([None, "known"]),
    sequence=st.sampled_from([None, "rank"]),
    ttl=st.sampled_from([None, HOUR, DAY]),
)
def test_late_rows_and_ties_equal_the_oracle(seed, events, entities, available, sequence, ttl):
    simulation = simulate(seed, events=events)
    view = simulated_view(simulation, entities, ttl=ttl, available=available, sequence=sequence)
    keys, names = simulation.keys(entities), list(view.features)
    with TemporaryDirectory() as folder:
        history = IndexedHistory(Path(folder))
        history.build(view).run()
        got = history.read(view, names, keys, simulation.times)
        assert mismatches(got, Reference(view).read(view, names, keys, simulation.times)) == []
