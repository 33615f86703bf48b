"""What a function of the project raises is for the project's log: clients are told that it fails, and where."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import echo
import grpc
import msgspec
import numpy as np
import pytest
import row_functions
import shop
from tritonclient.grpc import service_pb2 as published

from bedplate.errors import DataError
from bedplate.features.derived import DerivedFeature
from bedplate.features.graph import FeatureGraph
from bedplate.http.message import Request, Response
from bedplate.http.server import run_application
from bedplate.http.settings import Settings
from bedplate.inference.model import Model
from bedplate.inference.repository import Repository
from bedplate.online.fallback import FallbackReader
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.runtimes.base import Opening, open_runtime
from bedplate.runtimes.python import FunctionRuntime
from bedplate.runtimes.trees import MATRIX, TreeRuntime
from bedplate.serving.feature_app import FeatureApp
from bedplate.serving.feature_plan import FeatureLookup
from bedplate.serving.service_app import App
from bedplate.testing.online_store import grouped
from bedplate.types import Type

SECRET = "can't open /srv/secret/prices.csv"
FAILS = "the function fails; the server's log says more"
OPTIONS = {
    "function": "secret_scoring:score",
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["rows"]}],
    "outputs": [{"name": "score", "dtype": "float32", "shape": ["rows"]}],
}
INFER = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}'


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Repository]:
    """The model `f:1`, whose function raises what no client may read; the log has it."""
    file = tmp_path / "secret_scoring.py"
    file.write_text(f"def score(tensors):\n    raise OSError({SECRET!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    repository = Repository()
    runtime = open_runtime("python", Opening(file, "model 'f:1'", 1, OPTIONS))
    repository.serve([Model(runtime, "f", "1")])
    with caplog.at_level(logging.ERROR):
        yield repository
    logged = "".join(logging.Formatter().format(record) for record in caplog.get_records("call"))
    assert f"the function fails: OSError: {SECRET}" in logged
    assert "in score" in logged  # its traceback
    monkeypatch.delitem(sys.modules, "secret_scoring")


def test_over_http(served: Repository) -> None:
    answer = App(served).handle(Request("POST", "/v2/models/f/infer", {}, INFER))
    assert isinstance(answer, Response)
    assert (answer.status, msgspec.json.decode(answer.body)) == (
        500,
        {"error": f"model 'f:1': {FAILS}", "where": "model 'f:1'"},
    )


def test_over_grpc(served: Repository) -> None:
    message = published.ModelInferRequest(model_name="f", raw_input_contents=[bytes(4)])
    message.inputs.add(name="x", datatype="FP32", shape=[1])
    with echo.running_grpc(App(served), served) as target, grpc.insecure_channel(target) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        failed: Any = infer.future(message.SerializeToString(), timeout=60)
        assert (failed.code(), failed.details()) == (grpc.StatusCode.INTERNAL, f"model 'f:1': {FAILS}")


INTERRUPTS = """
import os, signal
import numpy as np
def score(tensors):
    if tensors["x"][0] == 1:
        raise KeyboardInterrupt("the function's own")
    if tensors["x"][0] == 2:
        os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C while it runs
        sum(range(100))
    return {"score": tensors["x"]}
