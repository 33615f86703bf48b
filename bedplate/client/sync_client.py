"""A client of a service on the standard library's HTTP; any number of threads may use it. See `async_client` too.

Connections are kept open and used again. Every call ends by its timeout. Calls change nothing in the service; one is
sent again where that helps and can't do harm: at once where a kept connection turns out to be closed, and after the
time that a service that is busy asks for, where that is within the timeout. A call that is late is never sent again:
the service would have twice the work.
"""

from __future__ import annotations

import functools
import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Self, TypeVar, final

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

_Answer = TypeVar("_Answer")


@final
class Client:
    """Talks to one service.

    Args:
        url: `http://host:port`, or `https://`.
        timeout: seconds for each call, tries included.
        token: what the service knows the caller by.
        retries: how often a call is sent again to a service that is busy and says when to.
        tls: of an https URL; by default certificates are checked against those of the system.

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
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """As given, without a slash at the end."""
        return self._target.url

    def recommend(self, **request: Any) -> Answer:
        """The best items: `recommend(customer=17850, count=20)`.

        Raises:
            RequestError: the service refuses the request; the message is its own. See `client.errors` for each kind.
            StoreError: it can't answer, or can't be reached.
        """
        return self._ask("/recommend", request, Answer)

    def rank(self, *, candidates: Keys, **request: Any) -> Answer:
        """The scores of candidates, in their order: `rank(customer=17850, candidates=["85123A"])`.

        Raises:
            RequestError: the service refuses the request.
            StoreError: it can't answer, or can't be reached.
        """
        return self._ask("/rank", {**request, "candidates": candidates_of(candidates)}, Answer)

    def embed(self, **request: Any) -> Vectors:
        """The vector of a request, `embed(customer=17850)`, or those of items, `embed(items=["85123A"])`.

        Raises:
            RequestError: the service refuses the request.
            StoreError: it can't answer, or can't be reached.
        """
        return self._ask("/embed", request, Vectors)

    def similar(self, item: Key, **request: Any) -> Similar:
        """The items nearest to one: `similar("85123A", count=10)`.

        Raises:
            RequestError: the service refuses the request, or knows no such item.
            StoreError: it can't answer, or can't be reached.
        """
        return self._ask("/similar", {**request, "item": item}, Similar)

    def table(self, name: str, **request: Any) -> pl.DataFrame:
        """The answer of `recommend`, `rank`, `embed` or `similar` as a table, by Arrow: for large ones.

        Args:
            name: of the call.
            request: its fields.

        Raises:
            RequestError: the service refuses the request.
            StoreError: it can't answer, or can't be reached.
        """
        return answer_of(self.call(table_call(f"/{name}", request)), table_of)

    def infer(
        self, model: str, tensors: Mapping[str, Array], *, version: str | None = None, outputs: Sequence[str] = ()
    ) -> dict[str, Array]:
        """The outputs of a model for tensors, both in binary.

        Args:
            model: its name.
            tensors: its inputs; texts in an array of dtype object, BF16 in one of `ml_dtypes.bfloat16`.
            version: None: the one that is served.
            outputs: their names; none: all. One of BF16 is an array of float32.

        Raises:
            RequestError: the service refuses the request.
            StoreError: it can't answer, or can't be reached.
        """
        return answer_of(self.call(infer_call(model, tensors, version, outputs)), tensors_of)

    def ready(self) -> bool:
        """Whether the service answers requests now; False also where nobody answers."""
        try:
            return self._once(Call("GET", "/v2/health/ready"), Tries(self._target).until).status == 200
        except (UnreachableError, LateError):
            return False

    def describe(self) -> dict[str, Any]:
        """The service: its models, features and requests.

        Raises:
            StoreError: the service can't be reached.
        """
        return answer_of(self.call(Call("GET", "/")), described)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[bytes, Mapping[str, str]]:
        """The body and the headers (names in lower case) of an answer that is no error.

        Raises:
            RequestError: the service refuses the request.
            StoreError: it can't answer, or can't be reached.
        """
        reply = self.call(Call(method, path, body, headers or {}))
        return reply.body, reply.headers

    def call(self, call: Call) -> Reply:
        """An answer that is no error.

        Raises:
            RequestError: the service refuses the request.
            StoreError: it can't answer, or can't be reached.
        """
        tries = Tries(self._target)
        while True:
            reply = self._once(call, tries.until)
            wait = tries.wait_after(reply)
            if wait is None:
                return reply
            time.sleep(wait)

    def close(self) -> None:
        """Closes the connections; the next call opens one again."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __enter__(self) -> Self:
        """The client, closed when the context ends."""
        return self

    def __exit__(self, *details: object) -> None:
        """Closes the connections."""
        self.close()

    def _ask(self, path: str, request: Mapping[str, Any], kind: type[_Answer]) -> _Answer:
        reply = self.call(json_call(path, request))
        return answer_of(reply, lambda found: msgspec.json.decode(found.body, type=kind))

    def _once(self, call: Call, until: float) -> Reply:
        """One answer, on a connection that was kept or a new one."""
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self._exchange(self._opened(), call, until)
            try:
                return self._exchange(connection, call, until)
            except UnreachableError:
                continue  # the service may have closed a connection that was idle: another one, or a new one

    def _exchange(self, connection: http.client.HTTPConnection, call: Call, until: float) -> Reply:
        seconds = until - monotonic()
        try:
            if seconds <= 0:
                raise TimeoutError
            connection.timeout = seconds
            if connection.sock is not None:
                connection.sock.settimeout(seconds)
            headers = {**self._target.headers, TIMEOUT_HEADER: timeout_header(seconds), **call.headers}
            connection.response_class = functools.partial(_response, until)  # pyright: ignore[reportAttributeAccessIssue]
            connection.request(call.method, call.path, call.body, headers)
            response = connection.getresponse()
            reply = Reply(response.status, response.read(), {k.lower(): v for k, v in response.getheaders()})
        except TimeoutError as error:
            connection.close()
            raise self._target.late() from error
        except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: chunks that are none
            connection.close()
            raise self._target.unreachable(error) from error
        except BaseException:
            connection.close()
            raise
        with self._lock:
            keeps = not response.will_close and len(self._idle) < calls.MOST_IDLE
            if keeps:
                self._idle.append(connection)
        if not keeps:
            connection.close()
        return reply

    def _opened(self) -> http.client.HTTPConnection:
        target = self._target
        host, port = target.place.host, target.place.port
        if target.tls is None:
            return http.client.HTTPConnection(host, port, timeout=target.timeout)
        return http.client.HTTPSConnection(host, port, timeout=target.timeout, context=target.tls)


def _response(until: float, sock: socket.socket, **options: Any) -> http.client.HTTPResponse:
    """A response whose bytes come by a time, however slowly a service sends them one by one."""
    response = http.client.HTTPResponse(sock, **options)
    response.fp = io.BufferedReader(_Timely(response.fp, sock, until))
    return response


@final
class _Timely(io.RawIOBase):
    """Bytes of a socket. Satisfies what `io.BufferedReader` reads.

    Args:
        source: the socket's file.
        sock: the socket.
        until: when to stop, on the monotonic clock.
    """

    def __init__(self, source: io.BufferedIOBase, sock: socket.socket, until: float) -> None:
        self._source, self._sock, self._until = source, sock, until

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Reads what there is, at least a byte; 0 at the end.

        Raises:
            TimeoutError: the time is over.
        """
        left = self._until - monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return self._source.readinto1(buffer)

    def close(self) -> None:
        """Closes the socket's file."""
        self._source.close()
        super().close()
