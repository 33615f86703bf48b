"""Who is next: the requests that wait for the one thread that answers them, and those that had better not wait.

A request takes its place when it has been read whole. Its wait is estimated from what requests of its kind took before:
where it would be answered after its deadline, or after the longest wait that is allowed, it is refused at once, so the
queue never holds more than can be answered in time. Between two turns the event loop reads what has come meanwhile.

Classes go before one another: probes, then requests of high, normal and low priority, then those whose client has
closed its end of the connection and may be gone. Within a class the order is that of arrival. Probes are never refused;
where they take longer than the request before them took, one that is none has its turn between them.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from time import monotonic
from typing import final

from bedplate.http.arrivals import Arrivals
from bedplate.http.costs import Costs
from bedplate.http.per_client import PerClient

PROBE, HIGH, NORMAL, LOW, GONE = range(5)
"""The classes, first come first."""
PRIORITIES = {"high": HIGH, "normal": NORMAL, "low": LOW}
"""What a client may ask for."""
THERE, CLOSED, LOST = range(3)
"""How a client stands: it is there; it has closed its end, and may be gone; it is gone."""
_WORTH_A_LOOK = 0.001  # seconds: for requests that take longer it is asked before whether the client is still there
_MOST_DROPPED = 64  # in a row before the loop reads again
_STANDING_SECONDS = 0.1  # a queue that was empty later than that is a burst, which is soon over
# How much of the time that a request has may be planned to be waited where the queue stands: less after answers that
# came too late, and slowly more after others. Where the two keep the balance, about one answer in 500 is late.
_LEAST_SHARE, _FIRST_SHARE, _MOST_SHARE = 0.2, 0.8, 0.95
_LATE_FACTOR, _IN_TIME_STEP = 0.9, 0.00015
_CLOSE = 0.95  # of its time: an answer that leaves later than that is late where it arrives


@final
@dataclass(frozen=True, slots=True)
class Refused:
    """Why a request is not worked on.

    Attributes:
        reason: as the metrics name it: `deadline` (can't be met), `expired` (it has passed), `wait` (longer than
            allowed), `waiting` (too many wait), `client` (too many of this client), `gone`.
        seconds: after which asking again has a chance; 0: none.
    """

    reason: str
    seconds: float = 0.0


@final
@dataclass(slots=True, eq=False)
class Turn:
    """A request's place in the queue.

    Attributes:
        run: answers it, on the loop's thread, and calls `Turns.finish` then or later.
        refuse: called instead where it is given up while it waits.
        kind: requests of a kind take about as long.
        priority: its class.
        deadline: when the answer is of no more use, on the monotonic clock.
        client: whose requests are counted together; None: nobody's.
        look: says how the client stands; None: that is not known.
        entered: when it entered the queue, on the monotonic clock.
        begun: when its turn began.
        trial: it is run although its deadline is closer than what such requests take: to see whether they still do.
        expected: the seconds that the queue takes it to need.
        waits: whether it is in the queue.
    """

    run: Callable[[], None]
    refuse: Callable[[Refused], None]
    kind: Hashable
    priority: int = NORMAL
    deadline: float = math.inf
    client: str | None = None
    look: Callable[[], int] | None = None
    entered: float = 0.0
    begun: float = 0.0
    trial: bool = False
    expected: float = 0.0
    waits: bool = False


@final
@dataclass(slots=True)
class Tally:
    """What became of requests, for the metrics.

    Attributes:
        refused: requests that were not worked on, by reason and class.
        given_up: those among them that had waited for their turn, by reason.
        late: requests that were answered after their deadline.
        wait_seconds: what requests that got their turn have waited in all, seconds.
        turns: how many of them.
    """

    refused: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])
    given_up: dict[str, int] = field(default_factory=dict[str, int])
    late: int = 0
    wait_seconds: float = 0.0
    turns: int = 0

    def refuse(self, reason: str, priority: int) -> None:
        """Counts one."""
        self.refused[reason, priority] = self.refused.get((reason, priority), 0) + 1


@final
class Turns:
    """The queue of one event loop. All methods are called on the loop's thread.

    Args:
        most_seconds: the longest wait of a request, by estimate, whether or not it has a deadline.
        most: the most requests that wait; 0: as many as `most_seconds` allows.
        most_of_client: the most requests of one client that wait or are being answered; 0: no limit.

    Attributes:
        clients: whose requests are under way.
        holds: says whether the next turn had better wait for a round of the loop, because another protocol is taking
            in what has come; None: nothing but the loop reads.
        tally: what became of requests.
    """

    __slots__ = (
        "_arrivals", "_costs", "_empty", "_last_end", "_last_seconds", "_loop", "_most", "_most_seconds",
        "_probe_seconds", "_queues", "_scheduled", "_seconds", "_share", "_size", "clients", "holds", "tally",
    )  # fmt: skip

    def __init__(self, most_seconds: float = 1.0, most: int = 0, most_of_client: int = 0) -> None:
        self.tally = Tally()
        self.holds: Callable[[], bool] | None = None
        self._most_seconds, self._most = most_seconds, most
        self.clients = PerClient(most_of_client)
        self._costs = Costs()
        self._queues: list[deque[Turn]] = [deque() for _ in range(5)]
        self._seconds = [0.0] * 5  # what those of a class are expected to need
        self._size = 0
        self._scheduled = False
        self._share = _FIRST_SHARE
        self._empty = 0.0  # when the queue was last seen so
        self._last_end = 0.0
        self._last_seconds = 0.0  # what the last request took that is no probe
        self._probe_seconds = 0.0  # what probes have taken since
        self._arrivals = Arrivals()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self._size

    @property
    def expected_wait(self) -> float:
        """What a request of normal priority would wait now, seconds."""
        return max(0.0, sum(self._seconds[: NORMAL + 1]))

    def arrival(self) -> float:
        """When a request whose first bytes are read now may have come: while the last one was being answered."""
        return self._arrivals.earliest()

    def enter(self, turn: Turn) -> Refused | None:
        """Gives a request its place, or says why it had better not wait."""
        refused = self._refusal(turn)
        if refused is not None:
            self.tally.refuse(refused.reason, turn.priority)
            return refused
        self.clients.add(turn.client)
        turn.waits = True
        self._size += 1
        self._queues[turn.priority].append(turn)
        self._seconds[turn.priority] += turn.expected
        if turn.priority != PROBE:
            self._shed(turn.priority)
        if not self._scheduled:
            self._schedule()
        return None

    def leave(self, turn: Turn, reason: str = "gone") -> None:
        """Drops a request that waits: its client has gone."""
        if turn.waits:
            self._take_out(turn)
            self.clients.remove(turn.client)
            self.tally.refuse(reason, turn.priority)

    def demote(self, turn: Turn) -> None:
        """Puts a request behind all others: its client has closed its end, and may be gone."""
        if turn.waits and turn.priority != GONE:
            self._seconds[turn.priority] -= turn.expected
            self._queues[turn.priority].remove(turn)
            turn.priority = GONE
            self._queues[GONE].append(turn)
            self._seconds[GONE] += turn.expected

    def finish(self, turn: Turn, *, measured: bool = True) -> None:
        """A request that had its turn is answered.

        Args:
            turn: the request.
            measured: False where what it took says nothing about others, such as an error.
        """
        now = monotonic()
        if measured:
            self._costs.of(turn.kind).measure(now - turn.begun, now)
        if turn.deadline != math.inf:
            self._learn(turn, now)
        self.clients.remove(turn.client)

    def tidy(self) -> None:
        """Forgets what is of no more use; the server calls it every second."""
        self._costs.forget_unknown()

    def _refusal(self, turn: Turn) -> Refused | None:
        now = turn.entered = monotonic()
        cost = self._costs.of(turn.kind)
        turn.expected = cost.mean
        if turn.priority == PROBE:
            return None
        if turn.deadline <= now:
            return Refused("expired")
        if self._most and self._size - len(self._queues[PROBE]) >= self._most and not self._is_above(turn.priority):
            return Refused("waiting", 1.0)
        if self.clients.is_full(turn.client):
            return Refused("client", 1.0)
        wait = sum(self._seconds[: turn.priority + 1])
        if wait > self._most_seconds:
            return Refused("wait", wait)
        left = turn.deadline - now
        if not self._size:
            self._empty = now
        share = self._share if now - self._empty > _STANDING_SECONDS else 1.0
        if wait + cost.high > left or (wait > 0.0 and wait + cost.mean > left * share):
            turn.trial = wait <= 0.0 and cost.try_again(now)
            return None if turn.trial else Refused("deadline", wait)
        return None

    def _learn(self, turn: Turn, now: float) -> None:
        """Plans with less of the time that requests have where one was late, else with a little more."""
        if now > turn.deadline:
            self.tally.late += 1
        if now > turn.entered + _CLOSE * (turn.deadline - turn.entered):
            self._share = max(_LEAST_SHARE, self._share * _LATE_FACTOR)
        else:
            self._share = min(_MOST_SHARE, self._share + _IN_TIME_STEP)

    def _is_above(self, priority: int) -> bool:
        """Whether one waits that gives way to those of a priority."""
        return any(self._queues[lower] for lower in range(max(priority, HIGH) + 1, GONE + 1))

    def _shed(self, above: int) -> None:
        """Gives up the last of the lowest where more wait, or longer, than allowed."""
        for priority in range(GONE, max(above, HIGH), -1):
            queue = self._queues[priority]
            while queue:
                size, seconds = self._size - len(self._queues[PROBE]), sum(self._seconds)
                has_too_many = 0 < self._most < size
                if not has_too_many and seconds <= self._most_seconds:
                    break
                turn = queue[-1]
                self._take_out(turn)
                self._give_up(turn, Refused("waiting", 1.0) if has_too_many else Refused("wait", seconds))

    def _schedule(self) -> None:
        self._scheduled = True
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._next)

    def _next(self) -> None:
        """One request's turn; the loop reads before the next one's."""
        self._scheduled = False
        if self.holds is not None and self._size and self.holds():
            self._schedule()
            return
        for _ in range(_MOST_DROPPED):
            queues = [queue for queue in self._queues if queue]
            if not queues:
                return
            have_had_theirs = self._probe_seconds > 0.0 and self._probe_seconds >= self._last_seconds
            turn = queues[have_had_theirs and len(queues) > 1 and queues[0] is self._queues[PROBE]][0]
            if turn.expected >= _WORTH_A_LOOK and turn.priority != GONE and self._has_gone(turn):
                continue
            self._take_out(turn)
            now = monotonic()
            if now > turn.deadline or self._is_vain(turn, now):
                self._give_up(turn, Refused("expired" if now > turn.deadline else "deadline"))
                continue
            try:
                self._run(turn, now)
            finally:
                if self._size and not self._scheduled:
                    self._schedule()
            return
        if self._size and not self._scheduled:
            self._schedule()

    def _is_vain(self, turn: Turn, now: float) -> bool:
        """Whether the answer would come too late; where others wait, whether that is to be feared."""
        if turn.deadline == math.inf or turn.trial:
            return False
        return now + (self._costs.of(turn.kind).high if self._size else turn.expected) > turn.deadline

    def _has_gone(self, turn: Turn) -> bool:
        """Whether it is not the request's turn after all: nobody waits for the answer, or others do more surely."""
        stands = THERE if turn.look is None else turn.look()
        if stands == LOST:
            self.leave(turn)
        elif stands == CLOSED and self._size > 1:
            self.demote(turn)
        else:
            return False
        return True

    def _run(self, turn: Turn, now: float) -> None:
        """Runs a request. What is measured begins where the last one ended if it had to wait: reading counts too."""
        self.tally.turns += 1
        self.tally.wait_seconds += now - turn.entered
        turn.begun = max(self._last_end, turn.entered)
        turn.run()
        self._last_end = monotonic()
        took = self._last_end - turn.begun
        if turn.priority == PROBE:
            self._probe_seconds += took
        else:
            self._probe_seconds, self._last_seconds = 0.0, took
        if self._loop is not None:
            self._arrivals.worked(self._loop, now, self._last_end)

    def _take_out(self, turn: Turn) -> None:
        queue = self._queues[turn.priority]
        if queue[0] is turn:
            queue.popleft()
        elif queue[-1] is turn:
            queue.pop()
        else:
            queue.remove(turn)
        turn.waits = False
        self._size -= 1
        # Sums of what was added and taken away drift: an empty queue waits for nothing.
        self._seconds[turn.priority] = self._seconds[turn.priority] - turn.expected if queue else 0.0

    def _give_up(self, turn: Turn, refused: Refused) -> None:
        self.clients.remove(turn.client)
        if refused.reason in ("deadline", "expired"):
            self._share = max(_LEAST_SHARE, self._share * _LATE_FACTOR)
        self.tally.refuse(refused.reason, turn.priority)
        self.tally.given_up[refused.reason] = self.tally.given_up.get(refused.reason, 0) + 1
        turn.refuse(refused)
