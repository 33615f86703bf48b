"""A server whose requests share calls of a model gives each what it would get alone."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import numpy as np
import pytest
import shop
from test_batching import Rows, batcher_of, request
from test_http import Raw

from bedplate.serving.model import Model
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
