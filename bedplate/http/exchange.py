"""A request and its answer: the door, the place in the queue, the turn, and what is waited for.

A connection has one exchange after the other. Handlers may give their answer or something to await; a client may leave
at any time, and then nobody is told anything more.
"""

from __future__ import annotations

import asyncio
import logging
import math
import select
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import final

from bedplate.http.door import Door, answer_to
from bedplate.http.message import Handler, Request, Response, error_response
from bedplate.http.turns import CLOSED, LOST, NORMAL, THERE, Refused, Turn, Turns

log = logging.getLogger("bedplate.serving")

_HANGS_UP = getattr(select, "POLLRDHUP", 0)  # beside errors and hang-ups, which are always told
_FAILED = error_response(500, "internal error; the server's log says more")
_LATE = error_response(504, "the deadline passed before there was an answer")
_MEASURED = (200, 504)
"""What says how long such requests take: answers, and what ended because it took too long."""


@final
class Exchange:
    """What a connection asks for, one request at a time.

    Args:
        handler: answers requests.
        turns: the queue of requests.
        door: who is let in.
        respond: called once for each request that was entered, with its answer; never after `close`.
    """

    __slots__ = (
        "_awaited", "_door", "_handler", "_is_late", "_is_open", "_peer", "_poll", "_request", "_respond", "_turn",
        "_turns", "_uploader",
    )  # fmt: skip

    def __init__(self, handler: Handler, turns: Turns, door: Door, respond: Callable[[Response], None]) -> None:
        self._handler, self._turns, self._door, self._respond = handler, turns, door, respond
        self._request: Request | None = None
        self._turn: Turn | None = None
        self._awaited: asyncio.Future[Response] | None = None  # the answer, where that is made elsewhere
        self._peer = ""
        self._uploader: str | None = None  # whose body is coming
        self._poll: select.poll | None = None
        self._is_open = False
        self._is_late = False  # the deadline passed while the answer was awaited

    @property
    def is_under_way(self) -> bool:
        """Whether a request waits for its turn or its answer."""
        return self._turn is not None

    def open(self, transport: asyncio.BaseTransport) -> None:
        """The client is connected."""
        plain = transport.get_extra_info("socket")
        if plain is not None:
            self._poll = select.poll()
            self._poll.register(plain.fileno(), _HANGS_UP)
        name = transport.get_extra_info("peername")
        self._peer = str(name[0]) if name else ""
        self._is_open = True

    def admit(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> str | Response:
        """Who asks, or the answer to a request that is not let in; see `Door.admit`."""
        return self._door.admit(method, path, headers, self._peer)

    def receive(self, client: str | None) -> Refused | None:
        """A body of a client is about to come, None: no more. Until then it counts as one of its requests.

        Says why it had better not come: the client has too many.
        """
        if client == self._uploader:
            return None
        clients = self._turns.clients
        clients.remove(self._uploader)
        self._uploader = None
        if client is not None and clients.is_full(client):
            self._turns.tally.refuse("client", NORMAL)
            return Refused("client", 1.0)
        clients.add(client)
        self._uploader = client
        return None

    def close(self) -> None:
        """The client has gone: nothing more is done for it."""
        self._is_open = False
        self.receive(None)
        if self._turn is not None:
            self._turns.leave(self._turn)
        if self._awaited is not None:
            self._awaited.cancel()

    def demote(self) -> None:
        """The client has closed its end, and may be gone: others go first."""
        if self._turn is not None:
            self._turns.demote(self._turn)

    def enter(self, request: Request) -> None:
        """Gives a request its place in the queue; or its answer, where it is not let in."""
        found = request.refusal or self._door.turn(
            request.method, request.path, request.headers, len(request.body), self._peer, request.arrived,
            self._run, self._give_up, request.client,
        )  # fmt: skip
        if isinstance(found, Response):
            self._turns.tally.refuse("request" if found.status == 400 else "token", NORMAL)
            self._respond(found)
            return
        request.deadline = found.deadline
        found.look = self._look
        refused = self._turns.enter(found)
        if refused is not None:
            self._respond(answer_to(refused))
            return
        self._turn, self._request = found, request

    def _look(self) -> int:
        """How the client stands, as the kernel knows it; the loop may not have read it yet."""
        if not self._is_open or self._poll is None:
            return LOST
        events = self._poll.poll(0)
        if not events:
            return THERE
        return LOST if events[0][1] & (select.POLLHUP | select.POLLERR) else CLOSED

    def _run(self) -> None:
        """The turn of the request that waits."""
        turn, request = self._turn, self._request
        if turn is None or request is None:
            return
        answer = self._answer(request)
        if isinstance(answer, Response):
            self._finish(turn, answer)
            return
        awaited = self._awaited = asyncio.ensure_future(answer)
        self._is_late = False
        awaited.add_done_callback(lambda answered: self._settle(answered, turn, request))
        if request.deadline != math.inf:
            left = max(0.0, request.deadline - monotonic())
            timer = awaited.get_loop().call_later(left, self._expire, awaited)
            awaited.add_done_callback(lambda _: timer.cancel())

    def _expire(self, awaited: asyncio.Future[Response]) -> None:
        """Its time is over. The clock may not say so yet: timers of uvloop are rounded to milliseconds."""
        self._is_late = True
        awaited.cancel()

    def _answer(self, request: Request) -> Response | Awaitable[Response]:
        try:
            return self._handler(request)
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            return _FAILED

    def _settle(self, answered: asyncio.Future[Response], turn: Turn, request: Request) -> None:
        """The answer that was waited for is there."""
        self._awaited = None
        error = None if answered.cancelled() else answered.exception()
        if not self._is_open:
            self._turns.finish(turn, measured=False)
        elif answered.cancelled() and self._is_late:
            self._finish(turn, _LATE)
        elif answered.cancelled() or error is not None:
            log.error("%s %s failed", request.method, request.path, exc_info=error)
            self._finish(turn, _FAILED)
        else:
            self._finish(turn, answered.result())

    def _finish(self, turn: Turn, response: Response) -> None:
        self._turns.finish(turn, measured=response.status in _MEASURED)
        self._turn = self._request = None
        self._respond(response)

    def _give_up(self, refused: Refused) -> None:
        self._turn = self._request = None
        self._respond(answer_to(refused))
