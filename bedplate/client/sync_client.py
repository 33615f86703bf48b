"""A client of a service for programs of threads, any number of which may use it; `async_client` is as this one.

Connections are kept open and used again. Every call ends by its timeout. Calls change nothing in the service; one is
sent again where that helps and can't do harm: at once where a kept connection turns out to be closed, and after the
time that a service that is busy asks for, where that is within the timeout. A call that is late is never sent again:
the service would have twice the work.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping, Sequence
from socket import socket
from typing import Any, Self, TypeVar, final

import polars as pl

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
from bedplate.client.sync_connections import Connections, answer
from bedplate.client.target import Target, Tries
from bedplate.client.values import Keys, keys_of
from bedplate.client.wire import ANSWER_BYTES, Call, Reading, Reply
from bedplate.serving.answers import Answer, Key, Similar, Vectors
from bedplate.types import Array

_Answer = TypeVar("_Answer")


@final
class Client:
    """Talks to one service.

    Args:
        url: `http://host:port`, or `https://`; with a path where a proxy has the service below one.
        timeout: seconds for each call, tries included.
        token: what the service knows the caller by.
        retries: how often a call is sent again to a service that is busy and says when to; 0: never.
        tls: of an https URL; by default certificates are checked against those of the system.
        most_answer_bytes: the largest answer that is taken, its head counted: what comes without end would fill the
            memory until the timeout.

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
        call = json_call("/rank", {**request, "candidates": keys_of(candidates, "candidates")})
        return answer_of(self.call(call), scores_of(call))

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
        return answer_of(self.call(table_call(name, request)), table_of)

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
            return self._in_time(Call("GET", "/v2/health/ready"), Tries(self._target).until).status == 200
        except (FailedError, LateError, UnreachableError):
            return False

    def describe(self) -> dict[str, Any]:
        """The service: its models, features and requests.

        Raises:
            StoreError: the service can't be reached.
        """
        return answer_of(self.call(Call("GET", "/")), json_of(dict[str, Any]))

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[bytes, Mapping[str, str]]:
        """The body and the headers (names in lower case) of an answer that is no error: `request("GET", "/metrics")`.

        It may be sent twice, as any call: what it asks for must do no harm when it is done again.

        Raises:
            RequestError: it is no request, or the service refuses it.
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
            reply = self._in_time(call, tries.until)
            wait = tries.wait_after(reply)
            if wait is None:
                return reply
            time.sleep(wait)

    def close(self) -> None:
        """Closes the connections; the next call opens one again."""
        self._connections.close_idle()

    def __enter__(self) -> Self:
        """The client, closed when the context ends."""
        return self

    def __exit__(self, *details: object) -> None:
        """Closes the connections."""
        self.close()

    def _ask(self, path: str, request: Mapping[str, Any], kind: type[_Answer]) -> _Answer:
        return answer_of(self.call(json_call(path, request)), json_of(kind))

    def _in_time(self, call: Call, until: float) -> Reply:
        with self._target.failures():
            return self._once(call, until)

    def _once(self, call: Call, until: float) -> Reply:
        """One answer, on a connection that was kept or a new one."""
        while (kept := self._connections.take()) is not None:
            try:
                return self._exchange(kept, call, until)
            except TimeoutError:
                raise
            except (OSError, EOFError):
                continue  # the service may have closed it in the meantime: another one, or a new one
        return self._exchange(self._connections.opened(until), call, until)

    def _exchange(self, connection: socket, call: Call, until: float) -> Reply:
        reading, keeps = Reading(call.method, self._target.most_answer_bytes), False
        try:
            reply = answer(connection, self._target.encoded(call, until), reading, until)
            keeps = reading.keeps and self._connections.keep(connection)
            return reply
        finally:
            if not keeps:  # what is still to come would be taken for the next answer
                self._connections.close(connection)
