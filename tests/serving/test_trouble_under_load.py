"""A store that is slow, down, silent or back while several clients ask: no request fails that need not fail."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import shop
from test_http import Raw
from troubled_store import TroubledStore

from bedplate.features.graph import FeatureGraph
from bedplate.http.message import Limits
from bedplate.online.fallback import FallbackReader
from bedplate.online.guard import GuardedStore
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.registry.registry import Registry
from bedplate.serving.feature_app import FeatureApp
from bedplate.serving.feature_plan import FeatureLookup
from bedplate.serving.load import load_pipeline
from bedplate.serving.service_app import App
from bedplate.testing.online_store import grouped

PATIENCE = 60.0  # seconds until a test says that something never happens
VIEWS = {"customers", "products", "pairs"}
BODIES = {
    "/rank": b'{"customer": 3, "candidates": ["P01", "P02", "FREE"]}',
    "/recommend": b'{"customer": 3, "count": 4}',
    "/v1/features": b'{"features": ["customers.*", "products.price"], "keys": {"customer": 3, "product": "P01"}}',
}


@pytest.fixture
def store(features: FeatureGraph) -> Iterator[TroubledStore]:
    with TroubledStore(MemoryStore()) as store:
        for view in features.views.values():
            bulk_load(store, view, [grouped(view, shop.events())], shop.NOW)
        yield store  # type: ignore[misc]


def reader_of(store: TroubledStore, seconds: float) -> FallbackReader:
    return FallbackReader(store, guard=GuardedStore(store, seconds, pause_seconds=0.05))


@pytest.fixture(params=["service", "features"])
def paths_and_app(
    request: pytest.FixtureRequest, store: TroubledStore, features: FeatureGraph, registry: Registry
) -> tuple[list[str], Any]:
    reader = reader_of(store, 0.05)
    if request.param == "service":
        app = App()
        app.open(load_pipeline(shop.service(), features, reader, registry, clock=lambda: shop.NOW))
        return ["/rank", "/recommend"], app
    lookup = FeatureApp()
    lookup.open(FeatureLookup(features, reader, clock=lambda: shop.NOW))
    return ["/v1/features"], lookup


@dataclass
class Clients:
    """Threads that ask one thing after the other, and what they were told: path, status, headers and answer."""

    server: Any
    paths: list[str]
    headers: str = ""
    stop: threading.Event = field(default_factory=threading.Event)
    told: list[tuple[str, int, dict[str, str], dict[str, Any]]] = field(default_factory=list[Any])
    failed: list[Exception] = field(default_factory=list[Exception])

    def ask(self) -> None:
        try:
            with Raw(self.server) as raw:
                raw.socket.settimeout(PATIENCE)
                while not self.stop.is_set():
                    for path in self.paths:
                        body = BODIES[path]
                        head = f"POST {path} HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n{self.headers}\r\n"
                        raw.send(head.encode() + body)
                        status, headers, content = raw.response()
                        self.told.append((path, status, headers, json.loads(content)))
        except Exception as error:  # noqa: BLE001  (shown by the test)
            self.failed.append(error)

    def until(self, enough: Callable[[list[Any]], bool]) -> list[Any]:
        """What was told from now on, as soon as it is enough."""
        begin, end = len(self.told), time.monotonic() + PATIENCE
        while time.monotonic() < end and not self.failed:
            found = self.told[begin:]
            if enough(found):
                return found
            time.sleep(0.002)
        raise AssertionError((self.failed, Counter(status for _, status, *_ in self.told[begin:])))


@contextmanager
def asking(server: Any, paths: list[str], count: int = 4, headers: str = "") -> Iterator[Clients]:
    clients = Clients(server, paths, headers)
    threads = [threading.Thread(target=clients.ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        clients.stop.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert clients.failed == []


def values_of(answer: dict[str, Any]) -> Any:
    return {name: answer.get(name) for name in ("ids", "scores", "values")}


def degraded(told: list[Any]) -> list[bool]:
    return ["degraded" in answer for *_, answer in told]


def test_every_request_is_answered_through_an_outage(store: TroubledStore, paths_and_app: Any) -> None:
    paths, app = paths_and_app
    with shop.running(app.handle) as server, asking(server, paths) as clients:
        well = {path: values_of(answer) for path, _, _, answer in clients.until(lambda t: len(t) >= 12)}
        assert set(well) == set(paths)
        for mood in ("down", "slow", "broken", "silent", "well", "down"):
            store.mood = mood
            if mood == "silent":
                store.free.clear()
            elif mood != "slow":
                store.free.set()
            wanted = mood in ("down", "broken", "silent")
            if mood == "slow":
                found = clients.until(lambda t: len(t) >= 12)
            else:  # requests that had begun are those of the mood before
                found = clients.until(lambda t, wanted=wanted: degraded(t)[-12:] == [wanted] * 12)  # type: ignore[misc]
            assert Counter(status for _, status, *_ in found) == {200: len(found)}
            for path, _, _, answer in found:
                assert values_of(answer) == well[path]
                for flag in answer.get("degraded", {}).values():
                    assert set(flag) <= {"cached", "age_seconds"}
        assert {name for *_, answer in found for name in answer.get("degraded", {})} <= VIEWS


def test_who_was_not_seen_before_an_outage_is_answered_without_values(
    store: TroubledStore, features: FeatureGraph, registry: Registry
) -> None:
    app = App()
    app.open(load_pipeline(shop.service(), features, reader_of(store, 0.05), registry, clock=lambda: shop.NOW))
    store.mood = "down"
    with shop.running(app.handle) as server, asking(server, ["/rank", "/recommend"]) as clients:
        found = clients.until(lambda t: len(t) >= 20)
    assert {status for _, status, *_ in found} == {200}
    assert all(degraded(found))
    assert all(answer["degraded"]["customers"] == {"default": 1} for *_, answer in found)
    ranked = [answer for path, _, _, answer in found if path == "/rank"]
    assert all(len(answer["scores"]) == 3 and None not in answer["scores"] for answer in ranked)


def test_with_deadlines_a_silent_store_holds_up_nobody(
    store: TroubledStore, features: FeatureGraph, registry: Registry
) -> None:
    """Requests wait for others; those that can't be answered in time are told so at once, and probes are answered."""
    app = App()
    app.open(load_pipeline(shop.service(), features, reader_of(store, PATIENCE), registry, clock=lambda: shop.NOW))
    headers = "X-Request-Timeout-Ms: 150\r\n"
    with shop.running(app.handle) as server, asking(server, ["/rank"], headers=headers) as clients:
        clients.until(lambda t: len(t) >= 4)
        store.mood = "silent"
        found = clients.until(lambda t: sum(degraded(t)) >= 5)
        statuses = Counter(status for _, status, *_ in found)
        assert set(statuses) <= {200, 503, 504}
        for _, status, head, answer in found:
            assert ("retry-after" in head) == (status == 503)
            assert ("error" in answer) == (status != 200)
        with Raw(server) as probe:
            probe.send(b"GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n")
            status, _, text = probe.response()
        assert status == 200
        assert b'bedplate_online_failed_reads_total{reason="deadline"}' in text
        store.mood = "well"
        store.free.set()
        clients.until(lambda t: len(t) >= 8 and [s for _, s, *_ in t[-8:]] == [200] * 8 and not any(degraded(t[-8:])))


