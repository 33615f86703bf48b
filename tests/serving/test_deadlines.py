"""A client's deadline bounds what is done for it: reads of the store, and the steps that have a budget."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from time import monotonic
from typing import Any

import msgspec
import numpy as np
import pytest
import shop
from test_degraded import RANK
from test_http import Raw
from troubled_store import SLOW, TroubledStore

from bedplate.features.graph import FeatureGraph
from bedplate.online.fallback import FallbackReader
from bedplate.online.guard import GuardedStore, UnavailableError, reads_until
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.registry.registry import Registry
from bedplate.serving import filters
from bedplate.serving.artifact import Artifact
from bedplate.serving.batch_plan import BatchPlan
from bedplate.serving.batcher import Batcher
from bedplate.serving.feature_app import FeatureApp
from bedplate.serving.feature_plan import FeatureLookup
from bedplate.serving.http import Request
from bedplate.serving.joining import Joiner
from bedplate.serving.load import load_pipeline
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.progress import Progress, part_of
from bedplate.serving.routes import App
from bedplate.serving.steps import Diversity, Given, Quota, Retrieval
from bedplate.serving.tokens import Tokens
from bedplate.testing.online_store import grouped

PATIENT = 60.0  # seconds that the store, or a step, may take: a test that waits for it has failed
SOON = 0.1
LONG = 20.0
"""Far more than what is bounded by `SOON` takes on a busy machine, far less than `PATIENT`."""
WIDE: dict[str, Any] = {"retrieval": Retrieval("towers@champion", count=31), "exclude": [], "filters": []}
FEATURES = b'{"features": ["customers.all", "products.price"], "keys": {"customer": 3, "product": "P01"}}'


@pytest.fixture
def store(features: FeatureGraph) -> Iterator[TroubledStore]:
    with TroubledStore(MemoryStore()) as store:
        for view in features.views.values():
            bulk_load(store, view, [grouped(view, shop.events())], shop.NOW)
        yield store  # type: ignore[misc]


@pytest.fixture
def reader(store: TroubledStore) -> FallbackReader:
    return FallbackReader(store, PATIENT)


@pytest.fixture
def patient(reader: FallbackReader, features: FeatureGraph, registry: Registry) -> App:
    """A service that waits for its store for a minute, unless a client has less time."""
    app = App()
    app.open(load_pipeline(shop.service(), features, reader, registry, clock=lambda: shop.NOW))
    return app


def ask(app: Any, path: str, body: bytes, seconds: float = math.inf) -> dict[str, Any]:
    request = Request("POST", path, {}, body, monotonic(), monotonic() + seconds)
    response = app.handle(request)
    assert response.status == 200, response.body
    return msgspec.json.decode(response.body)


@pytest.mark.parametrize(
    ("path", "body"), [("/rank", RANK), ("/recommend", b'{"customer": 3}'), ("/embed", b'{"customer": 3}')]
)
def test_a_silent_store_is_waited_for_no_longer_than_the_client_waits(
    store: TroubledStore, patient: App, path: str, body: bytes
) -> None:
    well = ask(patient, path, body)
    assert "degraded" not in well
    store.mood = "silent"
    begin = monotonic()
    again = ask(patient, path, body, SOON)
    assert monotonic() - begin < LONG
    assert again["degraded"]["customers"]["cached"] >= 1
    for name in ("ids", "scores", "vectors"):
        assert again.get(name) == well.get(name)


def test_the_feature_server_keeps_deadlines_too(
    store: TroubledStore, reader: FallbackReader, features: FeatureGraph
) -> None:
    app = FeatureApp(Tokens([]))
    app.open(FeatureLookup(features, reader, clock=lambda: shop.NOW))
    well = ask(app, "/v1/features", FEATURES)
    store.mood = "silent"
    begin = monotonic()
    again = ask(app, "/v1/features", FEATURES, SOON)
    assert monotonic() - begin < LONG
    assert again["values"] == well["values"]
    assert set(again["degraded"]) == {"customers", "products"}


def test_the_header_of_a_request_bounds_its_reads(store: TroubledStore, patient: App) -> None:
    head = b"POST /rank HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nX-Request-Timeout-Ms: 1000\r\n\r\n" % len(RANK)
    with shop.running(patient.handle) as server, Raw(server) as raw:
        raw.send(head + RANK)
        status, _, well = raw.response()
        assert (status, b"degraded" in well) == (200, False)
        store.mood = "silent"
        begin = monotonic()
        raw.send(head + RANK)
        status, _, again = raw.response()
    assert monotonic() - begin < LONG
    assert (status, b"degraded" in again) == (200, True)
    assert msgspec.json.decode(again)["scores"] == msgspec.json.decode(well)["scores"]


def test_a_deadline_that_has_passed_waits_for_nothing(store: TroubledStore, patient: App) -> None:
    store.mood = "silent"
    begin = monotonic()
    assert ask(patient, "/rank", RANK, -1.0)["degraded"]["pairs"]["default"] == 2
    assert monotonic() - begin < LONG


def test_who_gives_time_waits_for_a_slow_store(store: TroubledStore, patient: App) -> None:
    store.mood = "slow"
    assert "degraded" not in ask(patient, "/rank", RANK, LONG)
    assert "degraded" not in ask(patient, "/rank", RANK)


def test_clients_that_give_little_time_do_not_keep_others_from_the_store(
    store: TroubledStore, reader: FallbackReader, patient: App
) -> None:
    store.mood = "slow"
    for _ in range(8):
        assert ask(patient, "/rank", RANK, SLOW / 10)["degraded"]
    assert reader.guard.is_up
    assert reader.guard.failed == {"deadline": 8, "error": 0, "skipped": 0}
    assert "degraded" not in ask(patient, "/rank", RANK)


def test_a_store_that_answers_nobody_is_left_alone_however_little_time_all_give(store: TroubledStore) -> None:
    """Else each request would wait in vain, and nothing else be done meanwhile."""
    guard = GuardedStore(store, 0.02, pause_seconds=PATIENT)
    store.mood = "silent"
    for _ in range(60):
        with pytest.raises(UnavailableError), reads_until(monotonic() + 0.005):
            guard.read_many([b"a"])
    assert not guard.is_up
    assert guard.failed["skipped"] > 0
    assert guard.failed["deadline"] > 3


def test_the_sooner_of_both_deadlines_counts_and_only_inside(store: TroubledStore) -> None:
    guard = GuardedStore(store, PATIENT)
    store.mood = "slow"
    with reads_until(monotonic() + LONG):
        with pytest.raises(UnavailableError):
            guard.read_many([b"a"], deadline=monotonic())
        with reads_until(monotonic()), pytest.raises(UnavailableError):
            guard.read_many([b"a"])
        assert list(guard.read_many([b"a"])) == [b""]
    assert list(guard.read_many([b"a"])) == [b""]


def test_texts_that_are_read_after_the_rows_end_by_the_deadline_too(
    store: TroubledStore, reader: FallbackReader, features: FeatureGraph
) -> None:
    view = features.views["customers"]
    real, store.asked = store.read_many, 0

    def rows_only(*wanted: object) -> object:
        store.mood = "well" if store.asked < 2 else "silent"
        return real(*wanted)  # type: ignore[arg-type]

    reader.begin().read(view, ["customers.all"], np.array([[3]]), np.array([shop.NOW]))
    store.asked = 1
    store.read_many = rows_only  # type: ignore[method-assign]
    begin = monotonic()
    reading = reader.begin(["customers.bought"], monotonic() + SOON)
    found = reading.read(view, ["customers.bought"], np.array([[3]]), np.array([shop.NOW]))
    assert monotonic() - begin < LONG
    assert isinstance(reading.failure, UnavailableError)
    assert len(found["customers.bought"]) == 1


def test_a_budget_is_what_is_left_of_a_clients_time() -> None:
    assert part_of(math.inf, 0.5) == math.inf
    assert part_of(monotonic() + 100, 0.5) == pytest.approx(monotonic() + 50, abs=10)
    assert [Progress(trace=False).left(b) for b in (None, 5.0)] == [None, 5.0]
    late, soon = Progress(trace=False, until=monotonic() - 1), Progress(trace=False, until=monotonic() + 1000)
    assert [late.left(b) for b in (None, 5.0)] == [None, 0.0]
    assert soon.left(5.0) == 5.0
    assert soon.left(1e9) == pytest.approx(1000, abs=50)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The outputs of models that don't come before the test is over."""
    usual, released, outputs = Artifact.run, threading.Event(), set[str]()

    def run(self: Any, batch: Any, output: str) -> Any:
        if output in outputs:
            released.wait(PATIENT)
        return usual(self, batch, output)

    monkeypatch.setattr(Artifact, "run", run)
    yield outputs
    released.set()


