"""Clients over gRPC that send half a call, are gone without a word, or are too many; deadlines, and long errors."""

from __future__ import annotations

import asyncio
import queue
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import echo
import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as published
from tritonclient.grpc import service_pb2_grpc

from bedplate.http.door import Door
from bedplate.http.message import Limits
from bedplate.http.metrics import Metrics
from bedplate.http.turns import Turns
from bedplate.inference.model import Model
from bedplate.inference.repository import Repository
from bedplate.oip.calls import Calls, ProblemError
from bedplate.oip.methods import METHODS, InferenceService
from bedplate.serving.service_app import App

INFER = b"/inference.GRPCInferenceService/ModelInfer"
PATIENCE = 30.0
DATA, HEADERS, RESET, SETTINGS, PING = 0, 1, 3, 4, 6


class Held(echo.Echo):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__("float32")
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def run(self, tensors: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        self.begun.set()
        assert self.go_on.wait(PATIENCE)
        return super().run(tensors, outputs)


@contextmanager
def serving(runtime: Held | None = None, **limits: Any) -> Iterator[str]:
    repository = Repository()
    repository.serve([Model(runtime or Held(), "held", "1")])
    with echo.running_grpc(App(repository), repository, limits=Limits(**limits), grace_seconds=1.0) as target:
        yield target


def asked() -> Any:
    message = published.ModelInferRequest(model_name="held")
    message.inputs.add(name="in_float32", datatype="FP32", shape=[1, 2])
    message.raw_input_contents.append(np.zeros((1, 2), np.float32).tobytes())
    return message


@contextmanager
def stub(target: str) -> Iterator[Any]:
    with grpc.insecure_channel(target) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


class Raw:
    """HTTP/2 by hand: one call, of whose message part may come later."""

    def __init__(self, target: str, message: bytes, announced: int) -> None:
        host, _, port = target.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE)
        fields = {b":method": b"POST", b":scheme": b"http", b":path": INFER, b":authority": b"a", b"te": b"trailers"}
        fields[b"content-type"] = b"application/grpc"
        block = b"".join(b"\0" + bytes([len(n)]) + n + bytes([len(v)]) + v for n, v in fields.items())
        self.socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + self.frame(SETTINGS, 0, 0, b"")
            + self.frame(SETTINGS, 1, 0, b"")
            + self.frame(HEADERS, 4, 1, block)
            + self.frame(DATA, 0, 1, struct.pack(">BI", 0, announced) + message)
        )

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    @staticmethod
    def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
        return struct.pack(">I", len(content))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + content

    def ended(self, *, answers_pings: bool = True) -> bool:
        """Waits until the call or the connection ends."""
        with self.socket.makefile("rb") as read:
            while head := read.read(9):
                content = read.read(int.from_bytes(head[:3], "big"))
                if head[3] == PING and not head[4] & 1 and answers_pings:
                    self.socket.sendall(self.frame(PING, 1, 0, content))
                if head[3] == RESET or (head[3] == HEADERS and head[4] & 1):
                    return True
        return True


def test_half_a_call_ends_and_makes_room() -> None:
    with serving(request_seconds=0.5, connections=2) as target, stub(target) as client, ExitStack() as stack:
        halves = [stack.enter_context(Raw(target, b"abc", 1000)) for _ in range(4)]
        assert all(half.ended() for half in halves)
        assert client.ModelInfer(asked(), timeout=PATIENCE).model_name == "held"


def test_a_call_takes_its_time_when_its_message_is_there() -> None:
    runtime = Held()
    with serving(runtime, request_seconds=0.2) as target, stub(target) as client:
        runtime.go_on.clear()
        call = client.ModelInfer.future(asked(), timeout=PATIENCE)
        assert runtime.begun.wait(PATIENCE)
        time.sleep(0.5)
        runtime.go_on.set()
        assert call.result().model_name == "held"


def test_a_peer_that_has_vanished_is_let_go_and_an_idle_one_too() -> None:
    with serving(idle_seconds=1.0, request_seconds=1.0) as target, stub(target) as client:
        events = queue.Queue[Any]()
        stream = client.ModelStreamInfer(iter(events.get, None))  # it is open, and answers pings
        with Raw(target, b"abc", 1000) as gone:
            assert gone.ended(answers_pings=False)
        with socket.create_connection(tuple(target.split(":")), timeout=PATIENCE) as silent:  # type: ignore[arg-type]
            while silent.recv(4096):
                continue
        events.put(asked())
        assert next(stream).infer_response.model_name == "held"
        events.put(None)


def test_too_many_calls_are_told_to_ask_again_and_probes_are_answered() -> None:
    with serving(connections=2) as target, ExitStack() as stack:
        client = stack.enter_context(stub(target))
        waits = [queue.Queue[Any]() for _ in range(2)]
        streams = [client.ModelStreamInfer(iter(wait.get, None)) for wait in waits]
        for wait, stream in zip(waits, streams, strict=True):
            wait.put(asked())
            assert not next(stream).error_message
        with pytest.raises(grpc.RpcError) as caught:
            client.ModelInfer(asked(), timeout=PATIENCE)
        refused: Any = caught.value
        assert refused.code() is grpc.StatusCode.UNAVAILABLE
        assert dict(refused.trailing_metadata())["retry-after"] == "1"
        assert client.ServerLive(published.ServerLiveRequest(), timeout=PATIENCE).live
        for wait, stream in zip(waits, streams, strict=True):
            wait.put(None)
            assert list(stream) == []
        assert client.ModelInfer(asked(), timeout=PATIENCE).model_name == "held"


@pytest.mark.parametrize("name", ["y" * 100_000, "é\n%" * 30_000, "🙂" * 5_000], ids=["ascii", "escaped", "wide"])
def test_a_long_message_of_an_error_arrives_in_part(name: str) -> None:
    with serving() as target, triton.InferenceServerClient(target) as client:
        tensor = triton.InferInput(name, [1, 2], "FP32")
        tensor.set_data_from_numpy(np.zeros((1, 2), np.float32))
        with pytest.raises(triton.InferenceServerException, match="got unknown input") as caught:
            client.infer("held", [tensor], client_timeout=PATIENCE)
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        assert len(caught.value.message()) > 300


class Context:
    """What the library says of a call whose time is over, as gRPC counts it."""

    def invocation_metadata(self) -> Any:
        return (("x-request-timeout-ms", "60000"),)

    def time_remaining(self) -> float:
        return 0.0

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


def test_the_sooner_of_two_deadlines_counts() -> None:
    repository = Repository()
    repository.serve([Model(Held(), "held", "1")])
    calls = Calls(InferenceService(repository, lambda: True), Metrics(), Turns(), Door(), lambda: None)
    methods = {method.name: method for method in METHODS}
    with pytest.raises(ProblemError, match="the deadline had passed") as caught:
        asyncio.run(calls.answer(methods["ModelInfer"], Context(), asked().SerializeToString()))
    assert caught.value.status == 504
    assert asyncio.run(calls.answer(methods["ServerLive"], Context(), b""))  # a probe is answered all the same
