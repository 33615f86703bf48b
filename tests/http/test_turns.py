"""The queue of requests: order, estimated waits, deadlines, priorities, clients; and what becomes of the gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from bedplate.http import arrivals, turns
from bedplate.http.costs import UNKNOWN_SECONDS, Cost, Costs
from bedplate.http.turns import HIGH, LOW, NORMAL, PRIORITIES, PROBE, Refused, Turn, Turns


class Clock:
    """The time of a queue, which passes when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


clock = Clock()


@pytest.fixture(autouse=True)
def on_a_clock_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (turns, arrivals):
        monkeypatch.setattr(module, "monotonic", clock)


class Queue:
    """A queue whose requests take some time, and what became of them in order."""

    def __init__(self, **limits: float) -> None:
        self.turns = Turns(**limits)  # type: ignore[arg-type]
        self.done: list[str] = []
        self.refused: dict[str, str] = {}

    def ask(
        self, name: str, *, priority: int = NORMAL, within: float = 60.0, takes: float = 0.0, client: str = "c"
    ) -> Turn:
        def run() -> None:
            clock.pass_by(takes)
            self.done.append(name)
            self.turns.finish(turn)

        def refuse(refused: Refused) -> None:
            self.refused[name] = refused.reason

        turn = Turn(run, refuse, takes, priority, clock() + within, client)
        refused = self.turns.enter(turn)
        if refused is not None:
            refuse(refused)
        return turn

    def learn(self, takes: float, times: int = 1) -> None:
        for i in range(times):
            self.ask(f"learn{i}", takes=takes)


def played(*scenes: Callable[[], None]) -> None:
    """Each scene after all that the ones before left to do."""

    async def main() -> None:
        for scene in scenes:
            scene()
            for _ in range(100):
                await asyncio.sleep(0)

    asyncio.run(main())


def test_higher_priorities_go_first_and_each_in_the_order_of_arrival() -> None:
    queue = Queue()

    def arrive() -> None:
        for name, priority in (("low", LOW), ("a", NORMAL), ("b", NORMAL), ("probe", PROBE), ("high", HIGH)):
            queue.ask(name, priority=priority)

    played(arrive)
    assert queue.done == ["probe", "high", "a", "b", "low"]


def test_the_loop_reads_between_two_turns() -> None:
    """What comes while one is answered goes before those of lower priority that came earlier."""
    queue = Queue()

    async def main() -> None:
        queue.ask("first")
        queue.ask("low", priority=LOW)
        await asyncio.sleep(0)
        assert queue.done == ["first"]
        queue.ask("high", priority=HIGH)
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(main())
    assert queue.done == ["first", "high", "low"]


def test_a_request_that_would_be_answered_too_late_is_refused_at_once() -> None:
    queue = Queue()

    def burst() -> None:
        for i in range(20):
            queue.ask(f"{i}", takes=0.01, within=0.065)

    played(lambda: queue.learn(0.01, 3), burst)
    answered = [name for name in queue.done if name.isdigit()]
    assert answered == [str(i) for i in range(6)]  # the seventh would be answered after 0.07 s
    assert set(queue.refused.values()) == {"deadline"}
    assert queue.turns.tally.late == 0


def test_a_request_whose_deadline_passes_while_it_waits_is_not_worked_on() -> None:
    queue = Queue()

    def arrive() -> None:
        queue.ask("slow", takes=0.05)  # of a kind that nobody has seen
        queue.ask("late", within=0.03)
        queue.ask("patient")

    played(arrive)
    assert queue.done == ["slow", "patient"]
    assert queue.refused == {"late": "expired"}
    played(lambda: queue.ask("past", within=-0.1) and None)
    assert queue.refused["past"] == "expired"


def test_the_queue_does_not_grow_beyond_the_longest_wait() -> None:
    queue = Queue(most_seconds=0.1)
    played(lambda: [queue.ask(f"{i}") for i in range(1000)] and None)
    assert len(queue.done) == pytest.approx(0.1 / UNKNOWN_SECONDS, abs=1)
    assert queue.refused["999"] == "wait"
    assert queue.turns.waiting == 0


def test_the_low_are_shed_first_where_the_high_come() -> None:
    queue = Queue(most_seconds=0.05)

    def arrive() -> None:
        for i in range(10):
            queue.ask(f"low{i}", priority=LOW)
        for i in range(5):
            queue.ask(f"high{i}", priority=HIGH)

    played(arrive)
    assert queue.done[:5] == [f"high{i}" for i in range(5)]
    shed = [name for name in queue.refused if name.startswith("low")]
    assert "low9" in shed
    assert not [name for name in queue.refused if name.startswith("high")]


