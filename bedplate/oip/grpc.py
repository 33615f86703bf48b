"""The Open Inference Protocol v2 over gRPC, beside the HTTP server: the same models, the same queue, the same door.

The methods are those of `inference.GRPCInferenceService`, with its streams, and `grpc.health.v1.Health/Check`. Requests
are parsed here, so that bytes that are no message are INVALID_ARGUMENT. A client's deadline counts in the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from time import monotonic
from typing import Any, final

from bedplate.http.bodies import Bodies
from bedplate.http.door import Door, is_probe
from bedplate.http.message import Limits, error_response
from bedplate.http.metrics import Metrics
from bedplate.http.settings import Settings
from bedplate.http.tls import Certificate
from bedplate.http.turns import NORMAL, Turns
from bedplate.oip.calls import Calls, ProblemError, headers_of, refusal
from bedplate.oip.intake import Intake
from bedplate.oip.leaving import Leaving
from bedplate.oip.methods import METHODS, STREAM, InferenceService, Method
from bedplate.oip.port import address_of, not_bound

# The library has no type stubs.
_grpc: Any = importlib.import_module("grpc")
_aio: Any = importlib.import_module("grpc.aio")

log = logging.getLogger("bedplate.serving")

_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "FAILED_PRECONDITION",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""The code of gRPC for a status of HTTP; INTERNAL for others."""
_FULL = error_response(503, "too many calls are open")
_NO_ROOM = error_response(429, "too many large messages are under way", hint="ask again later, or send smaller ones")
_LAST_CALL_SECONDS = 0.1  # at the end, for calls that are on their way
_QUIET_SECONDS, _MOST_QUIET_SECONDS = 0.1, 0.5  # no call comes for so long, before the connections are told to end
_TELLING_SECONDS = 0.02  # in which they are told; answers follow
_READING_SECONDS = 0.2  # in which messages of streams are still read then


