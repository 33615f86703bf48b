"""A load generator in a process of its own: requests are sent when they are due, whether or not others were answered.

    python benchmarks/open_loop.py < plan.json > answers.json

The plan: `port`, `requests` (each in hexadecimal, as it goes over the wire), and `phases`, one after the other. A phase
with `rate` sends so many requests a second at random moments (a Poisson process with the phase's `seed`) or, with
`even`, at equal distances, each on the connection that has been free the longest: of a server's workers each then gets
its part. A phase with `clients` keeps so many requests under way instead: a closed loop, which measures capacity. Each
phase has `seconds`, and may have `headers` that are put into its requests.

Of each phase comes: the moment of each request in seconds from the phase's beginning, the milliseconds until its whole
answer was read, its status (0: no answer), how late the generator itself was at most, and the CPU seconds it took.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import uvloop


def is_whole(head: bytes, body: bytes) -> bool:
    """Whether a body is all there, by the headers in lower case."""
    length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return len(body) >= int(length) if length else body.endswith(b"0\r\n\r\n")


class Asking(asyncio.Protocol):
    """A connection with at most one request under way."""

    def __init__(self, idle: deque[Asking]) -> None:
        self.idle = idle
        self.transport: Any = None
        self.buffer = b""
        self.done: Callable[[int], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def ask(self, request: bytes, done: Callable[[int], None]) -> None:
        self.done, self.buffer = done, b""
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if found and is_whole(head.lower(), body):
            self._end(int(head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.idle:
            self.idle.remove(self)
        self._end(0)

    def _end(self, status: int) -> None:
        done, self.done = self.done, None
        if done is not None:
            if status:
                self.idle.append(self)
            done(status)


class Generator:
    """Runs the phases of a plan."""

    def __init__(self, port: int, requests: list[bytes]) -> None:
        self.port, self.requests = port, requests
        self.idle: deque[Asking] = deque()
        self.sent = 0

    async def free(self) -> Asking:
        if self.idle:
            return self.idle.popleft()
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(lambda: Asking(self.idle), "127.0.0.1", self.port)
        return made

    async def one(self, phase: Phase) -> None:
        """Sends one request and waits for its answer."""
        request = phase.requests[self.sent % len(phase.requests)]
        self.sent += 1
        answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        begin = time.perf_counter()
        try:
            connection = await self.free()
        except OSError:
            phase.note(begin, 0)
            return
        begin = time.perf_counter()
        connection.ask(request, lambda status: None if answered.done() else answered.set_result(status))
        try:
            status = await asyncio.wait_for(answered, 30)
        except TimeoutError:
            connection.transport.abort()
            status = 0
        phase.note(begin, status)

    async def open_loop(self, phase: Phase, distances: Iterator[float]) -> None:
        loop, under_way = asyncio.get_running_loop(), set[asyncio.Task[None]]()

        def send(due: float) -> None:
            phase.late = max(phase.late, time.perf_counter() - due)
            task = loop.create_task(self.one(phase))
            under_way.add(task)
            task.add_done_callback(under_way.discard)

        def pace() -> None:
            due = phase.begin
            while due < phase.end:
                time.sleep(max(0.0, due - time.perf_counter()))
                loop.call_soon_threadsafe(send, due)
                due += next(distances)

        # A timer of the loop counts milliseconds, and waiting in turns of the loop takes the servers' cores.
        await asyncio.to_thread(pace)
        await asyncio.sleep(0)
        if under_way:
            await asyncio.wait(under_way)

    async def closed_loop(self, phase: Phase, clients: int) -> None:
        async def client() -> None:
            while time.perf_counter() < phase.end:
                await self.one(phase)

        await asyncio.gather(*(client() for _ in range(clients)))


class Phase:
    """One phase and what was seen in it."""

    def __init__(self, plan: dict[str, Any], requests: list[bytes]) -> None:
        headers = "".join(f"{name}: {value}\r\n" for name, value in plan.get("headers", {}).items()).encode()
        self.requests = [r.replace(b"\r\n\r\n", b"\r\n" + headers + b"\r\n", 1) for r in requests]
        self.begin = time.perf_counter()
        self.end = self.begin + plan["seconds"]
        self.moments: list[float] = []
        self.milliseconds: list[float] = []
        self.statuses: list[int] = []
        self.late = 0.0
        self.cpu = time.process_time()

    def note(self, begin: float, status: int) -> None:
        self.moments.append(round(begin - self.begin, 5))
        self.milliseconds.append(round((time.perf_counter() - begin) * 1e3, 3))
        self.statuses.append(status)

    def seen(self) -> dict[str, Any]:
        return {
            "moments": self.moments,
            "milliseconds": self.milliseconds,
            "statuses": self.statuses,
            "late": self.late,
            "cpu": time.process_time() - self.cpu,
        }


def distances(phase: dict[str, Any], number: int) -> Iterator[float]:
    """The seconds from one request to the next."""
    rate, clock = phase["rate"], random.Random(phase.get("seed", number))
    while True:
        yield 1 / rate if phase.get("even") else clock.expovariate(rate)


async def run(plan: dict[str, Any]) -> list[dict[str, Any]]:
    requests = [bytes.fromhex(r) for r in plan["requests"]]
    generator, seen = Generator(plan["port"], requests), []
    for i, asked in enumerate(plan["phases"]):
        phase = Phase(asked, requests)
        if "rate" in asked:
            await generator.open_loop(phase, distances(asked, i))
        else:
            await generator.closed_loop(phase, asked["clients"])
        seen.append(phase.seen())
    return seen


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        json.dump(runner.run(run(json.load(sys.stdin))), sys.stdout)