def test_the_last_of_the_lowest_gives_way_where_as_many_wait_as_may() -> None:
    queue = Queue(most=3)

    def arrive() -> None:
        for name, priority in (
            ("low0", LOW), ("low1", LOW), ("normal0", NORMAL), ("low2", LOW), ("high0", HIGH), ("normal1", NORMAL),
            ("normal2", NORMAL), ("high1", HIGH), ("high2", HIGH), ("high3", HIGH), ("probe", PROBE),
        ):  # fmt: skip
            queue.ask(name, priority=priority)
            assert queue.turns.waiting <= 3 + (name == "probe")

    played(arrive)
    assert queue.done == ["probe", "high0", "high1", "high2"]
    assert list(queue.refused) == ["low2", "low1", "low0", "normal2", "normal1", "normal0", "high3"]
    assert set(queue.refused.values()) == {"waiting"}
    assert not len(queue.turns.clients)


def test_a_turn_waits_for_rounds_of_the_loop_while_another_protocol_takes_in_what_has_come() -> None:
    queue, coming = Queue(), ["high", "normal", ""]

    def holds() -> bool:
        if coming and coming[0]:
            queue.ask(coming[0], priority=PRIORITIES[coming[0]])
        return bool(coming) and bool(coming.pop(0) or True)

    queue.turns.holds = holds
    played(lambda: queue.ask("low", priority=LOW) and None)
    assert queue.done == ["high", "normal", "low"]


def test_a_client_may_not_have_more_than_its_share() -> None:
    queue = Queue(most_of_client=2)

    def arrive() -> None:
        for i in range(3):
            queue.ask(f"a{i}", client="a")
        queue.ask("b", client="b")

    played(arrive, lambda: queue.ask("again", client="a") and None)
    assert queue.done == ["a0", "a1", "b", "again"]
    assert queue.refused == {"a2": "client"}


def test_those_that_leave_are_dropped_and_those_that_may_be_gone_go_last() -> None:
    queue = Queue()

    def arrive() -> None:
        gone, closed = queue.ask("gone"), queue.ask("closed")
        queue.ask("stays")
        queue.turns.demote(closed)
        queue.turns.leave(gone)

    played(arrive)
    assert queue.done == ["stays", "closed"]
    assert queue.turns.tally.refused == {("gone", NORMAL): 1}
    assert queue.turns.expected_wait == 0.0


def test_what_took_too_long_once_is_tried_again() -> None:
    """Else a wrong measurement would refuse everybody for ever."""
    queue = Queue()
    cost = queue.turns._costs.of(0.0)
    cost.measure(0.5, clock() - 10)
    played(lambda: [queue.ask(name, within=0.05) for name in ("first", "second")] and None)
    assert queue.done == ["first"]
    assert queue.refused == {"second": "deadline"}
    assert cost.mean < 0.5


def test_a_process_that_was_stopped_for_a_minute_is_not_thought_slow() -> None:
    cost = Cost()
    for i in range(50):
        cost.measure(0.003, float(i))
    cost.measure(60.0, 51.0)
    assert cost.high < 0.01
    for i in range(60):
        cost.measure(0.03, 52.0 + i)
    assert cost.mean > 0.02


def test_kinds_that_were_never_answered_are_forgotten() -> None:
    costs = Costs()
    costs.of("known").measure(1.0, 0.0)
    for i in range(10_000):
        costs.of(i)
    costs.forget_unknown()
    assert costs.of("known").mean == 1.0
    assert not costs.of(1).known


def test_what_is_answered_elsewhere_counts_until_it_is() -> None:
    queue = Queue(most_of_client=1)
    turn: list[Turn] = []

    async def main() -> None:
        turn.append(Turn(lambda: None, lambda _: None, "k", client="c"))
        assert queue.turns.enter(turn[0]) is None
        await asyncio.sleep(0)
        clock.pass_by(0.02)
        assert queue.turns.enter(Turn(lambda: None, lambda _: None, "k", client="c")) == Refused("client", 1.0)
        queue.turns.finish(turn[0])
        assert queue.turns.enter(Turn(lambda: None, lambda _: None, "k", client="c")) is None
        await asyncio.sleep(0)

    asyncio.run(main())
    assert queue.turns._costs.of("k").mean == pytest.approx(0.02)
