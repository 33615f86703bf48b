"""The servers of a Redis store and the connections to them: one server, or a cluster, which says where each key is."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Any, TypeAlias, final

from redis import exceptions
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection
from redis.crc import key_slot
from redis.retry import Retry

from bedplate.errors import StoreError, UnavailableError
from bedplate.online.redis_address import RedisAddress
from bedplate.online.redis_wire import Command, packed

_READ_SIZE = 1 << 18
_SLOTS = 16384
_LEAST = 0.0005

Asked: TypeAlias = tuple[bytes, Command]
"""A name that is on the server which is to be asked, and what it is asked."""


class UnreachableError(Exception):
    """No connection to a server could be made; nothing was sent."""


@final
class Server:
    """One server, and the connections to it that are idle. Any number of threads may use it."""

    __slots__ = ("_address", "_idle", "_lock", "_process", "host", "port")

    def __init__(self, address: RedisAddress, host: str, port: int) -> None:
        self._address, self.host, self.port = address, host, port
        self._idle: list[Any] = []
        self._lock, self._process = threading.Lock(), os.getpid()

    @contextmanager
    def connection(self, until: float) -> Generator[Any]:
        """A connection for this thread; closed if what it was used for ends in an error.

        Raises:
            UnreachableError: none could be made by a time of the monotonic clock.
        """
        connection = self._take() or self._connected(until)
        try:
            yield connection
        except BaseException:
            connection.disconnect()
            raise
        with self._lock:
            self._idle.append(connection)

    def close(self) -> None:
        """Closes the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.disconnect()

    def _take(self) -> Any:
        with self._lock:
            if self._process != os.getpid():  # a fork has copies of its parent's connections
                self._process, self._idle = os.getpid(), []
            return self._idle.pop() if self._idle else None

    def _connected(self, until: float) -> Any:
        address, left = self._address, left_until(until)
        options: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "db": address.db,
            "username": address.user or None,
            "password": address.password or None,
            "socket_timeout": left,
            "socket_connect_timeout": left,
            "socket_read_size": _READ_SIZE,
            "client_name": "bedplate",
            "driver_info": None,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
        }
        if address.tls:
            options |= {"ssl_ca_certs": address.ca, "ssl_certfile": address.cert, "ssl_keyfile": address.key}
        connection: Any = (SSLConnection if address.tls else Connection)(**options)
        try:
            connection.connect()
        except (exceptions.AuthenticationError, exceptions.ResponseError, exceptions.BusyLoadingError):
            raise
        except (exceptions.RedisError, OSError) as error:
            raise UnreachableError(str(error)) from error
        return connection


class Servers(ABC):
    """Where keys are."""

    @property
    @abstractmethod
    def apart(self) -> bool:
        """Whether each group of keys may be on a server of its own."""

    @abstractmethod
    def of(self, name: bytes, until: float) -> Server:
        """The server of a name."""

    @abstractmethod
    def every(self, until: float) -> list[Server]:
        """All servers that have keys."""

    @abstractmethod
    def look_again(self) -> None:
        """Finds out anew where keys are, when they are asked for next."""

    @abstractmethod
    def close(self) -> None:
        """Closes the idle connections."""

    @final
    def ask(self, asked: Sequence[Asked], until: float) -> list[Any]:
        """The answers of the servers to commands, which are all sent first: one round trip.

        Raises:
            UnreachableError: a server could not be reached; nothing was sent.
            exceptions.RedisError: a server did not answer by a time of the monotonic clock, or with an error.
        """
        of_servers: dict[Server, list[int]] = {}
        for i, (name, _) in enumerate(asked):
            of_servers.setdefault(self.of(name, until), []).append(i)
        found: list[Any] = [None] * len(asked)
        with ExitStack() as used:
            connections = [(used.enter_context(s.connection(until)), indexes) for s, indexes in of_servers.items()]
            for connection, indexes in connections:
                send(connection, [packed(asked[i][1]) for i in indexes], until)
            for connection, indexes in connections:
                for i in indexes:
                    found[i] = connection.read_response(timeout=left_until(until))
        return found


@final
class OneServer(Servers):
    """All keys are on one server."""

    __slots__ = ("_server",)

    def __init__(self, address: RedisAddress) -> None:
        self._server = Server(address, *address.hosts[0])

    @property
    def apart(self) -> bool:
        """They are not."""
        return False

    def of(self, name: bytes, until: float) -> Server:
        """The one server."""
        return self._server

    def every(self, until: float) -> list[Server]:
        """The one server."""
        return [self._server]

    def look_again(self) -> None:
        """Closes idle connections, which may be broken too."""
        self._server.close()

    def close(self) -> None:
        """Closes the idle connections."""
        self._server.close()


