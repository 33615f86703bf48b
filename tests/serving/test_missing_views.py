"""A server whose store has lost a view: the other views are answered, and answers, health and metrics say so."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
import shop

from bedplate.features.graph import FeatureGraph
from bedplate.features.reader import Read
from bedplate.http.message import Request
from bedplate.online.compact import drop
from bedplate.online.fallback import FallbackReader
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.state import NotHeldError
from bedplate.registry.registry import Registry
from bedplate.serving.feature_app import FeatureApp
from bedplate.serving.feature_plan import FeatureLookup
from bedplate.serving.load import load_pipeline
from bedplate.serving.service_app import App
from bedplate.testing.columns import plain
from bedplate.testing.online_store import grouped
from bedplate.types import DAY, SECOND

ARROW = b"application/vnd.apache.arrow.stream"
BOTH = {"features": ["products.price", "customers.all"], "keys": {"product": ["P01"], "customer": [3]}}


@pytest.fixture
def store(features: FeatureGraph) -> MemoryStore:
    store = MemoryStore()
    for view in features.views.values():
        bulk_load(store, view, [grouped(view, shop.events())], shop.NOW)
    return store


@pytest.fixture
def served(store: MemoryStore, features: FeatureGraph) -> FeatureApp:
    app = FeatureApp()
    app.open(FeatureLookup(features, FallbackReader(store), clock=lambda: shop.NOW + DAY))
    return app


def ask(app: FeatureApp, body: Any, headers: dict[bytes, bytes] | None = None) -> Any:
    return app.handle(Request("POST", "/v1/features", headers or {}, msgspec.json.encode(body)))


def get(app: Any, path: str) -> tuple[int, bytes]:
    response = app.handle(Request("GET", path, {}, b""))
    return response.status, response.body


def test_the_other_views_are_answered(store: MemoryStore, served: FeatureApp) -> None:
    drop(store, "products")
    response = ask(served, BOTH)
    found = msgspec.json.decode(response.body)
    assert response.status == 200
    assert found["values"]["products.price"] == [None]
    assert found["values"]["customers.all"][0] > 0
    assert found["degraded"] == {"products": {"default": 1, "missing": 1}}
    metrics = get(served, "/metrics")[1].decode()
    assert 'bedplate_degraded_rows_total{view="products",how="missing"} 1' in metrics
    assert 'bedplate_view_up{view="products"} 0' in metrics
    assert 'bedplate_view_up{view="customers"} 1' in metrics


def test_rows_that_were_seen_before_are_taken(store: MemoryStore, served: FeatureApp) -> None:
    before = msgspec.json.decode(ask(served, BOTH).body)["values"]
    drop(store, "products")
    found = msgspec.json.decode(ask(served, BOTH).body)
    assert found["values"] == before
    flag = found["degraded"]["products"]
    assert (flag["cached"], flag["missing"]) == (1, 1)


def test_a_view_that_comes_back_is_read_again(
    store: MemoryStore, served: FeatureApp, features: FeatureGraph, caplog: pytest.LogCaptureFixture
) -> None:
    drop(store, "products")
    for _ in range(3):
        ask(served, BOTH)
    assert [record.levelname for record in caplog.records] == ["ERROR"]  # said once
    view = features.views["products"]
    bulk_load(store, view, [grouped(view, shop.events())], shop.NOW)
    found = msgspec.json.decode(ask(served, BOTH).body)
    assert "degraded" not in found
    assert found["values"]["products.price"] == [1.5]


def test_each_view_that_is_gone_is_logged_with_its_own_place(
    store: MemoryStore, served: FeatureApp, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("products", "customers"):
        drop(store, name)
    ask(served, {"features": ["products.price", "customers.all"], "keys": {"product": ["P01"], "customer": [3]}})
    said = sorted(record.getMessage() for record in caplog.records if record.name == "bedplate.online")
    assert [text.split("'")[1::2][:2] for text in said] == [["customers"] * 2, ["products"] * 2]


def test_a_service_whose_views_are_not_loaded_ends_with_one_error_that_names_them(
    features: FeatureGraph, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(NotHeldError, match=r"service 'shop'.*3 of 3 views: ") as caught:
        load_pipeline(shop.service(), features, FallbackReader(MemoryStore()), registry, clock=lambda: shop.NOW)
    assert {"customers", "products", "pairs"} <= set(caught.value.message.replace(",", "").split())
    assert "bedplate materialize" in str(caught.value)
    assert caplog.records == []


def test_an_answer_that_would_hold_nothing_is_an_error(store: MemoryStore, served: FeatureApp) -> None:
    drop(store, "products")
    response = ask(served, {"features": ["products.*"], "keys": {"product": ["P01"]}})
    assert (response.status, b"bedplate materialize" in response.body) == (503, True)


def test_health_says_which_views_are_gone(store: MemoryStore, served: FeatureApp, features: FeatureGraph) -> None:
    assert get(served, "/healthz") == (200, b'{"ready":true,"store":"up"}')
    drop(store, "products")
    assert get(served, "/healthz") == (200, b'{"ready":true,"store":"up","missing":["products"]}')
    for name in set(features.views) - {"products"}:
        drop(store, name)
    status, body = get(served, "/healthz")
    assert (status, msgspec.json.decode(body)["ready"]) == (503, False)


def test_every_answer_says_how_far_views_are_behind(served: FeatureApp) -> None:
    found = msgspec.json.decode(ask(served, BOTH).body)
    assert found["behind_seconds"] == {"products": DAY / SECOND, "customers": DAY / SECOND}
    assert "degraded" not in found
    response = ask(served, BOTH | {"time": shop.NOW}, {b"accept": ARROW})
    assert pl.read_ipc_stream(io.BytesIO(response.body)).height == 1
    behind = msgspec.json.decode(dict(response.headers)[b"Bedplate-Behind"])
    assert behind == {"products": 0.0, "customers": 0.0}
    ask(served, {"features": ["customers.all"], "keys": {"customer": [3]}})
    metrics = get(served, "/metrics")[1].decode()
    assert f'bedplate_behind_seconds{{view="customers"}} {DAY / SECOND:.3f}' in metrics
    assert 'bedplate_behind_seconds{view="products"} 0.000' in metrics


def test_in_python_too_and_of_rows_seen_before(store: MemoryStore, features: FeatureGraph) -> None:
    view, reader = features.views["customers"], FallbackReader(store)
    read = Read(view, ["customers.all"], np.array([[3], [4]]), np.array([shop.NOW, shop.NOW + 2 * SECOND]))
    first, second = reader.begin(), reader.begin()
    values = plain(first.read_all([read])[0]["customers.all"])
    assert first.behind == {"customers": 2.0}
    drop(store, "customers")
    assert plain(second.read_all([read])[0]["customers.all"]) == values
    assert second.behind == {"customers": 2.0}
    with pytest.raises(NotHeldError):  # nobody would be told
        reader.read_all([read])


def test_a_served_model_goes_on_without_the_view(
    store: MemoryStore, features: FeatureGraph, registry: Registry
) -> None:
    app = App()
    app.open(load_pipeline(shop.service(), features, FallbackReader(store), registry, clock=lambda: shop.NOW + DAY))
    drop(store, "products")
    body = b'{"customer": 3, "candidates": ["P01", "NEW"]}'
    response = app.handle(Request("POST", "/rank", {}, body))
    found = msgspec.json.decode(response.body)
    assert response.status == 200
    assert found["degraded"]["products"]["missing"] == 2
    assert found["behind_seconds"]["customers"] == DAY / SECOND
    assert 'bedplate_view_up{view="products"} 0' in get(app, "/metrics")[1].decode()
    with pytest.raises(NotHeldError):  # and does not start so
        load_pipeline(shop.service(), features, FallbackReader(store), registry, clock=lambda: shop.NOW)
