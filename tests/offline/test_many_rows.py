"""Lookups of many rows: by blocks, in another order, on several threads, and equal to the oracle all the same."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.counts import Histogram, TopK
from bedplate.aggregations.distinct import CountDistinct
from bedplate.aggregations.extremes import Max
from bedplate.aggregations.ordered import Last, LastN
from bedplate.aggregations.window import Window
from bedplate.batch import column_to_series
from bedplate.features.entity import Entity
from bedplate.features.view import FeatureView
from bedplate.offline.history import IndexedHistory
from bedplate.offline.reference import Reference
from bedplate.sources.base import Source
from bedplate.testing.simulator import START
from bedplate.types import DAY, HOUR, MINUTE

USER, SHOP = Entity("user", key="user"), Entity("shop", key="shop")
WINDOWS = ("1h", "1d", Window.of("2h", hop="exact", bound=20), "7d")
PLACES = {"close": [1, 2, 3, 4, 9], "far": [-(2**62), -7, 0, 2**40, 2**62]}
"""Keys that are found by a table of places, and keys that are found by their hash."""


def sums(**options):
    return {
        "n": Count(windows=WINDOWS, **options),
        "total": Sum("price", windows=WINDOWS, **options),
        "mean": Mean("price", windows=WINDOWS, **options),
    }


FEATURES = {
    "one selection": sums,
    "a count alone": lambda: {"n": Count(windows=WINDOWS)},
    "integers": lambda: {"total": Sum("pieces", windows=WINDOWS), "same": Sum("pieces"), "mean": Mean("pieces")},
    "some rows count": lambda: sums(where=pl.col("pieces") > 0),
    "several selections": lambda: sums() | {"p": Sum("pieces", windows="1d"), "known": Count("note", windows="7d")},
    "lists": lambda: {
        "top": TopK("pieces", 2, counts=True, windows=("1d", "7d")),
        "words": TopK("note", 1),
        "positive": TopK("pieces", 3, where=pl.col("pieces") > 0),
        "every": Histogram("pieces", [1, 2], windows="7d"),
        "kinds": CountDistinct("pieces", windows="1d"),
        "recent": LastN(["note", "price"], 2, distinct="note"),
    },
    "with others": lambda: (
        sums() | {"high": Max("price", windows="1d"), "last": Last("note"), "list": LastN("price", 3)}
    ),
}


def events(seed: int, rows: int, keys: list[int]) -> pl.DataFrame:
    """Events of which most are of one key, with ties, nulls, and times at the edges of hops."""
    draw = np.random.default_rng(seed)
    times = START + draw.integers(0, 9 * DAY, rows)
    snapped = draw.random(rows) < 0.3
    times[snapped] -= times[snapped] % (5 * MINUTE)
    return pl.DataFrame(
        {
            "user": np.where(draw.random(rows) < 0.6, keys[0], draw.choice(keys[:-1], rows)),
            "shop": draw.integers(0, 2, rows),
            "time": times,
            "price": np.where(draw.random(rows) < 0.1, np.nan, np.round(draw.normal(10, 30, rows), 2)),
            "pieces": draw.integers(-5, 10, rows),
            "note": pl.Series([None, "a", "b"]).gather(draw.integers(0, 3, rows)),
        }
    )


def questions(seed: int, frame: pl.DataFrame, keys: list[int], many: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys, one of them never seen, and times at events, at the ends of windows, and a microsecond beside them."""
    draw = np.random.default_rng(seed + 1)
    edges = draw.choice([0, HOUR, 2 * HOUR, DAY, 7 * DAY], many) + draw.integers(-1, 2, many)
    times = np.where(
        draw.random(many) < 0.7,
        draw.choice(frame["time"].to_numpy(), many) + edges if frame.height else START + edges,
        START + draw.integers(-DAY, 20 * DAY, many),
    )
    asked = np.stack([draw.choice(keys, many), draw.integers(0, 3, many)], axis=1)
    return asked, times


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    rows=st.sampled_from([0, 1, 40, 600]),
    features=st.sampled_from(sorted(FEATURES)),
    places=st.sampled_from(sorted(PLACES)),
    entities=st.sampled_from([(USER,), (USER, SHOP)]),
    delay=st.sampled_from([None, "7m", "2h"]),
    ttl=st.sampled_from([None, "3h"]),
    threads=st.integers(1, 3),
    in_order=st.booleans(),
)
def test_many_rows_equal_the_oracle(seed, rows, features, places, entities, delay, ttl, threads, in_order):
    frame = events(seed, rows, PLACES[places])
    source = Source("events", frame, time="time", delay=delay)
    view = FeatureView("v", entities, source, FEATURES[features](), ttl=ttl).compile()
    keys, times = questions(seed, frame, PLACES[places], 60)
    keys = keys[:, : len(entities)]
    drawn = np.random.default_rng(seed).integers(0, len(keys), 40_000)
    if in_order:
        drawn = drawn[np.argsort(times[drawn], kind="stable")]
    with TemporaryDirectory() as folder:
        history = IndexedHistory(Path(folder), threads)
        history.build(view).run()
        got = history.read(view, list(view.features), keys[drawn], times[drawn])
        reference = Reference(view).read(view, list(view.features), keys, times)
        for name in view.features:
            found = column_to_series(got[name])
            expected = column_to_series(reference[name].take(drawn))
            assert found.is_null().equals(expected.is_null()), name
            if expected.dtype == pl.Float64:
                np.testing.assert_allclose(found.fill_null(0), expected.fill_null(0), rtol=1e-6, atol=1e-9)
            else:
                assert found.equals(expected), name


