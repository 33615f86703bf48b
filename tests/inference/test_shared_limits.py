"""Who has time gets an answer of a shared call, whatever time those have that share it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

import pytest
from test_batching import Rows, batcher_of, request

from bedplate.errors import DeadlineError
from bedplate.inference import batcher as batchers
from bedplate.inference import time_limit
from bedplate.inference.batcher import Batcher
from bedplate.inference.time_limit import SkippedError

FOUND = 20.0  # seconds: who waits longer has been forgotten
REQUESTS = [request(seed, 1, [3], 2, 2) for seed in range(3)]


class Clock:
    """The time, which passes only where a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = monotonic()
        for module in (batchers, time_limit):
            monkeypatch.setattr(module, "monotonic", lambda: self.now)


class Slow(Rows):
    """Takes some seconds of the clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.seconds = clock, 0.0

    def run(self, tensors: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        self.clock.now += self.seconds
        return super().run(tensors, outputs)


async def asked(batcher: Batcher, *deadlines: float) -> list[Any]:
    """What requests with these deadlines get, that come at once: True for scores, else the error."""
    requests = REQUESTS[: len(deadlines)]
    runs = [batcher.run(tensors, ["score"], until) for tensors, until in zip(requests, deadlines, strict=True)]
    async with asyncio.timeout(FOUND):
        found = await asyncio.gather(*runs, return_exceptions=True)
    alone = [Rows().run(tensors, ["score"])[0].tolist() for tensors in requests]
    return [
        got if isinstance(got, Exception) else got[0].tolist() == own for got, own in zip(found, alone, strict=True)
    ]


def test_who_has_no_deadline_is_answered_where_calls_with_one_are_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    runtime = Slow(clock)
    batcher = batcher_of(runtime)

    async def main() -> list[Any]:
        runtime.seconds = 60.0
        for _ in range(20):  # until calls were late often enough
            [got] = await asked(batcher, clock.now + 50)
            if isinstance(got, SkippedError):
                break
        else:
            pytest.fail("expected calls that are late again and again not to be begun")
        runtime.seconds = 0.0
        return await asked(batcher, math.inf, clock.now + 50, math.inf)

    first, hurried, last = asyncio.run(main())
    assert isinstance(hurried, SkippedError)
    assert (first, last) == (True, True)
    assert runtime.calls[-1] == 2


def test_who_has_time_is_answered_where_another_has_none_left_before_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    batcher = batcher_of(Slow(clock))

    async def main() -> list[Any]:
        answers = asyncio.create_task(asked(batcher, clock.now + 50, math.inf, clock.now + 500))
        while len(batcher._queue) < 3:
            await asyncio.sleep(0)
        clock.now += 60
        return await answers

    late, patient, other = asyncio.run(main())
    assert isinstance(late, DeadlineError)
    assert (patient, other) == (True, True)