def recommend(pipeline: Pipeline, seconds: float, **request: Any) -> Any:
    asked = pipeline.wire.recommend(msgspec.json.encode(request))
    asked.deadline = monotonic() + seconds
    return pipeline.recommend(asked)


def test_a_model_gets_no_more_time_than_the_client(registry: Registry, features: FeatureGraph, held: set[str]) -> None:
    pipeline = shop.pipeline(registry, features, **WIDE, budgets={"score": "60s"})
    held.add("score")
    begin = monotonic()
    answer = recommend(pipeline, SOON, customer=3)
    assert monotonic() - begin < LONG
    assert answer.degraded["step.score"].why == "late"
    assert len(answer.ids) == 5
    held.clear()
    assert "step.score" not in recommend(pipeline, LONG, customer=3).degraded


def test_a_source_of_candidates_gets_no_more_time_than_the_client(
    registry: Registry, features: FeatureGraph, held: set[str]
) -> None:
    sources = [Retrieval("towers@champion", 8), Given(4)]
    pipeline = shop.pipeline(
        registry, features, retrieval=None, candidates=sources, exclude=[], budgets={"candidates": "60s"}
    )
    held.add("query")
    begin = monotonic()
    answer = recommend(pipeline, SOON, customer=3, candidates=["P01", "P02"])
    assert monotonic() - begin < LONG
    assert set(answer.ids) == {"P01", "P02"}
    assert "late" in answer.degraded["step.candidates"].why


