"""From the bytes of a connection to requests, within limits. httptools parses, and refuses ambiguous framing."""

from __future__ import annotations

import re
from collections import deque
from typing import Any, TypeAlias, final

import httptools

from bedplate.http.bodies import Bodies
from bedplate.http.door import OPEN_PATHS
from bedplate.http.message import Admit, Limits, Request, Response, error_response, path_of

Waiting: TypeAlias = tuple[Request, bool, bool]
"""A request that is read, whether the connection stays open after it, and whether the client speaks HTTP/1.0."""


_PIECE_BYTES = 4096  # is parsed at once where it may be requests: a tiny one takes twenty times its bytes in memory
_HEAD_END, _LENGTH = b"\r\n\r\n", re.compile(rb"(?i)\r\ncontent-length:[ \t]*([0-9]{1,12})(?=\r\n|$)")
_REQUEST_BYTES, _HEADER_BYTES = 1024, 200  # of memory, beside their texts
_MOST_HEADS = 128 * 1024  # of memory, of one connection's requests that wait
_NO_ROOM = error_response(503, "too many large bodies are under way", hint="ask again later, or send smaller ones")


class RefusedError(Exception):
    """The bytes are not a request that is answered; after `response` the connection closes."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


@final
class RequestParser:
    r"""Requests of one connection.

    Args:
        limits: of what may come.
        admit: asked of each request when its head is there, before a byte of its body is kept.
        bodies: counts the bytes of bodies that are kept; None: those of this connection alone.

    Attributes:
        complete: requests that are read.
        begun: how many requests have begun.
        in_message: a request has begun and is not complete.
        uploader: whose body is about to come; None: no body is, or nobody has said.
        waiting: the client waits for `100 Continue` before it sends the body.
        last: no request follows the complete ones.
        now: when the bytes that are fed have come; requests that begin in them have arrived then.

    >>> parser = RequestParser(Limits())
    >>> parser.feed(b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\nGET ")
    >>> parser.complete[0][0].path, parser.in_message
    ('/v2', True)
    """

    __slots__ = (
        "_admit", "_arrived", "_bodies", "_body", "_body_size", "_count", "_fed", "_head_size", "_headers", "_heads",
        "_held", "_in_head", "_keeps", "_left", "_limits", "_parser", "_refusal", "_rest", "_rest_size",
        "_turned_away", "_url", "begun", "complete", "in_message", "last", "now", "uploader", "waiting",
    )  # fmt: skip

    def __init__(self, limits: Limits, admit: Admit | None = None, bodies: Bodies | None = None) -> None:
        self._limits, self._admit = limits, admit
        self._bodies, self._held = bodies or Bodies(limits.bodies_bytes), 0
        self._parser: Any = httptools.HttpRequestParser(self)
        self._refusal: Response | None = None
        self._rest, self._rest_size = memoryview(b""), 0  # what is not parsed yet, and what is counted of it
        self._heads = 0  # what is counted of the heads of complete requests
        self.complete: deque[Waiting] = deque()
        self.begun = 0
        self.now = self._arrived = 0.0
        self.in_message = self.waiting = self.last = self._in_head = False
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: bytes | bytearray = b""
        self._keeps = True
        self._head_size = self._fed = self._body_size = self._count = 0
        self._left = 0  # of a body whose length is known
        self.uploader: str | None = None
        self._turned_away: Response | None = None

    @property
    def has_room(self) -> bool:
        """Whether more may be read: the requests that are not answered are few, and no longer than one body may be."""
        waiting, limits = self.complete, self._limits
        if len(waiting) >= limits.pending or self._heads > _MOST_HEADS:
            return False
        return len(waiting) <= 1 or sum(len(request.body) for request, _, _ in waiting) <= limits.body_bytes

    def feed(self, data: bytes) -> None:
        """Reads bytes; complete requests are appended to `complete`. What there is no room for is kept for `go_on`.

        Raises:
            RefusedError: they are malformed or beyond a limit. Requests before them are in `complete`.
        """
        is_one = len(data) <= _PIECE_BYTES or len(data) <= self._left or (not self.in_message and _is_one(data))
        if is_one and not self._rest:
            self._feed(data)
            return
        self._rest = memoryview(bytes(self._rest) + data if self._rest else data)
        self.go_on()

    def go_on(self) -> None:
        """Reads what was kept, as far as there is room now.

        Raises:
            RefusedError: as `feed`.
        """
        while self._rest and self.has_room:
            size = max(_PIECE_BYTES, self._left)
            piece, self._rest = bytes(self._rest[:size]), self._rest[size:]
            self._feed(piece)
            if self.last:
                self._rest = memoryview(b"")
        # A view holds all of what it is one of.
        size = memoryview(self._rest.obj).nbytes if self._rest else 0
        if size != self._rest_size:
            self._let_go(self._rest_size)
            self._rest_size = 0
            if not self._bodies.keep(size, self._held):
                raise RefusedError(_NO_ROOM)
            self._held += size
            self._rest_size = size

    def _feed(self, data: bytes) -> None:
        begun = self.begun if self._in_head else 0
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.last = True  # no other protocol is spoken here; the request itself is answered
        except httptools.HttpParserError as error:
            if self.last and self._refusal is None:
                return  # bytes after a request that said it is the last
            refusal = self._refusal or error_response(400, f"malformed HTTP request: {error}")
            raise RefusedError(refusal) from error
        if self._in_head and self.begun == begun:  # bounds what httptools holds of a header that has no end yet
            self._fed += len(data)
            if self._fed > self._limits.head_bytes:
                raise RefusedError(_head_too_large(self._limits.head_bytes))
        if self._turned_away is not None:  # what is still to come of its body is not waited for
            raise RefusedError(self._turned_away)

    def take(self) -> Waiting:
        """The first of the complete requests, which is answered: its body counts no more."""
        waiting = self.complete.popleft()
        request = waiting[0]
        self._let_go(request.held_bytes)
        self._heads -= request.held_bytes - len(request.body)
        return waiting

    def drop(self) -> None:
        """Forgets the body that is coming, and what is not parsed: they are not waited for."""
        self._let_go(len(self._body) + self._rest_size)
        self._body, self._rest, self._rest_size = b"", memoryview(b""), 0

    def close(self) -> None:
        """Forgets everything."""
        self.complete.clear()
        self._body, self._rest, self._rest_size, self._heads = b"", memoryview(b""), 0, 0
        self._let_go(self._held)

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self.in_message = self._in_head = True
        self.begun += 1
        self._arrived = self.now

    def on_url(self, url: bytes) -> None:
        """The request's target."""
        self._url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer of a chunked body, which is dropped."""
        self._count += 1
        if self._count > self._limits.headers:
            self._refuse(error_response(431, f"the request has more than {self._limits.headers} headers"))
        self._count_head(len(name) + len(value) + 4)
        if not self._in_head:
            return
        name = name.lower()
        if name == b"host" and name in self._headers:
            self._refuse(error_response(400, "got two Host headers, expected one"))
        if name == b"transfer-encoding" and name in self._headers:
            value = self._headers[name] + b"," + value  # two headers are one list
        self._headers[name] = value

    def on_headers_complete(self) -> None:
        """Checks what the headers announce before the body comes."""
        headers, limit = self._headers, self._limits.body_bytes
        self._in_head = False
        if b"host" not in headers and self._parser.get_http_version() == "1.1":
            self._refuse(error_response(400, "got no Host header, expected one"))
        method, path = self._method(), path_of(self._url)
        self._keeps = method not in ("GET", "HEAD") and path not in OPEN_PATHS
        if self._admit is not None:
            admitted = self._admit(method, path, headers)
            if isinstance(admitted, Response):
                self._turned_away = admitted
            else:
                self.uploader = admitted
        length = headers.get(b"content-length") if self._turned_away is None else None
        if length is not None:
            self._left = int(length)
            if self._left > limit:
                self._refuse(_body_too_large(limit))
        codings = headers.get(b"transfer-encoding")
        if codings is not None:
            self._check_codings([coding.strip().lower() for coding in codings.split(b",")])
        expectation = headers.get(b"expect")
        if expectation is not None:
            if expectation.lower() != b"100-continue":
                self._refuse(error_response(417, "got an Expect header that is not 100-continue"))
            self.waiting = True

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self.waiting = False
        self._body_size += len(body)
        self._left -= len(body)
        if self._body_size > self._limits.body_bytes:
            self._refuse(_body_too_large(self._limits.body_bytes))
        if self._turned_away is not None or not self._keeps:
            return
        if not self._bodies.keep(len(body), self._held):
            self._refuse(_NO_ROOM)
        self._held += len(body)
        if not self._body:
            self._body = body
        else:  # not a list of parts: chunks may be of two bytes, and an object for each takes twenty times as much
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body

    def on_message_complete(self) -> None:
        """A request is complete."""
        parser, body = self._parser, bytes(self._body)
        if not self._keeps:
            self._headers.pop(b"content-encoding", None)  # of the body that was not kept
        keep = parser.should_keep_alive() and not parser.should_upgrade()
        limit = self._limits.body_bytes
        request = Request(self._method(), path_of(self._url), self._headers, body, self._arrived, most_bytes=limit)
        request.client, request.refusal, request.held_bytes = self.uploader, self._turned_away, len(body)
        if self.complete:  # one head is there for every connection anyway
            size = _REQUEST_BYTES + self._head_size + _HEADER_BYTES * self._count
            if not self._bodies.keep(size, self._held):
                self._refuse(_NO_ROOM)
            self._held += size
            self._heads += size
            request.held_bytes += size
        self.complete.append((request, keep, parser.get_http_version() == "1.0"))
        self.in_message = self.waiting = False
        self.last = not keep
        self._reset()

    def _check_codings(self, codings: list[bytes]) -> None:
        """Refuses what is not plain chunks, as RFC 9112 has it: llhttp looks at the last coding only."""
        if codings == [b"chunked"] and self._parser.get_http_version() != "1.0":
            return
        shown = b", ".join(codings)[:80].decode("latin-1")
        is_framed = codings[-1] == b"chunked" and codings.count(b"chunked") == 1
        if self._parser.get_http_version() == "1.0" or not is_framed:
            self._refuse(error_response(400, f"got Transfer-Encoding '{shown}', which frames no request"))
        hint = "send Transfer-Encoding: chunked, and compressed bodies with Content-Encoding"
        self._refuse(error_response(501, f"got Transfer-Encoding '{shown}', expected chunked", hint=hint))

    def _let_go(self, size: int) -> None:
        self._held -= size
        self._bodies.let_go(size)

    def _method(self) -> str:
        return self._parser.get_method().decode("latin-1")

    def _count_head(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self._limits.head_bytes:
            self._refuse(_head_too_large(self._limits.head_bytes))

    def _refuse(self, response: Response) -> None:
        """Stops httptools, which passes an error of a callback on as its own."""
        self._refusal = response
        raise RefusedError(response)


def _is_one(data: bytes) -> bool:
    """Whether bytes seem to be one head and its body, or less: they stay one part, for each further one is copied."""
    end = data.find(_HEAD_END)
    length = None if end < 0 else _LENGTH.search(data, 0, end)
    return length is not None and end + len(_HEAD_END) + int(length[1]) >= len(data)


def _head_too_large(limit: int) -> Response:
    return error_response(431, f"the request's head is larger than {limit} bytes")


def _body_too_large(limit: int) -> Response:
    return error_response(413, f"the request's body is larger than {limit} bytes")