@final
class GrpcServer:
    """Answers over gRPC, on the event loop of the HTTP server.

    Args:
        service: what answers.
        metrics: where calls are counted, as routes `grpc_<method>`.
        settings: the address, the limits of a message's size and of the calls under way, the seconds of grace, and the
            certificate.
        port: 0 for a free one.
        is_shared: whether other processes may listen on the port too.

    Attributes:
        name: of the protocol.
        port: the port that is bound, once it has started.
    """

    name = "grpc"

    def __init__(
        self,
        service: InferenceService,
        metrics: Metrics,
        settings: Settings,
        *,
        port: int,
        is_shared: bool = False,
    ) -> None:
        self._service, self._metrics, self._settings = service, metrics, settings
        self.port, self._is_shared = port, is_shared
        self._intake, self._leaving = Intake(), Leaving()
        self._calls = Calls(service, metrics, Turns(), Door(), self._intake.came)
        self._bodies = Bodies(settings.limits.bodies_bytes)
        self._answers, self._idle = asyncio.Event(), set[asyncio.Future[bytes | None]]()
        self._answers.set()
        self._read_until = math.inf  # on the monotonic clock; once the server ends it is not infinite
        self._server: Any = None

    @property
    def target(self) -> str:
        """Where to reach the server from this machine, as a client of gRPC takes it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._settings.host, self._settings.host)
        return address_of(host, self.port)

    async def start(self, turns: Turns, door: Door, bodies: Bodies) -> None:
        """Accepts calls.

        Args:
            turns: the queue of the event loop.
            door: who is let in.
            bodies: counts the messages that wait for an answer.

        Raises:
            ConfigError: the port can't be bound.
        """
        self._calls = Calls(self._service, self._metrics, turns, door, self._intake.came)
        turns.holds, self._bodies = self._intake.holds, bodies
        limits, certificate, host = self._settings.limits, self._settings.certificate, self._settings.host
        options = [
            ("grpc.max_receive_message_length", limits.body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", limits.head_bytes),
            ("grpc.so_reuseport", int(self._is_shared)),
            ("grpc.server_handshake_timeout_ms", int(limits.request_seconds * 1e3)),
            # A connection without calls ends, and one whose peer has vanished: it does not answer pings.
            ("grpc.max_connection_idle_ms", int(limits.idle_seconds * 1e3)),
            ("grpc.keepalive_time_ms", int(limits.idle_seconds * 1e3)),
            ("grpc.keepalive_timeout_ms", int(limits.request_seconds * 1e3)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        ]
        guard = _Guard(door, turns, self._metrics, self._intake, limits)
        server = _aio.server(interceptors=[guard], options=options, maximum_concurrent_rpcs=2 * limits.connections)
        for name in {method.service for method in METHODS}:
            handlers = {m.name: self._unary(m) for m in METHODS if m.service == name}
            if name == STREAM.service:
                handlers[STREAM.name] = _grpc.stream_stream_rpc_method_handler(self._stream)
            server.add_generic_rpc_handlers((_grpc.method_handlers_generic_handler(name, handlers),))
        address = address_of(host, self.port)
        try:
            if certificate is None:
                self.port = server.add_insecure_port(address)
            else:
                self.port = server.add_secure_port(address, _credentials(certificate))
        except RuntimeError as error:
            raise not_bound(address) from error
        await server.start()
        self._server = server

    async def drain(self) -> None:
        """Answers what has come and stops; at most the seconds of grace long.

        A call that comes after the library was told to stop is lost. So answers are held back until every connection
        was told that it ends: who waits for one sends no further call over it. They leave in the order of `Leaving`.
        """
        if self._server is None:
            return
        await asyncio.sleep(_LAST_CALL_SECONDS)
        self._answers.clear()
        await self._intake.quiet(_QUIET_SECONDS, _MOST_QUIET_SECONDS)
        stopping = asyncio.ensure_future(self._server.stop(self._settings.grace_seconds))
        await asyncio.sleep(_TELLING_SECONDS)
        self._read_until = monotonic() + _READING_SECONDS
        self._answers.set()
        for waiting in list(self._idle):
            _end_soon(waiting)
        await stopping

    def _unary(self, method: Method) -> Any:
        """A method of one message each, for the library one of a stream: or reading it would have no limit of time."""

        async def answer(_: Any, context: Any) -> Any:
            peer = context.peer()
            self._leaving.entered(peer)
            try:
                content = await self._answer(method, context)
            except ProblemError as problem:
                problem.forget()
                await self._may_leave(peer)
                return await _abort(context, problem)
            await self._may_leave(peer)
            return content

        return _grpc.stream_unary_rpc_method_handler(answer)

    async def _may_leave(self, peer: str) -> None:
        """Waits until an answer may leave over a connection."""
        await self._answers.wait()
        if self._is_ending:
            await self._leaving.leave(peer)

    async def _answer(self, method: Method, context: Any) -> bytes:
        """The message that answers the one of a call; a frame of its own, for the library keeps that which aborts."""
        body = await self._message(context)
        with self._held(body):
            return await self._calls.answer(method, context, body)

    async def _message(self, context: Any) -> bytes:
        """The message of a call.

        Raises:
            ProblemError: there is none, or not in time.
        """
        seconds, task = self._settings.limits.request_seconds, asyncio.current_task()
        late, body = list[bool](), None

        def expire() -> None:
            late.append(True)
            if task is not None:
                task.cancel()

        timer = asyncio.get_running_loop().call_later(seconds, expire)
        try:
            body = await context.read()
        except asyncio.CancelledError:
            if not late:
                raise
            raise ProblemError(408, f"no whole message in {seconds:g} s") from None
        finally:
            timer.cancel()
            if body is None:  # what has come of it, at most: the C library may keep it
                self._bodies.came_bytes += self._settings.limits.body_bytes
        if not isinstance(body, bytes):
            raise ProblemError(400, "got no message, expected one")
        return body

    @contextlib.contextmanager
    def _held(self, body: bytes) -> Generator[None]:
        """Counts a message until it is answered.

        Raises:
            ProblemError: there is no room for it.
        """
        if not self._bodies.keep(len(body), 0):
            self._calls.refuse("bodies")
            raise refusal(_NO_ROOM)
        try:
            yield
        finally:
            self._bodies.let_go(len(body))

    async def _stream(self, bodies: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Each request of a stream is answered in its turn; the stream goes on after one that is wrong.

        Where the server ends, so does the stream: with the answer to the last request that has come.
        """
        following, peer = _next(bodies), context.peer()
        self._leaving.entered(peer)
        try:
            while (body := await self._waited(following)) is not None:
                try:
                    with self._held(body):
                        content = await self._calls.answer(STREAM, context, body, self._service.streamed)
                except ProblemError as problem:
                    problem.forget()
                    content = self._service.streamed_problem(body, problem.details).SerializeToString()
                del body  # or it is held until the next one is there
                following = _next(bodies)
                is_last = self._is_ending and not await self._more(following)
                yield content
                if is_last:
                    break
            if self._is_ending:
                await self._leaving.leave(peer)
                await context.abort(_grpc.StatusCode.UNAVAILABLE, "the server stops")
        finally:
            following.cancel()

    @property
    def _is_ending(self) -> bool:
        return self._read_until < math.inf

    async def _more(self, following: asyncio.Future[bytes | None]) -> bool:
        """Whether another message has come, where the server ends."""
        if monotonic() < self._read_until:
            await asyncio.wait([following], timeout=_TELLING_SECONDS)
        return following.done() and monotonic() < self._read_until

    async def _waited(self, following: asyncio.Future[bytes | None]) -> bytes | None:
        """The next message; None: the client has ended the stream, or it waited for one and the server ends."""
        self._idle.add(following)
        if self._is_ending:
            _end_soon(following)
        try:
            return await following
        except asyncio.CancelledError:
            if not self._is_ending:
                raise
            return None
        finally:
            self._idle.discard(following)