def test_filters_and_selection_end_by_the_deadline_of_the_client(
    registry: Registry, features: FeatureGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "_PIECE", 8)
    service = {**WIDE, "filters": shop.service().filters, "budgets": {"filter": "60s", "select": "60s"}}
    pipeline = shop.pipeline(registry, features, **service, quotas=[Quota("pairs.times", 9)], diversity=Diversity(0.5))
    answer = recommend(pipeline, -1.0, customer=3)
    assert answer.degraded["step.filter"].why == "late"
    assert answer.degraded["step.filter"].items == 31 - 8
    assert answer.degraded["step.select"].why == "late"
    assert len(answer.ids) == 5
    assert not {"step.filter", "step.select"} & set(recommend(pipeline, PATIENT, customer=3).degraded)


def test_a_model_whose_calls_may_be_shared_holds_up_nobody_where_scoring_has_a_budget(
    registry: Registry, features: FeatureGraph, held: set[str]
) -> None:
    """A shared call is made on the thread of the event loop, where nothing could end the wait for it."""
    pipeline = shop.pipeline(registry, features, **WIDE, budgets={"score": f"{SOON * 1e3:g}ms"})
    artifact = pipeline.models["ranking"]
    joiner = Joiner(artifact.signature.tensors, artifact.signature.outputs)
    artifact.model.batcher = Batcher(artifact.model, joiner, BatchPlan(8, 5.0, 1.0, 0.5, 0.0, ""))
    app = App()
    app.open(pipeline)
    held.add("score")
    begin = monotonic()
    answer = app.handle(Request("POST", "/rank", {}, RANK))
    assert monotonic() - begin < LONG
    found = msgspec.json.decode(answer.body)
    assert found["scores"] == [None, None]
    assert found["degraded"]["step.score"]["why"] == "late"
