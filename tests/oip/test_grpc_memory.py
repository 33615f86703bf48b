"""What a server holds of messages over gRPC: few at once, bounded together, and none that is answered."""

from __future__ import annotations

import asyncio
import gc
import queue
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import echo
import grpc
import pytest
from tritonclient.grpc import service_pb2 as published

from bedplate.http.bodies import SMALL_BYTES, Bodies
from bedplate.http.message import Limits
from bedplate.http.turns import Turn, Turns
from bedplate.inference.model import Model
from bedplate.inference.repository import Repository
from bedplate.oip.reading import ReadingEndedError, Readings
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
def serving(**options: Any) -> Iterator[Any]:
    repository = Repository()
    repository.serve([Model(echo.Echo("float32"), "one", "1")])
    limits = Limits(body_bytes=MB, bodies_bytes=2 * MB)
    with (
        echo.running_grpc(
            App(repository), repository, **({"limits": limits, "grace_seconds": 1.0} | options)
        ) as target,
        grpc.insecure_channel(target) as channel,
    ):
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


def test_calls_that_send_nothing_keep_nobody_out() -> None:
    turns = Turns()
    with serving(turns=turns) as channel:
        writers = [Writer(), Writer()]
        open_calls = [channel.stream_unary(INFER).future(writer.sent, timeout=60) for writer in writers]
        infer = channel.unary_unary(INFER)
        while sum(call.done() for call in open_calls) == 0:  # they hold both places that 2 MB are enough for
            assert code_of(infer.future(GOOD, timeout=20)) == "OK"
        (ended,) = (call for call in open_calls if call.done())
        assert (code_of(ended), "while others waited" in ended.details()) == ("RESOURCE_EXHAUSTED", True)
        (left,) = (writer for writer, call in zip(writers, open_calls, strict=True) if not call.done())
        left.send(GOOD)
        assert sorted(map(code_of, open_calls)) == ["OK", "RESOURCE_EXHAUSTED"]
        assert channel.unary_unary(LIVE)(b"", timeout=20)
        for writer in writers:
            writer.end()
    assert turns.tally.refused == {("bodies", 2): 1}


def test_so_many_streams_are_open_as_have_room() -> None:
    with serving() as channel:
        writers = [Writer() for _ in range(3)]
        streams = []
        for writer in writers[:2]:
            streams.append(channel.stream_stream(STREAM)(writer.sent, timeout=60))
            writer.send(GOOD)
            next(streams[-1])
        third = channel.stream_stream(STREAM)(writers[2].sent, timeout=20)
        writers[2].send(GOOD)
        assert (third.code().name, "too many streams are open" in third.details()) == ("RESOURCE_EXHAUSTED", True)
        writers[0].end()
        assert list(streams[0]) == []
        again = Writer()
        answers = channel.stream_stream(STREAM)(again.sent, timeout=20)
        again.send(GOOD)
        assert next(answers)
        for writer in (*writers, again):
            writer.end()


class Reader:
    """Messages that come when they are told to."""

    def __init__(self, places: int, patience: float = 60.0) -> None:
        self.readings, self.begun, self.come = Readings(places, patience), list[str](), dict[str, asyncio.Event]()

    def start(self, name: str, seconds: float = 60.0) -> asyncio.Task[str]:
        self.come[name] = asyncio.Event()

        async def read() -> str:
            self.begun.append(name)
            await self.come[name].wait()
            return name

        return asyncio.ensure_future(self.readings.read(name[0], read, seconds))


async def rounds() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_place_goes_to_the_client_that_has_the_fewest_and_to_each_in_its_turn() -> None:
    async def main() -> list[str]:
        reader = Reader(2)
        tasks = [reader.start(name) for name in ("a1", "a2", "a3", "a4", "b1", "c1", "b2")]
        await rounds()
        assert (reader.begun, reader.readings.under_way) == (["a1", "a2"], 2)
        for name in ("a1", "a2", "b1", "a3", "c1", "b2", "a4"):
            reader.come[name].set()
            await rounds()
        assert await asyncio.gather(*tasks) == ["a1", "a2", "a3", "a4", "b1", "c1", "b2"]
        assert reader.readings.under_way == 0
        return reader.begun

    assert asyncio.run(main()) == ["a1", "a2", "b1", "a3", "c1", "b2", "a4"]


def test_who_leaves_while_it_waits_takes_no_place() -> None:
    async def main() -> None:
        reader = Reader(1)
        tasks = [reader.start(name) for name in ("a1", "b1", "c1", "d1")]
        await rounds()
        tasks[1].cancel()
        await rounds()
        tasks[2].cancel()
        reader.come["a1"].set()  # the place is free in the same round
        await rounds()
        assert reader.begun == ["a1", "d1"]
        tasks[3].cancel()
        await rounds()
        last = reader.start("e1")
        await rounds()
        assert reader.begun == ["a1", "d1", "e1"]
        reader.come["e1"].set()
        assert await last == "e1"

    asyncio.run(main())


class Clock:
    """The clock of the running loop, which goes on when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self.now = loop.time()
        monkeypatch.setattr(loop, "time", lambda: self.now)

    async def pass_by(self, seconds: float, step: float = 0.01) -> None:
        """In steps in which the loop comes round."""
        for _ in range(round(seconds / step)):
            self.now += step
            await rounds()


def test_the_one_that_takes_longest_is_given_up_where_others_wait_and_only_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        clock, reader = Clock(monkeypatch), Reader(2, patience=1.0)
        tasks = [reader.start(name) for name in ("a1", "a2")]
        await clock.pass_by(5.0)
        assert not any(task.done() for task in tasks)  # nobody waits
        third = reader.start("b1")
        await rounds()
        with pytest.raises(ReadingEndedError, match="given up for others") as ended:
            await tasks[0]
        assert (ended.value.for_others, tasks[1].done()) == (True, False)
        fourth = reader.start("b2")
        await clock.pass_by(0.5)
        assert tasks[1].done()  # the next of those that took longer
        await clock.pass_by(0.4)
        assert not third.done()
        reader.come["b1"].set()
        reader.come["b2"].set()
        assert await asyncio.gather(third, fourth) == ["b1", "b2"]
        late = reader.start("c1", seconds=0.0)
        with pytest.raises(ReadingEndedError, match="no whole message in time"):
            await late
        with pytest.raises(ReadingEndedError):
            await tasks[1]

    asyncio.run(main())


def test_time_in_which_the_loop_is_busy_is_not_the_message_s(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        clock, reader = Clock(monkeypatch), Reader(1, patience=1.0)
        tasks = [reader.start(name) for name in ("a1", "b1")]
        await rounds()
        await clock.pass_by(1.5, step=1.5)  # as a call of a model does
        reader.come["a1"].set()
        reader.come["b1"].set()
        assert await asyncio.gather(*tasks) == ["a1", "b1"]

    asyncio.run(main())


def test_a_message_that_waits_for_a_place_has_its_time_too() -> None:
    async def main() -> None:
        reader = Reader(1)
        first = reader.start("a1")
        with pytest.raises(ReadingEndedError, match="no whole message in time"):
            await reader.start("b1", seconds=0.0)
        assert reader.begun == ["a1"]
        first.cancel()

    asyncio.run(main())
