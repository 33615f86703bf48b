"""Sums and counts of the same windows are read together, whatever they are called and whatever else is asked for."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import polars as pl
import pytest

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.counts import TopK
from bedplate.aggregations.decay import DecayedMean
from bedplate.aggregations.distinct import CountDistinct
from bedplate.aggregations.extremes import Max
from bedplate.aggregations.moments import Variance
from bedplate.aggregations.ordered import First, Last, LastN, TimeSince
from bedplate.aggregations.sketches import Quantile
from bedplate.features.entity import Entity
from bedplate.features.view import FeatureView
from bedplate.online.base import open_store
from bedplate.online.fetch import OnlineReader
from bedplate.online.load import bulk_load
from bedplate.sources.base import Source
from bedplate.testing.online_store import grouped
from bedplate.types import DAY, HOUR, to_micros

NOW = to_micros("2026-01-31")
LENGTHS = {"1h": HOUR, "1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
WINDOWS = list(LENGTHS)


def events() -> pl.DataFrame:
    draw = np.random.default_rng(1)
    times = np.append(NOW - draw.integers(1, 29 * 24 * 60, 399) * (HOUR // 60), NOW - HOUR // 2)
    prices = [None if i % 5 == 0 else float(i) for i in range(400)]
    return pl.DataFrame({"user": draw.integers(0, 9, 400), "time": times, "price": prices, "units": range(400)})


@pytest.mark.parametrize("names", list(permutations("abcd"))[::5])
def test_each_gives_what_its_events_give(names):
    frame = events()
    a, b, c, d = names
    features = {
        a: Sum("price", windows=WINDOWS),
        b: Mean("price", windows=WINDOWS),
        c: Count(windows=WINDOWS),
        d: Count("price", windows=WINDOWS),
        "units": Sum("units", windows=WINDOWS),
        "most": Max("price", windows=WINDOWS),
    }
    view = FeatureView("v", Entity("user", key="user"), Source("events", frame, time="time"), features).compile()
    with open_store("memory:") as store:
        bulk_load(store, view, [grouped(view, frame)], NOW)
        found = OnlineReader(store).read(view, list(view.features), np.arange(10).reshape(-1, 1), np.full(10, NOW))
    for window, length in LENGTHS.items():
        hop = {"1h": HOUR // 12, "30d": DAY}.get(window, HOUR)
        since = (NOW - length) // hop * hop
        for user in range(10):
            kept = frame.filter((pl.col("user") == user) & (pl.col("time") >= since) & (pl.col("time") < NOW))
            prices = kept["price"].drop_nulls()
            expected = {a: prices.sum(), b: prices.mean(), c: len(kept), d: len(prices)}
            expected |= {"units": kept["units"].sum(), "most": prices.max()}
            for name, value in expected.items():
                column = found[f"v.{name}_{window}"]
                is_there = column.present is None or column.present[user]
                assert (column.values[user] if is_there else None) == pytest.approx(value), (name, window, user)


@pytest.mark.parametrize(
    ("aggregation", "a_tile", "an_event"),
    [
        (Count(windows="30d"), 1 + 1, 0),
        (Sum("units", windows="30d"), 1 + 1, 0),
        (Mean("price", windows="30d"), 1 + 2, 0),
        (Max("price", windows="30d"), 1 + 2, 0),
        (Variance("price", windows="30d"), 1 + 4, 0),
        (DecayedMean("price", half_life="1d", windows="30d"), 1 + 4, 0),
        (First("price", windows="30d"), 1 + 3, 0),
        (Last("price", windows="30d"), 0, 0),
        (TimeSince(windows="30d"), 0, 0),
        (LastN("price", 500, windows="30d"), 0, 1 + 1),
        (CountDistinct("units", windows="30d"), 0, 2),
        (Quantile("units", 0.5, windows="30d"), 0, 4),
        (TopK("units", 3, windows="30d"), 0, 4),
    ],
)
def test_state_is_of_the_size_that_docs_history_states(aggregation, a_tile, an_event):
    def words(days: int, each: int) -> int:
        """Of the row of a user with so many events on each of so many days, of different values."""
        times = [NOW - day * DAY + i for day in range(days, 0, -1) for i in range(each)]
        values = [2**i for i in range(len(times))] if isinstance(aggregation, Quantile) else list(range(len(times)))
        frame = pl.DataFrame({"user": 1, "time": times, "price": list(map(float, values)), "units": values})
        source = Source("events", frame, time="time")
        view = FeatureView("v", Entity("user", key="user"), source, {"f": aggregation}).compile()
        with open_store("memory:") as store:
            bulk_load(store, view, [grouped(view, frame)], NOW)
            [(_, row)] = store.scan(b"r")
        return len(row) // 8

    assert words(20, 1) - words(10, 1) == 10 * (a_tile + an_event)
    assert words(10, 3) - words(10, 1) == 20 * an_event
