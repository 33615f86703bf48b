"""The queue against a slow, obvious simulation of it, and under loads of minutes on a clock that the test turns."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bedplate.http import turns as module
from bedplate.http.door import answer_to
from bedplate.http.turns import GONE, HIGH, LOW, NORMAL, PROBE, Refused, Turn, Turns

TICK = 2.0**-12
"""Seconds, 0.24 ms: sums of ticks are exact."""
CLIENTS = ("a", "b", "c")


class Hand:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Hand:
    hand = Hand()
    monkeypatch.setattr(module, "monotonic", hand)
    return hand


@dataclass
class Asked:
    """A request of a test: what it takes, and what became of it."""

    number: int
    takes: float
    priority: int = NORMAL
    deadline: float = math.inf
    client: str = "a"
    became: str = ""

    @property
    def expected(self) -> float:
        """What the queue knows that it takes."""
        return self.takes


class Queue:
    """The real queue, whose requests take their time on the test's clock."""

    def __init__(self, clock: Hand, **limits: Any) -> None:
        self.clock, self.turns = clock, Turns(**limits)
        self.order: list[int] = []
        self.entered: dict[int, Turn] = {}

    def ask(self, asked: Asked, kind: Any = None) -> None:
        def run() -> None:
            self.clock.now += asked.takes
            asked.became = "late" if self.clock.now > asked.deadline else "answered"
            self.order.append(asked.number)
            self.turns.finish(turn)

        def refuse(refused: Refused) -> None:
            asked.became = refused.reason

        kind = asked.takes if kind is None else kind
        turn = Turn(run, refuse, kind, asked.priority, asked.deadline, asked.client)
        refused = self.turns.enter(turn)
        if refused is not None:
            refuse(refused)
        else:
            self.entered[asked.number] = turn

    async def empty(self) -> None:
        while self.turns.waiting:
            await asyncio.sleep(0)


@dataclass
class Simulated:
    """What the queue is to do, on a list: what requests take is known, and the queue was empty a moment ago."""

    most_seconds: float
    most: int
    most_of_client: int
    now: float = 100.0
    waiting: list[Asked] = field(default_factory=list[Asked])
    order: list[int] = field(default_factory=list[int])
    became: dict[int, str] = field(default_factory=dict[int, str])
    last: float = 3 * TICK
    probed: float = 0.0

    def asking(self) -> int:
        return sum(o.priority != PROBE for o in self.waiting)

    def before(self, priority: int) -> float:
        return sum(other.expected for other in self.waiting if other.priority <= priority)

    def why_not(self, asked: Asked) -> str:
        wait = self.before(asked.priority)
        if asked.priority == PROBE:
            return ""
        if asked.deadline <= self.now:
            return "expired"
        if self.most and self.asking() >= self.most and not self.below(asked):
            return "waiting"
        if self.most_of_client and sum(o.client == asked.client for o in self.waiting) >= self.most_of_client:
            return "client"
        if wait > self.most_seconds:
            return "wait"
        return "deadline" if self.now + wait + asked.takes > asked.deadline else ""

    def ask(self, asked: Asked) -> None:
        refused = self.why_not(asked)
        if refused:
            self.became[asked.number] = refused
            return
        self.waiting.append(asked)
        while asked.priority != PROBE and (lower := self.below(asked)):
            reason = "waiting" if self.most and self.asking() > self.most else "wait"
            if reason == "wait" and self.before(GONE) <= self.most_seconds:
                break
            last = max(lower, key=lambda o: (o.priority, self.waiting.index(o)))
            self.waiting.remove(last)
            self.became[last.number] = reason

    def below(self, asked: Asked) -> list[Asked]:
        """Those that give way to a request."""
        return [o for o in self.waiting if o.priority > max(asked.priority, HIGH)]

    def turn(self) -> None:
        """The next one's turn, and of those before it that can't be answered in time the end."""
        while self.waiting:
            others = [o for o in self.waiting if o.priority != PROBE]
            have_probed = others and self.probed and self.probed >= self.last
            first = min(others if have_probed else self.waiting, key=lambda o: o.priority)
            self.waiting.remove(first)
            if self.now + first.expected > first.deadline:
                self.became[first.number] = "expired" if self.now > first.deadline else "deadline"
                continue
            self.now += first.takes
            is_probe = first.priority == PROBE
            self.probed, self.last = (self.probed + first.takes, self.last) if is_probe else (0.0, first.takes)
            self.order.append(first.number)
            self.became[first.number] = "answered"
            return

    def gone(self, number: int, closed: bool) -> None:
        for other in [o for o in self.waiting if o.number == number]:
            self.waiting.remove(other)
            if closed:
                other.priority = GONE
                self.waiting.append(other)


