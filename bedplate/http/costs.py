"""How long requests of a kind take, from those that were answered: what the wait for a turn is estimated from."""

from __future__ import annotations

from collections.abc import Hashable
from typing import final

UNKNOWN_SECONDS = 0.005
"""What a request of a kind that was never answered is taken to need."""
_MOST_KINDS = 4096
_SHARE = 0.1  # of a new measurement in the means
_OUTLIER = 5.0  # a measurement counts as at most so many times what was expected: a process may be stopped meanwhile
_STALE_SECONDS = 1.0


@final
class Cost:
    """The seconds of one kind of request: exponential means of what was measured, and of how far off that was.

    Attributes:
        mean: seconds.
        spread: the mean absolute deviation, seconds.
        known: whether anything was measured.
        seen: when it was measured last, or one was let through to measure it; seconds of the monotonic clock.
    """

    __slots__ = ("known", "mean", "seen", "spread")

    def __init__(self) -> None:
        self.mean, self.spread, self.known, self.seen = UNKNOWN_SECONDS, 0.0, False, 0.0

    @property
    def high(self) -> float:
        """What nearly all of them stay below, seconds."""
        return self.mean + 2.0 * self.spread

    def measure(self, seconds: float, now: float) -> None:
        """Takes in one measurement.

        >>> cost = Cost()
        >>> cost.measure(0.002, 0.0); cost.mean
        0.002
        >>> cost.measure(60.0, 1.0); round(cost.mean, 5)  # the process was stopped for a minute
        0.0028
        """
        self.seen = now
        if not self.known:
            self.known, self.mean = True, seconds
            return
        off = min(seconds, _OUTLIER * self.mean) - self.mean
        self.mean += _SHARE * off
        self.spread += _SHARE * (abs(off) - self.spread)

    def try_again(self, now: float) -> bool:
        """Whether it was not measured for a second, so that what is known may be wrong; then that counts as seen."""
        if now - self.seen < _STALE_SECONDS:
            return False
        self.seen = now
        return True


@final
class Costs:
    """The cost of each kind of request. Kinds beyond 4,096 share one."""

    __slots__ = ("_known", "_rest")

    def __init__(self) -> None:
        self._known: dict[Hashable, Cost] = {}
        self._rest = Cost()

    def of(self, kind: Hashable) -> Cost:
        """What is known of a kind; it need not have been measured."""
        found = self._known.get(kind)
        if found is None:
            if len(self._known) >= _MOST_KINDS:
                return self._rest
            found = self._known[kind] = Cost()
        return found

    def forget_unknown(self) -> None:
        """Drops kinds that were never measured: what does not exist and was asked for."""
        self._known = {kind: cost for kind, cost in self._known.items() if cost.known}
