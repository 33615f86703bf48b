"""One request on its way through the steps: how long each took, and what of it is not as it should be."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from time import monotonic
from typing import TypeVar, final

from bedplate.errors import DeadlineError
from bedplate.online.circuit import Circuit
from bedplate.online.fallback import Degraded, Reading
from bedplate.online.guard import share_of
from bedplate.online.read_threads import ReadThreads

log = logging.getLogger("bedplate.serving")

STEP = "step."
"""What the names of steps begin with where an answer says what is degraded; views have no such names."""
READ_SHARE, STEPS_SHARE = 0.8, 0.95
"""Of the time that a client gives: what is read by then leaves time for the steps, and these for the answer itself."""
_FAILURES = 3
_PAUSE_SECONDS = 1.0
_THREADS = 2

_Result = TypeVar("_Result")


def part_of(deadline: float, share: float) -> float:
    """When a share of the time is over that is left to a deadline, both of the monotonic clock.

    >>> part_of(float("inf"), 0.8)
    inf
    """
    now = monotonic()
    return now + share * (deadline - now)


@final
class Progress:
    """What is known of one answer while it is made. For one thread.

    Args:
        trace: whether to measure the steps.
        reading: the reads of this answer, where they may fall back.
        is_strict: a step that fails raises: the service is starting.
        until: when the last step is to be over, on the monotonic clock.

    Attributes:
        steps: the milliseconds of each step; None: not measured.
        reading: as given.
        is_strict: as given.
        until: as given.
    """

    __slots__ = ("_flags", "_last", "is_strict", "reading", "steps", "until")

    def __init__(
        self, trace: bool, reading: Reading | None = None, *, is_strict: bool = False, until: float = math.inf
    ) -> None:
        self.steps: dict[str, float] | None = {} if trace else None
        self._last = time.perf_counter_ns() if trace else 0
        self._flags: dict[str, Degraded] = {}
        self.reading, self.is_strict, self.until = reading, is_strict, until

    def mark(self, step: str) -> None:
        """The end of a step."""
        if self.steps is not None:
            now = time.perf_counter_ns()
            self.steps[step] = (now - self._last) / 1e6
            self._last = now

    def left(self, budget: float | None) -> float | None:
        """The seconds of a step that has this budget: less where the client would not wait for them; None: no limit."""
        return budget if budget is None or self.until == math.inf else max(0.0, min(budget, self.until - monotonic()))

    def flag(self, step: str, why: str, instead: str, items: int = 0) -> None:
        """Says of a step that its result is not as it should be; several reasons are joined."""
        found = self._flags.setdefault(STEP + step, Degraded(why=why, instead=instead))
        found.items += items
        if found.why != why:
            found.why = f"{found.why}, {why}"

    def failed(self, step: str, error: Exception, instead: str, name: str = "") -> None:
        """A step, or a part of it of this name, was late, skipped or failed, and the answer does without.

        Raises:
            Exception: the error itself, where the service is starting.
        """
        if self.is_strict:
            raise error
        is_late = isinstance(error, DeadlineError)
        why = "skipped" if isinstance(error, SkippedError) else "late" if is_late else "failed"
        if why == "failed":
            log.error("the step '%s' failed: %s", f"{step}, {name}" if name else step, error, exc_info=error)
        self.flag(step, f"{name}: {why}" if name else why, instead)

    @property
    def degraded(self) -> dict[str, Degraded]:
        """All that is not as it should be, by view and by step."""
        found = {} if self.reading is None else self.reading.degraded
        return {**found, **self._flags} if self._flags else found

    @property
    def behind(self) -> dict[str, float]:
        """How far each view was behind the time asked for, seconds by view."""
        return {} if self.reading is None else self.reading.behind


class SkippedError(DeadlineError):
    """Something was not begun, because a moment ago it was late several times in a row."""


@final
class TimeLimit:
    """Ends waiting for a call after a time. The call goes on, on a thread that is left behind.

    After three calls in a row that were late none is begun for a second: what is left behind takes the processor's time
    from others.

    Args:
        seconds: how long a call may take; None: calls are made where they are, and may take their time.
        place: for messages.

    >>> TimeLimit(None, "score").run(lambda: 3), TimeLimit(5.0, "score").run(lambda: 4)
    (3, 4)
    """

    __slots__ = ("_circuit", "_place", "_threads", "seconds")

    def __init__(self, seconds: float | None, place: str) -> None:
        self.seconds, self._place = seconds, place
        self._circuit = Circuit(_FAILURES, _PAUSE_SECONDS)
        self._threads = ReadThreads(_THREADS, place)

    def run(self, call: Callable[[], _Result], until: float = math.inf, *, is_patient: bool = False) -> _Result:
        """The result of a call.

        Args:
            call: what to do.
            until: of the monotonic clock, where that is sooner than `seconds` from now.
            is_patient: it may take its time, as while a service starts.

        Raises:
            DeadlineError: it took too long.
            SkippedError: it was not begun.
        """
        if self.seconds is None or is_patient:
            return call()
        now = monotonic()
        if not self._circuit.lets_through(now):
            raise SkippedError("was late several times a moment ago", where=self._place)
        until = min(until, now + self.seconds)
        try:
            result = self._threads.run(call, until)
        except DeadlineError:
            self._circuit.failed(monotonic(), share_of(until - now, self.seconds))
            raise
        self._circuit.succeeded()
        return result
