"""Taking in calls of gRPC between the turns of the event loop.

The library of gRPC accepts calls on threads of its own, and hands them to the event loop one after another: each takes
some rounds of the loop. Where a turn ran in every round, calls would wait in the library, where no priority, deadline
or limit counts. So from time to time the next turn waits until no more calls come, for at most about as long as the
turns before it took.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import final

_QUIET_SECONDS = 0.0003  # after a call the next one that waits in the library is there sooner than that
_MOST_SECONDS = 0.004  # a flood of calls must not keep others from their turn
_BETWEEN_SECONDS = 0.004  # of turns, until the next look
_LOOK_SECONDS = 0.002
_ACTIVE_SECONDS = 1.0  # without calls for so long, nothing is waited for


@final
class Intake:
    """Whether calls are coming. All methods are called on the loop's thread."""

    __slots__ = ("_begun", "_ended", "_last")

    def __init__(self) -> None:
        self._last = self._begun = 0.0
        self._ended = 0.0

    def came(self) -> None:
        """A call was accepted, or its message is there."""
        self._last = monotonic()

    def holds(self) -> bool:
        """Whether the next turn had better wait for another round of the loop."""
        now = monotonic()
        if not self._begun:
            if now - self._last > _ACTIVE_SECONDS or now - self._ended < _BETWEEN_SECONDS:
                return False
            self._begun = now
        if now - max(self._begun, self._last) < _QUIET_SECONDS and now - self._begun < _MOST_SECONDS:
            # Neither sleeps nor yields: on a busy machine either gives the core away for longer than is waited here.
            return True
        self._begun, self._ended = 0.0, now
        return False

    async def quiet(self, seconds: float, most: float) -> None:
        """Waits until no call has come for some seconds, at most so many."""
        end, self._last = monotonic() + most, monotonic()
        while (now := monotonic()) < end and now - self._last < seconds:
            await asyncio.sleep(_LOOK_SECONDS)  # the library's threads take calls in meanwhile
