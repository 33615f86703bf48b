"""Counts of values, smallest hashes and distinct last events in history: long keys, wide lookups, forward windows."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.aggregations.counts import Histogram, TopK
from bedplate.aggregations.distinct import CountDistinct
from bedplate.aggregations.ordered import LastN
from bedplate.aggregations.sketches import ApproxCountDistinct, Quantile
from bedplate.errors import DataError
from bedplate.features.entity import Entity
from bedplate.features.view import FeatureView
from bedplate.offline.history import IndexedHistory
from bedplate.offline.reference import Reference
from bedplate.sources.base import Source
from bedplate.testing.columns import mismatches, plain
from bedplate.testing.simulator import START, USER, simulate
from bedplate.types import DAY, HOUR, MINUTE

ENTITY = Entity("user", key="user")


def history_of(folder, frame, features):
    view = FeatureView("v", ENTITY, Source("events", frame, time="time"), features).compile()
    history = IndexedHistory(folder)
    history.build(view).run()
    return view, history


def long_key(rows, seed):
    """Most rows are of one key, whose values are many and recur at all distances."""
    draw = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "user": np.where(draw.random(rows) < 0.8, 1, draw.integers(0, 50, rows)),
            "time": START + draw.integers(0, 10 * DAY, rows),
            "v": (draw.random(rows) ** 4 * 3000).astype(np.int64),
            "x": np.round(draw.normal(size=rows) * 100, 1),
            "w": pl.Series(draw.integers(0, 9, rows)).replace(0, None),
        }
    )


@pytest.mark.parametrize("seed", range(3))
def test_long_keys_reach_every_level_of_blocks(tmp_path, seed):
    """A key with more values than a block of the largest size, whose windows begin and end anywhere."""
    windows = ["5m", "7h", "2d", "9d"]
    few = pl.col("v") < 5
    features = {
        "top": TopK("v", 4, counts=True, windows=windows),
        "top_few": TopK("w", 3, windows=windows, where=few),
        "by": Histogram("v", [0, 1, 7], windows=windows),
        "ranks": Quantile("x", [0, 0.5, 0.99], windows=windows),
        "about": ApproxCountDistinct("v", error=0.05, windows=windows),
        "about_little": ApproxCountDistinct("v", error=0.3, windows=windows),
        "about_few": ApproxCountDistinct("v", error=0.5, windows=windows, where=few),
        "last": LastN(["v", "x"], 5, distinct="v", windows=windows),
        "last_few": LastN("v", 900, distinct="w", windows=windows),
        "last_many": LastN("v", 900, distinct="v"),
    }
    view, history = history_of(tmp_path, long_key(20_000, seed), features)
    times = START + np.random.default_rng(seed).integers(0, 11 * DAY, 25)
    keys = np.where(np.arange(25) % 5, 1, 3).reshape(-1, 1)
    got = history.read(view, list(view.features), keys, times)
    assert mismatches(got, Reference(view).read(view, list(view.features), keys, times)) == []


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), within=st.sampled_from([1, MINUTE, HOUR, 2 * DAY]))
def test_forward_windows_equal_the_oracle(seed, within):
    simulation = simulate(seed, events=120)
    features = {
        "top": TopK("item", 2, counts=True),
        "by": Histogram("kind", ["buy"], share=True),
        "ranks": Quantile("price", [0.1, 0.5]),
        "about": ApproxCountDistinct("quantity", error=0.5),
        "last": LastN("item", 3, distinct="kind"),
    }
    source = Source("events", simulation.events, time="time", delay="1h")
    view = FeatureView("ahead", USER, source, features).compile()
    keys, times = simulation.keys((USER,)), simulation.times
    with TemporaryDirectory() as folder:
        history = IndexedHistory(Path(folder))
        history.build(view).run()
        got = history.ahead(view, list(view.features), keys, times, within)
        reference = Reference(view)
        for row, (key, time) in enumerate(zip(keys.tolist(), times.tolist(), strict=True)):
            expected = reference.ahead(tuple(key), time, within)
            for name in view.features:
                assert plain(got[name].take(np.array([row]))) == [pytest.approx(expected[name])], name


def wide_key():
    """A key with 3,000 values, each there twice."""
    values = np.tile(np.arange(3000), 2)
    return pl.DataFrame({"user": np.ones(6000, np.int64), "time": START + np.arange(6000), "v": values})


@pytest.mark.parametrize("rows", [3000, 17_000])
def test_a_lookup_of_many_values_takes_bounded_memory(tmp_path, rows):
    """All counts at once would be 24 bytes for each of `rows` times 3,000 values."""
    view, history = history_of(tmp_path, wide_key(), {"top": TopK("v", 2), "n": CountDistinct("v")})
    draw = np.random.default_rng(1).integers(1, 6000, rows)
    keys = np.ones((rows, 1), np.int64)
    history.read(view, ["v.top"], keys[:2], START + draw[:2])
    tracemalloc.start()
    got = history.read(view, ["v.top", "v.n"], keys, START + draw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6  # of two threads
    assert plain(got["v.n"]) == np.minimum(draw, 3000).tolist()
    # Of those seen twice the last, or where there are not two of them, of those seen once.
    newest = [[(d - 1) % 3000, (d - 2) % 3000] if d >= 3002 or d <= 3000 else [0, 2999] for d in draw.tolist()]
    assert plain(got["v.top"]) == [n[: min(d, 2)] for n, d in zip(newest, draw.tolist(), strict=True)]


def test_no_rows_and_unknown_keys(tmp_path):
    features = {
        "top": TopK("v", 2),
        "q": Quantile("x", 0.5),
        "by": Histogram("w", [1], share=True),
        "about": ApproxCountDistinct("v"),
        "last": LastN("v", 2, distinct="v"),
    }
    for frame in (long_key(100, 1), long_key(100, 1).clear()):
        view, history = history_of(tmp_path / str(len(frame)), frame, features)
        empty = history.read(view, list(view.features), np.zeros((0, 1), np.int64), np.zeros(0, np.int64))
        assert {n: plain(c) for n, c in empty.items()} == {n: [] for n in view.features}
        got = history.read(view, list(view.features), np.array([[999]]), np.array([START]))
        assert {n: plain(c) for n, c in got.items()} == {
            "v.top": [[]],
            "v.q": [None],
            "v.by_1": [None],
            "v.by_other": [None],
            "v.about": [0],
            "v.last": [[]],
        }


def test_another_error_is_built_beside_the_first(tmp_path):
    frame = long_key(3000, 1)
    for error in (0.05, 0.5):
        view, history = history_of(tmp_path, frame, {"about": ApproxCountDistinct("v", error=error)})
        keys, times = np.array([[1]]), np.array([START + 20 * DAY])
        expected = Reference(view).values((1,), START + 20 * DAY)["v.about"]
        assert plain(history.read(view, ["v.about"], keys, times)["v.about"]) == [expected]


def test_a_quantile_of_an_infinite_number_is_refused(tmp_path):
    frame = pl.DataFrame({"user": [1], "time": [START], "x": [np.inf]})
    with pytest.raises(DataError, match=r"view 'v', source 'events', .*x.*: 1 infinite values, the first in row 0"):
        history_of(tmp_path, frame, {"q": Quantile("x", 0.5)})
