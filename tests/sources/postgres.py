"""A real PostgreSQL server for tests: on a free port of this machine, with a password, gone at the end."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import adbc_driver_postgresql.dbapi as postgresql

MISSING = "PostgreSQL's server is not installed; scripts/test installs it (Debian: apt-get install postgresql)"
PASSWORD = "a very secret word"


def program(name: str) -> str:
    """The path of one of the server's programs, which Debian keeps off the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name), reverse=True)
    found = next((str(f / name) for f in folders if (f / name).is_file()), None) or shutil.which(name)
    if found is None:
        raise FileNotFoundError(MISSING)
    return found


@dataclass(frozen=True)
class Server:
    """A running server with one superuser, `owner`."""

    port: int
    log: Path

    def uri(self, user: str = "owner", password: str = PASSWORD) -> str:
        return f"postgresql://{user}:{password.replace(' ', '%20')}@127.0.0.1:{self.port}/postgres"

    @cached_property
    def _connection(self) -> postgresql.Connection:
        return postgresql.connect(self.uri(), autocommit=True)

    def execute(self, *statements: str) -> None:
        with self._connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def value(self, query: str) -> object:
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            row = cursor.fetchone()
            assert row is not None
            return row[0]

    def close(self) -> None:
        self._connection.close()


def _command(*words: str) -> Sequence[str]:
    """The server refuses to run as root: then its own user runs it."""
    if os.getuid():
        return words
    return ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *words)


@contextmanager
def running() -> Generator[Server]:
    """A new server, stopped and deleted at the end."""
    initdb, postgres = program("initdb"), program("postgres")
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder, socket.create_server(("127.0.0.1", 0)) as free:
        port, data, password = free.getsockname()[1], Path(folder, "data"), Path(folder, "password")
        password.write_text(PASSWORD)
        if not os.getuid():
            for path in (Path(folder), password):
                shutil.chown(path, "postgres", "postgres")
        made = [
            initdb,
            "-D",
            str(data),
            "-U",
            "owner",
            "-A",
            "scram-sha-256",
            f"--pwfile={password}",
            "-N",
            "-E",
            "UTF8",
        ]
        subprocess.run(_command(*made, "--locale=C"), check=True, capture_output=True, cwd=folder)
        free.close()
        settings = [
            "listen_addresses=127.0.0.1",
            "fsync=off",
            f"unix_socket_directories={folder}",
            "max_connections=30",
        ]
        options = [word for setting in settings for word in ("-c", setting)]
        command = _command(postgres, "-D", str(data), "-p", str(port), *options)
        with (
            Path(folder, "log").open("wb") as log,
            subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) as server,
        ):
            try:
                _wait(port, server, Path(folder, "log"))
                running = Server(port, Path(folder, "log"))
                yield running
                running.close()
            finally:
                server.send_signal(2)  # fast shutdown: open connections are ended
                server.wait(timeout=30)


def _wait(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    ready = program("pg_isready")
    for _ in range(200):
        done = subprocess.run([ready, "-q", "-h", "127.0.0.1", "-p", str(port)], check=False)
        if done.returncode == 0:
            return
        if server.poll() is not None:
            break
        subprocess.run(["sleep", "0.05"], check=True)
    raise RuntimeError(f"the server did not start:\n{log.read_text()}")
