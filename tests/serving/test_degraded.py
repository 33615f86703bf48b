"""A service whose online store fails: it answers, says and counts what its answer lacks, and doesn't start so."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import shop
from troubled_store import SLOW, TroubledStore

from bedplate.errors import DefinitionError, StoreError
from bedplate.features.graph import FeatureGraph
from bedplate.http.message import Request
from bedplate.online.fallback import FallbackReader
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.refresh import refresh
from bedplate.online.resident import ResidentViews
from bedplate.registry.registry import Registry
from bedplate.serving.feature_plan import FeatureLookup, warm_up
from bedplate.serving.load import load_pipeline
from bedplate.serving.service_app import App
from bedplate.serving.steps import Given, Popular, Recent, Retrieval
from bedplate.testing.online_store import grouped

RANK = b'{"customer": 3, "candidates": ["P01", "P02"]}'
OTHER = b'{"customer": 4, "candidates": ["P01", "NEW"]}'


@pytest.fixture
def store(features: FeatureGraph) -> Iterator[TroubledStore]:
    with TroubledStore(MemoryStore()) as store:
        for view in features.views.values():
            bulk_load(store, view, [grouped(view, shop.events())], shop.NOW)
        yield store  # type: ignore[misc]


@pytest.fixture
def troubled(store: TroubledStore, features: FeatureGraph, registry: Registry) -> App:
    reader = FallbackReader(store, 0.05)
    app = App()
    app.open(load_pipeline(shop.service(), features, reader, registry, clock=lambda: shop.NOW))
    return app


def ask(app: App, path: str, body: bytes) -> dict[str, Any]:
    response = app.handle(Request("POST", path, {}, body))
    assert response.status == 200, response.body
    return msgspec.json.decode(response.body)


def counted(app: App) -> dict[str, int]:
    text = app.handle(Request("GET", "/metrics", {}, b"")).body.decode()
    return {name: int(n) for name, n in re.findall(r"^bedplate_((?:degraded|online)\S*) (\d+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("mood", ["down", "silent"])
def test_an_answer_says_what_it_lacks(store: TroubledStore, troubled: App, mood: str) -> None:
    well = ask(troubled, "/rank", RANK)
    assert "degraded" not in well
    assert counted(troubled)["online_up"] == 1
    store.mood = mood
    begin = time.monotonic()
    again = ask(troubled, "/rank", RANK)
    assert again["scores"] == well["scores"]
    ages = [again["degraded"][v].pop("age_seconds") for v in ("customers", "products", "pairs")]
    assert all(0 <= age < 60 for age in ages)
    assert again["degraded"] == {"customers": {"cached": 1}, "products": {"cached": 2}, "pairs": {"cached": 2}}
    other = ask(troubled, "/rank", OTHER)
    assert other["degraded"]["customers"] == {"default": 1}
    assert other["degraded"]["pairs"] == {"default": 2}
    assert other["degraded"]["products"].items() >= {"cached": 1, "default": 1}.items()
    for _ in range(20):
        ask(troubled, "/rank", RANK)
    assert time.monotonic() - begin < 10
    found = counted(troubled)
    assert found['degraded_rows_total{view="pairs",how="cached"}'] == 42
    assert found['degraded_rows_total{view="pairs",how="default"}'] == 2
    assert found["online_up"] == 0
    failed = [found[f'online_failed_reads_total{{reason="{r}"}}'] for r in ("deadline", "error", "skipped")]
    assert sum(failed) == 22
    assert failed[2] > 10


def test_it_recommends_while_the_store_is_down(store: TroubledStore, troubled: App) -> None:
    everything = msgspec.json.encode({"customer": 3, "candidates": [*shop.PRODUCTS, shop.FREE]})
    ask(troubled, "/rank", everything)
    well = ask(troubled, "/recommend", b'{"customer": 3}')
    store.mood = "down"
    again = ask(troubled, "/recommend", b'{"customer": 3}')
    assert again["ids"] == well["ids"]
    assert set(again["degraded"]) == {"customers", "products", "pairs"}


SOURCES = [Recent("customers.bought", 3), Popular("products.sold", 6, every="1s"), Given(4)]


@pytest.mark.parametrize("with_index", [True, False])
def test_every_source_of_candidates_does_without_the_store(
    store: TroubledStore, features: FeatureGraph, registry: Registry, with_index: bool
) -> None:
    sources = [Retrieval("towers@champion", 8), *SOURCES] if with_index else [SOURCES[0], SOURCES[2]]
    service = shop.service(retrieval=None, candidates=sources, exclude=[], top=5)
    app = App()
    app.open(load_pipeline(service, features, FallbackReader(store, 0.05), registry, clock=lambda: shop.NOW))
    body = b'{"customer": 3, "count": 7, "candidates": ["P01", "P02"]}'
    ask(app, "/rank", msgspec.json.encode({"customer": 3, "candidates": [*shop.PRODUCTS, shop.FREE]}))
    well = ask(app, "/recommend", body)
    assert "degraded" not in well
    assert {"recent", "given"} <= set(well["sources"])
    store.mood = "down"
    again = ask(app, "/recommend", body)
    assert [again[n] for n in ("ids", "scores", "sources")] == [well[n] for n in ("ids", "scores", "sources")]
    assert set(again["degraded"]) == {"customers", "products", "pairs"}
    other = ask(app, "/recommend", b'{"customer": 77, "candidates": ["P01"]}')
    assert "P01" in other["ids"]


def test_it_does_not_start_without_its_store(store: TroubledStore, features: FeatureGraph, registry: Registry) -> None:
    store.mood = "down"
    with pytest.raises(StoreError, match="connection lost"):
        load_pipeline(shop.service(), features, FallbackReader(store, 0.05), registry, clock=lambda: shop.NOW)


def test_a_store_that_is_slow_at_the_start_is_waited_for(
    store: TroubledStore, features: FeatureGraph, registry: Registry
) -> None:
    store.mood, clock = "slow", lambda: shop.NOW
    app, seconds = App(), SLOW / 10
    app.open(load_pipeline(shop.service(), features, FallbackReader(store, seconds), registry, clock=clock))
    assert ask(app, "/rank", RANK)["degraded"]  # from then on nobody waits so long
    assert warm_up(FeatureLookup(features, FallbackReader(store, seconds), clock=clock)) == {}


def test_a_deadline_is_a_duration() -> None:
    assert shop.service(deadline="20ms").deadline == "20ms"
    with pytest.raises(DefinitionError, match="service 'shop': deadline"):
        shop.service(deadline="20")


def test_a_service_ranks_by_what_is_resident(
    store: TroubledStore, troubled: App, features: FeatureGraph, registry: Registry, tmp_path: Path
) -> None:
    well = ask(troubled, "/rank", RANK)
    views = list(features.views.values())
    for view in views:
        refresh(store, view, tmp_path, clock=lambda: shop.NOW)
    resident = ResidentViews(tmp_path, views, clock=lambda: shop.NOW)
    app = App()
    reader = FallbackReader(store, 0.05, resident=resident)
    app.open(load_pipeline(shop.service(), features, reader, registry, clock=lambda: shop.NOW))
    asked = store.asked
    assert ask(app, "/rank", RANK) == well
    assert store.asked == asked
    store.mood = "down"
    assert ask(app, "/rank", RANK) == well
    text = app.handle(Request("GET", "/metrics", {}, b"")).body.decode()
    assert 'bedplate_resident_age_seconds{view="products"} 0.000' in text
