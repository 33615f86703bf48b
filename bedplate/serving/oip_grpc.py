"""The Open Inference Protocol v2 over gRPC, beside the HTTP server: the same models, the same queue, the same door.

The methods are those of `inference.GRPCInferenceService`, with its streams, and `grpc.health.v1.Health/Check`. Requests
are parsed here, so that bytes that are no message are INVALID_ARGUMENT. A client's deadline counts in the queue.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Any, final

import msgspec

from bedplate.errors import BedplateError, ConfigError, DeadlineError, RequestError
from bedplate.serving.door import TIMEOUT, Door, answer_to
from bedplate.serving.http import Response, retry_after
from bedplate.serving.metrics import Metrics
from bedplate.serving.oip_methods import METHODS, STREAM, InferenceService, Method, Wait
from bedplate.serving.settings import Settings
from bedplate.serving.tls import Certificate
from bedplate.serving.turns import NORMAL, Refused, Turn, Turns

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
_FAILED = "internal error; the server's log says more"


@final
@dataclass(frozen=True, slots=True)
class _Call:
    """One call: its metadata as headers, the client's address, when it came, and the size of its message."""

    headers: dict[bytes, bytes]
    peer: str
    arrived: float
    size: int


class _ProblemError(Exception):
    """A call that is not answered: a status of HTTP, what is said, and the seconds after which to ask again."""

    def __init__(self, status: int, details: str, after: bytes | None = None) -> None:
        super().__init__(details)
        self.status, self.details, self.after = status, details, after


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
        self._turns, self._door = Turns(), Door()
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
        self._turns, self._door = turns, door
        limits, certificate, host = self._settings.limits, self._settings.certificate, self._settings.host
        options = [
            ("grpc.max_receive_message_length", limits.body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", limits.head_bytes),
            ("grpc.so_reuseport", int(self._is_shared)),
        ]
        # What the door turns away is turned away before its message is read.
        guards = [_Guard(door, turns, self._metrics)] if door.tokens else []
        server = _aio.server(interceptors=guards, options=options, maximum_concurrent_rpcs=limits.connections)
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
        """Answers what is under way and stops; at most the seconds of grace long."""
        if self._server is not None:
            await self._server.stop(self._settings.grace_seconds)

    def _unary(self, method: Method) -> Any:
        async def answer(body: bytes, context: Any) -> bytes:
            call = _call_of(context, len(body))
            try:
                return (await self._counted(method, call, body)).SerializeToString()
            except _ProblemError as problem:
                if problem.after is not None:
                    context.set_trailing_metadata((("retry-after", problem.after.decode()),))
                code = getattr(_grpc.StatusCode, _CODES.get(problem.status, "INTERNAL"))
                return await context.abort(code, problem.details)

        return _grpc.unary_unary_rpc_method_handler(answer)

    async def _stream(self, bodies: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Each request of a stream is answered in its turn; the stream goes on after one that is wrong."""
        async for body in bodies:
            call = _call_of(context, len(body))
            try:
                answer = self._service.streamed(await self._counted(STREAM, call, body))
            except _ProblemError as problem:
                answer = self._service.streamed_problem(body, problem.details)
            yield answer.SerializeToString()

    async def _counted(self, method: Method, call: _Call, body: bytes) -> Any:
        """The answer to one message, or a `_ProblemError`."""
        begin, status = perf_counter(), 500
        try:
            answer = await self._admitted(method, call, body)
            status = 200
        except _ProblemError as problem:
            status = problem.status
            raise
        except BedplateError as error:
            status = error.http_status
            if status >= 500 and status != 504:
                log.error("%s: %s", method.name, error)
            raise _ProblemError(status, str(error), dict(retry_after(status)).get(b"Retry-After")) from error
        except Exception as error:
            log.exception("%s failed", method.name)
            raise _ProblemError(status, _FAILED) from error
        else:
            return answer
        finally:
            self._metrics.observe(method.route, status, perf_counter() - begin)

    async def _admitted(self, method: Method, call: _Call, body: bytes) -> Any:
        """The answer, made when the call has its turn."""
        asked = method.parse(body)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        turn: Turn | Response | None = None

        def run() -> None:
            if isinstance(turn, Turn):
                wait = Wait(int((monotonic() - call.arrived) * 1e9), turn.deadline)
                self._run(turn, future, lambda: method.answer(self._service, asked, wait))

        def refuse(refused: Refused) -> None:
            if not future.done():
                future.set_exception(_refusal(answer_to(refused)))

        turn = self._door.turn(
            method.method, method.path(asked), call.headers, call.size, call.peer, call.arrived, run, refuse
        )
        if isinstance(turn, Response):
            raise _refusal(turn)
        refused = self._turns.enter(turn)
        if refused is not None:
            raise _refusal(answer_to(refused))
        try:
            return await future
        except asyncio.CancelledError:
            self._turns.leave(turn)
            raise

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
            future.add_done_callback(lambda done: task.cancel() if done.cancelled() else None)
            return
        self._turns.finish(turn)
        if not future.done():
            future.set_result(answer)

    def _settle(self, turn: Turn, future: asyncio.Future[Any], done: asyncio.Future[Any]) -> None:
        """An answer that was waited for is there."""
        error = None if done.cancelled() else done.exception()
        measured = not done.cancelled() and (error is None or isinstance(error, DeadlineError))
        self._turns.finish(turn, measured=measured)
        if future.done():
            return
        if done.cancelled():
            future.cancel()
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(done.result())


@final
class _Guard(_aio.ServerInterceptor):
    """Looks at the token of a call when its metadata is there, and before its message."""

    def __init__(self, door: Door, turns: Turns, metrics: Metrics) -> None:
        self._door, self._turns, self._metrics = door, turns, metrics
        self._methods = {f"/{m.service}/{m.name}": m for m in (*METHODS, STREAM)}

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """What answers a call: the method, or a refusal that reads nothing."""
        method = self._methods.get(details.method)
        if method is None:
            return await continuation(details)
        admitted = self._door.admit(method.method, method.target, _headers(details.invocation_metadata), "")
        if isinstance(admitted, str):
            return await continuation(details)
        problem = _refusal(admitted)

        async def refuse(_: Any, context: Any) -> None:
            self._turns.tally.refuse("token", NORMAL)
            self._metrics.observe(method.route, problem.status, 0.0)
            await context.abort(getattr(_grpc.StatusCode, _CODES[problem.status]), problem.details)

        return _grpc.stream_stream_rpc_method_handler(refuse)


def _headers(metadata: Any) -> dict[bytes, bytes]:
    return {
        name.encode(): value if isinstance(value, bytes) else value.encode("latin-1", "replace")
        for name, value in metadata or ()
    }


def _call_of(context: Any, size: int) -> _Call:
    headers = _headers(context.invocation_metadata())
    left: float | None = context.time_remaining()
    if left is not None and TIMEOUT not in headers and left < 1e6:
        headers[TIMEOUT] = b"%d" % max(0, int(left * 1e3))
    peer: str = context.peer() or ""
    return _Call(headers, peer.rpartition(":")[0].partition(":")[2], monotonic(), size)


def _refusal(response: Response) -> _ProblemError:
    said: dict[str, Any] = msgspec.json.decode(response.body)
    details = str(RequestError(said["error"], where=said.get("where"), hint=said.get("hint")))
    return _ProblemError(response.status, details, dict(response.headers).get(b"Retry-After"))


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