"""


@pytest.fixture
def interrupts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FunctionRuntime]:
    file = tmp_path / "interrupting_scoring.py"
    file.write_text(INTERRUPTS)
    monkeypatch.syspath_prepend(tmp_path)
    options = OPTIONS | {"function": "interrupting_scoring:score"}
    runtime = open_runtime("python", Opening(file, "model 'f:1'", 1, options))
    assert isinstance(runtime, FunctionRuntime)
    yield runtime
    monkeypatch.delitem(sys.modules, "interrupting_scoring")


def test_an_interrupt_of_its_own_fails_its_request_alone_and_ctrl_c_ends_the_server(
    interrupts: FunctionRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    repository, answers = Repository(), list[int]()
    repository.serve([Model(interrupts, "f", "1")])
    app = App(repository)

    class Opened:
        def open(self, _: Any) -> None:
            pass

        def __getattr__(self, name: str) -> Any:
            return getattr(app, name)

    def ask(url: str) -> None:
        for data in (1, 3, 2):
            body = INFER.replace(b"[1]}]", b"[%d]}]" % data)
            with contextlib.closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)) as client:
                client.request("POST", "/v2/models/f/infer", body)
                answers.append(client.getresponse().status)

    asking = list[threading.Thread]()

    def ready(url: str, _: float) -> None:
        asking.append(threading.Thread(target=ask, args=(url,)))
        asking[0].start()

    made: Any = Opened()
    run_application(made, object, Settings(port=0), on_ready=ready)
    asking[0].join()
    assert answers == [500, 200, 200]
    assert "the function fails: KeyboardInterrupt: the function's own" in caplog.text


def test_where_nobody_serves_ctrl_c_interrupts_the_function(interrupts: FunctionRuntime) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupts.run({"x": np.array([2], np.float32)}, ["score"])
    finally:
        signal.signal(signal.SIGINT, before)


def test_on_a_thread_an_interrupt_is_of_the_function(interrupts: FunctionRuntime) -> None:
    """As where a server loads a version: signals interrupt the main thread alone."""
    with ThreadPoolExecutor(1) as pool, pytest.raises(DataError, match="KeyboardInterrupt"):
        pool.submit(interrupts.run, {"x": np.array([1], np.float32)}, ["score"]).result()


def test_where_a_version_does_not_prove_itself(served: Repository) -> None:
    """Who loads it, and who lists the models, is told no more than who asks it."""
    model = served.find("f", None).model

    class Models:
        """A registry with `g:1`, whose golden row is scored as it is loaded. Satisfies `ModelSource`."""

        def versions(self) -> dict[str, list[str]]:
            return {"g": ["1"]}

        def default(self, name: str) -> str:
            return "1"

        def load(self, name: str, version: str) -> Any:
            return model.run({"x": np.ones(1, np.float32)}, ["score"])

    source: Any = Models()
    repository = Repository(source, is_controlled=True)
    repository.serve([model])
    app = App(repository)

    def ask(path: str) -> tuple[int, bytes]:
        async def awaited() -> Response:
            answer = app.handle(Request("POST", path, {}, b""))
            return answer if isinstance(answer, Response) else await answer

        answer = asyncio.run(awaited())
        return answer.status, answer.body

    status, body = ask("/v2/repository/models/g/load")
    assert (status, msgspec.json.decode(body)["error"]) == (500, f"model 'f:1': {FAILS}")
    status, body = ask("/v2/repository/index")
    assert (status, msgspec.json.decode(body)[-1]["reason"]) == (200, FAILS)


def test_of_a_feature_by_a_function(caplog: pytest.LogCaptureFixture) -> None:
    made = DerivedFeature("twice", function=row_functions.double, inputs=["products.price"], type=float)
    features, store = FeatureGraph([shop.products], [made]), MemoryStore()
    view = features.views["products"]
    bulk_load(store, view, [grouped(view, shop.events())], shop.NOW)
    app = FeatureApp()
    app.open(FeatureLookup(features, FallbackReader(store), clock=lambda: shop.NOW))

    def broken(x: Any) -> Any:
        raise OSError(SECRET)

    assert made.function is not None
    made.function = type(made.function)(broken, Type.FLOAT, False, "derived feature 'twice'")
    answer = app.handle(Request("POST", "/v1/features", {}, b'{"features": ["twice"], "keys": {"product": ["P01"]}}'))
    assert isinstance(answer, Response)
    told = msgspec.json.decode(answer.body)
    assert (answer.status, told["error"], told["where"]) == (500, FAILS, "derived feature 'twice'")
    assert SECRET in caplog.text


def test_of_trees_whose_library_fails() -> None:
    class Trees(TreeRuntime):
        platform = "trees"

        def score(self, matrix: Any) -> Any:
            raise OSError(SECRET)

    trees = Trees(2, 1, "float32", Opening(Path("trees"), "model 't:1'"))
    with pytest.raises(DataError, match=SECRET) as caught:
        trees.run({MATRIX: np.ones((1, 2), np.float32)}, ["score"])
    assert str(caught.value.for_client()) == "model 't:1': the trees fail; the server's log says more"
