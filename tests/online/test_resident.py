"""Resident views: a read of mapped files is, bit for bit, a read of the store that they were copied from."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.base import Aggregation
from bedplate.aggregations.decay import DecayedCount
from bedplate.aggregations.ordered import Last, LastN, TimeSince
from bedplate.aggregations.window import Window
from bedplate.batch import Column, Columns, Ids, Ragged
from bedplate.errors import AheadError
from bedplate.features.reader import Read
from bedplate.features.view import CompiledView, FeatureView
from bedplate.offline.reference import Reference
from bedplate.online.base import OnlineStore
from bedplate.online.fetch import OnlineReader
from bedplate.online.refresh import refresh
from bedplate.online.resident import ResidentReader, ResidentViews
from bedplate.online.resident_cells import Cells
from bedplate.sources.base import Source
from bedplate.testing.columns import mismatches, plain
from bedplate.testing.online_store import fill
from bedplate.testing.simulator import ITEM, START, USER, delays, simulate, simulated_view, simulations, ttls
from bedplate.types import HOUR, MINUTE


class DeafStore(OnlineStore):
    """A store that may not be asked."""

    def __getattribute__(self, name: str) -> object:
        raise AssertionError(f"the store is asked: {name}")


DeafStore.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]


def resident(store: OnlineStore, view: CompiledView, root: Path, time: int) -> ResidentReader:
    """Reads what was refreshed as of a time, and nothing else."""
    refresh(store, view, root, clock=lambda: time)
    return ResidentReader(DeafStore(), ResidentViews(root, [view], clock=lambda: time))  # type: ignore[abstract]


def assert_same(got: Columns, expected: Columns) -> None:
    """The same values in the same form, but for texts, and for values where none is present."""
    assert list(got) == list(expected)
    for name in expected:
        assert_column(got[name], expected[name], name)


def assert_column(got: Column, expected: Column, name: str) -> None:
    assert type(got) is type(expected), name
    if isinstance(got, Ragged) and isinstance(expected, Ragged):
        assert got.offsets.tolist() == expected.offsets.tolist(), name
        assert_column(got.values, expected.values, name)
        return
    assert not isinstance(got, Ragged)
    assert not isinstance(expected, Ragged)
    assert (got.values.dtype, got.values.shape) == (expected.values.dtype, expected.values.shape), name
    all_there = np.ones(len(got), np.bool_)
    there = all_there if expected.present is None else expected.present
    assert (all_there if got.present is None else got.present).tolist() == there.tolist(), name
    assert got.values[there].tobytes() == expected.values[there].tobytes(), name
    if isinstance(got, Ids) and isinstance(expected, Ids):
        assert (got.texts is None) == (expected.texts is None), name


@settings(max_examples=30)
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
        known = {n: c for n, c in got.items() if not isinstance(c.values if isinstance(c, Ragged) else c, Ids)}
        expected = Reference(view).read(view, list(known), keys, asked.times)
        assert mismatches(known, expected) == []
        for each in (time, time + 1, *asked.times[:4].tolist()):
            times = np.full(len(keys), each)
            assert_same(reader.read(view, names, keys, times), stored.read(view, names, keys, times))
