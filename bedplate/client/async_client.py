"""A client of a service for programs of asyncio; as `sync_client.Client`, with calls that are awaited."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Self, TypeVar, cast, final

import polars as pl

from bedplate.client import target
from bedplate.client.calls import (
    answer_of,
    infer_call,
    json_call,
    json_of,
    table_call,
    table_of,
    tensors_of,
)
from bedplate.client.errors import LateError, UnreachableError
from bedplate.client.target import Target, Tries
from bedplate.client.values import Keys, keys_of
from bedplate.client.wire import Call, Reading, Reply
from bedplate.serving.answers import Answer, Key, Similar, Vectors
from bedplate.types import Array

_Answer = TypeVar("_Answer")


_CLOSING_SECONDS = 1.0  # for all connections together


@final
class AsyncClient:
    """Talks to one service, from one event loop; calls may run at once, each on a connection of its own.

    Args:
        url: as of `Client`, with which it shares the meaning of every argument.
        timeout: seconds for each call, tries included.
        token: as of `Client`.
        retries: as of `Client`.
        tls: as of `Client`.

    Raises:
        ConfigError: an argument has another form.
    """

    def __init__(
        self,
        url: str,
        timeout: float = 30.0,
        *,
        token: str | None = None,
        retries: int = 1,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._target = Target.of(url, timeout, token, retries, tls)
        self._idle: list[_Connection] = []

    @property
    def url(self) -> str:
        """As given, without a slash at the end."""
        return self._target.url

    async def recommend(self, **request: Any) -> Answer:
        """The best items; see `Client.recommend`."""
        return await self._ask("/recommend", request, Answer)

    async def rank(self, *, candidates: Keys, **request: Any) -> Answer:
        """The scores of candidates; see `Client.rank`."""
        return await self._ask("/rank", {**request, "candidates": keys_of(candidates, "candidates")}, Answer)

    async def embed(self, **request: Any) -> Vectors:
        """Vectors; see `Client.embed`."""
        return await self._ask("/embed", request, Vectors)

    async def similar(self, item: Key, **request: Any) -> Similar:
        """The items nearest to one; see `Client.similar`."""
        return await self._ask("/similar", {**request, "item": item}, Similar)

    async def table(self, name: str, **request: Any) -> pl.DataFrame:
        """An answer as a table; see `Client.table`."""
        return answer_of(await self.call(table_call(name, request)), table_of)

    async def infer(
        self, model: str, tensors: Mapping[str, Array], *, version: str | None = None, outputs: Sequence[str] = ()
    ) -> dict[str, Array]:
        """The outputs of a model; see `Client.infer`."""
        return answer_of(await self.call(infer_call(model, tensors, version, outputs)), tensors_of)

    async def ready(self) -> bool:
        """Whether the service answers requests now; False also where nobody answers."""
        try:
            return (await self._in_time(Call("GET", "/v2/health/ready"), Tries(self._target).until)).status == 200
        except (UnreachableError, LateError):
            return False

    async def describe(self) -> dict[str, Any]:
        """The service; see `Client.describe`."""
        return answer_of(await self.call(Call("GET", "/")), json_of(dict[str, Any]))

    async def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[bytes, Mapping[str, str]]:
        """The body and the headers of an answer that is no error; see `Client.request`."""
        reply = await self.call(Call(method, path, body, headers or {}))
        return reply.body, reply.headers

    async def call(self, call: Call) -> Reply:
        """An answer that is no error.

        Raises:
            RequestError: the service refuses the request.
            StoreError: it can't answer, or can't be reached.
        """
        tries = Tries(self._target)
        while True:
            reply = await self._in_time(call, tries.until)
            wait = tries.wait_after(reply)
            if wait is None:
                return reply
            await asyncio.sleep(wait)

    async def close(self) -> None:
        """Closes the connections; the next call opens one again."""
        idle, self._idle = self._idle, []
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

    async def __aenter__(self) -> Self:
        """The client, closed when the context ends."""
        return self

    async def __aexit__(self, *details: object) -> None:
        """Closes the connections."""
        await self.close()

    async def _ask(self, path: str, request: Mapping[str, Any], kind: type[_Answer]) -> _Answer:
        return answer_of(await self.call(json_call(path, request)), json_of(kind))

    async def _in_time(self, call: Call, until: float) -> Reply:
        with self._target.failures():
            async with asyncio.timeout(until - monotonic()):
                return await self._once(call, until)

    async def _once(self, call: Call, until: float) -> Reply:
        """One answer, on a connection that was kept or a new one."""
        while (kept := self._kept()) is not None:
            try:
                kept.begin(call.method)
                return await self._exchange(kept, call, until)
            except (OSError, EOFError):
                continue  # the service may have closed it in the meantime: another one, or a new one
        place = self._target.place
        loop = asyncio.get_running_loop()
        _, opened = await loop.create_connection(
            lambda: _Connection(call.method), place.host, place.port, ssl=self._target.tls
        )
        return await self._exchange(opened, call, until)

    def _kept(self) -> _Connection | None:
        while self._idle:
            found = self._idle.pop()
            if found.is_open:
                return found
        return None

    async def _exchange(self, connection: _Connection, call: Call, until: float) -> Reply:
        keeps = False
        try:
            reply = await connection.answer(self._target.encoded(call, until))
            keeps = connection.keeps and len(self._idle) < target.MOST_IDLE
            if keeps:
                self._idle.append(connection)
            return reply
        finally:
            if not keeps:  # what is still to come would be taken for the next answer
                connection.end()


@final
class _Connection(asyncio.Protocol):
    """A connection, for one request at a time; it ends when bytes come that no request asked for.

    Args:
        method: of the first request: what comes before that is sent counts for its answer.
    """

    def __init__(self, method: str) -> None:
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

    async def ended(self) -> None:
        """Waits until it has ended."""
        await self._ended.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """The next bytes are there."""
        if self._outcome is not None:
            self._transport.abort()
            return
        self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
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
