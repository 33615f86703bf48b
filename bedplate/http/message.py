"""Requests and responses of HTTP/1.1, and the bytes of a response."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TypeAlias, final
from urllib.parse import unquote

import msgspec

JSON = b"application/json"
OCTETS = b"application/octet-stream"
TEXT = b"text/plain; charset=utf-8"

_STATUS_LINE = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
BODY_BYTES = 16 * 1024 * 1024
"""The limit of a request's body where nothing else is said."""
BODIES_BYTES = 256 * 1024 * 1024
"""The limit of all bodies together."""
_SMALL = 65536  # a body up to this size is joined with its head: one system call


@final
@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may ask of a connection.

    Attributes:
        head_bytes: request line and headers together; 431 beyond.
        headers: how many of them; 431 beyond.
        body_bytes: 413 beyond.
        bodies_bytes: of the bodies of all connections that are coming or wait for their answer, and what else is read
            ahead of answers; beyond, 503 to a connection that holds more than 64 KB.
        pending: requests of one connection that were read and not yet answered; reading stops there, and where their
            bodies are together longer than one may be, or their heads take 128 KB of memory.
        connections: at once; the next ones get 503.
        waiting: connections with a request that waits for its turn; the requests of others get 429. 0: no limit.
        wait_seconds: the longest wait for a turn, by estimate; requests that would wait longer get 503.
        client_requests: of one client that wait or are being answered; the next ones get 429. 0: no limit.
        idle_seconds: without a request; closed.
        request_seconds: from the first byte of a request to its last; 408 beyond.
        write_seconds: of a client that doesn't read its answers; cut off.
    """

    head_bytes: int = 32 * 1024
    headers: int = 100
    body_bytes: int = BODY_BYTES
    bodies_bytes: int = BODIES_BYTES
    pending: int = 64
    connections: int = 4096
    waiting: int = 0
    wait_seconds: float = 1.0
    client_requests: int = 0
    idle_seconds: float = 75.0
    request_seconds: float = 30.0
    write_seconds: float = 30.0


@final
@dataclass(slots=True)
class Request:
    """A request.

    Attributes:
        method: such as `GET`.
        path: decoded, without the query.
        headers: by name in lower case; not shown, for they hold secrets.
        body: as it came, or decompressed.
        arrived: when its first byte came, on the monotonic clock.
        deadline: when the answer is of no more use to the client, on the same clock.
        most_bytes: of the body, decompressed.
        client: who asks, where the door has said so.
        refusal: the answer to one that the door does not let in; its body was not kept.
        held_bytes: what is counted of it until it is answered: of the body as it came, and of the head where it waits
            behind others of its connection.
    """

    method: str
    path: str
    headers: dict[bytes, bytes] = field(repr=False)
    body: bytes = field(repr=False)
    arrived: float = 0.0
    deadline: float = math.inf
    most_bytes: int = BODY_BYTES
    client: str | None = None
    refusal: Response | None = None
    held_bytes: int = 0


@final
@dataclass(slots=True)
class Response:
    """An answer."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


Admit: TypeAlias = "Callable[[str, str, Mapping[bytes, bytes]], str | Response]"
"""Says of a request's method, path and headers who asks, or the answer to one that is not let in."""
Handler: TypeAlias = Callable[[Request], Response | Awaitable[Response]]
"""Answers a request on the event loop's thread; what it gives to await is answered while others have their turn."""


def error_response(status: int, message: str, **more: object) -> Response:
    """An answer `{"error": message, ...}`; None values are left out. 429 and 503 say to ask again in a second.

    >>> error_response(404, "no such path").body
    b'{"error":"no such path"}'
    """
    shown = {"error": message, **{k: v for k, v in more.items() if v is not None}}
    return Response(status, msgspec.json.encode(shown), headers=retry_after(status))


def retry_after(status: int, seconds: int = 1) -> tuple[tuple[bytes, bytes], ...]:
    """The header of an answer of this status that says when to ask again: of 429 and 503, always.

    >>> retry_after(503), retry_after(504)
    (((b'Retry-After', b'1'),), ())
    """
    return ((b"Retry-After", b"%d" % seconds),) if status in (429, 503) else ()


def encode_response(response: Response, *, date: bytes, keep_alive: bool, old: bool, with_body: bool) -> list[bytes]:
    """The parts of an answer on the wire.

    Args:
        response: the answer.
        date: the value of the Date header.
        keep_alive: whether the connection stays open.
        old: the client speaks HTTP/1.0, which closes unless told otherwise.
        with_body: False for the method HEAD.
    """
    body = response.body
    head = b"%bContent-Type: %b\r\nContent-Length: %d\r\nDate: %b\r\n" % (
        _STATUS_LINE[response.status],
        response.content_type,
        len(body),
        date,
    )
    for name, value in response.headers:
        head += b"%b: %b\r\n" % (name, value)
    if not keep_alive:
        head += b"Connection: close\r\n\r\n"
    else:
        head += b"Connection: keep-alive\r\n\r\n" if old else b"\r\n"
    if not with_body:
        return [head]
    return [head + body] if len(body) <= _SMALL else [head, body]


def path_of(target: bytes) -> str:
    """The decoded path of a request's target, without scheme, host and query.

    >>> path_of(b"/v2/models/a%20b?x=1"), path_of(b"http://host:80/v2"), path_of(b"http://host")
    ('/v2/models/a b', '/v2', '/')
    """
    path = target.partition(b"?")[0]
    if not path.startswith(b"/"):
        path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
    text = path.decode("latin-1")
    return unquote(text, errors="replace") if "%" in text else text