REQUEST = st.tuples(
    st.sampled_from([1, 2, 3]),
    st.sampled_from([PROBE, HIGH, NORMAL, NORMAL, LOW, LOW]),
    st.sampled_from([math.inf, math.inf, 0, 1, 2, 4, 8, 16, 30]),
    st.sampled_from(CLIENTS),
)
EVENT = st.tuples(st.just("ask"), REQUEST) | st.tuples(st.sampled_from(["turn", "leave", "close"]), st.integers(0, 40))
LIMITS = st.tuples(st.sampled_from([4, 12, 200]), st.sampled_from([0, 3, 6]), st.sampled_from([0, 1, 3]))


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(events=st.lists(EVENT, max_size=40), limits=LIMITS)
def test_it_does_what_the_simulation_does(clock: Hand, events: list[Any], limits: tuple[int, int, int]) -> None:
    clock.now = 100.0
    real, expected = asyncio.run(played(clock, events, limits))
    assert real.order == expected.order
    assert real.turns.waiting == 0
    assert real.turns.expected_wait == 0.0
    assert real.turns.tally.late == 0
    assert not len(real.turns.clients)


async def played(clock: Hand, events: list[Any], limits: tuple[int, int, int]) -> tuple[Queue, Simulated]:
    real = Queue(clock, most_seconds=limits[0] * TICK, most=limits[1], most_of_client=limits[2])
    for ticks in (1, 2, 3):  # what they take is known
        real.ask(Asked(-ticks, ticks * TICK, client=f"known{ticks}"))
        await real.empty()
    real.order.clear()
    expected = Simulated(limits[0] * TICK, limits[1], limits[2], now=clock.now)
    asked: list[Asked] = []
    for kind, value in events:
        if kind == "ask":
            takes, priority, within, client = value
            within = math.inf if priority == PROBE else within
            given = len(asked), takes * TICK, priority, clock.now + within * TICK, client
            asked.append(Asked(*given))
            real.ask(asked[-1])
            expected.ask(Asked(*given))
        elif kind == "turn":
            await asyncio.sleep(0)
            expected.turn()
        elif value in real.entered:
            (real.turns.leave if kind == "leave" else real.turns.demote)(real.entered[value])
            expected.gone(value, kind == "close")
        assert real.turns.waiting == len(expected.waiting)
        assert real.turns.expected_wait == expected.before(NORMAL)
        assert {a.number: a.became for a in asked if a.became} == expected.became
        assert clock.now == expected.now
    while expected.waiting:
        expected.turn()
    await real.empty()
    assert {a.number: a.became for a in asked if a.became} == expected.became
    return real, expected


@given(st.sampled_from(["deadline", "wait", "waiting", "client", "expired"]), st.floats(0, 1e6))
def test_who_is_refused_is_told_when_to_come_again(reason: str, seconds: float) -> None:
    answer = answer_to(Refused(reason, seconds))
    assert answer.status == {"expired": 504, "waiting": 429, "client": 429}.get(reason, 503)
    after = dict(answer.headers).get(b"Retry-After")
    if reason == "expired":
        assert after is None  # the same request would be as late
    else:
        assert after is not None
        assert int(after) >= max(1.0, seconds)


