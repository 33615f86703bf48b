"""Resident views: a read of mapped files is, bit for bit, a read of the store that they were copied from."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resident_views import NOW, DeafStore, items, load, of, refreshed

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.attribute import Attribute
from bedplate.aggregations.counts import TopK
from bedplate.aggregations.decay import DecayedCount
from bedplate.aggregations.extremes import Min
from bedplate.aggregations.ordered import Last, LastN, TimeSince
from bedplate.aggregations.ratio import Rate, Ratio
from bedplate.aggregations.sketches import Quantile
from bedplate.aggregations.window import Window
from bedplate.batch import Column, Columns, Ids, Ragged
from bedplate.errors import AheadError
from bedplate.features.view import CompiledView
from bedplate.offline.reference import Reference
from bedplate.online.base import OnlineStore
from bedplate.online.fetch import OnlineReader
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.resident import ResidentReader, ResidentViews
from bedplate.online.resident_cells import Cells
from bedplate.testing.columns import mismatches, plain
from bedplate.testing.online_store import fill, grouped
from bedplate.testing.simulator import ITEM, USER, delays, simulate, simulated_view, simulations, ttls
from bedplate.types import HOUR, MINUTE, SECOND


def resident(store: OnlineStore, view: CompiledView, root: Path, time: int) -> ResidentReader:
    """Reads what was refreshed as of a time, and nothing else."""
    refreshed(store, view, root, time)
    return ResidentReader(DeafStore(), ResidentViews(root, [view], clock=lambda: time))


def assert_same(got: Columns, expected: Columns) -> None:
    """The same values in the same form, but for texts, and for values where none is present."""
    assert list(got) == list(expected)
    for name in expected:
        assert_column(got[name], expected[name], name)


def assert_column(got: Column, expected: Column, name: str) -> None:
    assert type(got) is type(expected), name
    if isinstance(got, Ragged) or isinstance(expected, Ragged):
        assert got.offsets.tolist() == expected.offsets.tolist(), name  # type: ignore[union-attr]
        assert_column(got.values, expected.values, name)  # type: ignore[arg-type]
        return
    assert (got.values.dtype, got.values.shape) == (expected.values.dtype, expected.values.shape), name
    every = np.ones(len(got), np.bool_)
    there = every if expected.present is None else expected.present
    assert (every if got.present is None else got.present).tolist() == there.tolist(), name
    assert got.values[there].tobytes() == expected.values[there].tobytes(), name
    if isinstance(got, Ids) and isinstance(expected, Ids):
        assert (got.texts is None) == (expected.texts is None), name


def is_text(column: Column) -> bool:
    return isinstance(column.values if isinstance(column, Ragged) else column, Ids)


@settings(max_examples=12)
@given(
    simulation=simulations(events=120),
    delay=delays(),
    ttl=ttls(),
    cuts=st.lists(st.integers(0, 100), min_size=1, max_size=4),
    rewind=st.sampled_from([0, MINUTE, 24 * HOUR]),
    entities=st.sampled_from([(USER,), (ITEM,), (USER, ITEM)]),
    order=st.sampled_from([(None, None), ("known", "rank")]),
    after=st.sampled_from([0, 1, 5 * MINUTE, HOUR]),
)
def test_equals_the_store_and_the_oracle(simulation, delay, ttl, cuts, rewind, entities, order, after):
    available, sequence = order
    delay = None if available else delay
    view = simulated_view(simulation, entities, delay=delay, ttl=ttl, available=available, sequence=sequence)
    store, watermark = fill(view, simulation.events, sorted(c * len(simulation.events) // 100 for c in cuts), rewind)
    asked, names, time = simulation.since(watermark), list(view.features), watermark + after
    keys = asked.keys(entities)
    with tempfile.TemporaryDirectory() as folder:
        reader, stored = resident(store, view, Path(folder), time), OnlineReader(store)
        got = reader.read(view, names, keys, asked.times)
        assert_same(got, stored.read(view, names, keys, asked.times))
        # The texts behind ids are the store's, which may not be asked here.
        known = {name: column for name, column in got.items() if not is_text(column)}
        assert mismatches(known, Reference(view).read(view, list(known), keys, asked.times)) == []
        for each in (time, time + 1, *asked.times[:4].tolist()):
            times = np.full(len(keys), each)
            assert_same(reader.read(view, names, keys, times), stored.read(view, names, keys, times))


def test_every_edge_of_a_window_and_every_delayed_event_is_seen(tmp_path):
    simulation = simulate(5, events=150, pace=2 * MINUTE)
    features = {
        "n": Count(windows=["15m", "1h"]),
        "spend": Sum("amount", windows=Window.of("1h", hop="5m")),
        "price": Last("price", windows="15m"),
        "all": Count(),
        "last": Last("price"),
    }
    view = simulated_view(simulation, (USER,), delay=10 * MINUTE, features=features)
    store, watermark = fill(view, simulation.events, [100, 120], rewind=HOUR)
    reader, stored = resident(store, view, tmp_path, watermark), OnlineReader(store)
    keys, seen = of(0, 1, 2, 3, 99), set[str]()
    for time in range(watermark, watermark + 90 * MINUTE, 50 * SECOND):
        times = np.full(5, time)
        got = reader.read(view, list(view.features), keys, times)
        assert_same(got, stored.read(view, list(view.features), keys, times))
        seen.add(str({name: plain(column) for name, column in got.items()}))
    assert len(seen) > 10


def test_what_changes_with_the_time_has_no_cells():
    simulation = simulate(1)
    features = {
        "n": Count(windows=["1h", Window.of("2h", hop="exact", bound=5)]),
        "mean": Mean("price", windows="1d"),
        "last": Last("price"),
        "image": Last("image"),
        "said": Attribute("price"),
        "until": Attribute("price", valid_to="until"),
        "recent": LastN("price", 3),
        "since": TimeSince(),
        "fading": DecayedCount(half_life="1h"),
        "rate": Rate(windows="1h"),
        "share": Ratio(Count(where=pl.col("flag")), Count(), windows="1h"),
        "worth": Ratio(DecayedCount(half_life="1h"), Count()),
        "lowest": Min("price", windows="1d"),
        "ranks": Quantile("quantity", [0, 1]),
        "top": TopK("quantity", 2),
    }
    steady_names = ("n_1h", "mean_1d", "last", "image", "said", "share_1h", "lowest_1d", "ranks_p0", "ranks_p100")
    steady = Cells(simulated_view(simulation, features=features)).places
    assert list(steady) == [f"simulated.{n}" for n in steady_names]
    ended = Cells(simulated_view(simulation, features=features, ttl=HOUR)).places
    carried = ("last", "image", "said")
    assert list(ended) == [f"simulated.{n}" for n in steady_names if n not in carried]
    none = Cells(simulated_view(simulation, features={"since": TimeSince()}))
    assert (list(none.places), none.width) == ([], 2)


def test_cells_hold_until_the_window_moves_on():
    cells = Cells(items())
    hop = 5 * MINUTE
    assert cells.lifetimes(NOW + 1)["items.lately_1h"] == (NOW, NOW + hop)
    assert cells.lifetimes(NOW - 1)["items.lately_1h"] == (NOW - hop, NOW)
    assert cells.lifetimes(NOW)["items.n"][0] < 0


def test_features_are_read_in_any_choice_and_order(tmp_path):
    with MemoryStore() as store:
        view = items()
        load(store, view, 7.0)
        reader, stored = resident(store, view, tmp_path, NOW), OnlineReader(store)
        keys, times = of(3, 4, 0, 3), np.full(4, NOW)
        for names in (["recent"], ["x", "n"], ["recent", "x"], ["lately_1h", "recent", "n"], []):
            full = [f"items.{n}" for n in names]
            assert_same(reader.read(view, full, keys, times), stored.read(view, full, keys, times))
        # What is read in the same way again has the same places.
        first, second = (reader.read(view, ["items.x", "items.recent"], keys, times) for _ in range(2))
        assert first.places is second.places
        assert len(reader.read(view, ["items.x"], of(), times[:0])["items.x"]) == 0


def test_a_key_that_is_not_there_has_no_events(tmp_path):
    with MemoryStore() as store:
        view = items()
        load(store, view, 0.0)
        reader = resident(store, view, tmp_path, NOW)
        found = reader.read(view, list(view.features), of(0, 1, -(2**63)), np.full(3, NOW))
        assert {name: plain(column) for name, column in found.items()} == {
            "items.n": [1, 0, 0],
            "items.x": [0.0, None, None],
            "items.recent": [[0.0], [], []],
            "items.lately_1h": [1, 0, 0],
        }


def test_an_empty_view_can_be_resident(tmp_path):
    with MemoryStore() as store:
        view = items()
        load(store, view, 1.0, count=0)
        found = resident(store, view, tmp_path, NOW).read(view, ["items.x"], of(0), np.array([NOW]))
        assert plain(found["items.x"]) == [None]


def test_a_time_before_what_is_folded_is_an_error_as_in_the_store(tmp_path):
    with MemoryStore() as store:
        view = items()
        load(store, view, 1.0)
        reader = resident(store, view, tmp_path, NOW)
        for each in (reader, OnlineReader(store)):
            with pytest.raises(AheadError, match="ahead of the time"):
                each.read(view, ["items.n", "items.x"], of(0), np.array([NOW - 11 * MINUTE]))


def test_keys_that_collide_are_told_apart(tmp_path):
    frame = pl.DataFrame({"item": np.arange(5000) << 40, "time": np.full(5000, NOW - 1), "x": np.arange(5000.0)})
    with MemoryStore() as store:
        view = items()

        bulk_load(store, view, [grouped(view, frame)], NOW)
        keys = np.concatenate([frame["item"].to_numpy(), frame["item"].to_numpy() + 1]).reshape(-1, 1)
        found = resident(store, view, tmp_path, NOW).read(view, ["items.x"], keys, np.full(10_000, NOW))
        assert plain(found["items.x"]) == [*np.arange(5000.0).tolist(), *[None] * 5000]
