"""A client of a service for programs of asyncio; as `sync_client.Client`, with calls that are awaited."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Self, TypeVar, final

import polars as pl

from bedplate.client.async_connections import Connection, Connections
from bedplate.client.calls import (
    answer_of,
    infer_call,
    json_call,
    json_of,
    scores_of,
    table_call,
    table_of,
    tensors_of,
)
from bedplate.client.errors import FailedError, LateError, UnreachableError
from bedplate.client.target import Target, Tries
from bedplate.client.values import Keys, keys_of
from bedplate.client.wire import ANSWER_BYTES, Call, Reply
from bedplate.serving.answers import Answer, Key, Similar, Vectors
from bedplate.types import Array

_Answer = TypeVar("_Answer")


@final
class AsyncClient:
    """Talks to one service; calls may run at once, each on a connection of its own.

    Each event loop has connections of its own: a client may be used by one after another, as by several `asyncio.run`,
    and by those of several threads at once. Close it before a loop ends, or Python says in a `ResourceWarning` which
    connections the loop left open; the next loop's first call closes them.

    Args:
        url: as of `Client`, with which it shares the meaning of every argument.
        timeout: seconds for each call, tries included.
        token: as of `Client`.
        retries: as of `Client`.
        tls: as of `Client`.
        most_answer_bytes: as of `Client`.

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
        most_answer_bytes: int = ANSWER_BYTES,
    ) -> None:
        self._target = Target.of(url, timeout, token, retries, tls, most_answer_bytes)
        self._connections = Connections(self._target)

    @property
    def url(self) -> str:
        """As given, without a slash at the end."""
        return self._target.url

    async def recommend(self, **request: Any) -> Answer:
        """The best items; see `Client.recommend`."""
        return await self._ask("/recommend", request, Answer)

    async def rank(self, *, candidates: Keys, **request: Any) -> Answer:
        """The scores of candidates; see `Client.rank`."""
        call = json_call("/rank", {**request, "candidates": keys_of(candidates, "candidates")})
        return answer_of(await self.call(call), scores_of(call))

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
        except (FailedError, LateError, UnreachableError):
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
        await self._connections.close_idle()

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
        while (kept := self._connections.take()) is not None:
            try:
                kept.begin(call.method)
                return await self._exchange(kept, call, until)
            except (OSError, EOFError):
                continue  # the service may have closed it in the meantime: another one, or a new one
        return await self._exchange(await self._connections.opened(call.method), call, until)

    async def _exchange(self, connection: Connection, call: Call, until: float) -> Reply:
        keeps = False
        try:
            reply = await connection.answer(self._target.encoded(call, until))
            keeps = connection.keeps and self._connections.keep(connection)
            return reply
        finally:
            if not keeps:  # what is still to come would be taken for the next answer
                connection.end()
