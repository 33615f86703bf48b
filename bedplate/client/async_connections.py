"""The connections of a client of asyncio."""

from __future__ import annotations

import asyncio
import os
from typing import Any, cast, final

from bedplate.client import forks, target
from bedplate.client.target import Target
from bedplate.client.wire import Reading, Reply

_CLOSING_SECONDS = 1.0  # for all connections together


@final
class Connections:
    """The connections to one service, those that are idle among them.

    A process that is forked off has none of its parent's.

    Args:
        target: the service.

    Attributes:
        idle: those that a request may be sent over.
    """

    __slots__ = ("__weakref__", "_open", "_target", "idle")

    def __init__(self, target: Target) -> None:
        self._target = target
        self.idle: list[Connection] = []
        self._open: set[Connection] = set()
        forks.watch(self)

    def take(self) -> Connection | None:
        """An idle one that neither side has ended; None: there is none."""
        while self.idle:
            found = self.idle.pop()
            if found.is_open:
                return found
        return None

    async def opened(self, method: str) -> Connection:
        """A new one, for a request of this method.

        Raises:
            OSError: the service can't be reached.
        """
        place, loop = self._target.place, asyncio.get_running_loop()
        _, opened = await loop.create_connection(
            lambda: Connection(method, self._open), place.host, place.port, ssl=self._target.tls
        )
        return opened

    def keep(self, connection: Connection) -> bool:
        """Whether one is idle from now on: there are not too many."""
        keeps = len(self.idle) < target.MOST_IDLE
        if keeps:
            self.idle.append(connection)
        return keeps

    async def close_idle(self) -> None:
        """Ends those that are idle."""
        idle, self.idle = self.idle, []
        for connection in idle:
            connection.end()
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
        copies, self.idle = list(self._open), []
        self._open.clear()
        for connection in copies:
            connection.sever()


@final
class Connection(asyncio.Protocol):
    """A connection, for one request at a time; it ends when bytes come that no request asked for.

    Args:
        method: of the first request: what comes before that is sent counts for its answer.
        open: holds it as long as it is open.
    """

    def __init__(self, method: str, open: set[Connection]) -> None:
        self._open = open
        self._told, self._ended = asyncio.Event(), asyncio.Event()
        self.begin(method)

    def begin(self, method: str) -> None:
        """What comes from now on is the answer to a request of this method."""
        self._reading = Reading(method)
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
        if self._transport.get_write_buffer_size():
            self._transport.abort()  # or it would stay as long as the service doesn't read
        else:
            self._transport.close()

    def cut(self) -> None:
        """Ends it at once, whatever the service does."""
        self._transport.abort()

    def sever(self) -> None:
        """Ends it without its loop, which is of another process: nothing is sent, and nobody is told."""
        self._open.discard(self)
        number = self._socket.fileno()
        if number < 0:
            return
        # It is not closed: what the transport closes later could be a file that has got the number by then.
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(nothing, number, inheritable=False)
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
            self._outcome = error or self._reading.feed(part)
        except (EOFError, ValueError) as failed:
            self._outcome = failed
        if self._outcome is not None:
            self._told.set()