def test_rows_that_repeat_keys_and_times_of_several_segments(tmp_path):
    """Keys that only the smaller segment has are not known to the larger one, and are not each other's."""
    table = tmp_path / "events"
    table.mkdir()
    features = {"n": Count(windows="1d"), "last": Last("x"), "top": TopK("x", 2, counts=True)}
    definition = FeatureView("v", USER, Source("e", str(table), time="time"), features)
    for name, users in (("a", [1, 1, 1, 2, 2, 3]), ("b", [7, 8, 8, 9])):
        frame = pl.DataFrame({"user": users, "x": np.array(users) * 10 + np.arange(len(users)) % 2})
        frame.with_columns(time=START + pl.int_range(pl.len())).write_parquet(table / f"{name}.parquet")
        view, history = definition.compile(), IndexedHistory(tmp_path / "index")
        history.build(view).run()
    assert len(history.reader(view).segments) == 2
    keys = np.tile(np.array([9, 1, 8, 7, 4, 2, 3]), 6_000).reshape(-1, 1)
    times = np.full(len(keys), START + HOUR)
    got = history.read(view, list(view.features), keys, times)
    expected = Reference(view).read(view, list(view.features), keys[:7], times[:7])
    for name in view.features:
        found = column_to_series(got[name])
        assert found[:7].equals(column_to_series(expected[name])), name
        assert found.equals(pl.concat([found[:7]] * 6_000)), name


def test_blocks_of_one_key_and_of_an_outlying_time_are_answered(tmp_path):
    """Times that fall into one group, in no order, at which a search starts from the key's first row."""
    draw = np.random.default_rng(5)
    frame = pl.DataFrame({"user": 1, "time": START + draw.permutation(50_000), "x": 1})
    view = FeatureView(
        "v", USER, Source("e", frame, time="time"), {"n": Count(), "s": Sum("x", windows="1h")}
    ).compile()
    history = IndexedHistory(tmp_path)
    history.build(view).run()
    times = np.concatenate([[0, 2**52], START + draw.integers(0, 60_000, 50_000)])
    got = history.read(view, ["v.n", "v.s_1h"], np.ones((len(times), 1), np.int64), times)
    expected = np.clip(times - START, 0, 50_000)
    np.testing.assert_array_equal(got["v.n"].values, expected)
    np.testing.assert_array_equal(got["v.s_1h"].values, np.where(times == 2**52, 0, expected))


def test_two_readers_of_a_file_map_it_once(tmp_path):
    frame = events(1, 100, PLACES["close"])
    view = FeatureView("v", USER, Source("e", frame, time="time"), sums()).compile()
    first, second = IndexedHistory(tmp_path), IndexedHistory(tmp_path)
    first.build(view).run()
    assert first.reader(view).segments[0].parts[0].times is second.reader(view).segments[0].parts[0].times


@pytest.mark.parametrize("places", sorted(PLACES))
def test_many_rows_looked_up_ahead_equal_few(tmp_path, places):
    frame = events(3, 500, PLACES[places])
    features = {"n": Count(), "total": Sum("price"), "mean": Mean("pieces"), "list": LastN("pieces", 2)}
    view = FeatureView("v", USER, Source("e", frame, time="time", delay="1h"), features).compile()
    history = IndexedHistory(tmp_path)
    history.build(view).run()
    keys, times = questions(3, frame, PLACES[places], 60)
    drawn = np.random.default_rng(3).integers(0, 60, 20_000)
    few = history.ahead(view, list(view.features), keys[:, :1], times, 2 * DAY)
    many = history.ahead(view, list(view.features), keys[drawn, :1], times[drawn], 2 * DAY)
    for name in view.features:
        assert column_to_series(many[name]).equals(column_to_series(few[name].take(drawn))), name
