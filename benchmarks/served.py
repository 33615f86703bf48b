"""A server of `bedplate` as a process of its own, asked and watched from outside: its memory, descriptors and CPU."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Self

from record import judge, save

HERE = Path(__file__).parent


def command(
    name: str,
    description: str | None,
    measure: Callable[[Path, float, int], dict[str, Any]],
    targets: Callable[[dict[str, Any]], dict[str, tuple[float, str, float]]],
    seconds: float,
    workers: int,
) -> int:
    """The command of a benchmark that watches a service for a while: measures, prints, saves; the exit code.

    Args:
        name: of the result's file.
        description: of the command.
        measure: the result, of a project made in a folder, for so many seconds, with so many workers.
        targets: of a result, as of `judge`.
        seconds: where the command says none.
        workers: the same.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("--workers", type=int, default=workers)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options.seconds, options.workers)
    for what, value in result.items():
        if what != "machine":
            print(f"{what:26} {value}")
    missed = judge(result, targets(result))
    print(f"wrote {save(name, result, options.json)}")
    return missed


class Served:
    """A server of `bedplate` that runs.

    Args:
        root: the project.
        words: of the command: `serve` and the service, or `features serve`, and options.
        errors: where its messages go; None: to those of this process.
        python: the command of the Python that runs it; empty: the one of this process.
    """

    def __init__(self, root: Path, *words: str, errors: IO[str] | None = None, python: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [*(python or [sys.executable]), "-m", "bedplate", *words, "--project", str(root), "--port", "0", "--json"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={"PYTHONPATH": str(HERE.parent)} | os.environ,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "it did not start"
        self.ready = json.loads(line)
        self.port = int(self.ready["url"].rpartition(":")[2])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        if "connection" in vars(self):
            self.connection.close()
        self.process.terminate()
        assert self.process.wait(30) == 0

    @functools.cached_property
    def connection(self) -> socket.socket:
        """The one over which `ask` asks."""
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def ask(self, request: bytes) -> bytes:
        """The body of the answer to a request."""
        self.connection.sendall(request)
        data = self.connection.recv(1 << 16)
        head, _, body = data.partition(b"\r\n\r\n")
        size = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        while len(body) < size:
            body += self.connection.recv(1 << 16)
        assert head.startswith(b"HTTP/1.1 200"), data
        return body

    def processes(self) -> list[int]:
        """The processes that answer, or supervise those that do."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]

    def sample(self) -> dict[str, Any]:
        """Resident megabytes, descriptors and CPU seconds, of all processes together."""
        megabytes, descriptors, seconds = 0.0, 0, 0.0
        for pid in self.processes():
            megabytes += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
            descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return {"at": time.time(), "MB": megabytes, "descriptors": descriptors, "cpu": seconds}

    def metrics(self) -> dict[str, float]:
        """The server's own metrics, by name and labels."""
        with urllib.request.urlopen(f"{self.ready['url']}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return {key: float(value) for key, _, value in (x.rpartition(" ") for x in lines if not x.startswith("#"))}

    @contextlib.contextmanager
    def watched(self) -> Iterator[list[dict[str, Any]]]:
        """A sample of every second meanwhile."""
        samples: list[dict[str, Any]] = []
        over = threading.Event()

        def watch() -> None:
            while not over.wait(1.0):
                samples.append(self.sample())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield samples
        finally:
            over.set()
            watcher.join()


def generate(port: int, requests: list[bytes], phases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the load generator saw, for each phase of a plan; see `open_loop.py`."""
    plan = {"port": port, "requests": [r.hex() for r in requests], "phases": phases}
    done = subprocess.run(
        [sys.executable, str(HERE / "open_loop.py")],
        input=json.dumps(plan),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)