@dataclass
class Load:
    """Requests that arrive whether or not others are answered, on the test's clock.

    Attributes:
        takes: the seconds of a request that arrives at a time.
        rate: requests a second.
        within: of each request, seconds.
    """

    takes: Callable[[float], float]
    rate: float
    within: float = 0.05
    seed: int = 0
    asked: list[tuple[float, Asked]] = field(default_factory=list[tuple[float, Asked]])
    longest: int = 0

    def run(self, clock: Hand, seconds: float, **limits: Any) -> Queue:
        return asyncio.run(self._run(Queue(clock, **limits), seconds))

    async def _run(self, queue: Queue, seconds: float) -> Queue:
        rng, clock = np.random.default_rng(self.seed), queue.clock
        begin, at = clock.now, clock.now
        while at < begin + seconds:
            at += float(rng.exponential(1 / self.rate))
            while queue.turns.waiting and clock.now < at:
                await asyncio.sleep(0)
            clock.now = max(clock.now, at)
            one = Asked(
                len(self.asked), self.takes(at - begin) * float(rng.uniform(0.8, 1.2)), deadline=at + self.within
            )
            self.asked.append((at - begin, one))
            queue.ask(one, "kind")
            self.longest = max(self.longest, queue.turns.waiting)
        await queue.empty()
        return queue

    def share(self, became: str, first: float = 0.0, last: float = math.inf) -> float:
        """Of the requests that arrived then and were not refused."""
        found = [one.became for at, one in self.asked if first <= at < last and one.became in ("answered", "late")]
        return found.count(became) / max(1, len(found))

    def goodput(self, first: float, last: float) -> float:
        """The share of the time that went into answers in time."""
        then = (one.takes for at, one in self.asked if first <= at < last and one.became == "answered")
        return sum(then) / (last - first)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("takes", [0.002, 0.004, 0.01])
def test_at_three_times_what_it_can_do_nearly_all_the_accepted_are_in_time(
    clock: Hand, takes: float, seed: int
) -> None:
    load = Load(lambda _: takes, rate=3 / takes, seed=seed)
    load.run(clock, 20.0)
    assert load.share("answered") >= 0.99
    assert load.goodput(0.0, 20.0) >= 0.85
    assert load.longest * 0.8 * takes < 0.05 + takes


def test_requests_without_deadlines_wait_no_longer_than_allowed(clock: Hand) -> None:
    load = Load(lambda _: 0.004, rate=3 / 0.004, within=math.inf)
    queue = load.run(clock, 5.0, most_seconds=0.2)
    assert load.longest * 0.004 < 0.25
    assert load.goodput(0.0, 5.0) >= 0.95
    assert {one.became for _, one in load.asked} == {"answered", "wait"}
    assert queue.turns.tally.wait_seconds / queue.turns.tally.turns < 0.25


def test_estimates_follow_what_requests_take_now(clock: Hand) -> None:
    """They take five times as long from one second to the next, and later as long as before."""
    load = Load(lambda at: 0.01 if 5.0 <= at < 12.0 else 0.002, rate=2 / 0.002)
    load.run(clock, 20.0)
    assert load.share("answered", 6.0, 12.0) >= 0.97
    assert load.goodput(6.0, 12.0) >= 0.7
    assert load.share("answered", 13.0) >= 0.97
    assert load.goodput(14.0, 20.0) >= 0.85


def test_a_kind_that_took_too_long_is_answered_again_when_it_is_quick(clock: Hand) -> None:
    load = Load(lambda at: 0.2 if at < 2.0 else 0.002, rate=100.0)
    load.run(clock, 60.0)
    assert load.goodput(0.0, 2.0) == 0.0
    late = [one for at, one in load.asked if one.became == "late"]
    assert len(late) < 40
    assert load.share("answered", 40.0) == 1.0
    assert load.goodput(40.0, 60.0) >= 0.9 * 100 * 0.002


def test_below_what_it_can_do_nobody_is_refused(clock: Hand) -> None:
    load = Load(lambda _: 0.004, rate=0.5 / 0.004, within=0.2)
    load.run(clock, 20.0)
    assert {one.became for _, one in load.asked} == {"answered"}


def test_the_high_get_their_answers_whatever_the_low_ask_for(clock: Hand) -> None:
    queue = Queue(clock, most_seconds=0.1)
    waits: list[float] = []

    async def main() -> None:
        for i in range(2000):
            queue.ask(Asked(2 * i, 0.004, LOW), "kind")
            if i % 4 == 0:
                high = Asked(2 * i + 1, 0.004, HIGH)
                begin = clock.now
                queue.ask(high, "kind")
                await asyncio.sleep(0)
                assert high.became == "answered"
                waits.append(clock.now - begin)
            await asyncio.sleep(0)
        await queue.empty()

    asyncio.run(main())
    assert max(waits) == pytest.approx(0.004)
    assert queue.turns.waiting == 0
