"""The online path gives the oracle's values, whatever was loaded in bulk, streamed, late, tied or delayed."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.features.view import CompiledView
from bedplate.features.rows import GroupedRows, prepare_rows
from bedplate.offline.reference import Reference
from bedplate.online.base import Changes
from bedplate.online.codec import Layout
from bedplate.online.fetch import OnlineReader
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.state import group, merged_rows, texts_of
from bedplate.testing.columns import mismatches
from bedplate.testing.online_store import grouped
from bedplate.testing.simulator import ITEM, USER, Simulation, delays, simulated_view, simulations, ttls


def fill(view: CompiledView, events: pl.DataFrame, cuts: list[int], rewind: int) -> tuple[MemoryStore, int]:
    """A store with rows up to the first cut loaded in bulk and each further part folded in; and when reads are exact."""
    store, layout = MemoryStore(), Layout(view)
    bulk = events[: cuts[0]]
    watermark = int(bulk["time"].max() or 0) + 1
    bulk_load(store, view, [grouped(view, bulk)], watermark, rewind=rewind, batch=30)
    for begin, end in zip(cuts, [*cuts[1:], len(events)], strict=True):
        rows = prepare_rows(view, events[begin:end].lazy())
        watermark = max(watermark, int(rows.times.max(initial=0)))
        puts = merged_rows(store, layout, group(layout, rows), watermark - rewind)
        store.commit(Changes(puts + texts_of(rows, set())))
    return store, watermark


@given(
    simulation=simulations(),
    delay=delays(),
    ttl=ttls(),
    cuts=st.lists(st.floats(0, 1), min_size=1, max_size=5),
    rewind=st.sampled_from([0, 60_000_000, 86_400_000_000]),
    entities=st.sampled_from([(USER,), (ITEM,), (USER, ITEM)]),
)
def test_equals_the_oracle(simulation, delay, ttl, cuts, rewind, entities):
    view = simulated_view(simulation, entities, delay=delay, ttl=ttl)
    rows = sorted(int(c * len(simulation.events)) for c in cuts)
    store, watermark = fill(view, simulation.events, rows, rewind)
    asked = simulation.since(watermark)
    keys = asked.keys(entities)
    got = OnlineReader(store).read(view, list(view.features), keys, asked.times)
    expected = Reference(view).read(view, list(view.features), keys, asked.times)
    assert mismatches(got, expected) == []
