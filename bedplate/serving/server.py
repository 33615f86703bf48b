"""The HTTP server's life: bind, serve, sweep, drain.

The port is bound before a model is loaded, so a port in use is known at once and probes are answered while it loads.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import errno
import gc
import importlib.util
import os
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar, final

from bedplate.errors import ConfigError
from bedplate.serving.connection import Connection, Hub
from bedplate.serving.door import Door
from bedplate.serving.http import Handler, Limits, Request, Response
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.repository import Repository
from bedplate.serving.routes import App
from bedplate.serving.tokens import Tokens
from bedplate.serving.turns import Turns

_LAST_CALL_SECONDS = 0.1  # at the end, for requests that the kernel holds already


@final
class Server:
    """One listening socket and its connections.

    Args:
        handler: answers requests, on the event loop's thread.
        host: a name or an address.
        port: 0 for a free one.
        limits: of each connection.
        grace_seconds: how long `drain` waits for requests under way.
        tokens: who may ask; None: everybody.

    Raises:
        ConfigError: the port is in use or not allowed, or the host is not this machine's.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        limits: Limits | None = None,
        grace_seconds: float = 10.0,
        tokens: Tokens | None = None,
    ) -> None:
        limits = limits or Limits()
        turns = Turns(limits.wait_seconds, limits.waiting, limits.client_requests)
        self._hub = Hub(handler, limits, turns, Door(tokens))
        self._grace = grace_seconds
        self._host = host
        self._socket = _bind(host, port)
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port that is bound."""
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        """Where to reach the server from this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    async def start(self) -> None:
        """Accepts connections."""
        loop = asyncio.get_running_loop()
        self._tick()
        self._server = await loop.create_server(lambda: Connection(self._hub, loop), sock=self._socket, backlog=1024)
        self._sweeper = loop.create_task(self._sweep(loop))

    async def drain(self) -> None:
        """Answers what is under way, closes every connection and stops; at most `grace_seconds` long."""
        hub = self._hub
        hub.draining = True
        await asyncio.sleep(_LAST_CALL_SECONDS)
        self.close()
        loop = asyncio.get_running_loop()
        end = loop.time() + self._grace
        while hub.connections and loop.time() < end:
            for connection in list(hub.connections):
                connection.close_idle()
            await asyncio.sleep(0.01)
        for connection in list(hub.connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await asyncio.sleep(0)

    def close(self) -> None:
        """Accepts no more connections; also before `start`."""
        if self._server is not None:
            self._server.close()
        self._socket.close()

    async def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """One timer for the deadlines of all connections costs a request nothing."""
        while True:
            await asyncio.sleep(1.0)
            self._tick()
            self._hub.turns.tidy()
            now = loop.time()
            for connection in list(self._hub.connections):
                if connection.deadline < now:
                    connection.expire()

    def _tick(self) -> None:
        self._hub.date = email.utils.formatdate(usegmt=True).encode()


def _bind(host: str, port: int) -> socket.socket:
    place = f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, OverflowError, UnicodeError) as error:
        raise ConfigError(f"the host or port is not known: {error}", where=place) from error
    bound = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(1024)
    except (OSError, OverflowError) as error:
        bound.close()
        code = getattr(error, "errno", None)
        if code == errno.EADDRINUSE:
            hint = "stop the other program, give another --port, or --port 0 for a free one"
            raise ConfigError("the port is in use", where=place, hint=hint) from error
        if code == errno.EACCES:
            raise ConfigError("the port is not allowed", where=place, hint="use one above 1023") from error
        raise ConfigError(f"can't listen here: {error}", where=place) from error
    bound.setblocking(False)
    return bound


Loaded = TypeVar("Loaded")
_Opened_contra = TypeVar("_Opened_contra", contravariant=True)


class Application(Protocol[_Opened_contra]):
    """What answers a server's requests, from before it is open until after it is closed."""

    def handle(self, request: Request) -> Response | Awaitable[Response]:
        """Answers a request, on the event loop's thread, or says when there will be an answer."""
        ...

    def open(self, loaded: _Opened_contra, /) -> None:
        """Becomes ready with what was loaded."""
        ...

    def close(self) -> None:
        """Is no longer ready."""
        ...


def run_service(
    load: Callable[[], Pipeline],
    *,
    host: str,
    port: int,
    on_ready: Callable[[str, float], None],
    limits: Limits | None = None,
    repository: Repository | None = None,
) -> None:
    """Serves a pipeline and the models of a repository; see `run_application`."""
    run_application(App(repository), load, host=host, port=port, on_ready=on_ready, limits=limits)


def run_application(
    app: Application[Loaded],
    load: Callable[[], Loaded],
    *,
    host: str,
    port: int,
    on_ready: Callable[[str, float], None],
    limits: Limits | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains. Call it on the main thread.

    Args:
        app: answers the requests.
        load: gives what the application is opened with; runs on a thread of its own while the server answers that it
            is not ready.
        host: a name or an address.
        port: 0 for a free one.
        on_ready: called once with the server's URL and the seconds since the call.
        limits: of each connection.

    Raises:
        ConfigError: the port can't be bound.
        BedplateError: what `load` raises; the server was not ready before it.
    """
    begin = time.perf_counter()
    server = Server(app.handle, host=host, port=port, limits=limits)
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(_serve(server, app, load, lambda: on_ready(server.url, time.perf_counter() - begin)))


def _new_loop() -> asyncio.AbstractEventLoop:
    if importlib.util.find_spec("uvloop") is None:
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


async def _serve(
    server: Server, app: Application[Loaded], load: Callable[[], Loaded], announce: Callable[[], None]
) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stopped.set)
    await server.start()
    stopping = loop.create_task(stopped.wait())
    loading = _in_thread(load)
    try:
        await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not stopped.is_set():
            app.open(await loading)
            # What is loaded stays: the collector need not look at it, and its pauses are short from here on.
            gc.collect()
            gc.freeze()
            announce()
            await stopping
    finally:
        stopping.cancel()
        loading.cancel()
        for number in signals:
            loop.remove_signal_handler(number)  # a second signal ends the process at once
        app.close()
        await server.drain()


def _in_thread(load: Callable[[], Loaded]) -> asyncio.Future[Loaded]:
    """The result of `load`, run on a thread that doesn't keep the process alive."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Loaded] = loop.create_future()

    def settle(result: Loaded | None, error: BaseException | None) -> None:
        if future.done():
            return
        if result is None:
            # A future takes no StopIteration, and would wait for ever.
            raised = RuntimeError(f"loading ended in {error!r}") if isinstance(error, StopIteration) else error
            future.set_exception(raised or RuntimeError("nothing was loaded"))
        else:
            future.set_result(result)

    def work() -> None:
        result: Loaded | None = None
        failure: BaseException | None = None
        try:
            result = load()
        except BaseException as error:  # noqa: BLE001  (raised again where the result is awaited)
            failure = error
        with contextlib.suppress(RuntimeError):  # the server was stopped meanwhile, and its loop is closed
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=work, name="load", daemon=True).start()
    return future
