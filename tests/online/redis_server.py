"""Real Redis servers for tests: on free ports of this machine, gone at the end."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

MISSING = "Redis is not installed; scripts/test installs it (Debian: apt-get install redis-server)"


def namespace(folder: Path) -> str:
    """A namespace of a test's own in a server that tests share."""
    return hashlib.blake2b(str(folder).encode(), digest_size=6).hexdigest()


def program() -> str:
    """The server's program: Redis, or else Valkey."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        raise FileNotFoundError(MISSING)
    return found


class Server:
    """A server that can be killed, started again with its data, frozen and thawed."""

    def __init__(self, folder: Path, port: int, options: Sequence[str], **client: Any) -> None:
        self.port, self._folder, self._options, self._client = port, folder, options, client
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        options = ["--dir", str(self._folder), "--save", "", "--bind", "127.0.0.1", *self._options]
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen([program(), *options], stdout=log, stderr=log)
        self.client = redis.Redis(port=self.port, **self._client)
        for _ in range(1000):
            with contextlib.suppress(redis.RedisError):
                self.client.ping()
                return
            assert self.process.poll() is None, (self._folder / "log").read_text()
            time.sleep(0.01)
        raise TimeoutError("the server does not answer")

    def kill(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def running(*options: str, tls: Path | None = None, **client: Any) -> Generator[Server]:
    """A new server, killed and deleted at the end.

    Args:
        options: of its command line.
        tls: the folder with `cert.pem` and `key.pem`: the port speaks TLS only.
        client: how its own client connects.
    """
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        port = free_port()
        ports = ["--port", str(port)]
        if tls is not None:
            ports = ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no"]
            ports += ["--tls-cert-file", f"{tls}/cert.pem", "--tls-key-file", f"{tls}/key.pem"]
            client |= {"ssl": True, "ssl_ca_certs": f"{tls}/cert.pem"}
        server = Server(Path(folder), port, [*ports, *options], **client)
        try:
            yield server
        finally:
            server.kill()


@contextmanager
def running_cluster(count: int) -> Generator[list[Server]]:
    """A cluster of some servers, all of whose slots are given out."""
    with contextlib.ExitStack() as stack:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--appendonly", "no")
        servers: list[Server] = []
        for _ in range(count):
            bus = str(free_port())
            servers.append(stack.enter_context(running(*options, "--cluster-port", bus)))
            servers[0].client.execute_command("CLUSTER", "MEET", "127.0.0.1", servers[-1].port, bus)
        ends = [16384 * i // count for i in range(count + 1)]
        for i, server in enumerate(servers):
            server.client.execute_command("CLUSTER", "ADDSLOTSRANGE", ends[i], ends[i + 1] - 1)
        while any(_is_joining(server, count) for server in servers):
            time.sleep(0.01)
        yield servers


def _is_joining(server: Server, count: int) -> bool:
    info = str(server.client.execute_command("CLUSTER", "INFO"))
    return "cluster_state:ok" not in info or len(server.client.execute_command("CLUSTER", "SLOTS")) != count


class Proxy:
    """Stands between a client and a server: passes on what they send, until told to hold or to cut.

    Attributes:
        holds_requests: requests are kept until `let_go`.
        holds_transactions: the same, of what begins with `MULTI` only.
        before_transaction: called before one is passed on.
        cuts_answers: a connection is cut in place of an answer, so many times.
        meanwhile: called before a connection is cut in place of an answer.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.holds_requests, self.holds_transactions, self.cuts_answers = False, False, 0
        self.held: list[tuple[socket.socket, bytes]] = []
        self._late: list[bytes] = []
        self.meanwhile: Callable[[], object] = int
        self.before_transaction: Callable[[], object] = int
        threading.Thread(target=self._listen, daemon=True).start()

    def let_go(self, ending: bytes = b"\r\n") -> list[bytes]:
        """Sends what was held, and gives the server's answers, which end so and which no client gets."""
        self._late = []
        for upstream, data in self.held:
            upstream.sendall(data)
        while b"".join(self._late).count(ending) < len(self.held):
            time.sleep(0.001)
        self.held = []
        return self._late

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                upstream = socket.create_connection(("127.0.0.1", self._server_port))
                threading.Thread(target=self._requests, args=(client, upstream), daemon=True).start()
                threading.Thread(target=self._answers, args=(client, upstream), daemon=True).start()

    def _requests(self, client: socket.socket, upstream: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                is_transaction = b"MULTI" in data
                while is_transaction and b"EXEC" not in data and (more := client.recv(1 << 16)):
                    data += more
                if is_transaction:
                    self.before_transaction()
                if self.holds_requests or (is_transaction and self.holds_transactions):
                    self.held.append((upstream, data))
                    client.shutdown(socket.SHUT_RDWR)
                    return
                upstream.sendall(data)
            upstream.close()

    def _answers(self, client: socket.socket, upstream: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := upstream.recv(1 << 16):
                self._late.append(data)
                if self.cuts_answers:
                    self.cuts_answers -= 1
                    self.meanwhile()
                    break
                with contextlib.suppress(OSError):  # what was held is answered too, to nobody
                    client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        client.close()
        upstream.close()
