"""When a request came that is read after the loop was at work, by both event loops."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest
import uvloop

from bedplate.http.arrivals import Arrivals


class Reading(asyncio.Protocol):
    """Notes when what it reads may have come."""

    def __init__(self, arrivals: Arrivals) -> None:
        self.arrivals = arrivals
        self.found: dict[str, float] = {}

    def data_received(self, data: bytes) -> None:
        self.found[data.decode()] = self.arrivals.earliest()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_comes_during_the_work_came_with_its_begin_and_what_comes_later_did_not(new_loop: Any) -> None:
    arrivals, begins = Arrivals(), list[float]()
    here, there = socket.socketpair()

    async def main() -> Reading:
        loop = asyncio.get_running_loop()
        there.setblocking(False)
        transport, read = await loop.create_connection(lambda: Reading(arrivals), sock=there)

        def work(name: str) -> None:
            begins.append(time.monotonic())
            here.sendall(name.encode())
            time.sleep(0.002)
            arrivals.worked(loop, begins[-1], time.monotonic())
            time.sleep(0.05)  # stopped: neither at work nor looking

        for name in ("one", "two"):
            loop.call_soon(work, name)
            for _ in range(10):
                await asyncio.sleep(0)
        here.sendall(b"idle")
        await asyncio.sleep(0.01)
        transport.close()
        await asyncio.sleep(0.01)
        return read

    with asyncio.Runner(loop_factory=new_loop) as runner:
        reading = runner.run(main())
    here.close()
    assert [reading.found["one"], reading.found["two"]] == begins
    assert reading.found["idle"] > begins[-1] + 0.05


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_work_without_a_pause_makes_nothing_older_than_it_may_be(new_loop: Any) -> None:
    """Each piece of work asks for the next, as turns of a queue do: no arrival is before the work before the last."""
    arrivals, begins, after = Arrivals(), list[float](), list[float]()

    async def main() -> None:
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def work() -> None:
            after.append(arrivals.earliest())
            begins.append(time.monotonic())
            time.sleep(0.002)
            arrivals.worked(loop, begins[-1], time.monotonic())
            if len(begins) < 10:
                loop.call_soon(work)
            else:
                done.set()

        loop.call_soon(work)
        await done.wait()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
    assert all(found >= begins[i - 1] for i, found in enumerate(after) if i)
