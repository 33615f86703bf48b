"""The listening socket: bound once, and accepted from by one event loop or by those of several processes."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import os
import socket
import ssl
import struct
import sys
from collections.abc import Callable
from typing import Protocol, final

from bedplate.errors import ConfigError

log = logging.getLogger("bedplate.serving")

_BACKLOG = 1024
_AT_ONCE = 16  # connections that are accepted before the loop goes on
_PAUSE_SECONDS = 0.002
_START_SECONDS = 0.01
"""Between two connections of a process that is not ready: what it does for them would keep it from becoming so."""
_NO_SYN = struct.pack(
    "HBBI" * 4,
    *(0x30, 0, 0, 13),  # the flags of the TCP header
    *(0x45, 0, 1, 0x02),  # SYN?
    *(0x06, 0, 0, 0),  # nothing of it
    *(0x06, 0, 0, 0xFFFFFFFF),  # all of it
)
"""A program of the kernel's packet filter: lets through all but attempts to connect."""
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER of Linux
_MOST_PAUSES = 5
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Sharing(Protocol):
    """Which of the processes that share a socket takes the next connection."""

    def takes_next(self, connections: int, *, waited: bool = False) -> bool:
        """Whether this process does, which has so many; `waited`: the others have had time to take it."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether this process answers requests."""
        ...


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ConfigError: the port is in use or not allowed, or the host is not this machine's.
    """
    place = f"{host}:{port}"
    name = host.encode() if host.isascii() else host  # what is not ASCII alone needs the tables of domain names
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, OverflowError, UnicodeError) as error:
        raise ConfigError(f"the host or port is not known: {error}", where=place) from error
    bound = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)
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


def hold(host: str, port: int) -> list[socket.socket]:
    """Sockets that keep a port for the processes of one server, each of which binds it with SO_REUSEPORT, now or later.

    They don't listen, and keep it until they are closed: who binds it without that option gets EADDRINUSE, and so does
    who calls this. On other systems than Linux it is only looked whether another program has the port, and there are
    none.

    Args:
        host: a name, of which every address of this machine is meant, or an address.
        port: not 0.

    Raises:
        OSError: another program has the port, or it is not allowed, or the host is not this machine's.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    held: list[socket.socket] = []
    missing: OSError | None = None
    for family, kind, protocol, _, address in found:
        one = socket.socket(family, kind, protocol)
        try:
            # Listening is what two that bind at the same time can't do both; connections that have ended don't count.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(address)
            one.listen(1)
            if sys.platform == "linux":
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                one.shutdown(socket.SHUT_RDWR)  # it stays bound, and connections are refused
                held.append(one)
            else:  # pragma: no cover
                one.close()
        except OSError as error:
            one.close()
            if error.errno != errno.EADDRNOTAVAIL:
                for other in held:
                    other.close()
                raise
            missing = error
    if missing is not None and not held:
        raise missing
    return held


def turn_away(bound: socket.socket) -> None:
    """Lets nobody connect any more, whichever process accepts; those that have connected are still accepted.

    Who tries to connect meanwhile is refused when the socket is closed, and not reset. Where the system has no such
    filter nothing changes.
    """
    if sys.platform == "linux":
        program = ctypes.create_string_buffer(_NO_SYN, len(_NO_SYN))
        with contextlib.suppress(OSError):
            bound.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HL", 4, ctypes.addressof(program)))


def url_of(host: str, port: int, *, secure: bool = False) -> str:
    """Where to reach a server from this machine.

    >>> url_of("0.0.0.0", 80), url_of("::", 443, secure=True)
    ('http://127.0.0.1:80', 'https://[::1]:443')
    """
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


@final
class Listener:
    """Accepts connections on an event loop.

    Args:
        bound: the socket.
        protocol: makes the server's end of a connection, as soon as it is accepted.
        connections: how many are open.
        most: of them; beyond twice as many the kernel holds those that come.
        sharing: with the processes that accept from the same socket.
        tls: None: connections are not encrypted.
        handshake_seconds: how long that may take.
    """

    def __init__(
        self,
        bound: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        connections: Callable[[], int],
        *,
        most: int,
        sharing: Sharing | None = None,
        tls: ssl.SSLContext | None = None,
        handshake_seconds: float = 10.0,
    ) -> None:
        self._socket, self._protocol, self._connections, self._most = bound, protocol, connections, most
        self._sharing, self._tls, self._handshake_seconds = sharing, tls, handshake_seconds
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._pauses = 0
        self._loop.add_reader(bound.fileno(), self._accept)

    @property
    def opening(self) -> int:
        """How many connections are accepted and not open yet."""
        return len(self._opening)

    def hurry(self) -> None:
        """Accepts at once, where it waited to do so."""
        if self._again is not None:
            self._again.cancel()
            self._resume()

    def finish(self) -> None:
        """Accepts all that have connected, and then no more."""
        self.leave()
        while self._socket.fileno() >= 0 and self._connections() + len(self._opening) < 2 * self._most:
            try:
                self._take()
            except OSError:
                return  # there are no more

    def leave(self) -> None:
        """Accepts no more: those that have connected are for other processes, or for `finish`.

        Call it before the socket is closed: where other processes have it too, the system still tells of connections.
        """
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())

    def close(self) -> None:
        """Accepts no more, and gives up on handshakes."""
        self.leave()
        for task in self._opening:
            task.cancel()

    def _accept(self) -> None:
        for _ in range(_AT_ONCE if self._sharing is None else 1):
            open_now = self._connections() + len(self._opening)
            if open_now >= 2 * self._most:
                self._pause(0.1)
                return
            waited = self._pauses >= _MOST_PAUSES  # the others are at work, or can't work
            if self._sharing is not None and not self._sharing.takes_next(open_now, waited=waited):
                self._pauses += 1
                self._pause(_PAUSE_SECONDS)
                return
            self._pauses = 0
            try:
                self._take()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    log.error("can't accept connections: %s", error.strerror)
                    self._pause(0.5)
                return  # another process took it, or the client has gone
            if self._sharing is not None and not self._sharing.is_ready:
                self._pause(_START_SECONDS)

    def _take(self) -> None:
        """Accepts one.

        Raises:
            OSError: there is none, or no descriptor for it.
        """
        accepted, _ = self._socket.accept()
        accepted.setblocking(False)
        task = self._loop.create_task(self._open(accepted, self._protocol()))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._again = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._again = None
        if self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket.fileno(), self._accept)

    async def _open(self, accepted: socket.socket, protocol: asyncio.Protocol) -> None:
        wait = None if self._tls is None else self._handshake_seconds
        # A client that speaks no TLS, or goes away during the handshake, is nobody's fault here.
        with contextlib.suppress(OSError):
            await self._loop.connect_accepted_socket(
                lambda: protocol, accepted, ssl=self._tls, ssl_handshake_timeout=wait
            )
