"""A client of a service for programs of asyncio; as `client.Client`, with calls that are awaited."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Self, TypeAlias, TypeVar, final

import msgspec
import polars as pl

from bedplate.client import calls
from bedplate.client.calls import (
    TIMEOUT_HEADER,
    Call,
    Keys,
    Reply,
    Target,
    Tries,
    answer_of,
    candidates_of,
    described,
    infer_call,
    json_call,
    table_call,
    table_of,
    tensors_of,
    timeout_header,
)
from bedplate.client.errors import LateError, UnreachableError
from bedplate.serving.answers import Answer, Key, Similar, Vectors
from bedplate.types import Array

_Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_Answer = TypeVar("_Answer")
_HEAD_BYTES = 65_536


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
        ConfigError: the URL has another form, or the timeout or the token is none.
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
        self._idle: list[_Streams] = []

    @property
    def url(self) -> str:
        """As given, without a slash at the end."""
        return self._target.url

    async def recommend(self, **request: Any) -> Answer:
        """The best items; see `Client.recommend`."""
        return await self._ask("/recommend", request, Answer)

    async def rank(self, *, candidates: Keys, **request: Any) -> Answer:
        """The scores of candidates; see `Client.rank`."""
        return await self._ask("/rank", {**request, "candidates": candidates_of(candidates)}, Answer)

    async def embed(self, **request: Any) -> Vectors:
        """Vectors; see `Client.embed`."""
        return await self._ask("/embed", request, Vectors)

    async def similar(self, item: Key, **request: Any) -> Similar:
        """The items nearest to one; see `Client.similar`."""
        return await self._ask("/similar", {**request, "item": item}, Similar)

    async def table(self, name: str, **request: Any) -> pl.DataFrame:
        """An answer as a table; see `Client.table`."""
        return answer_of(await self.call(table_call(f"/{name}", request)), table_of)

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
        return answer_of(await self.call(Call("GET", "/")), described)

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
        while self._idle:
            _, writer = self._idle.pop()
            writer.close()
            with contextlib.suppress(OSError):  # it was broken, and is closed now
                await writer.wait_closed()

    async def __aenter__(self) -> Self:
        """The client, closed when the context ends."""
        return self

    async def __aexit__(self, *details: object) -> None:
        """Closes the connections."""
        await self.close()

    async def _ask(self, path: str, request: Mapping[str, Any], kind: type[_Answer]) -> _Answer:
        reply = await self.call(json_call(path, request))
        return answer_of(reply, lambda found: msgspec.json.decode(found.body, type=kind))

    async def _in_time(self, call: Call, until: float) -> Reply:
        try:
            async with asyncio.timeout(until - monotonic()):
                return await self._once(call, until)
        except TimeoutError as error:
            raise self._target.late() from error

    async def _once(self, call: Call, until: float) -> Reply:
        """One answer, on a connection that was kept or a new one."""
        while self._idle:
            try:
                return await self._exchange(self._idle.pop(), call, until)
            except UnreachableError:
                continue  # the service may have closed a connection that was idle: another one, or a new one
        place = self._target.place
        try:
            streams = await asyncio.open_connection(place.host, place.port, ssl=self._target.tls, limit=_HEAD_BYTES)
        except OSError as error:
            raise self._target.unreachable(error) from error
        return await self._exchange(streams, call, until)

    async def _exchange(self, streams: _Streams, call: Call, until: float) -> Reply:
        reader, writer = streams
        target = self._target
        own = {"Host": target.place.authority, TIMEOUT_HEADER: timeout_header(until - monotonic())}
        headers = {**own, **target.headers, **call.headers}
        body = call.body or b""
        lines = [f"{call.method} {call.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode("latin-1")
        try:
            writer.write(head + body)
            await writer.drain()
            reply = await _read(reader)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            writer.close()
            raise self._target.unreachable(error) from error
        except BaseException:
            writer.close()  # what is still to come would be taken for the next answer
            raise
        if reply.headers.get("connection", "").lower() == "close" or len(self._idle) >= calls.MOST_IDLE:
            writer.close()
        else:
            self._idle.append(streams)
        return reply


async def _read(reader: asyncio.StreamReader) -> Reply:
    """An answer whose length its head says, or that comes in chunks, as from a proxy.

    Raises:
        ValueError: it is none, or its length is not said.
        EOFError: the connection broke off.
    """
    status = 100
    headers: dict[str, str] = {}
    while 100 <= status < 200:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        status = int(first.split(" ", 2)[1])
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return Reply(status, await _chunks(reader), headers)
    if "content-length" not in headers:
        raise ValueError("an answer without a length")
    return Reply(status, await reader.readexactly(int(headers["content-length"])), headers)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    """A body in chunks, each after its length in hexadecimal; the last one is empty, and headers may follow it."""
    parts: list[bytes] = []
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        if await reader.readexactly(2) != b"\r\n":
            raise ValueError("a chunk of another length than it says")
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return b"".join(parts)
