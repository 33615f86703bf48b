"""The connections of a client of threads."""

from __future__ import annotations

import socket
import ssl
import threading
from time import monotonic
from typing import final

from bedplate.client import forks, target
from bedplate.client.target import Target
from bedplate.client.wire import Reading, Reply
from bedplate.errors import reason

_PART = 262_144


@final
class Connections:
    """The connections to one service, those that are idle among them. Any number of threads may use it.

    A process that is forked off has none of its parent's.

    Args:
        target: the service.

    Attributes:
        idle: those that a request may be sent over.
    """

    __slots__ = ("__weakref__", "_lock", "_open", "_target", "idle")

    def __init__(self, target: Target) -> None:
        self._target, self._lock = target, threading.Lock()
        self.idle: list[socket.socket] = []
        self._open: set[socket.socket] = set()
        forks.watch(self)

    def take(self) -> socket.socket | None:
        """An idle one over which nothing came since its last answer; None: there is none."""
        while True:
            with self._lock:
                if not self.idle:
                    return None
                found = self.idle.pop()
            if _is_quiet(found):
                return found
            self.close(found)

    def opened(self, until: float) -> socket.socket:
        """A new one.

        Raises:
            OSError: the service can't be reached, or not by a time of the monotonic clock.
        """
        connection = _opened(self._target, until)
        self._open.add(connection)
        return connection

    def keep(self, connection: socket.socket) -> bool:
        """Whether one is idle from now on: there are not too many."""
        with self._lock:
            keeps = len(self.idle) < target.MOST_IDLE
            if keeps:
                self.idle.append(connection)
        return keeps

    def close(self, connection: socket.socket) -> None:
        """Ends one."""
        self._open.discard(connection)
        connection.close()

    def close_idle(self) -> None:
        """Ends those that are idle."""
        with self._lock:
            idle, self.idle = self.idle, []
        for connection in idle:
            self.close(connection)

    def after_fork(self) -> None:
        """See `forks.Forked`."""
        self._lock = threading.Lock()  # a thread that is not there may have held it
        copies, self._open, self.idle = self._open, set[socket.socket](), []
        for connection in copies:
            connection.close()  # no shutdown, nor the end of TLS: those would be the parent's


def answer(connection: socket.socket, content: bytes, reading: Reading, until: float) -> Reply:
    """Sends a request and reads its answer, however slowly the other side takes it and sends.

    Raises:
        TimeoutError: the time is over.
        OSError: the connection broke off.
        EOFError: it ended before the answer.
        ValueError: what came is no answer.
    """
    left = memoryview(content)
    while left:
        connection.settimeout(_left(until))
        left = left[connection.send(left) :]
    reply = None
    while reply is None:
        connection.settimeout(_left(until))
        reply = reading.feed(_part(connection, reading))
    return reply


def _part(connection: socket.socket, reading: Reading) -> bytes:
    """What comes next of an answer; nothing where the connection has ended."""
    try:
        return connection.recv(_PART)
    except TimeoutError:
        raise
    except OSError as error:
        if not reading.came:
            raise
        raise reading.cut(reason(error)) from error


def _opened(target: Target, until: float) -> socket.socket:
    place = target.place
    connection = socket.create_connection((place.host, place.port), _left(until))
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(_left(until))
        return target.tls.wrap_socket(connection, server_hostname=place.host) if target.tls else connection
    except BaseException:
        connection.close()
        raise


def _is_quiet(connection: socket.socket) -> bool:
    """Whether nothing came over a connection since its last answer: neither its end nor what nobody asked for."""
    try:
        connection.settimeout(0)
        connection.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False
    return False


def _left(until: float) -> float:
    """The seconds until a time.

    Raises:
        TimeoutError: it is over.
    """
    left = until - monotonic()
    if left <= 0:
        raise TimeoutError
    return left
