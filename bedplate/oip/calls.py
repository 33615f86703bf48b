"""Calls over gRPC, one message each: the door, the place in the queue, the turn, and the bytes of the answer.

What goes wrong is a `ProblemError`, whatever it was: a client is told what it did wrong, and of faults of the server's
own only that there was one.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Any, final

import msgspec

from bedplate.errors import BedplateError, DeadlineError, RequestError
from bedplate.http.door import Door, answer_to
from bedplate.http.message import Response, retry_after
from bedplate.http.metrics import Metrics
from bedplate.http.turns import NORMAL, PROBE, Refused, Turn, Turns
from bedplate.oip.methods import InferenceService, Method, Wait

log = logging.getLogger("bedplate.serving")

_FAILED = "internal error; the server's log says more"
_MOST_DETAILS = 6000  # bytes as they are sent: clients give up on metadata beyond 8 KiB, and say so instead


@final
@dataclass(frozen=True, slots=True)
class _Call:
    """One call.

    Attributes:
        headers: its metadata.
        peer: the client's address.
        arrived: when it came, on the monotonic clock.
        deadline: of gRPC itself, on the same clock.
        size: of its message, bytes.
    """

    headers: dict[bytes, bytes]
    peer: str
    arrived: float
    deadline: float
    size: int


@final
class ProblemError(Exception):
    """A call that is not answered.

    Attributes:
        status: of HTTP, that says the same.
        details: what is said, cut where it is longer than clients take.
        after: the seconds after which to ask again; None: that is not known.
    """

    def __init__(self, status: int, details: str, after: bytes | None = None) -> None:
        super().__init__(details)
        self.status, self.details, self.after = status, _cut(details), after

    def forget(self) -> None:
        """Lets go of what led to it: its frames hold the message, and are held by what they hold."""
        error: BaseException | None = self
        while error is not None:
            traceback.clear_frames(error.__traceback__)
            error.__traceback__, error = None, error.__cause__ or error.__context__
        self.__cause__ = self.__context__ = None


@final
class Calls:
    """Answers messages on one event loop.

    Args:
        service: what answers.
        metrics: where calls are counted, as routes `grpc_<method>`.
        turns: the queue of the event loop.
        door: who is let in.
        entered: told whenever a message is there.
    """

    __slots__ = ("_door", "_entered", "_metrics", "_service", "_turns")

    def __init__(
        self, service: InferenceService, metrics: Metrics, turns: Turns, door: Door, entered: Callable[[], None]
    ) -> None:
        self._service, self._metrics, self._turns, self._door = service, metrics, turns, door
        self._entered = entered

    async def answer(
        self, method: Method, context: Any, body: bytes, wrap: Callable[[Any], Any] | None = None
    ) -> bytes:
        """The message that answers a message.

        Args:
            method: what is called.
            context: gRPC's, of the call.
            body: the message.
            wrap: makes the message that is sent of the method's answer; None: it is that.

        Raises:
            ProblemError: it is not answered.
        """
        begin, status = perf_counter(), 500
        self._entered()
        try:
            answer = await self._admitted(method, _call_of(context, len(body)), body)
            content: bytes = (answer if wrap is None else wrap(answer)).SerializeToString()
            status = 200
        except ProblemError as problem:
            status = problem.status
            raise
        except asyncio.CancelledError:  # the client has gone
            status = 0
            raise
        except BedplateError as error:
            status = error.http_status
            if status >= 500 and status != 504:
                log.error("%s: %s", method.name, error, exc_info=error if error.told else None)
            raise ProblemError(
                status, str(error.for_client()), dict(retry_after(status)).get(b"Retry-After")
            ) from error
        except Exception as error:
            log.exception("%s failed", method.name)
            raise ProblemError(status, _FAILED) from error
        else:
            return content
        finally:
            if status:
                self._metrics.observe(method.route, status, perf_counter() - begin)

    def refuse(self, reason: str) -> None:
        """Counts a call that is not worked on."""
        self._turns.tally.refuse(reason, NORMAL)

    async def _admitted(self, method: Method, call: _Call, body: bytes) -> Any:
        """The answer, made when the call has its turn."""
        asked: Any = method.parse(body)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        turn: Turn | Response | None = None

        def run() -> None:
            if isinstance(turn, Turn):
                wait = Wait(int((monotonic() - call.arrived) * 1e9), turn.deadline)
                self._run(turn, future, lambda: method.answer(self._service, asked, wait))

        def refuse(refused: Refused) -> None:
            if not future.done():
                future.set_exception(refusal(answer_to(refused)))

        turn = self._door.turn(
            method.method, method.path(asked), call.headers, call.size, call.peer, call.arrived, run, refuse
        )
        if isinstance(turn, Response):
            raise refusal(turn)
        if turn.priority != PROBE:
            turn.deadline = min(turn.deadline, call.deadline)
        refused = self._turns.enter(turn)
        if refused is not None:
            raise refusal(answer_to(refused))
        try:
            return await future
        except asyncio.CancelledError:
            self._turns.leave(turn)
            raise
        finally:
            asked = turn = None  # the turn and what it runs hold each other, and the message, until a collection

    def _run(self, turn: Turn, future: asyncio.Future[Any], work: Callable[[], Any]) -> None:
        try:
            answer = work()
        except Exception as error:  # noqa: BLE001  (raised where the answer is awaited)
            self._turns.finish(turn, measured=isinstance(error, DeadlineError))
            if not future.done():
                future.set_exception(error)
            return
        if inspect.isawaitable(answer):
            task: asyncio.Future[Any] = asyncio.ensure_future(answer)
            task.add_done_callback(lambda done: self._settle(turn, future, done))
            future.add_done_callback(lambda _: None if task.done() else task.cancel())
            if turn.deadline != math.inf:
                timer = future.get_loop().call_later(max(0.0, turn.deadline - monotonic()), _expire, future)
                task.add_done_callback(lambda _: timer.cancel())
            return
        self._turns.finish(turn)
        if not future.done():
            future.set_result(answer)

    def _settle(self, turn: Turn, future: asyncio.Future[Any], done: asyncio.Future[Any]) -> None:
        """An answer that was waited for is there, or nobody waits for it any more."""
        error = None if done.cancelled() else done.exception()
        is_late = future.done() and not future.cancelled()
        measured = is_late or (not done.cancelled() and (error is None or isinstance(error, DeadlineError)))
        self._turns.finish(turn, measured=measured)
        if future.done():
            return
        if done.cancelled():
            future.cancel()
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(done.result())


def _expire(future: asyncio.Future[Any]) -> None:
    """The time of a call is over whose answer is waited for."""
    if not future.done():
        future.set_exception(DeadlineError("the deadline passed before there was an answer"))


def client_of(context: Any) -> str:
    """Where the client of a call is, without its port."""
    peer: str = context.peer() or ""
    return peer.rpartition(":")[0].partition(":")[2]


def headers_of(metadata: Any) -> dict[bytes, bytes]:
    """The metadata of a call as headers of HTTP."""
    return {
        name.encode(): value if isinstance(value, bytes) else value.encode("latin-1", "replace")
        for name, value in metadata or ()
    }


def refusal(response: Response) -> ProblemError:
    """What an answer over HTTP that refuses says."""
    said: dict[str, Any] = msgspec.json.decode(response.body)
    details = str(RequestError(said["error"], where=said.get("where"), hint=said.get("hint")))
    return ProblemError(response.status, details, dict(response.headers).get(b"Retry-After"))


def _call_of(context: Any, size: int) -> _Call:
    now, left = monotonic(), context.time_remaining()
    ends = math.inf if left is None else now + left
    return _Call(headers_of(context.invocation_metadata()), client_of(context), now, ends, size)


def _cut(details: str) -> str:
    """As much of a text as fits; all but printable ASCII takes three bytes for each of UTF-8.

    >>> _cut("abc"), len(_cut("é" * 2000))
    ('abc', 1003)
    """
    room = _MOST_DETAILS
    for i, letter in enumerate(details if len(details) > _MOST_DETAILS // 12 else ""):
        room -= 1 if " " <= letter <= "~" and letter != "%" else 3 * len(letter.encode("utf-8", "replace"))
        if room < 0:
            return details[:i] + "..."
    return details
