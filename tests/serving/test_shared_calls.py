"""A server whose requests share calls of a model gives each what it would get alone."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec
import numpy as np
import pytest
import shop
from test_batching import Rows, batcher_of, request
from test_http import Raw

from bedplate.features.graph import FeatureGraph
from bedplate.registry.registry import Registry
from bedplate.serving.batch_plan import BatchPlan
from bedplate.serving.batcher import Batcher
from bedplate.serving.http import Request
from bedplate.serving.joining import Joiner
from bedplate.serving.model import Model
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.repository import Repository
from bedplate.serving.routes import App


@pytest.fixture(scope="module")
def runtime() -> Rows:
    return Rows()


@pytest.fixture(scope="module")
def server(runtime: Rows, pipeline: Any) -> Any:
    model = Model(runtime, "rows", "1")
    model.batcher = batcher_of(runtime, most=8, delay=0.05)
    repository = Repository()
    repository.serve([model])
    app = App(repository)
    app.open(pipeline)
    with shop.running(app.handle) as server:
        yield server


def body_of(tensors: dict[str, Any], outputs: list[str]) -> bytes:
    kinds = {"float32": "FP32", "int64": "INT64"}
    inputs = [
        {"name": n, "shape": a.shape, "datatype": kinds[a.dtype.name], "data": a.ravel().tolist()}
        for n, a in tensors.items()
    ]
    return msgspec.json.encode({"inputs": inputs, "outputs": [{"name": n} for n in outputs]})


def ask(server: Any, tensors: dict[str, Any], outputs: list[str]) -> tuple[int, dict[str, Any]]:
    body = body_of(tensors, outputs)
    with Raw(server) as raw:
        raw.send(b"POST /v2/models/rows/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        status, _, content = raw.response()
    return status, msgspec.json.decode(content)


def test_concurrent_requests_are_answered_as_alone(server: Any, runtime: Rows) -> None:
    asked = [request(seed, 1 + seed % 2, [3] * (1 + seed % 2), 1 + seed % 3, 2) for seed in range(12)]
    answers: list[Any] = [None] * len(asked)

    def one(i: int) -> None:
        answers[i] = ask(server, asked[i], ["score", "query"] if i % 3 else ["score"])

    for _ in range(2):  # the second time, as many are waited for as came the first
        threads = [threading.Thread(target=one, args=(i,)) for i in range(len(asked))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    for i, (status, answer) in enumerate(answers):
        assert status == 200
        for output in answer["outputs"]:
            [alone] = Rows().run(asked[i], [output["name"]])
            assert output["shape"] == list(alone.shape)
            assert np.array_equal(np.array(output["data"], np.float32), alone.ravel())
    assert len(runtime.calls) < 2 * len(asked)


def test_a_wrong_request_among_others_is_told_so_alone(server: Any) -> None:
    good, bad = request(1, 1, [2], 1, 1), request(2, 1, [2], 1, 1)
    bad["bag_ids.tags"] = bad["bag_ids.tags"] + 100
    answers: dict[str, Any] = {}
    threads = [
        threading.Thread(target=lambda n=name, t=tensors: answers.update({n: ask(server, t, ["score"])}))
        for name, tensors in (("good", good), ("bad", bad))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers["good"][0] == 200
    assert answers["bad"][0] == 400
    assert "beyond the table" in answers["bad"][1]["error"]


@pytest.fixture(scope="module")
def shared(registry: Registry, features: FeatureGraph) -> Pipeline:
    """The shop, whose ranking model is called for several requests at once."""
    pipeline = shop.pipeline(registry, features)
    artifact = pipeline.models["ranking"]
    joiner = Joiner(artifact.signature.tensors, artifact.signature.outputs)
    assert not joiner.reason
    artifact.model.batcher = Batcher(artifact.model, joiner, BatchPlan(8, 0.05, 1.0, 0.5, 0.0, ""))
    return pipeline


def test_requests_for_ids_share_calls_and_are_answered_as_alone(pipeline: Pipeline, shared: Pipeline) -> None:
    candidates = [shop.PRODUCTS[i : i + 5] for i in (0, 3, 9)]
    bodies = [("rank", {"customer": 1 + i % 4, "candidates": candidates[i % 3]}) for i in range(6)]
    bodies += [("recommend", {"customer": 1 + i, "count": 5}) for i in range(4)]
    app = App()
    app.open(shared)

    async def ask() -> list[Any]:
        asked = [Request("POST", f"/{path}", {}, msgspec.json.encode(body)) for path, body in bodies]
        return await asyncio.gather(*(app.handle(request) for request in asked))

    answers = asyncio.run(ask())
    batcher = shared.batcher
    assert batcher is not None
    assert batcher.shared.calls < batcher.shared.requests == len(bodies)
    for (path, body), response in zip(bodies, answers, strict=True):
        assert response.status == 200
        answer, content = msgspec.json.decode(response.body), msgspec.json.encode(body)
        alone = pipeline.rank(pipeline.wire.rank(content)) if path == "rank" else None
        alone = alone or pipeline.recommend(pipeline.wire.recommend(content))
        assert answer["ids"] == list(alone.ids)
        np.testing.assert_allclose(answer["scores"], alone.scores, rtol=1e-5, atol=5e-7)


def test_one_that_is_wrong_is_answered_before_it_shares_anything(shared: Pipeline) -> None:
    app = App()
    app.open(shared)

    async def ask(body: bytes) -> Any:
        return await app.handle(Request("POST", "/rank", {}, body))

    assert asyncio.run(ask(b"{}")).status == 400


def test_the_time_limit_of_the_score_step_counts_the_wait_for_others(
    registry: Registry, features: FeatureGraph
) -> None:
    pipeline = shop.pipeline(registry, features, budgets={"score": "20ms"})
    artifact = pipeline.models["ranking"]
    joiner = Joiner(artifact.signature.tensors, artifact.signature.outputs)
    batcher = Batcher(artifact.model, joiner, BatchPlan(8, 5.0, 1.0, 0.5, 0.0, ""))
    asked = pipeline.wire.rank(msgspec.json.encode({"customer": 1, "candidates": shop.PRODUCTS[:3]}))

    async def ask() -> list[Any]:
        await asyncio.gather(*(pipeline.rank_shared(asked, batcher) for _ in range(3)))
        return [await pipeline.rank_shared(asked, batcher)]  # waits for two more, which don't come

    [answer] = asyncio.run(ask())
    assert list(answer.scores) == [None] * 3
    assert answer.degraded["step.score"].why == "late"
    artifact.model.batcher = batcher
    assert pipeline.batcher is None  # so served requests don't share: a model that hangs would hold up the whole worker


def test_metrics_say_how_calls_were_shared_of_every_model_where_they_are(pipeline: Any) -> None:
    runtime, plain = Rows(), Model(Rows(), "plain", "1")
    model = Model(runtime, 'ro"ws', "2")
    batcher = model.batcher = batcher_of(runtime, most=4, delay=0.01)
    repository = Repository()
    repository.serve([plain, model])
    app = App(repository)
    app.open(pipeline)

    async def together() -> None:
        await asyncio.gather(*(batcher.run(request(i, 1, [2], 1, 1), ["score"]) for i in range(4)))

    asyncio.run(together())
    shown = app.handle(Request("GET", "/metrics", {}, b"")).body.decode()
    labels = r'{model="ro\"ws",version="2"}'
    assert f"bedplate_shared_calls_total{labels} 1\n" in shown
    assert f"bedplate_shared_requests_total{labels} 4\n" in shown
    assert f"bedplate_unshared_requests_total{labels} 0\n" in shown
    assert 'model="plain"' not in shown


def test_metrics_are_silent_about_what_is_not_shared(app: App) -> None:
    assert "shared" not in app.handle(Request("GET", "/metrics", {}, b"")).body.decode()
