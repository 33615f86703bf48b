"""The connections of a client of asyncio."""

from __future__ import annotations

import asyncio
import os
from typing import Any, cast, final

from bedplate.client import forks, target
from bedplate.client.target import Target
from bedplate.client.wire import Reading, Reply
from bedplate.errors import reason

_CLOSING_SECONDS = 1.0  # for all connections together


@final
class Connections:
    """The connections to one service, of each event loop its own: a loop that is closed leaves none behind.

    A process that is forked off has none of its parent's.

    Args:
        target: the service.
    """

    __slots__ = ("__weakref__", "_by_loop", "_target")

    def __init__(self, target: Target) -> None:
        self._target = target
        self._by_loop: dict[asyncio.AbstractEventLoop, _OfLoop] = {}  # threads change it by single steps
        forks.watch(self)

    @property
    def idle(self) -> list[Connection]:
        """Those of the running loop that a request may be sent over."""
        return self._here().idle

    def take(self) -> Connection | None:
        """An idle one that neither side has ended; None: there is none."""
        idle = self.idle
        while idle:
            found = idle.pop()
            if found.is_open:
                return found
        return None

    async def opened(self, method: str) -> Connection:
        """A new one, for a request of this method.

        Raises:
            OSError: the service can't be reached.
        """
        place, loop, here = self._target.place, asyncio.get_running_loop(), self._here().open
        most_bytes = self._target.most_answer_bytes
        _, opened = await loop.create_connection(
            lambda: Connection(method, most_bytes, here), place.host, place.port, ssl=self._target.tls
        )
        return opened

    def keep(self, connection: Connection) -> bool:
        """Whether one is idle from now on: there are not too many."""
        idle = self.idle
        keeps = len(idle) < target.MOST_IDLE
        if keeps:
            idle.append(connection)
        return keeps

    async def close_idle(self) -> None:
        """Ends those that are idle; other loops end theirs when they come to it."""
        self._leave_closed()
        here = asyncio.get_running_loop()
        for loop, there in list(self._by_loop.items()):
            if loop is not here:
                try:
                    loop.call_soon_threadsafe(there.end_idle)
                except RuntimeError:  # it was closed just now
                    there.sever()
        idle = self._here().end_idle()
        ended = [asyncio.ensure_future(connection.ended()) for connection in idle]
        try:
            if ended:  # over TLS each waits until the service says that it has ended, too
                await asyncio.wait(ended, timeout=_CLOSING_SECONDS)
        finally:
            for connection in idle:
                connection.cut()
        await asyncio.gather(*ended)

    def after_fork(self) -> None:
        """See `forks.Forked`."""
        copies, self._by_loop = self._by_loop, {}
        for of_parent in copies.values():
            of_parent.sever()

    def _here(self) -> _OfLoop:
        loop = asyncio.get_running_loop()
        found = self._by_loop.get(loop)
        if found is None:
            self._leave_closed()
            found = self._by_loop[loop] = _OfLoop()
        return found

    def _leave_closed(self) -> None:
        for loop in list(self._by_loop):
            left = self._by_loop.pop(loop, None) if loop.is_closed() else None
            if left is not None:
                left.sever()


@final
class _OfLoop:
    """The connections of one event loop."""

    __slots__ = ("idle", "open")

    def __init__(self) -> None:
        self.idle: list[Connection] = []
        self.open: set[Connection] = set()

    def end_idle(self) -> list[Connection]:
        """Ends those that are idle, in their loop."""
        idle, self.idle = self.idle, []
        for connection in idle:
            connection.end()
        return idle

    def sever(self) -> None:
        """Ends all, without their loop."""
        for connection in list(self.open):
            connection.sever()


@final
class Connection(asyncio.Protocol):
    """A connection, for one request at a time; it ends when bytes come that no request asked for.

    Args:
        method: of the first request: what comes before that is sent counts for its answer.
        most_bytes: of an answer.
        open: holds it as long as it is open.
    """

    def __init__(self, method: str, most_bytes: int, open: set[Connection]) -> None:
        self._most_bytes = most_bytes
        self._open, self._loop = open, asyncio.get_running_loop()
        self._told, self._ended = asyncio.Event(), asyncio.Event()
        self.begin(method)

    def begin(self, method: str) -> None:
        """What comes from now on is the answer to a request of this method."""
        self._reading = Reading(method, self._most_bytes)
        self._outcome: Reply | Exception | None = None
        self._told.clear()

    @property
    def is_open(self) -> bool:
        """Whether neither side has ended it."""
        return not self._transport.is_closing()

    @property
    def keeps(self) -> bool:
        """Whether it may be used again after an answer: the service has read all of the request, too."""
        return self.is_open and self._reading.keeps and not self._transport.get_write_buffer_size()

    async def answer(self, content: bytes) -> Reply:
        """Sends the request that was begun, and waits for its answer.

        Raises:
            OSError: the connection broke off.
            EOFError: it ended before the answer.
            ValueError: what came is no answer.
        """
        if self._outcome is None:
            self._transport.write(content)
            await self._told.wait()
        if isinstance(self._outcome, Reply):
            return self._outcome
        raise self._outcome or EOFError

    def end(self) -> None:
        """Ends it; what is not sent by now is not sent."""
        if self._loop.is_closed():  # as where a call is let go that was never awaited to its end
            self.sever()
        elif self._transport.get_write_buffer_size():
            self._transport.abort()  # or it would stay as long as the service doesn't read
        else:
            self._transport.close()

    def cut(self) -> None:
        """Ends it at once, whatever the service does."""
        self._transport.abort()

    def sever(self) -> None:
        """Ends it without its loop, which is closed or of another process: nothing is sent, and nobody is told."""
        self._open.discard(self)
        if self._socket.fileno() < 0:
            return
        # It is not closed: what the transport closes later could be a file that has got the number by then.
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            number = self._socket.fileno()
            if number >= 0:
                os.dup2(nothing, number, inheritable=False)
        finally:
            os.close(nothing)

    async def ended(self) -> None:
        """Waits until it has ended."""
        await self._ended.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self._transport = cast("asyncio.Transport", transport)
        self._socket: Any = transport.get_extra_info("socket")
        self._open.add(self)

    def data_received(self, data: bytes) -> None:
        """The next bytes are there."""
        if self._outcome is not None:
            self._transport.abort()
            return
        self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._open.discard(self)
        if self._outcome is None:
            self._take(b"", exc)
        self._ended.set()

    def _take(self, part: bytes, error: Exception | None = None) -> None:
        try:
            self._outcome = self._reading.feed(part) if error is None else self._lost(error)
        except (EOFError, ValueError) as failed:
            self._outcome = failed
        if self._outcome is not None:
            self._told.set()

    def _lost(self, error: Exception) -> Exception:
        """What is said where the connection breaks off."""
        if not self._reading.came:
            return error
        cut = self._reading.cut(reason(error))
        cut.__cause__ = error
        return cut
