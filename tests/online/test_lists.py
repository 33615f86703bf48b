"""What the online store keeps for counts, sketches and distinct last events, and that it says what history says."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.aggregations.counts import Histogram, TopK
from bedplate.aggregations.ordered import LastN
from bedplate.aggregations.sketches import ApproxCountDistinct, Quantile
from bedplate.aggregations.window import Window
from bedplate.features.view import FeatureView
from bedplate.health.parity import ParityReport
from bedplate.offline.history import IndexedHistory
from bedplate.online.fetch import OnlineReader
from bedplate.online.keys import row_keys
from bedplate.sources.base import Source
from bedplate.testing.columns import plain
from bedplate.testing.online_store import fill
from bedplate.testing.simulator import START, USER
from bedplate.types import DAY, HOUR, MINUTE


def view_of(frame, features):
    return FeatureView("v", USER, Source("events", frame, time="time"), features).compile()


def events(rows, different, span, seed=0):
    draw = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "user": np.ones(rows, np.int64),
            "time": START + np.sort(draw.integers(0, span, rows)),
            "v": draw.integers(0, different, rows),
            "x": np.round(draw.normal(size=rows) * 100, 2),
        }
    )


def words_of(store, view):
    """The length of the packed row of user 1, in words."""
    return len(store.read_many(row_keys(view, np.array([[1]]), 0)).data) // 8


LISTS = {
    "top": TopK("v", 5, counts=True, windows=["7d", "1h", "1d"]),
    "by": Histogram("v", [1, 2], share=True, windows="7d"),
    "ranks": Quantile("x", [0, 0.5, 1], windows=["1d", Window.of("2h", hop="exact", bound=40)]),
    "about": ApproxCountDistinct("v", error=0.3, windows=["1h", "1d", "7d"]),
    "about_all": ApproxCountDistinct("v", error=0.2),
    "last": LastN(["v", "x"], 7, distinct="v", windows=["1h", "7d"]),
    "last_all": LastN("x", 7, distinct="v"),
}


@settings(max_examples=10)
@given(
    seed=st.integers(0, 1000),
    different=st.sampled_from([5, 60, 2000]),
    span=st.sampled_from([HOUR, 2 * DAY, 20 * DAY]),
    cuts=st.lists(st.integers(0, 600), min_size=1, max_size=9),
)
def test_the_store_says_exactly_what_history_says(seed, different, span, cuts):
    """Sketches are functions of the set of events: not even a rounding may differ, however the stream was cut."""
    frame = events(600, different, span, seed)
    view = view_of(frame, LISTS)
    store, watermark = fill(view, frame, sorted(cuts), rewind=MINUTE)
    times = watermark + np.array([0, 1, MINUTE, HOUR, DAY, 6 * DAY, 8 * DAY])
    keys = np.ones((len(times), 1), np.int64)
    with TemporaryDirectory() as folder:
        history = IndexedHistory(Path(folder))
        history.build(view).run()
        got = OnlineReader(store).read(view, list(view.features), keys, times)
        expected = history.read(view, list(view.features), keys, times)
        assert {n: plain(c) for n, c in got.items()} == {n: plain(c) for n, c in expected.items()}
        report = ParityReport()
        report.compare(view, keys, times, OnlineReader(store), history)
        report.require()


@pytest.mark.parametrize("cuts", [[20_000], [0, 5000, 12_000, 19_000]])
def test_a_distinct_sketch_stays_as_small_as_stated(cuts):
    """About k (1 + ln(n / k)) hashes of n = 20,000 different values, whatever the windows."""
    features = {"about": ApproxCountDistinct("v", error=0.1, windows=["1d", "7d", "30d"])}
    frame = events(20_000, 2**60, 6 * DAY)
    view = view_of(frame, features)
    store, watermark = fill(view, frame, cuts, rewind=0)
    k = 102
    kept = words_of(store, view) / 2
    assert k < kept < 1.25 * k * (1 + math.log(20_000 / k))
    got = OnlineReader(store).read(view, list(view.features), np.array([[1]]), np.array([watermark]))
    for name, days in (("v.about_1d", 1), ("v.about_7d", 6), ("v.about_30d", 6)):
        assert plain(got[name])[0] == pytest.approx(20_000 * days / 6, rel=0.3)


def test_counts_take_a_word_each_for_value_number_time_and_tile_and_old_tiles_go():
    frame = events(4000, 10, 10 * DAY)
    view = view_of(frame, {"top": TopK("v", 3)})
    store, _ = fill(view, frame, [4000], 0)
    assert 3 * 10 < words_of(store, view) < 3 * 10 + 20
    features = {"top": TopK("v", 3, windows=[Window.of("2d", hop="1d")])}
    view = view_of(frame, features)
    whole, _ = fill(view, frame, [4000], 0)
    assert 4 * 10 * 3 <= words_of(whole, view) < 4 * 10 * 3 + 20
    parts, _ = fill(view, frame, list(range(100, 4000, 300)), 0)
    assert words_of(parts, view) <= words_of(whole, view) + 4  # the last event is pending


def test_buckets_of_a_quantile_are_as_few_as_stated():
    draw = np.random.default_rng(3)
    frame = events(30_000, 10, DAY).with_columns(x=pl.Series(10 ** draw.uniform(-2, 4, 30_000)))
    for error, most in ((0.01, 692), (0.05, 139)):
        view = view_of(frame, {"q": Quantile("x", 0.5, error=error)})
        store, _ = fill(view, frame, [30_000], 0)
        assert most * 3 * 0.9 < words_of(store, view) < most * 3 + 20


def test_distinct_last_events_are_n_whatever_came():
    frame = events(3000, 500, DAY)
    view = view_of(frame, {"last": LastN("x", 9, distinct="v")})
    store, _ = fill(view, frame, [0, 700, 1500], 0)
    assert 3 * 9 <= words_of(store, view) < 3 * 9 + 20


def test_a_late_event_of_a_value_that_is_no_longer_kept_does_not_come_back():
    """Three values fall out of a list of two; an old event of one of them arrives late."""
    frame = pl.DataFrame(
        {
            "user": [1, 1, 1, 1, 2, 1, 1, 2],
            "time": [START + t for t in (10, 20, 30, 40, 50, 15, 40, 60)],
            "v": ["a", "b", "c", "d", "", "a", "a", ""],
            "x": [1, 2, 3, 4, 0, 5, 6, 0],
        }
    )
    view = view_of(frame, {"last": LastN(["v", "x"], 2, distinct="v")})
    for rows, expected in ((6, [["c", "d"], [3, 4]]), (8, [["d", "a"], [4, 6]])):
        store, _ = fill(view, frame[:rows], list(range(2, rows)), 0)
        got = OnlineReader(store).read(view, list(view.features), np.array([[1]]), np.array([START + DAY]))
        assert [plain(c)[0] for c in got.values()] == expected
