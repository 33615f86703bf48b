"""What a call over gRPC waits for ends with the deadline, whichever way the client says it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import echo
import grpc
import pytest
from tritonclient.grpc import service_pb2 as published

from bedplate.http.turns import Turns
from bedplate.inference.model import Model, Ran, Shared
from bedplate.inference.repository import Repository
from bedplate.serving.service_app import App

SERVICE = "/inference.GRPCInferenceService/"
PATIENT = 60.0
LONG = 20.0
"""Far more than what is bounded by the deadline takes on a busy machine, far less than `PATIENT`."""
SAID = (("x-request-timeout-ms", "500"),)


class Never:
    """Shared calls that are never answered. Satisfies `SharedCalls`."""

    def __init__(self, stopped: threading.Event) -> None:
        self.shared, self._stopped = Shared(), stopped

    async def run(self, *given: Any) -> Any:
        return (await self.call(*given)).results

    async def call(self, *given: Any) -> Ran:
        try:
            await asyncio.sleep(PATIENT)
        finally:
            self._stopped.set()
        raise AssertionError("nobody may wait so long")


def load() -> bytes:
    return published.RepositoryModelLoadRequest(model_name="one").SerializeToString()


def infer() -> bytes:
    message = published.ModelInferRequest(model_name="one")
    message.inputs.add(name="in_float32", datatype="FP32", shape=[1, 2])
    message.raw_input_contents.append(bytes(8))
    return message.SerializeToString()


@pytest.mark.parametrize(("method", "body"), [("RepositoryModelLoad", load), ("ModelInfer", infer)])
def test_what_a_call_waits_for_ends_with_the_deadline_of_its_metadata(
    method: str, body: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, turns, repository = threading.Event(), Turns(), Repository()
    never = Never(stopped)
    monkeypatch.setattr(Repository, "load", lambda *_: never.call())
    model = Model(echo.Echo("float32"), "one", "1")
    model.batcher = never
    repository.serve([model])
    app = App(repository)
    with echo.running_grpc(app, repository, turns=turns) as target, grpc.insecure_channel(target) as channel:
        begin = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(SERVICE + method)(body(), timeout=PATIENT, metadata=SAID)
        assert time.monotonic() - begin < LONG
        failed: Any = caught.value
        assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert failed.details() == "the deadline passed before there was an answer"
        assert stopped.wait(LONG)
    assert f'bedplate_requests_total{{route="grpc_{method}",status="504"}} 1' in app.metrics.text()
