"""Bulk load from an as-of index: what the store then reads is what the index reads."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given, settings

from bedplate.offline.history import IndexedHistory
from bedplate.offline.reference import Reference
from bedplate.online.fetch import OnlineReader
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.state import read_state
from bedplate.testing.columns import mismatches
from bedplate.testing.online_store import grouped
from bedplate.testing.simulator import ITEM, USER, simulate, simulated_view, simulations


@settings(max_examples=15)
@given(simulation=simulations())
def test_an_index_is_loaded_as_it_reads(tmp_path_factory, simulation):
    view = simulated_view(simulation, (ITEM, USER))
    history = IndexedHistory(tmp_path_factory.mktemp("index"))
    history.build(view).run()
    store, end = MemoryStore(), int(simulation.events["time"].max() or 0) + 1
    bulk_load(store, view, history.grouped(view, keys_at_once=3), end, batch=10)
    asked = simulation.since(end)
    keys = asked.keys(view.view.entities)
    got = OnlineReader(store).read(view, list(view.features), keys, asked.times)
    expected = history.read(view, list(view.features), keys, asked.times)
    assert mismatches(got, expected) == []


def test_events_from_until_on_are_left_out():
    simulation = simulate(4, events=200)
    view = simulated_view(simulation, (USER,))
    until = int(np.quantile(simulation.events["time"].to_numpy(), 0.6))
    before = simulation.events.filter(pl.col("time") < until)
    store, seen = MemoryStore(), list[int]()
    bulk_load(store, view, [grouped(view, simulation.events)], until, batch=25, progress=seen.append)
    state = read_state(store, view)
    assert (state.events, state.newest, state.watermark) == (len(before), before["time"].max(), until)
    assert seen == sorted(seen)
    assert seen[-1] == len(before)
    keys, times = np.array([[0], [1], [2], [3], [9]]), np.full(5, until)
    got = OnlineReader(store).read(view, list(view.features), keys, times)
    assert mismatches(got, Reference(view, before.lazy()).read(view, list(view.features), keys, times)) == []


def test_a_second_load_replaces_the_first():
    simulation = simulate(4, events=120)
    view = simulated_view(simulation, (USER,))
    end = int(simulation.events["time"].max() or 0) + 1
    store = MemoryStore()
    bulk_load(store, view, [grouped(view, simulation.events)], end)
    bulk_load(store, view, [grouped(view, simulation.events[:10])], end)
    keys, times = np.array([[0], [1], [2], [3]]), np.full(4, end)
    got = OnlineReader(store).read(view, ["simulated.events"], keys, times)["simulated.events"]
    assert got.values.sum() == 10