@final
class Cluster(Servers):
    """Each of 16384 slots of keys is on one of several servers. Replicas are not asked: they may be behind."""

    __slots__ = ("_address", "_lock", "_servers", "_slots")

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._servers = {where: Server(address, *where) for where in address.hosts}
        self._slots: list[Server | None] = []
        self._lock = threading.Lock()

    @property
    def apart(self) -> bool:
        """They are."""
        return True

    def of(self, name: bytes, until: float) -> Server:
        """The server of a name's slot."""
        slots = self._slots or self._find(until)
        server = slots[key_slot(name)]
        if server is None:
            self.look_again()
            raise exceptions.ClusterDownError("CLUSTERDOWN no server has the key's slot")
        return server

    def every(self, until: float) -> list[Server]:
        """All servers with slots."""
        slots = self._slots or self._find(until)
        return list(dict.fromkeys(s for s in slots if s is not None))

    def look_again(self) -> None:
        """Closes idle connections, and forgets where slots are."""
        self._slots = []
        self.close()

    def close(self) -> None:
        """Closes the idle connections."""
        for server in list(self._servers.values()):
            server.close()

    def _find(self, until: float) -> list[Server | None]:
        """Asks one server after the other where slots are."""
        why: Exception = UnreachableError("no server of the cluster could be reached")
        for server in list(self._servers.values()):
            try:
                with server.connection(until) as connection:
                    send(connection, [packed((b"CLUSTER", b"SLOTS"))], until)
                    found = connection.read_response(timeout=left_until(until))
            except (exceptions.AuthenticationError, exceptions.ResponseError):
                raise
            except (UnreachableError, exceptions.RedisError) as error:
                why = error
                continue
            slots: list[Server | None] = [None] * _SLOTS
            for first, last, primary, *_ in found:
                host = primary[0].decode() or server.host
                slots[first : last + 1] = [self._server(host, int(primary[1]))] * (last + 1 - first)
            self._slots = slots
            return slots
        raise UnreachableError(str(why)) from why

    def _server(self, host: str, port: int) -> Server:
        with self._lock:
            return self._servers.setdefault((host, port), Server(self._address, host, port))


def left_until(until: float) -> float:
    """Seconds until a time of the monotonic clock; a timeout is never 0, which would mean none."""
    return max(until - monotonic(), _LEAST)


def ask_server(server: Server, command: Command, until: float) -> Any:
    """The answer of one server to one command."""
    with server.connection(until) as connection:
        send(connection, [packed(command)], until)
        return connection.read_response(timeout=left_until(until))


def is_passing(error: Exception) -> bool:
    """Whether what a server could not do it may do a little later."""
    if isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError):
        return False
    passing = UnreachableError | exceptions.ConnectionError | exceptions.TimeoutError | exceptions.ClusterError
    if isinstance(error, passing | exceptions.AskError | exceptions.TryAgainError | exceptions.ReadOnlyError):
        return True
    return str(error).startswith(("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "NOREPLICAS", "READONLY", "TRYAGAIN"))


def refusal(what: str, error: Exception, url: str) -> StoreError:
    """The error of a server as one of Bedplate's."""
    text = str(error)
    hint = "check the server's log"
    if isinstance(error, UnreachableError | exceptions.ConnectionError):
        hint = "check that the server is running and that the URL is right"
    if "certificate" in text.lower() or "ssl" in text.lower():
        hint = "begin the URL with rediss:// where the server speaks TLS; ?ca=FILE names who signed its certificate"
    if isinstance(error, exceptions.AuthenticationError):
        hint = "name the user in the URL, and the variable that holds the password: ?password_env=NAME"
    elif isinstance(error, exceptions.OutOfMemoryError) or text.startswith("OOM"):
        hint = "the server's memory is full (maxmemory); nothing of this step was written: make room and run it again"
    elif text.startswith("CROSSSLOT"):
        hint = "the server belongs to a cluster: begin the URL with redis+cluster://"
    elif text.startswith("NOPERM"):
        hint = "the server's user needs more rights: docs/redis.md lists them"
    kind = UnavailableError if is_passing(error) else StoreError
    return kind(f"can't {what} the online store: {text}", where=url, hint=hint)


def send(connection: Any, packed: Any, until: float) -> None:
    """Sends commands by a time of the monotonic clock, also ones that do not fit into what the system buffers."""
    connection.update_current_socket_timeout(left_until(until))
    connection.send_packed_command(packed, check_health=False)
