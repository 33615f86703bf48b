"""The HTTP server's life: bind, serve, sweep, drain.

The port is bound before a model is loaded, so a port in use is known at once and probes are answered while it loads.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import gc
import importlib.util
import math
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar, final

from bedplate.allocator import give_back
from bedplate.http.board import DRAINING, READY, Seat
from bedplate.http.bodies import Bodies, Trimming
from bedplate.http.connection import Connection, Hub
from bedplate.http.door import Door
from bedplate.http.listening import Listener, bind, turn_away, url_of
from bedplate.http.load_metrics import load_lines
from bedplate.http.loading import Again, Loaded, in_thread
from bedplate.http.message import Handler, Limits, Request, Response
from bedplate.http.metrics import Metrics
from bedplate.http.place import Place
from bedplate.http.settings import Settings, allow_descriptors
from bedplate.http.tls import Certificate
from bedplate.http.tokens import Tokens
from bedplate.http.turns import Turns
from bedplate.http.watching import Watched

_LAST_CALL_SECONDS = 0.1  # at the end, for requests that are on their way
_HANDSHAKE_SECONDS = 0.1  # then, for connections that are half made


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
        certificate: None: connections are not encrypted.
        bound: a socket that listens already, in place of the host and the port.
        seat: where the server is one of several processes that share the socket.

    Attributes:
        turns: the queue of its requests.
        door: who is let in.
        bodies: how many bytes of bodies it holds.

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
        certificate: Certificate | None = None,
        bound: socket.socket | None = None,
        seat: Seat | None = None,
    ) -> None:
        limits = limits or Limits()
        self.turns = Turns(limits.wait_seconds, limits.waiting, limits.client_requests)
        self.door = Door(tokens)
        self.bodies = Bodies(max(limits.bodies_bytes, limits.body_bytes))
        self._hub = Hub(handler, limits, self.turns, self.door, self.bodies)
        self._grace, self._host, self._certificate, self._seat = grace_seconds, host, certificate, seat
        self._socket = bound or bind(host, port)
        self._listener: Listener | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._each_second: list[Callable[[], None]] = [self.turns.tidy, Trimming(self.bodies).look]
        if certificate is not None:
            self._each_second.append(Watched(certificate.paths, certificate.reload, seat).look)

    @property
    def port(self) -> int:
        """The port that is bound."""
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        """Where to reach the server from this machine."""
        return url_of(self._host, self.port, secure=self._certificate is not None)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._hub.connections)

    async def start(self) -> None:
        """Accepts connections."""
        loop = asyncio.get_running_loop()
        self._tick()
        limits, hub = self._hub.limits, self._hub
        hub.starting = self._seat is not None
        self._listener = Listener(
            self._socket,
            lambda: Connection(hub, loop),
            lambda: len(hub.connections),
            most=limits.connections,
            sharing=self._seat,
            tls=None if self._certificate is None else self._certificate.context,
            handshake_seconds=limits.request_seconds,
        )
        self._sweeper = loop.create_task(self._sweep(loop))

    def ready(self) -> None:
        """The handler is ready: connections stay open from now on, and are accepted as they come."""
        self._hub.starting = False
        if self._listener is not None:
            self._listener.hurry()

    def each_second(self, call: Callable[[], None]) -> None:
        """Calls this every second from now on, on the loop's thread; it may not raise."""
        self._each_second.append(call)

    async def drain(self, *, goes_alone: bool = False) -> None:
        """Answers what is under way, closes every connection and stops; at most `grace_seconds` long.

        Args:
            goes_alone: other processes go on accepting from the socket; they take the connections that wait.
        """
        hub, listener, loop = self._hub, self._listener, asyncio.get_running_loop()
        began = -math.inf if hub.starting else loop.time()  # one that was not ready has no answers to wait for
        hub.draining = True
        await asyncio.sleep(_LAST_CALL_SECONDS)
        if self._seat is None:
            turn_away(self._socket)
        if listener is not None and goes_alone:
            listener.leave()
        elif listener is not None:
            await asyncio.sleep(_HANDSHAKE_SECONDS)
            listener.finish()
        self._socket.close()
        end = loop.time() + self._grace
        while (hub.connections or (listener is not None and listener.opening)) and loop.time() < end:
            for connection in list(hub.connections):
                connection.close_idle(began)
            await asyncio.sleep(0.01)
        self.close()
        for connection in list(hub.connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await asyncio.sleep(0)

    def close(self) -> None:
        """Accepts no more connections; also before `start`."""
        if self._listener is not None:
            self._listener.close()
        self._socket.close()

    async def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """One timer for the deadlines of all connections costs a request nothing."""
        while True:
            await asyncio.sleep(1.0)
            self._tick()
            for call in self._each_second:
                call()
            now = loop.time()
            for connection in list(self._hub.connections):
                if connection.deadline < now:
                    connection.expire()

    def _tick(self) -> None:
        self._hub.date = email.utils.formatdate(usegmt=True).encode()


_Opened_contra = TypeVar("_Opened_contra", contravariant=True)


class Application(Protocol[_Opened_contra]):
    """What answers a server's requests, from before it is open until after it is closed."""

    def handle(self, request: Request) -> Response | Awaitable[Response]:
        """Answers a request, on the event loop's thread, or says when there will be an answer."""
        ...

    def retry(self) -> None:
        """Says in answers before `open` that what it answers from could not be loaded, and is tried again."""
        ...

    def open(self, loaded: _Opened_contra, /) -> None:
        """Becomes ready with what was loaded."""
        ...

    @property
    def metrics(self) -> Metrics:
        """What it shows of itself."""
        ...

    def close(self) -> None:
        """Is no longer ready."""
        ...


class Beside(Protocol):
    """Another server on the same event loop, such as one of another protocol.

    Attributes:
        name: of its protocol.
    """

    name: str

    @property
    def target(self) -> str:
        """Where to reach it from this machine, once it has started."""
        ...

    async def start(self, turns: Turns, door: Door, bodies: Bodies) -> None:
        """Accepts requests; they wait for their turn, are let in, and are held in memory, as those over HTTP."""
        ...

    async def drain(self) -> None:
        """Answers what is under way, and stops."""
        ...


def run_application(
    app: Application[Loaded],
    load: Callable[[], Loaded],
    settings: Settings,
    *,
    on_ready: Callable[[str, float], None],
    place: Place | None = None,
    beside: Sequence[Beside] = (),
    again: Again[Loaded] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains. Call it on the main thread.

    Args:
        app: answers the requests.
        load: gives what the application is opened with; runs on a thread of its own while the server answers that it
            is not ready.
        settings: where to listen, and for whom.
        on_ready: called once with the server's URL and the seconds since the call.
        place: of this process among several that serve together; None: it is the only one.
        beside: other servers, which begin and end with this one.
        again: what it is opened with anew on SIGHUP; None: that signal is not listened to.

    Raises:
        ConfigError: the port can't be bound.
        BedplateError: what `load` raises; the server was not ready before it.
        KeyboardInterrupt: it was stopped before it was ready.
    """
    begin = time.perf_counter()
    allow_descriptors()
    server = Server(
        app.handle,
        host=settings.host,
        port=settings.port,
        limits=settings.limits,
        grace_seconds=settings.grace_seconds,
        tokens=settings.tokens,
        certificate=settings.certificate,
        bound=None if place is None else place.socket,
        seat=None if place is None else place.seat,
    )
    if settings.token_file is not None:
        seat = None if place is None else place.seat
        server.each_second(Watched((settings.token_file,), settings.read_tokens, seat).look)
    app.metrics.add(lambda: load_lines(server.turns, server.connections))
    with asyncio.Runner(loop_factory=_new_loop) as runner:

        def announce() -> None:
            on_ready(server.url, time.perf_counter() - begin)

        was_ready = runner.run(_serve(server, app, load, announce, place, beside, again))
    if not was_ready:
        raise KeyboardInterrupt


def _new_loop() -> asyncio.AbstractEventLoop:
    if importlib.util.find_spec("uvloop") is None:
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


async def _serve(
    server: Server,
    app: Application[Loaded],
    load: Callable[[], Loaded],
    announce: Callable[[], None],
    place: Place | None,
    beside: Sequence[Beside],
    again: Again[Loaded] | None,
) -> bool:
    """Serves until it is stopped; whether it was ready before that."""
    loop = asyncio.get_running_loop()
    was_ready = False
    stopped = asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stopped.set)
    if again is not None:
        again.listen()
        app.metrics.add(again.lines)
    if place is not None:
        _take(place, server, app, stopped)
    await server.start()
    stopping = loop.create_task(stopped.wait())
    loading: asyncio.Future[Loaded] | None = None
    following: asyncio.Task[None] | None = None
    try:
        if place is None:  # a port that is in use is known at once, before a thread is in what can't be interrupted
            await _start(beside, server)
        loading = in_thread(load)
        await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not stopped.is_set():
            app.open(await loading)
            _freeze()
            if place is not None:
                # Of several processes that listen the system gives a connection to any: only ready ones may.
                await _start(beside, server)
                place.seat.set_state(READY)
            server.ready()
            was_ready = True
            with contextlib.suppress(OSError):  # nobody reads it: that is no reason not to serve
                announce()
            if again is not None:
                following = loop.create_task(again.follow(app.open))
            await stopping
    finally:
        if following is not None:
            following.cancel()
        stopping.cancel()
        if loading is not None:
            loading.cancel()
        for number in signals:
            loop.remove_signal_handler(number)  # a second signal ends the process at once
        await _end(server, app, place, beside)
    return was_ready


def _freeze() -> None:
    """What is loaded stays: the collector need not look at it, and its pauses are short from here on.

    What was in use only while it was loaded is given back.
    """
    gc.collect()
    gc.freeze()
    give_back()


def _take(place: Place, server: Server, app: Application[Loaded], stopped: asyncio.Event) -> None:
    def stop() -> None:
        app.close()
        stopped.set()

    place.join(server, app.metrics, stop)
    if place.seat.failures:
        app.retry()


async def _end(server: Server, app: Application[Loaded], place: Place | None, beside: Sequence[Beside]) -> None:
    """Answers what is under way, and stops. Where others serve on, who asks over a last connection is told so."""
    if place is not None:
        place.seat.set_state(DRAINING)
    if place is None or not place.is_relieved:
        app.close()
    goes_alone = place is not None and not place.is_over
    await asyncio.gather(server.drain(goes_alone=goes_alone), *(other.drain() for other in beside))
    if place is not None:
        place.leave()


async def _start(beside: Sequence[Beside], server: Server) -> None:
    for other in beside:
        await other.start(server.turns, server.door, server.bodies)