def test_a_slow_store_and_too_many_clients_never_make_a_long_queue(
    store: TroubledStore, features: FeatureGraph, registry: Registry
) -> None:
    app = App()
    app.open(load_pipeline(shop.service(), features, reader_of(store, PATIENCE), registry, clock=lambda: shop.NOW))
    store.mood = "slow"
    limits = Limits(wait_seconds=0.15)
    with shop.running(app.handle, limits=limits) as server, asking(server, ["/rank"], count=16) as clients:
        clients.until(lambda t: Counter(status for _, status, *_ in t)[200] >= 20)  # what they take is known
        longest = 0
        found: list[Any] = []
        while Counter(status for _, status, *_ in found)[200] < 30:
            begin = len(found)
            found += clients.until(lambda t: len(t) >= 1)
            longest = max(longest, server.turns.waiting)
            assert len(found) > begin
        statuses = Counter(status for _, status, *_ in clients.told)
    assert set(statuses) == {200, 503}
    assert longest < 10  # 0.15 s of those that take 0.03 s, of 16 that would
    refused = [(head, answer) for _, status, head, answer in clients.told if status == 503]
    assert all(int(head["retry-after"]) >= 1 for head, _ in refused)
    assert {answer["error"] for _, answer in refused} == {"too much work waits"}
    assert not any(degraded([t for t in clients.told if t[1] == 200]))
