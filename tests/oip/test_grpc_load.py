"""Load control and the end of a server over gRPC: what waits is seen by the queue, and what has come is answered."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import echo
import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as published

from bedplate.http.board import READY, make_board
from bedplate.http.listening import bind
from bedplate.http.place import Place
from bedplate.http.server import run_application
from bedplate.http.settings import Settings
from bedplate.http.turns import Turns
from bedplate.inference.model import Model
from bedplate.inference.repository import Repository
from bedplate.oip import grpc as oip_grpc
from bedplate.oip import intake as oip_intake
from bedplate.oip import leaving as oip_leaving
from bedplate.oip.intake import Intake
from bedplate.oip.methods import InferenceService
from bedplate.serving.service_app import App

INFER = "/inference.GRPCInferenceService/ModelInfer"
CALLS = 40
BUSY_SECONDS = 0.005


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else the machine does, calls are handed over, and clients told, in less time than that."""
    times = {"_QUIET_SECONDS": 3.0, "_MOST_QUIET_SECONDS": 30.0, "_TELLING_SECONDS": 0.5, "_READING_SECONDS": 2.0}
    for name, seconds in times.items():
        monkeypatch.setattr(oip_grpc, name, seconds)


class Gate:
    """Lets the first turn wait until all calls have come, as `Intake` does where a machine is as fast as it expects."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_open = threading.Event()
        self.is_open.set()
        monkeypatch.setattr(Intake, "holds", lambda _: not self.is_open.is_set())

    @contextmanager
    def closed(self, turns: Turns, calls: list[Any]) -> Iterator[None]:
        """Calls that are sent within wait in the queue, or are refused, before the first of them has its turn."""
        self.is_open.clear()
        try:
            yield
            end = time.monotonic() + 60
            while turns.waiting + sum(call.done() for call in calls) < len(calls):
                assert time.monotonic() < end, (turns.waiting, len(calls))
                time.sleep(0.01)
        finally:
            self.is_open.set()


class Busy(echo.Echo):
    """Keeps its thread at work for a while, and remembers the first value of each call."""

    def __init__(self, before: Callable[[], Any] = lambda: None) -> None:
        super().__init__("float32")
        self.before, self.ran = before, list[float]()

    def run(self, tensors: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        self.before()
        time.sleep(BUSY_SECONDS)
        self.ran.append(float(tensors["in_float32"][0, 0]))
        return super().run(tensors, outputs)


def asked(value: float = 0.0) -> bytes:
    message = published.ModelInferRequest(model_name="busy")
    message.inputs.add(name="in_float32", datatype="FP32", shape=[1, 2])
    message.raw_input_contents.append(np.array([value, 0.0], np.float32).tobytes())
    return message.SerializeToString()


@contextmanager
def serving(runtime: Busy, turns: Turns | None = None) -> Iterator[Any]:
    """The model over gRPC; gives what sends a call and returns its future."""
    repository = Repository()
    repository.serve([Model(runtime, "busy", "1")])
    with (
        ExitStack() as clients,  # they end after the server
        echo.running_grpc(App(repository), repository, turns=turns or Turns(60.0), grace_seconds=60.0) as target,
    ):
        infer = clients.enter_context(grpc.insecure_channel(target)).unary_unary(INFER)
        infer(asked(), timeout=20)

        sent = list[Any]()
        clients.callback(lambda: codes(sent))  # what was answered is read before the channel closes

        def send(value: float = 0.0, **options: Any) -> Any:
            sent.append(infer.future(asked(value), **({"timeout": 60} | options)))
            return sent[-1]

        send.target = target  # type: ignore[attr-defined]
        send.triton = lambda: clients.enter_context(triton.InferenceServerClient(target))  # type: ignore[attr-defined]
        yield send


def codes(calls: Sequence[Any]) -> list[str]:
    return [call.code().name for call in calls]


def test_calls_wait_in_the_queue_where_it_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, seen, calls, gate = Turns(60.0), list[int](), list[Any](), Gate(monkeypatch)
    with serving(Busy(lambda: seen.append(turns.waiting)), turns) as send:
        seen.clear()
        with gate.closed(turns, calls):
            calls += [send() for _ in range(CALLS)]
        assert set(codes(calls)) == {"OK"}
    assert seen == list(range(CALLS - 1, -1, -1))


def test_a_call_of_high_priority_goes_before_those_that_came_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, turns, calls, gate = Busy(), Turns(60.0), list[Any](), Gate(monkeypatch)
    with serving(runtime, turns) as send:
        runtime.ran.clear()
        with gate.closed(turns, calls):
            calls += [send(1.0, metadata=(("x-request-priority", "low"),)) for _ in range(CALLS)]
            calls.append(send(2.0, metadata=(("x-request-priority", "high"),)))
        assert set(codes(calls)) == {"OK"}
    assert runtime.ran == [2.0, *[1.0] * CALLS]


@pytest.mark.parametrize(
    ("turns", "code"), [(Turns(60.0, 0, 4), "RESOURCE_EXHAUSTED"), (Turns(BUSY_SECONDS * 4), "UNAVAILABLE")]
)
def test_limits_of_a_client_and_of_the_wait_hold(turns: Turns, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, gate = list[Any](), Gate(monkeypatch)
    with serving(Busy(), turns) as send:
        with gate.closed(turns, calls):
            calls += [send() for _ in range(CALLS)]
        found = codes(calls)
        assert set(found) == {"OK", code}
        assert found.count(code) > 0.5 * CALLS
        (refused, *_) = [call for call in calls if call.code().name == code]
        assert dict(refused.trailing_metadata())["retry-after"]


def test_turns_wait_while_calls_come_and_for_so_long_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(oip_intake, "monotonic", lambda: now[0])
    intake = Intake()

    def holds(after: float) -> bool:
        now[0] += after
        return intake.holds()

    assert not holds(0.0)  # no call has come
    intake.came()
    assert holds(0.0001)
    intake.came()
    assert [holds(0.0002), holds(0.0002)] == [True, False]  # none came since
    intake.came()
    assert not holds(0.001)  # the turns go on for a while
    now[0] += 0.01
    for _ in range(20):
        intake.came()
        held = holds(0.00025)
    assert not held  # they keep coming
    assert not holds(10.0)


@pytest.mark.parametrize(("last", "end"), [(0.0, 0.1), (0.05, 0.15), (9.0, 0.5)])
def test_the_end_waits_until_calls_have_stopped_coming(
    last: float, end: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, intake = [0.0], Intake()

    async def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] <= last:
            intake.came()

    monkeypatch.setattr(oip_intake, "monotonic", lambda: now[0])
    monkeypatch.setattr(asyncio, "sleep", sleep)
    asyncio.run(intake.quiet(0.1, 0.5))
    assert now[0] == pytest.approx(end, abs=0.005)


def test_a_turn_that_waits_gives_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who yields or sleeps gets the core back when other programs have had it, which is longer than a turn may wait."""
    given_up = list[str]()
    for module, name in ((os, "sched_yield"), (time, "sleep")):
        monkeypatch.setattr(module, name, lambda *_, name=name: given_up.append(name), raising=False)
    intake = Intake()
    intake.came()
    assert intake.holds()
    while intake.holds():
        intake.came()
    assert given_up == []


