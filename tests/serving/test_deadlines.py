"""A client's deadline bounds what is done for it: reads of the store, and the steps that have a budget."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, cast

import msgspec
import numpy as np
import pytest
import shop
from test_degraded import RANK
from test_http import Raw
from troubled_store import SLOW, TroubledStore

from bedplate.errors import DeadlineError
from bedplate.features.graph import FeatureGraph
from bedplate.features.model import ModelFeature
from bedplate.http.message import Request, Response
from bedplate.inference import scorer
from bedplate.inference.artifact import Artifact
from bedplate.inference.batch_plan import BatchPlan
from bedplate.inference.batcher import Batcher
from bedplate.inference.infer_call import InferCall
from bedplate.inference.joining import Joiner
from bedplate.inference.repository import Served
from bedplate.inference.time_limit import scored_until
from bedplate.online.fallback import FallbackReader
from bedplate.online.guard import GuardedStore, UnansweredError, reads_until
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.registry.registry import Registry
from bedplate.serving import filters, finders, progress
from bedplate.serving.feature_app import FeatureApp
from bedplate.serving.feature_plan import FeatureLookup
from bedplate.serving.load import load_pipeline
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.progress import Progress, part_of
from bedplate.serving.service_app import App
from bedplate.serving.steps import Diversity, Given, Quota, Recent, Retrieval
from bedplate.testing.online_store import grouped

PATIENT = 60.0  # seconds that the store, or a step, may take: a test that waits for it has failed
SOON = 0.1
SOME = 1.5
"""What a client waits in whose time all but what is held up is to be done, on a busy machine too."""
LONG = 20.0
"""Far more than what is bounded by `SOON` or `SOME` takes on a busy machine, far less than `PATIENT`."""
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


def status_of(app: App, path: str, body: bytes, seconds: float = SOON) -> int:
    answer: Any = app.handle(Request("POST", path, {}, body, monotonic(), monotonic() + seconds))
    return answer.status


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
    again = ask(patient, path, body, SOME)
    assert monotonic() - begin < LONG
    assert again["degraded"]["customers"]["cached"] >= 1
    for name in ("ids", "scores", "vectors"):
        assert again.get(name) == well.get(name)


def test_the_feature_server_keeps_deadlines_too(
    store: TroubledStore, reader: FallbackReader, features: FeatureGraph
) -> None:
    app = FeatureApp()
    app.open(FeatureLookup(features, reader, clock=lambda: shop.NOW))
    well = ask(app, "/v1/features", FEATURES)
    store.mood = "silent"
    begin = monotonic()
    again = ask(app, "/v1/features", FEATURES, SOME)
    assert monotonic() - begin < LONG
    assert again["values"] == well["values"]
    assert set(again["degraded"]) == {"customers", "products"}


def test_the_header_of_a_request_bounds_its_reads(store: TroubledStore, patient: App) -> None:
    head = b"POST /rank HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nX-Request-Timeout-Ms: 2000\r\n\r\n" % len(RANK)
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


@pytest.mark.parametrize("path", ["/rank", "/recommend", "/embed"])
def test_for_a_deadline_that_has_passed_nothing_is_done(store: TroubledStore, patient: App, path: str) -> None:
    asked, body = store.asked, RANK if path == "/rank" else b'{"customer": 3}'
    response: Any = patient.handle(Request("POST", path, {}, body, monotonic(), monotonic() - 1.0))
    assert (response.status, b"deadline passed" in response.body) == (504, True)
    assert store.asked == asked


def test_who_gives_time_waits_for_a_slow_store(store: TroubledStore, patient: App) -> None:
    store.mood = "slow"
    assert "degraded" not in ask(patient, "/rank", RANK, LONG)
    assert "degraded" not in ask(patient, "/rank", RANK)


def test_clients_that_give_little_time_do_not_keep_others_from_the_store(
    store: TroubledStore, reader: FallbackReader, patient: App
) -> None:
    store.mood = "slow"
    for _ in range(8):
        assert status_of(patient, "/rank", RANK, SLOW / 10) in (200, 504)
    assert reader.guard.is_up
    assert reader.guard.failed == {"deadline": 8, "error": 0, "skipped": 0}
    assert "degraded" not in ask(patient, "/rank", RANK)


def test_a_store_that_answers_nobody_is_left_alone_however_little_time_all_give(store: TroubledStore) -> None:
    """Else each request would wait in vain, and nothing else be done meanwhile."""
    guard = GuardedStore(store, 0.02, pause_seconds=PATIENT)
    store.mood = "silent"
    for _ in range(60):
        with pytest.raises(UnansweredError), reads_until(monotonic() + 0.005):
            guard.read_many([b"a"])
    assert not guard.is_up
    assert guard.failed["skipped"] > 0
    assert guard.failed["deadline"] > 3


def test_the_sooner_of_both_deadlines_counts_and_only_inside(store: TroubledStore) -> None:
    guard = GuardedStore(store, PATIENT)
    store.mood = "slow"
    with reads_until(monotonic() + LONG):
        with pytest.raises(UnansweredError):
            guard.read_many([b"a"], deadline=monotonic())
        with reads_until(monotonic()), pytest.raises(UnansweredError):
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
    assert isinstance(reading.failure, UnansweredError)
    assert len(found["customers.bought"]) == 1


def test_a_budget_is_what_is_left_of_a_clients_time() -> None:
    assert part_of(math.inf, 0.5) == math.inf
    assert part_of(monotonic() + 100, 0.5) == pytest.approx(monotonic() + 50, abs=10)
    assert [Progress(trace=False).left(b) for b in (None, 5.0)] == [None, 5.0]
    late, soon = Progress(trace=False, deadline=monotonic() - 1), Progress(trace=False, deadline=monotonic() + 1000)
    assert [late.left(b) for b in (None, 5.0)] == [0.0, 0.0]
    assert soon.left(5.0) == 5.0
    assert [soon.left(b) for b in (None, 1e9)] == pytest.approx([950, 950], abs=50)
    with pytest.raises(DeadlineError):
        late.mark("score")
    soon.mark("score")


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


BUDGETS = pytest.mark.parametrize("budget", [{}, {"candidates": "60s", "score": "60s"}], ids=["none", "long"])


@BUDGETS
def test_a_model_gets_no_more_time_than_the_client(
    registry: Registry, features: FeatureGraph, held: set[str], budget: dict[str, str]
) -> None:
    pipeline = shop.pipeline(registry, features, **WIDE, budgets=budget)
    held.add("score")
    begin = monotonic()
    answer = recommend(pipeline, SOME, customer=3)
    assert monotonic() - begin < LONG
    assert answer.degraded["step.score"].why == "late"
    assert len(answer.ids) == 5
    held.clear()
    assert "step.score" not in recommend(pipeline, LONG, customer=3).degraded


@BUDGETS
def test_a_source_of_candidates_gets_no_more_time_than_the_client(
    registry: Registry, features: FeatureGraph, held: set[str], budget: dict[str, str]
) -> None:
    sources = [Retrieval("towers@champion", 8), Given(4)]
    pipeline = shop.pipeline(
        registry, features, retrieval=None, candidates=sources, exclude=[], filters=[], budgets=budget
    )
    held.add("query")
    begin = monotonic()
    answer = recommend(pipeline, SOME, customer=3, candidates=["P01", "P02"])
    assert monotonic() - begin < LONG
    assert set(answer.ids) == {"P01", "P02"}
    assert "late" in answer.degraded["step.candidates"].why


@pytest.mark.parametrize("budgets", [{}, {"filter": "60s", "select": "60s"}], ids=["none", "long"])
def test_filters_and_selection_end_by_the_deadline_of_the_client(
    registry: Registry, features: FeatureGraph, monkeypatch: pytest.MonkeyPatch, budgets: dict[str, str]
) -> None:
    """What is left of it for the steps is over before the deadline itself, which leaves time for the answer."""
    monkeypatch.setattr(filters, "_PIECE", 8 if budgets else 1)
    chosen: dict[str, Any] = {"quotas": [Quota("pairs.times", 9)], "diversity": Diversity(0.5, by="pairs.times")}
    pipeline = shop.pipeline(
        registry, features, retrieval=None, candidates=[Given(30)], exclude=[], budgets=budgets, **chosen
    )
    with monkeypatch.context() as hurried:
        hurried.setattr(progress, "STEPS_SHARE", 0.0)
        answer = recommend(pipeline, PATIENT, customer=3, candidates=[f"P{i:02}" for i in range(30)])
    assert answer.degraded["step.filter"].why == "late"
    assert answer.degraded["step.filter"].items == 30 - 8
    assert answer.degraded["step.select"].why == "late"
    assert len(answer.ids) == 5
    assert not {"step.filter", "step.select"} & set(recommend(pipeline, PATIENT, customer=3).degraded)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[type, str], list[str]]]:
    """Makes a method not come back before the test is over; gives a list of its calls."""
    released = threading.Event()

    def hold(owner: type, name: str) -> list[str]:
        usual, calls = getattr(owner, name), list[str]()

        def held(*given: Any) -> Any:
            calls.append(name)
            released.wait(PATIENT)
            return usual(*given)

        monkeypatch.setattr(owner, name, held)
        return calls

    yield hold
    released.set()


def test_what_none_of_the_steps_can_do_without_ends_with_the_deadline(
    registry: Registry, features: FeatureGraph, held: set[str], stuck: Any
) -> None:
    """No step of this service has a budget."""
    pipeline = shop.pipeline(registry, features)
    app = App()
    app.open(pipeline)
    stuck(filters.Filters, "rows_in_time")
    begin = monotonic()
    assert status_of(app, "/recommend", b'{"customer": 3}') == 504
    held.add("query")
    for path in ("/recommend", "/embed"):
        assert status_of(app, path, b'{"customer": 3}') == 504
    assert monotonic() - begin < LONG
    held.clear()
    assert "degraded" not in ask(app, "/rank", RANK, LONG)


@pytest.mark.parametrize("finder", [finders.RecentFinder, finders.GivenFinder])
def test_a_source_that_is_quick_as_a_rule_holds_up_nobody_either(
    registry: Registry, features: FeatureGraph, stuck: Any, finder: type
) -> None:
    sources = [Given(4), Recent("customers.bought", 3)]
    pipeline = shop.pipeline(registry, features, retrieval=None, candidates=sources, exclude=[], filters=[])
    stuck(finder, "find")
    begin = monotonic()
    if finder is finders.RecentFinder:
        answer = recommend(pipeline, SOME, customer=3, candidates=["P01", "P02"])
        assert set(answer.ids) == {"P01", "P02"}
        assert "late" in answer.degraded["step.candidates"].why
    else:  # those after it are not asked any more
        asked = stuck(finders.RecentFinder, "find")
        with pytest.raises(DeadlineError):
            recommend(pipeline, SOON, customer=3, candidates=["P01", "P02"])
        assert asked == []
    assert monotonic() - begin < LONG


def test_a_models_tensors_are_answered_by_the_deadline_or_not(pipeline: Pipeline, monkeypatch: Any) -> None:
    served, released = Served(pipeline.models["ranking"].model), threading.Event()
    tensors = pipeline.models["ranking"].golden()[0].inputs
    usual = served.model.run
    monkeypatch.setattr(served.model, "run", lambda *given: (released.wait(PATIENT), usual(*given))[1])

    def answer(deadline: float) -> Any:
        call = InferCall(dict(tensors), (("score", True),))
        return served.answer(lambda _: call, lambda _, __, results: results, 0, deadline)

    begin = monotonic()
    with pytest.raises(DeadlineError):
        answer(monotonic() + SOON)
    assert monotonic() - begin < LONG
    released.set()
    assert len(answer(monotonic() + PATIENT)[0]) == len(tensors["item_ids"])
    assert served.statistics.form()["inference_stats"]["fail"]["count"] == 1


def test_a_shared_call_is_left_behind_by_who_is_late_and_answers_the_others(pipeline: Pipeline) -> None:
    artifact, released = pipeline.models["ranking"], threading.Event()
    tensors = artifact.golden()[0].inputs

    class Held:
        """The model, at work until the test says so."""

        place = "held"

        def run(self, *given: Any) -> Any:
            assert released.wait(PATIENT)
            return artifact.model.run(*given)

    joiner = Joiner(artifact.signature.tensors, artifact.signature.outputs)
    batcher = Batcher(cast("Any", Held()), joiner, BatchPlan(8, 5.0, 1.0, 0.5, 0.0, ""))

    async def main() -> list[Any]:
        late = asyncio.create_task(batcher.run(tensors, ["score"], monotonic() + SOON))
        patient = asyncio.create_task(batcher.run(tensors, ["score"], monotonic() + PATIENT))
        with pytest.raises(DeadlineError):
            await late
        assert not patient.done()
        released.set()
        return await patient

    begin = monotonic()
    found = asyncio.run(main())
    assert monotonic() - begin < LONG
    assert np.allclose(found[0], artifact.model.run(tensors, ["score"])[0])


def test_what_is_awaited_ends_with_the_deadline_and_is_stopped() -> None:
    """Whatever a handler waits for: the client is told in time, and the work goes no further."""
    stopped = threading.Event()

    async def never() -> Response:
        try:
            await asyncio.sleep(PATIENT)
        except asyncio.CancelledError:
            stopped.set()
            raise
        return Response(200, b"")

    with shop.running(lambda _: never()) as server, Raw(server) as raw:
        begin = monotonic()
        raw.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nX-Request-Timeout-Ms: 100\r\n\r\n")
        assert raw.response()[0] == 504
        assert monotonic() - begin < LONG
        assert stopped.wait(LONG)


def test_a_model_that_makes_a_feature_is_waited_for_no_longer_than_the_client(
    pipeline: Pipeline, stuck: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = pipeline.models["ranking"]
    monkeypatch.setattr(scorer, "_check", lambda *_: None)  # of a model that reads the candidate's own key
    feature = ModelFeature("made", model="ranker@champion", inputs=artifact.signature.features())
    maker = scorer.ArtifactScorer(feature, artifact)
    stuck(scorer.ArtifactScorer, "_values")
    begin = monotonic()
    with scored_until(begin + SOON), pytest.raises(DeadlineError):
        maker.score({}, np.zeros(1, np.int64))
    assert monotonic() - begin < LONG


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
