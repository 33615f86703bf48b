"""One client's HTTP/1.1 connection over asyncio: keep-alive, pipelining in order, deadlines.

Handlers are plain functions that run on the event loop's thread, when the request has its turn (`turns`): a model of a
few milliseconds is done sooner than it could be handed to another thread and back (measured:
`benchmarks/serving_overhead.py`), and answers leave in the order of their requests without any bookkeeping. A handler
whose answer waits for something, such as other requests to share a call of the model with, returns what can be awaited;
the connection's next request waits for it, other connections' don't.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast, final

from bedplate.http.bodies import Bodies
from bedplate.http.door import Door, answer_to
from bedplate.http.exchange import Exchange
from bedplate.http.message import Handler, Limits, Response, encode_response, error_response
from bedplate.http.parser import RefusedError, RequestParser
from bedplate.http.turns import NORMAL, Turns

_REASONS = {401: "token", 403: "token", 503: "bodies"}
"""Why a request is refused before it is there, as the metrics name it."""
_LINGER_SECONDS = 2.0
_FIRST_SECONDS = 0.5
"""How long a connection that has brought no request may take to its first one, from when the server stops."""


@final
class Connection(asyncio.Protocol):
    """The server's end of one connection.

    Attributes:
        deadline: when it ends if nothing happens, on the loop's clock; the server looks every second.
    """

    __slots__ = (
        "_born", "_came", "_eof", "_exchange", "_hub", "_is_secure", "_lingering", "_loop", "_parser", "_reading",
        "_refusal", "_scheduled", "_stalled", "_transport", "deadline",
    )  # fmt: skip

    def __init__(self, hub: Hub, loop: asyncio.AbstractEventLoop) -> None:
        self._hub, self._loop = hub, loop
        self._transport: asyncio.Transport | None = None
        self._refusal: Response | None = None  # the last answer, after those to complete requests
        self._lingering = False  # the last answer is written; what still comes is dropped
        self._scheduled = False  # the next request is about to take its place
        self._exchange = Exchange(hub.handler, hub.turns, hub.door, self._respond)
        self._parser = RequestParser(hub.limits, self._exchange.admit, hub.bodies)
        self._stalled = False  # the client doesn't read
        self._reading = True
        self._eof = self._is_secure = False
        self._came = hub.turns.arrival()  # the earliest of what the first look at the socket finds
        self._born = loop.time()
        self.deadline = self._born + hub.limits.idle_seconds

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Registers the connection, or refuses it where there are too many."""
        self._transport = cast("asyncio.Transport", transport)
        self._exchange.open(transport)

        def has_read() -> None:
            self._came = math.inf

        self._is_secure = transport.get_extra_info("sslcontext") is not None
        if not self._is_secure:
            self._loop.call_soon(self._loop.call_soon, has_read)  # the loop has read by its second round
        else:
            has_read()
        full = len(self._hub.connections) >= self._hub.limits.connections
        self._hub.connections.add(self)
        if full:
            self._refuse(error_response(503, "too many connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection and what was not answered."""
        self._hub.connections.discard(self)
        self._transport = None
        self._exchange.close()
        self._parser.close()

    def eof_received(self) -> bool:
        """The client sends no more, or is gone: what is complete is answered after all others, then it closes."""
        self._eof = True
        self._exchange.demote()
        # A client that ends TLS reads nothing more, and asyncio closes the connection whatever is said.
        return self._pending and not self._is_secure

    def pause_writing(self) -> None:
        """The client doesn't read its answers: no more of them, and no more requests."""
        self._stalled = True
        self.deadline = self._loop.time() + self._hub.limits.write_seconds
        self._balance_reading()

    def resume_writing(self) -> None:
        """The client has read: go on."""
        self._stalled = False
        self._renew()
        self._schedule()
        self._balance_reading()

    def data_received(self, data: bytes) -> None:
        """Parses, and answers the first complete request at once."""
        parser = self._parser
        if parser.last or self._refusal is not None or self._lingering:
            return
        parser.now = min(self._hub.turns.arrival(), self._came)
        self._parse(lambda: parser.feed(data))
        if parser.complete and not self._scheduled:
            self._advance()
        elif parser.waiting:
            self._invite()
        if not parser.has_room:
            self._balance_reading()

    def _parse(self, parse: Callable[[], None]) -> None:
        parser = self._parser
        begun = parser.begun
        try:
            parse()
        except RefusedError as wrong:
            reason = _REASONS.get(wrong.response.status)
            if reason is not None:
                self._hub.turns.tally.refuse(reason, NORMAL)
            self._refuse(wrong.response)
        # A body that is coming counts for its client from its head on.
        refused = self._exchange.receive(parser.uploader if self._refusal is None else None)
        if refused is not None:
            self._refuse(answer_to(refused))
        if parser.begun != begun:
            self._renew()

    def expire(self) -> None:
        """The deadline has passed: 408 for half a request, else the connection closes."""
        if self._transport is None:
            return
        if self._stalled:
            self._transport.abort()
        elif self._parser.in_message and not self._lingering and self._refusal is None:
            self._refuse(error_response(408, f"no whole request in {self._hub.limits.request_seconds:g} s"))
        elif not self._pending:
            self._transport.close()

    def close_idle(self, since: float) -> None:
        """Closes the connection unless a request is under way, or may be on its way: none has come, and it is early.

        Clients open some before they have a request, and can't know that one over them would not be read.

        Args:
            since: when the server began to stop, on the loop's clock.
        """
        if self._transport is None or self._pending or self._parser.in_message or self._lingering:
            return
        if self._parser.begun or self._loop.time() > max(self._born, since) + _FIRST_SECONDS:
            self._transport.close()

    def abort(self) -> None:
        """Cuts the connection off."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def _pending(self) -> bool:
        return bool(self._parser.complete) or self._refusal is not None

    def _renew(self) -> None:
        limits = self._hub.limits
        seconds = limits.request_seconds if self._parser.in_message else limits.idle_seconds
        self.deadline = self._loop.time() + seconds

    def _refuse(self, response: Response) -> None:
        """Makes this the last answer; what the client still sends is dropped, so that the answer reaches it."""
        self._refusal = response
        self._parser.drop()
        self._schedule()

    def _schedule(self) -> None:
        """The next request takes its place when the loop has read what has come."""
        if self._pending and not (self._scheduled or self._exchange.is_under_way):
            self._scheduled = True
            self._loop.call_soon(self._advance)

    def _advance(self) -> None:
        """Gives the next request its place; one at a time, so that one that pipelines many doesn't hold up others."""
        self._scheduled = False
        if self._transport is None or self._stalled or self._exchange.is_under_way:
            return
        if self._parser.complete:
            self._exchange.enter(self._parser.complete[0][0])
        elif self._refusal is not None:
            self._write(self._refusal, keep=False, old=False, with_body=True)
            self._refusal, self._lingering = None, True
            if not self._eof and self._transport.can_write_eof():
                self._transport.write_eof()
                self.deadline = self._loop.time() + _LINGER_SECONDS
            else:
                self._transport.close()

    def _respond(self, response: Response) -> None:
        """Answers the first of the complete requests."""
        if self._transport is None:
            return
        request, keep, old = self._parser.take()
        if self._refusal is None:
            self._parse(self._parser.go_on)
        keep = keep and (self._pending or not (self._hub.draining or self._eof)) and not self._hub.starting
        self._write(response, keep=keep, old=old, with_body=request.method != "HEAD")
        if not keep:
            self._transport.close()
            return
        if self._pending:
            self._schedule()
        elif not self._stalled:
            self._renew()
            self._invite()
        self._balance_reading()

    def _write(self, response: Response, *, keep: bool, old: bool, with_body: bool) -> None:
        if self._transport is not None:
            date = self._hub.date
            for part in encode_response(response, date=date, keep_alive=keep, old=old, with_body=with_body):
                self._transport.write(part)

    def _invite(self) -> None:
        """Tells a client that waits for it to send the body, once earlier requests are answered."""
        if self._parser.waiting and not self._pending and self._transport is not None:
            self._parser.waiting = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _balance_reading(self) -> None:
        """Stops reading a client that has too much unanswered or unread, and goes on when it hasn't."""
        transport = self._transport
        wanted = not self._stalled and self._parser.has_room
        if transport is None or transport.is_closing() or wanted == self._reading:
            return
        self._reading = wanted
        if wanted:
            transport.resume_reading()
        else:
            transport.pause_reading()


@final
@dataclass(slots=True)
class Hub:
    """What the connections of one server share.

    Attributes:
        handler: answers requests.
        limits: of each connection.
        turns: the queue of requests.
        door: who is let in.
        bodies: how many bytes of bodies they hold.
        connections: those open.
        date: the value of the Date header; the server renews it every second.
        draining: the server stops: an answer closes its connection.
        starting: another process may be ready sooner: an answer closes its connection.
    """

    handler: Handler
    limits: Limits
    turns: Turns
    door: Door
    bodies: Bodies
    connections: set[Connection] = field(default_factory=set[Connection])
    date: bytes = b""
    draining: bool = False
    starting: bool = False