def test_calls_that_have_come_are_answered_when_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oip_grpc, "_LAST_CALL_SECONDS", 0.0)
    monkeypatch.setattr(oip_grpc, "_QUIET_SECONDS", 0.0)
    turns, calls, gate = Turns(60.0), list[Any](), Gate(monkeypatch)
    with serving(Busy(), turns) as send, gate.closed(turns, calls):
        calls += [send() for _ in range(CALLS)]
    assert {code: codes(calls).count(code) for code in codes(calls)} == {"OK": CALLS}


def test_the_last_answer_of_each_connection_leaves_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With it the library closes the connection, and what has only just been sent over that can be lost."""
    monkeypatch.setattr(oip_leaving, "_ALONE_SECONDS", 1.5)
    monkeypatch.setattr(oip_grpc, "_QUIET_SECONDS", 0.0)
    turns, gate, calls, ended = Turns(60.0), Gate(monkeypatch), list[Any](), list[tuple[float, int]]()
    stop = grpc.aio._server.Server.stop  # type: ignore[attr-defined]

    async def stops(self: Any, grace: Any) -> None:
        gate.is_open.set()
        await stop(self, grace)

    monkeypatch.setattr(grpc.aio._server.Server, "stop", stops)  # type: ignore[attr-defined]
    options = [("grpc.use_local_subchannel_pool", 1)]  # or both channels share a connection
    with ExitStack() as clients, serving(Busy(), turns) as send:
        gate.is_open.clear()
        for connection in range(2):
            infer = clients.enter_context(grpc.insecure_channel(send.target, options)).unary_unary(INFER)
            for _ in range(4):
                calls.append(infer.future(asked(), timeout=60))
                calls[-1].add_done_callback(lambda _, of=connection: ended.append((time.monotonic(), of)))
        end = time.monotonic() + 60
        while turns.waiting < len(calls):
            assert time.monotonic() < end, turns.waiting
            time.sleep(0.01)
    assert codes(calls) == ["OK"] * 8
    for connection in range(2):
        *others, last = [at for at, of in ended if of == connection]
        assert len(others) == 3
        assert last - max(others) > 0.5


def test_answers_leave_when_clients_have_been_told_that_the_connection_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a client would send its next call to a server that stops, which loses it."""
    monkeypatch.setattr(oip_grpc, "_LAST_CALL_SECONDS", 0.0)
    monkeypatch.setattr(oip_grpc, "_QUIET_SECONDS", 0.0)
    runtime, answered, calls = Busy(), list[bool](), list[Any]()
    quiet, stop = Intake.quiet, grpc.aio._server.Server.stop  # type: ignore[attr-defined]

    async def call(self: Intake, *seconds: float) -> None:
        calls.append(send(1.0))
        while runtime.ran[-1] != 1.0:
            await asyncio.sleep(0.002)
        await quiet(self, *seconds)

    async def seen(self: Any, grace: Any) -> None:
        answered.append(calls[0].done())
        await stop(self, grace)

    monkeypatch.setattr(Intake, "quiet", call)
    monkeypatch.setattr(grpc.aio._server.Server, "stop", seen)  # type: ignore[attr-defined]
    with serving(runtime) as send:
        pass
    assert (runtime.ran[-1], answered, codes(calls)) == (1.0, [False], ["OK"])


