"""A server whose requests share calls of a model gives each what it would get alone."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import numpy as np
import pytest
import shop
from test_batching import Rows, batcher_of, request
from test_http import Raw

from bedplate.features.graph import FeatureGraph
from bedplate.http.message import Request
from bedplate.inference.batch_plan import BatchPlan
from bedplate.inference.batcher import Batcher
from bedplate.inference.joining import Joiner
from bedplate.inference.model import Model
from bedplate.inference.repository import Repository
from bedplate.registry.registry import Registry
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.service_app import App
from bedplate.serving.stepping import finished


@pytest.fixture(scope="module")
def runtime() -> Rows:
    return Rows()


@pytest.fixture(scope="module")
def app_of_rows(runtime: Rows, pipeline: Any) -> App:
    model = Model(runtime, "rows", "1")
    model.batcher = batcher_of(runtime, most=8, delay=0.05)
    repository = Repository()
    repository.serve([model])
    app = App(repository)
    app.open(pipeline)
    return app


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


def together(app: App, asked: list[tuple[dict[str, Any], list[str]]]) -> list[tuple[int, dict[str, Any]]]:
    """The answers to requests that come at once."""

    async def every() -> list[Any]:
        bodies = [body_of(tensors, outputs) for tensors, outputs in asked]
        calls = [app.handle(Request("POST", "/v2/models/rows/infer", {}, body)) for body in bodies]
        return await asyncio.gather(*calls)

    return [(answer.status, msgspec.json.decode(answer.body)) for answer in asyncio.run(every())]


def test_concurrent_requests_are_answered_as_alone(app_of_rows: App, runtime: Rows) -> None:
    asked = [request(seed, 1 + seed % 2, [3] * (1 + seed % 2), 1 + seed % 3, 2) for seed in range(12)]
    outputs = [["score", "query"] if i % 3 else ["score"] for i in range(len(asked))]
    before = len(runtime.calls)
    answers = together(app_of_rows, list(zip(asked, outputs, strict=True)))
    assert len(runtime.calls) - before < len(asked)
    for tensors, (status, answer) in zip(asked, answers, strict=True):
        assert status == 200
        for output in answer["outputs"]:
            [alone] = Rows().run(tensors, [output["name"]])
            assert output["shape"] == list(alone.shape)
            assert np.array_equal(np.array(output["data"], np.float32), alone.ravel())


def test_a_wrong_request_among_others_is_told_so_alone(app_of_rows: App, runtime: Rows) -> None:
    good, bad = request(1, 1, [2], 1, 1), request(2, 1, [2], 1, 1)
    bad["bag_ids.tags"] = bad["bag_ids.tags"] + 100
    before = len(runtime.calls)
    answers = together(app_of_rows, [(good, ["score"]), (bad, ["score"])])
    assert len(runtime.calls) - before == 3  # both at once, which fails, and then each
    assert answers[0][0] == 200
    assert answers[1][0] == 400
    assert "beyond the table" in answers[1][1]["error"]


def test_over_a_connection_they_are_answered_too(app_of_rows: App) -> None:
    asked = [request(seed, 1, [3], 1, 2) for seed in range(3)]
    with shop.running(app_of_rows.handle) as server:
        for tensors in asked:
            status, answer = ask(server, tensors, ["score"])
            [alone] = Rows().run(tensors, ["score"])
            assert (status, answer["outputs"][0]["data"]) == (200, alone.ravel().tolist())


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


def test_calls_without_the_ranking_model_are_answered_beside_those_that_share_it(
    pipeline: Pipeline, shared: Pipeline
) -> None:
    app = App()
    app.open(shared)
    bodies = {"embed": b'{"items": ["P03", "P07"]}', "similar": b'{"item": "P03", "count": 4}'}

    async def ask(path: str) -> Any:
        return await app.handle(Request("POST", f"/{path}", {}, bodies[path]))

    found = {path: msgspec.json.decode(asyncio.run(ask(path)).body) for path in bodies}
    vectors = pipeline.embed(pipeline.wire.embed(bodies["embed"])).vectors
    assert found["embed"]["vectors"] == [pytest.approx(vector) for vector in vectors]
    assert found["similar"]["ids"] == list(pipeline.similar(pipeline.wire.similar(bodies["similar"])).ids)
    assert 'route="embed",status="200"} 1' in app.metrics.text()


def test_what_would_wait_is_not_run_without_a_loop() -> None:
    with pytest.raises(RuntimeError, match="got a coroutine that waits"):
        finished(asyncio.sleep(0))


def test_one_that_is_wrong_is_answered_before_it_shares_anything(shared: Pipeline) -> None:
    app = App()
    app.open(shared)

    async def ask(body: bytes) -> Any:
        return await app.handle(Request("POST", "/rank", {}, body))

    assert asyncio.run(ask(b"{}")).status == 400


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
