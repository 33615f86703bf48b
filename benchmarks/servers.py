"""Redis servers for benchmarks."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Generator
from pathlib import Path

import redis


@contextlib.contextmanager
def redis_server(folder: Path) -> Generator[int]:
    """The port of a new Redis server that keeps nothing."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    options = ["--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(port=port) as client:
            while True:
                with contextlib.suppress(redis.ConnectionError):
                    client.ping()
                    break
        yield port
    finally:
        server.kill()
        server.wait()