@pytest.mark.parametrize("requests", [1, 20])
def test_a_stream_ends_with_the_server_when_its_requests_are_answered(requests: int) -> None:
    begun, answers = threading.Event(), queue.Queue[Any]()
    with serving(Busy(begun.set)) as send:
        client = send.triton()
        begun.clear()
        client.start_stream(lambda result, error: answers.put(error))
        tensor = triton.InferInput("in_float32", [1, 2], "FP32")
        tensor.set_data_from_numpy(np.zeros((1, 2), np.float32))
        for _ in range(requests):
            client.async_stream_infer("busy", [tensor])
        if requests == 1:
            assert answers.get(timeout=20) is None
            answers.put(None)
        assert begun.wait(20)
        begin = time.monotonic()
    assert time.monotonic() - begin < 15.0  # of 60 seconds of grace
    assert [answers.get(timeout=20) for _ in range(requests)] == [None] * requests
    assert "the server stops" in str(answers.get(timeout=20))


def test_one_of_several_processes_listens_when_it_is_ready() -> None:
    """The system gives connections to any process that listens."""
    order = list[str]()

    class Other:
        name, target = "other", "nowhere"

        async def start(self, turns: Any, door: Any, bodies: Any) -> None:
            order.append(f"listens, state {place.seat.state != READY and 'starting'}")

        async def drain(self) -> None:
            order.append("ends")

    def load() -> Any:
        order.append("loads")
        return loaded

    class Opened:
        def open(self, _: Any) -> None:
            order.append("opens")

        def __getattr__(self, name: str) -> Any:
            return getattr(app, name)

    loaded, app = object(), App()
    life, hold = os.pipe()
    place = Place(0, bind("127.0.0.1", 0).detach(), make_board(1), life)
    made: Any = Opened()
    run_application(
        made, load, Settings(), on_ready=lambda *_: signal.raise_signal(signal.SIGTERM), place=place, beside=[Other()]
    )
    os.close(hold)
    assert order == ["loads", "opens", "listens, state starting", "ends"]


def test_an_error_that_nobody_foresaw_says_nothing_of_the_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, faults = queue.Queue[Any](), list[int]()
    with serving(Busy(lambda: 1 // (1 - len(faults)))) as send:
        client = send.triton()
        monkeypatch.setattr(InferenceService, "streamed", staticmethod(lambda answer: 1 / 0))
        client.start_stream(lambda result, error: answers.put(str(error)))
        tensor = triton.InferInput("in_float32", [1, 2], "FP32")
        tensor.set_data_from_numpy(np.zeros((1, 2), np.float32))
        client.async_stream_infer("busy", [tensor])
        assert answers.get(timeout=20) == "internal error; the server's log says more"
        client.stop_stream()
        faults.append(1)
        failed = send()
        assert (failed.code().name, failed.details()) == ("INTERNAL", "internal error; the server's log says more")
