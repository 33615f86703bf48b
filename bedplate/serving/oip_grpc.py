"""The Open Inference Protocol v2 over gRPC, beside the HTTP server: the same models, the same queue, the same door.

The methods are those of `inference.GRPCInferenceService`, with its streams, and `grpc.health.v1.Health/Check`. Requests
are parsed here, so that bytes that are no message are INVALID_ARGUMENT. A client's deadline counts in the queue.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic
from typing import Any, final

from bedplate.errors import ConfigError
from bedplate.serving.door import Door
from bedplate.serving.metrics import Metrics
from bedplate.serving.oip_calls import Calls, ProblemError, headers_of, refusal
from bedplate.serving.oip_intake import Intake
from bedplate.serving.oip_methods import METHODS, STREAM, InferenceService, Method
from bedplate.serving.settings import Settings
from bedplate.serving.tls import Certificate
from bedplate.serving.turns import NORMAL, Turns

# The library has no type stubs.
_grpc: Any = importlib.import_module("grpc")
_aio: Any = importlib.import_module("grpc.aio")

log = logging.getLogger("bedplate.serving")

_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "FAILED_PRECONDITION",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""The code of gRPC for a status of HTTP; INTERNAL for others."""
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
        self._intake = Intake()
        self._calls = Calls(service, metrics, Turns(), Door(), self._intake.came)
        self._answers, self._idle = asyncio.Event(), set[asyncio.Future[bytes | None]]()
        self._answers.set()
        self._read_until = math.inf  # on the monotonic clock; once the server ends it is not infinite
        self._server: Any = None

    @property
    def target(self) -> str:
        """Where to reach the server from this machine, as a client of gRPC takes it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._settings.host, self._settings.host)
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    async def start(self, turns: Turns, door: Door) -> None:
        """Accepts calls.

        Args:
            turns: the queue of the event loop.
            door: who is let in.

        Raises:
            ConfigError: the port can't be bound.
        """
        self._calls = Calls(self._service, self._metrics, turns, door, self._intake.came)
        turns.holds = self._intake.holds
        limits, certificate, host = self._settings.limits, self._settings.certificate, self._settings.host
        options = [
            ("grpc.max_receive_message_length", limits.body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", limits.head_bytes),
            ("grpc.so_reuseport", int(self._is_shared)),
        ]
        guard = _Guard(door, turns, self._metrics, self._intake)
        server = _aio.server(interceptors=[guard], options=options, maximum_concurrent_rpcs=limits.connections)
        for name in {method.service for method in METHODS}:
            handlers = {m.name: self._unary(m) for m in METHODS if m.service == name}
            if name == STREAM.service:
                handlers[STREAM.name] = _grpc.stream_stream_rpc_method_handler(self._stream)
            server.add_generic_rpc_handlers((_grpc.method_handlers_generic_handler(name, handlers),))
        address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        try:
            if certificate is None:
                self.port = server.add_insecure_port(address)
            else:
                self.port = server.add_secure_port(address, _credentials(certificate))
        except RuntimeError as error:
            hint = "stop the other program, give another --grpc-port, or --grpc-port 0 for a free one"
            raise ConfigError("can't listen here for gRPC", where=address, hint=hint) from error
        await server.start()
        self._server = server

    async def drain(self) -> None:
        """Answers what has come and stops; at most the seconds of grace long.

        A call that comes after the library was told to stop is lost. So answers are held back until every connection
        was told that it ends: who waits for one sends no further call over it.
        """
        if self._server is None:
            return
        await asyncio.sleep(_LAST_CALL_SECONDS)
        self._answers.clear()
        await self._intake.quiet(_QUIET_SECONDS, _MOST_QUIET_SECONDS)
        stopping = asyncio.ensure_future(self._server.stop(self._settings.grace_seconds))
        await asyncio.sleep(_TELLING_SECONDS)
        self._answers.set()
        self._read_until = monotonic() + _READING_SECONDS
        for waiting in list(self._idle):
            _end_soon(waiting)
        await stopping

    def _unary(self, method: Method) -> Any:
        async def answer(body: bytes, context: Any) -> bytes:
            try:
                content = await self._calls.answer(method, context, body)
            except ProblemError as problem:
                await self._answers.wait()
                if problem.after is not None:
                    context.set_trailing_metadata((("retry-after", problem.after.decode()),))
                code = getattr(_grpc.StatusCode, _CODES.get(problem.status, "INTERNAL"))
                return await context.abort(code, problem.details)
            await self._answers.wait()
            return content

        return _grpc.unary_unary_rpc_method_handler(answer)

    async def _stream(self, bodies: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Each request of a stream is answered in its turn; the stream goes on after one that is wrong.

        Where the server ends, so does the stream: with the answer to the last request that has come.
        """
        following = _next(bodies)
        try:
            while (body := await self._waited(following)) is not None:
                try:
                    content = await self._calls.answer(STREAM, context, body, self._service.streamed)
                except ProblemError as problem:
                    content = self._service.streamed_problem(body, problem.details).SerializeToString()
                following = _next(bodies)
                is_last = self._is_ending and not await self._more(following)
                yield content
                if is_last:
                    break
            if self._is_ending:
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

    def __init__(self, door: Door, turns: Turns, metrics: Metrics, intake: Intake) -> None:
        self._door, self._turns, self._metrics, self._intake = door, turns, metrics, intake
        self._methods = {f"/{m.service}/{m.name}": m for m in (*METHODS, STREAM)}

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """What answers a call: the method, or a refusal that reads nothing."""
        self._intake.came()
        method = self._methods.get(details.method)
        if method is None or not self._door.tokens:
            return await continuation(details)
        admitted = self._door.admit(method.method, method.target, headers_of(details.invocation_metadata), "")
        if isinstance(admitted, str):
            return await continuation(details)
        problem = refusal(admitted)

        async def refuse(_: Any, context: Any) -> None:
            self._turns.tally.refuse("token", NORMAL)
            self._metrics.observe(method.route, problem.status, 0.0)
            await context.abort(getattr(_grpc.StatusCode, _CODES[problem.status]), problem.details)

        return _grpc.stream_stream_rpc_method_handler(refuse)


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
