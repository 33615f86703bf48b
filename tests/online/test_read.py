"""The online path gives the oracle's values, whatever was loaded in bulk, streamed, late, tied or delayed."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from bedplate.aggregations.ordered import Last, LastN
from bedplate.aggregations.window import Window
from bedplate.features.view import FeatureView
from bedplate.offline.reference import Reference
from bedplate.online.fetch import OnlineReader
from bedplate.sources.base import Source
from bedplate.testing.columns import mismatches, plain
from bedplate.testing.online_store import fill
from bedplate.testing.simulator import ITEM, START, USER, delays, simulated_view, simulations, ttls


@given(
    simulation=simulations(events=150),
    delay=delays(),
    ttl=ttls(),
    cuts=st.lists(st.integers(0, 100), min_size=1, max_size=8),
    rewind=st.sampled_from([0, 60_000_000, 86_400_000_000]),
    entities=st.sampled_from([(USER,), (ITEM,), (USER, ITEM)]),
    order=st.sampled_from([(None, None), (None, "rank"), ("known", None), ("known", "rank")]),
)
def test_equals_the_oracle(simulation, delay, ttl, cuts, rewind, entities, order):
    available, sequence = order
    delay = None if available else delay
    view = simulated_view(simulation, entities, delay=delay, ttl=ttl, available=available, sequence=sequence)
    rows = sorted(c * len(simulation.events) // 100 for c in cuts)
    store, watermark = fill(view, simulation.events, rows, rewind)
    asked = simulation.since(watermark)
    keys = asked.keys(entities)
    got = OnlineReader(store).read(view, list(view.features), keys, asked.times)
    expected = Reference(view).read(view, list(view.features), keys, asked.times)
    assert mismatches(got, expected) == []


def test_a_late_event_comes_after_those_of_its_time():
    frame = pl.DataFrame(
        {
            "user": [1, 1, 2, 1],
            "time": [START + 10, START + 5, START + 20, START + 10],
            "kind": ["early", "first", "later", "late"],
        },
    )
    source = Source("events", frame, time="time")
    windows = Window.of("1h", hop="exact", bound=2)
    upper = pl.col("kind").str.to_uppercase()  # a selection of its own: kept in a slot, not in a list
    features = {"last": Last(upper), "two": LastN("kind", 2), "three": LastN("kind", 3, windows=windows)}
    view = FeatureView("v", USER, source, features).compile()
    store, _ = fill(view, frame, [3], rewind=0)
    got = OnlineReader(store).read(view, list(view.features), np.array([[1]]), np.array([START + 21]))
    assert {n: plain(c) for n, c in got.items()} == {
        "v.last": ["LATE"],
        "v.two": [["early", "late"]],
        "v.three_1h": [["early", "late"]],
    }
