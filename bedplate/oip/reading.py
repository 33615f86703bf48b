"""Messages of gRPC that are being read: few at once, for nobody can say how long one is before it is there.

The library gives a message when it is whole, and until then holds what has come of it, up to the limit of one message.
What is not asked for stays with its client, but for the first 64 KB. So as many are asked for at once as may be held;
further calls wait. A client that sends nothing must not keep others waiting: the message that takes longest is given
up for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar, final

_Read = TypeVar("_Read")


class ReadingEndedError(Exception):
    """A message was not read.

    Attributes:
        for_others: it was given up, so that others are read; False: its time was over.
    """

    def __init__(self, *, for_others: bool) -> None:
        super().__init__("given up for others" if for_others else "no whole message in time")
        self.for_others = for_others


@final
@dataclass(slots=True, eq=False)
class _Reading:
    """One message that is being read.

    Attributes:
        client: whose it is.
        begun: since when, on the loop's clock.
        give_up: ends it.
        is_spared: the loop was busy with something else while it had its time.
    """

    client: str
    begun: float
    give_up: Callable[[], None]
    is_spared: bool = False


@final
class Readings:
    """Reads messages on one event loop, as many at once as there are places.

    A place that becomes free goes to the client that has the fewest; of those that have as few, to each in its turn.

    Args:
        places: how many messages are read at once.
        patience: seconds; a message that takes longer is given up when others wait for a place.
    """

    __slots__ = ("_free", "_patience", "_timer", "_under_way", "_waiting")

    def __init__(self, places: int, patience: float) -> None:
        self._free, self._patience = places, patience
        self._under_way: dict[_Reading, None] = {}  # the first has begun first
        self._waiting: dict[str, dict[asyncio.Future[None], None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def under_way(self) -> int:
        """How many messages are being read."""
        return len(self._under_way)

    async def read(self, client: str, read: Callable[[], Awaitable[_Read]], seconds: float) -> _Read:
        """What `read` gives, once there is a place for it.

        Args:
            client: whose message it is.
            read: reads it; it can be cancelled.
            seconds: that it may take, with the wait for a place.

        Raises:
            ReadingEndedError: it took longer, or was given up.
        """
        loop, task, ends = asyncio.get_running_loop(), asyncio.current_task(), list[bool]()

        def end(*, for_others: bool) -> None:
            if task is not None and not ends:
                ends.append(for_others)
                task.cancel()

        async def placed() -> _Read:
            reading = _Reading(client, loop.time(), lambda: end(for_others=True))
            self._under_way[reading] = None
            self._watch()
            try:
                return await read()
            finally:
                del self._under_way[reading]
                self._leave()

        timer = loop.call_later(seconds, lambda: end(for_others=False))
        try:
            await self._place(client)
            return await placed()
        except asyncio.CancelledError:
            if not ends:
                raise
            if task is not None:
                task.uncancel()
            raise ReadingEndedError(for_others=ends[0]) from None
        finally:
            timer.cancel()

    async def _place(self, client: str) -> None:
        """Takes a place, when there is one."""
        if self._free:
            self._free -= 1
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, {})[place] = None
        self._watch()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # it has one since
                self._leave()
            else:
                self._forget(client, place)
            raise

    def _forget(self, client: str, place: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(client, {})
        waiting.pop(place, None)
        if not waiting:
            self._waiting.pop(client, None)

    def _leave(self) -> None:
        """Gives a place to one that waits, or leaves it free."""
        counts = dict.fromkeys(self._waiting, 0)
        for reading in self._under_way:
            if reading.client in counts:
                counts[reading.client] += 1
        while self._waiting:
            client = min(self._waiting, key=counts.__getitem__)
            waiting = self._waiting.pop(client)
            place = next(iter(waiting))
            del waiting[place]
            if waiting:
                self._waiting[client] = waiting  # behind the others
            if not place.done():  # its client has gone meanwhile
                place.set_result(None)
                return
        self._free += 1

    def _watch(self) -> None:
        """Looks, while somebody waits, whether the first of those under way has taken too long."""
        if self._timer is not None or not self._waiting or not self._under_way:
            return
        loop = asyncio.get_running_loop()
        first = next(iter(self._under_way))
        due = max(loop.time(), first.begun + self._patience)
        self._timer = loop.call_at(due, self._look, first, due)

    def _look(self, first: _Reading, due: float) -> None:
        self._timer = None
        late = asyncio.get_running_loop().time() - due
        if not self._waiting or first not in self._under_way:
            self._watch()
        elif late > self._patience / 10 and not first.is_spared:  # its message may be there, and nobody has looked
            first.is_spared, first.begun = True, asyncio.get_running_loop().time()
            self._watch()
        else:
            first.give_up()
