"""Serving with resident views: the store is not asked for them, stands in for them, and they stand in for the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from resident_views import refreshed
from troubled_store import TroubledStore

from bedplate.aggregations.arithmetic import Count
from bedplate.aggregations.ordered import Last
from bedplate.features.entity import Entity
from bedplate.features.graph import FeatureGraph
from bedplate.features.links import Link
from bedplate.features.lookup import lookup
from bedplate.features.view import CompiledView, FeatureView
from bedplate.http.metrics import Metrics
from bedplate.online.fallback import Degraded, FallbackReader
from bedplate.online.fetch import OnlineReader
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.resident import ResidentReader, ResidentViews
from bedplate.sources.base import Source
from bedplate.testing.columns import plain
from bedplate.testing.online_store import grouped
from bedplate.types import HOUR, MINUTE, to_micros

NOW = to_micros("2026-03-01")
USER, ITEM = Entity("user", key="user"), Entity("item", key="item")
EVENTS = pl.DataFrame(
    {
        "user": [1, 1, 2],
        "item": [10, 11, 12],
        "time": [NOW - 50 * MINUTE, NOW - 5 * MINUTE, NOW - 40 * MINUTE],
        "kind": ["mug", "cup", "pan"],
    }
)


def graph(freshness: str | None = None) -> FeatureGraph:
    source = Source("events", EVENTS, time="time")
    users = FeatureView("users", USER, source, {"n": Count(), "item": Last("item")})
    items = FeatureView("items", ITEM, source, {"n": Count(windows="1h"), "kind": Last("kind")}, freshness=freshness)
    return FeatureGraph([users, items], links=[Link("last", "users.item", ITEM)])


GRAPH = graph()
CHAINED = ["users.n", "last.items.n_1h", "last.items.kind"]


@pytest.fixture
def store() -> Iterator[TroubledStore]:
    with TroubledStore(MemoryStore()) as store:
        fill(store, GRAPH)
        yield store  # type: ignore[misc]


def fill(store: TroubledStore, graph: FeatureGraph, events: pl.DataFrame = EVENTS) -> None:
    for view in graph.views.values():
        bulk_load(store, view, [grouped(view, events)], NOW)


def resident(store: TroubledStore, root: Path, *views: CompiledView, age: int = 0) -> ResidentViews:
    """Versions as of `NOW`, read at a time after that."""
    for view in views:
        refreshed(store, view, root, NOW)
    return ResidentViews(root, views, clock=lambda: NOW + age)


def of_users(reader: object, names: list[str]) -> dict[str, list[object]]:
    keys, times = {"user": np.array([1, 2, 3])}, np.full(3, NOW)
    found = lookup(GRAPH.select(names), reader, keys, times)  # type: ignore[arg-type]
    return {name: plain(column) for name, column in found.items()}


def test_chained_keys_are_looked_up_in_what_is_resident(store, tmp_path):
    views = resident(store, tmp_path, *GRAPH.views.values())
    expected = of_users(OnlineReader(store), CHAINED)
    assert expected["last.items.kind"] == ["cup", "pan", None]
    reader = ResidentReader(store, views)
    assert of_users(reader, CHAINED) == expected
    store.mood = "down"
    # Texts were read before, and the rest is not the store's.
    assert of_users(reader, CHAINED) == expected


def test_the_store_is_asked_for_the_rest_only(store, tmp_path):
    views = resident(store, tmp_path, GRAPH.views["items"])
    expected = of_users(OnlineReader(store), CHAINED)
    reader, asked = FallbackReader(store, 5.0, resident=views), store.asked
    reading = reader.begin()
    assert of_users(reading, CHAINED[:2]) == {n: expected[n] for n in CHAINED[:2]}
    assert (store.asked - asked, reading.degraded) == (1, {})


def test_texts_that_can_not_be_read_are_absent(store, tmp_path):
    views = resident(store, tmp_path, *GRAPH.views.values())
    reader = FallbackReader(store, 5.0, resident=views)
    store.mood = "down"
    reading = reader.begin(texts_of=["items.kind"])
    found = of_users(reading, CHAINED)
    assert (found["users.n"], found["last.items.n_1h"]) == ([2, 1, 0], [1, 1, None])
    assert found["last.items.kind"] == [None, None, None]
    assert reading.failure is not None
    store.mood = "well"
    reader = FallbackReader(store, 5.0, resident=views)
    assert of_users(reader.begin(texts_of=["items.kind"]), CHAINED)["last.items.kind"] == ["cup", "pan", None]
    store.mood = "down"
    assert of_users(reader.begin(texts_of=["items.kind"]), CHAINED)["last.items.kind"] == ["cup", "pan", None]


@pytest.mark.parametrize("mood", ["down", "broken", "silent"])
def test_versions_that_are_too_old_stand_in_for_a_store_that_fails(store, tmp_path, mood):
    views = resident(store, tmp_path, GRAPH.views["items"], age=HOUR)
    reader = FallbackReader(store, 0.05, resident=views)
    asked = store.asked
    well = reader.begin()
    expected = of_users(well, CHAINED[:2])
    assert (store.asked - asked, well.degraded) == (2, {})
    store.mood = mood
    reading = FallbackReader(store, 0.05, resident=views).begin()
    keys, times = {"item": np.array([11, 12, 99])}, np.full(3, NOW)
    found = lookup(GRAPH.select(["items.n_1h"]), reading, keys, times)
    assert plain(found["items.n_1h"]) == [1, 1, 0]
    assert expected["last.items.n_1h"] == [1, 1, None]
    assert reading.degraded == {"items": Degraded(cached=3, age_seconds=3600.0)}


def test_a_version_behind_its_freshness_has_no_values_where_the_store_fails(tmp_path):
    fresh = graph(freshness="30m")
    with TroubledStore(MemoryStore()) as store:
        fill(store, fresh)
        reader = FallbackReader(store, 5.0, resident=resident(store, tmp_path, fresh.views["items"], age=HOUR))
        store.mood = "down"
        for late, expected in ((30 * MINUTE, [1]), (31 * MINUTE, [None])):
            reading = reader.begin()
            keys, times = {"item": np.array([11])}, np.full(1, NOW + late)
            found = lookup(fresh.select(["items.n_1h"]), reading, keys, times)
            assert plain(found["items.n_1h"]) == expected
        assert reading.degraded["items"].counts() == {"cached": 1, "stale": 1}


def test_metrics_say_how_old_what_is_resident_is(store, tmp_path):
    metrics, items = Metrics(), GRAPH.views["items"]
    reader = FallbackReader(store, 5.0, resident=resident(store, tmp_path, items, age=90_500_000))
    metrics.watch(reader.guard, reader.resident)
    assert 'bedplate_resident_age_seconds{view="items"} 90.500' in metrics.text()
    metrics.watch(reader.guard, ResidentViews(tmp_path / "none", [items]))
    assert 'bedplate_resident_age_seconds{view="items"} nan' in metrics.text()