async def _abort(context: Any, problem: ProblemError) -> Any:
    if problem.after is not None:
        context.set_trailing_metadata((("retry-after", problem.after.decode()),))
    await context.abort(getattr(_grpc.StatusCode, _CODES.get(problem.status, "INTERNAL")), problem.details)


def _next(bodies: AsyncIterator[bytes]) -> asyncio.Future[bytes | None]:
    """The next message of a stream; None where it has ended."""

    async def read() -> bytes | None:
        return await anext(bodies, None)

    return asyncio.ensure_future(read())


def _end_soon(waiting: asyncio.Future[bytes | None]) -> None:
    """Gives up waiting for a message: what has come already is there before that."""
    asyncio.get_running_loop().call_later(_TELLING_SECONDS, waiting.cancel)


@final
class _Guard(_aio.ServerInterceptor):
    """Sees a call when its metadata is there, and before its message: what the door turns away is not read."""

    def __init__(self, door: Door, turns: Turns, metrics: Metrics, intake: Intake, limits: Limits) -> None:
        self._door, self._turns, self._metrics, self._intake, self._limits = door, turns, metrics, intake, limits
        self._methods = {f"/{m.service}/{m.name}": m for m in (*METHODS, STREAM)}
        self._open = 0

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """What answers a call: the method, or a refusal that reads nothing."""
        self._intake.came()
        task, method = asyncio.current_task(), self._methods.get(details.method)
        if task is not None:
            self._open += 1
            task.add_done_callback(self._ended)
        if method is None:
            return await continuation(details)
        if not is_probe(method.method, method.target) and self._open > self._limits.connections:
            return self._refuse(method, refusal(_FULL))
        if self._door.tokens:
            admitted = self._door.admit(method.method, method.target, headers_of(details.invocation_metadata), "")
            if not isinstance(admitted, str):
                self._turns.tally.refuse("token", NORMAL)
                return self._refuse(method, refusal(admitted))
        return await continuation(details)

    def _refuse(self, method: Method, problem: ProblemError) -> Any:
        self._metrics.observe(method.route, problem.status, 0.0)

        async def refuse(_: Any, context: Any) -> None:
            await _abort(context, problem)

        return _grpc.stream_stream_rpc_method_handler(refuse)

    def _ended(self, _: asyncio.Task[Any]) -> None:
        self._open -= 1


def _credentials(certificate: Certificate) -> Any:
    """Reads the files again for each connection, so that a renewed certificate is taken."""

    def read() -> Any:
        chain, key = (path.read_bytes() for path in certificate.paths)
        return _grpc.ssl_server_certificate_configuration([(key, chain)])

    def again() -> Any:
        try:
            return read()
        except OSError as error:
            log.error("the certificate can't be read: %s", error)
            return None

    return _grpc.dynamic_ssl_server_credentials(read(), again)
