"""One request on its way through the steps: its time, how long each took, and what of it is not as it should be."""

from __future__ import annotations

import logging
import math
import time
from time import monotonic
from typing import final

from bedplate.errors import DataError, DeadlineError
from bedplate.inference.time_limit import SkippedError
from bedplate.online.fallback import Degraded, Reading

log = logging.getLogger("bedplate.serving")

STEP = "step."
"""What the names of steps begin with where an answer says what is degraded; views have no such names."""
READ_SHARE, STEPS_SHARE = 0.8, 0.95
"""Of the time that a client gives: what is read by then leaves time for the steps, and these for the answer itself."""


def part_of(deadline: float, share: float) -> float:
    """When a share of the time is over that is left to a deadline, both of the monotonic clock.

    >>> part_of(float("inf"), 0.8)
    inf
    """
    now = monotonic()
    return now + share * (deadline - now)


@final
class NotFiniteError(DataError):
    """What a model gives for one request holds NaN or infinity."""


@final
class Progress:
    """What is known of one answer while it is made. For one thread.

    Args:
        trace: whether to measure the steps.
        reading: the reads of this answer, where they may fall back.
        is_strict: a step that fails raises: the service is starting.
        deadline: when the answer is of no more use to the client, on the monotonic clock.

    Attributes:
        steps: the milliseconds of each step; None: not measured.
        reading: as given.
        is_strict: as given.
        deadline: as given.
        until: when the last step is to be over, so that the answer is there by the deadline.
    """

    __slots__ = ("_flags", "_last", "deadline", "is_strict", "reading", "steps", "until")

    def __init__(
        self, trace: bool, reading: Reading | None = None, *, is_strict: bool = False, deadline: float = math.inf
    ) -> None:
        self.steps: dict[str, float] | None = {} if trace else None
        self._last = time.perf_counter_ns() if trace else 0
        self._flags: dict[str, Degraded] = {}
        self.reading, self.is_strict = reading, is_strict
        self.deadline, self.until = deadline, part_of(deadline, STEPS_SHARE)

    def mark(self, step: str) -> None:
        """The end of a step.

        Raises:
            DeadlineError: so is the time of the client: what the other steps would make is of no use to it.
        """
        self.check()
        if self.steps is not None:
            now = time.perf_counter_ns()
            self.steps[step] = (now - self._last) / 1e6
            self._last = now

    def check(self) -> None:
        """Checks that the client still waits.

        Raises:
            DeadlineError: its deadline has passed.
        """
        if self.deadline != math.inf and monotonic() >= self.deadline:
            raise DeadlineError("the deadline passed before there was an answer")

    def left(self, budget: float | None) -> float | None:
        """The seconds of a step that has this budget: less where the client would not wait for them; None: no limit."""
        if self.until == math.inf:
            return budget
        left = max(0.0, self.until - monotonic())
        return left if budget is None else min(budget, left)

    def flag(self, step: str, why: str, instead: str, items: int = 0) -> None:
        """Says of a step that its result is not as it should be; several reasons are joined."""
        found = self._flags.setdefault(STEP + step, Degraded(why=why, instead=instead))
        found.items += items
        if found.why != why:
            found.why = f"{found.why}, {why}"

    def failed(self, step: str, error: Exception, instead: str, name: str = "") -> None:
        """A step, or a part of it of this name, was late, skipped, failed or not finite: the answer does without.

        Raises:
            Exception: the error itself, where the service is starting.
        """
        if self.is_strict:
            raise error
        is_late = isinstance(error, DeadlineError)
        why = "skipped" if isinstance(error, SkippedError) else "late" if is_late else "failed"
        why = "not finite" if isinstance(error, NotFiniteError) else why
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
