"""A limit of time on a call: what is late is left behind on a thread, what is late again and again is not begun."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import TypeVar, final

from bedplate.errors import DeadlineError
from bedplate.online.circuit import Circuit
from bedplate.online.guard import share_of
from bedplate.online.read_threads import ReadThreads

_FAILURES = 3
_PAUSE_SECONDS = 1.0
_THREADS = 2
_UNKNOWN_SECONDS = 1.0  # what a call without a limit of its own is taken to need before one was seen
_SHARE = 0.1  # of a new measurement in the mean
_AMPLE = 2.0  # times its mean: a call that had so much and was late has failed
_KNOWN_CALLS = 32  # before it is known how long calls take at most
_FADING = 0.995  # of the longest, with each call: one that was stopped by the machine counts for a few hundred
_ROOM = 4.0  # times the longest call: who has so much time left need not have it watched

_Result = TypeVar("_Result")
_scores_end: ContextVar[float] = ContextVar("scores_end", default=math.inf)


@contextmanager
def scored_until(deadline: float) -> Generator[None]:
    """Ends the calls of models that make features, as long as the context lasts, at a time of the monotonic clock.

    A call that is not over by then raises a `DeadlineError`.
    """
    token = _scores_end.set(deadline)
    try:
        yield
    finally:
        _scores_end.reset(token)


def scores_end() -> float:
    """The end of the calls of models that make features; see `scored_until`."""
    return _scores_end.get()


class SkippedError(DeadlineError):
    """Something was not begun, because a moment ago it was late several times in a row."""

    http_status = 503


@final
class TimeLimit:
    """Ends waiting for a call after a time. The call goes on, on a thread that is left behind.

    Handing a call to a thread costs about 0.1 ms. Where the limit is only the caller's, and calls so far took at most a
    quarter of the time that is left, a call is made on the caller's thread, and looked at when it is over: the first
    that is unlike all before it is late by what it takes, and the next ones are handed over.

    After three calls in a row that were late none is begun for a second: what is left behind takes the processor's time
    from others. A call that got less than its usual time counts as a part of one: callers that give little time must
    not keep the others from what is well.

    Args:
        seconds: how long a call may take; None: as long as its caller waits.
        place: for messages.

    >>> TimeLimit(None, "score").run(lambda: 3), TimeLimit(5.0, "score").run(lambda: 4)
    (3, 4)
    """

    __slots__ = ("_calls", "_circuit", "_longest", "_mean", "_place", "_threads", "seconds")

    def __init__(self, seconds: float | None, place: str) -> None:
        self.seconds, self._place = seconds, place
        self._circuit = Circuit(_FAILURES, _PAUSE_SECONDS)
        self._threads = ReadThreads(_THREADS, place)
        # Seconds of a call, where it has no limit of its own, and of the longest; calls are counted as far as matters.
        self._mean: float | None = None
        self._longest, self._calls = 0.0, 0

    def run(self, call: Callable[[], _Result], until: float = math.inf, *, is_patient: bool = False) -> _Result:
        """The result of a call. Where neither the limit nor the caller bounds it, it is made on the caller's thread.

        Args:
            call: what to do.
            until: of the monotonic clock, where that is sooner than `seconds` from now.
            is_patient: it may take its time, as while a service starts.

        Raises:
            DeadlineError: it took too long, or there was no time left.
            SkippedError: it was not begun.
        """
        if is_patient or (self.seconds is None and until == math.inf):
            return call()
        now = monotonic()
        until = until if self.seconds is None else min(until, now + self.seconds)
        if until <= now:
            raise DeadlineError("no time was left", where=self._place)
        if not self._circuit.lets_through(now):
            raise SkippedError("was late several times a moment ago", where=self._place)
        try:
            result = self._watched(call, now, until)
        except DeadlineError:
            ended = monotonic()
            self._circuit.failed(ended, share_of(until - now, self._usual))
            self._longest = max(self._longest, ended - now)
            raise
        self._circuit.succeeded()
        return result

    def _watched(self, call: Callable[[], _Result], now: float, until: float) -> _Result:
        """The result of a call that is over in time."""
        if self.seconds is not None:
            return self._threads.run(call, until)
        is_short = self._calls >= _KNOWN_CALLS and _ROOM * self._longest < until - now
        result = call() if is_short else self._threads.run(call, until)
        ended = monotonic()
        self._learn(ended - now)
        if ended > until:
            raise DeadlineError(f"took {ended - now:.3f} s, where {until - now:.3f} s were left", where=self._place)
        return result

    def _learn(self, took: float) -> None:
        self._mean = took if self._mean is None else self._mean + _SHARE * (took - self._mean)
        self._longest = max(took, _FADING * self._longest)
        self._calls = min(self._calls + 1, _KNOWN_CALLS)

    @property
    def _usual(self) -> float:
        """The seconds that are enough for a call, as far as is known."""
        if self.seconds is not None:
            return self.seconds
        return _UNKNOWN_SECONDS if self._mean is None else max(1e-4, _AMPLE * self._mean)
