"""When what is read now may have come: while the loop was at work, and read nothing."""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import final

_WORTH_SECONDS = 0.001  # less is no matter to a deadline, and remembering it takes some microseconds


@final
class Arrivals:
    """Remembers what an event loop did since it last looked at its sockets. All on the loop's thread.

    The clock does not tell it: the process may be stopped between the work and the look. What the loop calls does.
    asyncio looks at the sockets, calls what was to be called, and reads last: what comes after the work has been read
    by its second round. uvloop reads as it looks, after its calls: by the next round.
    """

    __slots__ = ("_begins",)

    def __init__(self) -> None:
        self._begins: deque[float] = deque()

    def worked(self, loop: asyncio.AbstractEventLoop, begin: float, end: float) -> None:
        """The loop read nothing between these times, on the monotonic clock; it has just done so."""
        if end - begin >= _WORTH_SECONDS:
            self._begins.append(begin)
            loop.call_soon(self._looked if type(loop).__module__.startswith("uvloop") else self._look, loop)

    def earliest(self) -> float:
        """When a request whose first bytes are read now may have come."""
        return self._begins[0] if self._begins else monotonic()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_soon(self._looked, loop)

    def _looked(self, _: asyncio.AbstractEventLoop) -> None:
        self._begins.popleft()
