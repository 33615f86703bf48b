"""What a server holds of messages over gRPC: bounded together, and none that is answered."""

from __future__ import annotations

import gc
import queue
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import echo
import grpc
import pytest
from test_grpc_clients import Raw
from tritonclient.grpc import service_pb2 as published

from bedplate.http.bodies import SMALL_BYTES, Bodies, Trimming
from bedplate.http.message import Limits
from bedplate.http.turns import Turn, Turns
from bedplate.inference.model import Model
from bedplate.inference.repository import Repository
from bedplate.serving.service_app import App

MB = 1024 * 1024
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"


def asked(size: int, rows: int) -> bytes:
    message = published.ModelInferRequest(model_name="one")
    message.inputs.add(name="in_float32", datatype="FP32", shape=[rows, 2])
    message.raw_input_contents.append(bytes(size))
    return message.SerializeToString()


GOOD, WRONG = asked(800_000, 100_000), asked(800_000, 1)


@contextmanager
def running(**options: Any) -> Iterator[str]:
    repository = Repository()
    repository.serve([Model(echo.Echo("float32"), "one", "1")])
    limits = Limits(body_bytes=MB, bodies_bytes=2 * MB)
    with echo.running_grpc(
        App(repository), repository, **({"limits": limits, "grace_seconds": 1.0} | options)
    ) as target:
        yield target


@contextmanager
def serving(**options: Any) -> Iterator[Any]:
    with running(**options) as target, grpc.insecure_channel(target) as channel:
        yield channel


class Writer:
    """What a client sends over a stream: what it is given, until it ends."""

    def __init__(self) -> None:
        given = queue.Queue[bytes | None]()
        self.send = given.put
        self.sent: Iterator[Any] = iter(given.get, None)

    def end(self) -> None:
        self.send(None)


def code_of(call: Any) -> str:
    return str(call.code().name)


@pytest.mark.parametrize("kind", ["answered", "refused", "stream"])
def test_a_message_that_was_answered_is_let_go_at_once(kind: str) -> None:
    with serving() as channel:
        writer = Writer()
        infer, answers = channel.unary_unary(INFER), channel.stream_stream(STREAM)(writer.sent, timeout=60)

        def ask() -> None:
            if kind == "stream":
                writer.send(WRONG)
                next(answers)
            else:
                code_of(infer.future(GOOD if kind == "answered" else WRONG, timeout=20))

        ask()
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(10):
                ask()
            kept = tracemalloc.get_traced_memory()[0] - before
            turns = sum(isinstance(o, Turn) for o in gc.get_objects())  # each holds its parsed message
        finally:
            tracemalloc.stop()
            gc.enable()
            writer.end()
    assert kept < 3 * len(GOOD)  # the last one may be on its way
    assert turns <= 1


def test_messages_that_wait_for_an_answer_are_bounded_together_and_small_ones_always_taken() -> None:
    bodies, turns = Bodies(2 * SMALL_BYTES), Turns()
    with serving(bodies=bodies, turns=turns) as channel:
        infer = channel.unary_unary(INFER)
        refused = infer.future(GOOD, timeout=20)
        assert code_of(refused) == "RESOURCE_EXHAUSTED"
        assert "too many large messages are under way" in refused.details()
        assert dict(refused.trailing_metadata())["retry-after"] == "1"
        writer = Writer()
        answers = channel.stream_stream(STREAM)(writer.sent, timeout=60)
        writer.send(GOOD)
        assert b"too many large messages are under way" in next(answers)
        bodies.held_bytes += 10 * SMALL_BYTES
        assert code_of(infer.future(asked(8000, 1000), timeout=20)) == "OK"
        writer.end()
    assert (bodies.held_bytes, turns.tally.refused) == (10 * SMALL_BYTES, {("bodies", 2): 2})


def test_calls_and_streams_that_send_nothing_keep_nobody_out() -> None:
    with serving() as channel:
        writers = [Writer() for _ in range(40)]
        silent = [channel.stream_unary(INFER).future(writer.sent, timeout=60) for writer in writers[:20]]
        streams = [channel.stream_stream(STREAM)(writer.sent, timeout=60) for writer in writers[20:]]
        infer = channel.unary_unary(INFER)
        for _ in range(20):
            assert code_of(infer.future(GOOD, timeout=20)) == "OK"
        for writer, stream in zip(writers[20:], streams, strict=True):
            writer.send(GOOD)
            assert next(stream)
        assert not any(call.done() for call in silent)
        for writer in writers:
            writer.end()


@pytest.mark.parametrize("is_slow", [False, True], ids=["its connection ends", "its time is over"])
def test_memory_of_a_message_that_is_cut_off_is_given_back(is_slow: bool) -> None:
    """The C library keeps what has come of it, and says nowhere how much that is: as much as a message may have."""
    bodies, given = Bodies(100 * MB), threading.Event()
    trimming = Trimming(bodies, given.set)
    limits = Limits(body_bytes=32 * MB, request_seconds=0.3 if is_slow else 60.0)
    end = time.monotonic() + 30
    with running(bodies=bodies, limits=limits) as target:
        while not bodies.came_bytes and time.monotonic() < end:
            with Raw(target, bytes(1000), 800_000) as cut:
                assert cut.ended() if is_slow else cut.socket.recv(1)
            time.sleep(0.05)  # the call may have ended before it began
    assert bodies.came_bytes
    assert (bodies.came_bytes % (32 * MB), bodies.held_bytes) == (0, 0)
    trimming.look()  # much has come in this second
    assert not given.is_set()
    trimming.look()
    assert given.wait(20)
