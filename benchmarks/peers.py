"""The servers of serving_peers.py as processes: Bedplate, each peer, and the limit that has no server at all."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from oip_servers import triton
from peer_models import FORMS, Question, scores_of
from served import Served

HERE = Path(__file__).parent
PATIENCE = 60.0
"""Seconds that a server has to become ready."""
MODELS = {"once": "dcn", "rows": "rows", "null": "zeros"}
"""Bedplate's model of each graph; the services are called full, rows and null."""
SERVICES = {"once": "full", "rows": "rows", "null": "null"}


@dataclass(frozen=True)
class Kind:
    """How a peer is started and asked: its command after the environment's folder, and path and form of both wires."""

    command: tuple[str, ...]
    binary: tuple[str, str]
    json: tuple[str, str]
    environment: tuple[tuple[str, str], ...] = ()


_RAY = Kind(("python", "peer_rayserve.py"), ("/", "oip_binary"), ("/", "columns"), (("RAY_USAGE_STATS_ENABLED", "0"),))
_HAPROXY = (
    ("RAY_SERVE_ENABLE_HA_PROXY", "1"), ("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1"), ("RAY_SERVE_HAPROXY_MAXCONN", "1000"),
)  # fmt: skip
_OIP = ("/v2/models/ranker/infer", "oip_binary"), ("/v2/models/ranker/infer", "oip_json")
KINDS = {
    "triton": Kind((), *_OIP),
    "fastapi": Kind(("python", "peer_fastapi.py"), ("/binary", "oip_binary"), ("/json", "columns")),
    "litserve": Kind(("python", "peer_litserve.py"), ("/predict", "in_base64"), ("/predict", "columns")),
    "bentoml": Kind(
        ("bentoml", "serve", "peer_bentoml:Ranker", "--host", "127.0.0.1", "--port", "PORT"),
        ("/raw/binary", "oip_binary"),
        ("/columns", "columns"),
        (("BENTOML_DO_NOT_TRACK", "True"),),
    ),
    "mlserver": Kind(("python", "peer_mlserver.py"), (_OIP[0][0], "oip_base64"), _OIP[1]),
    "kserve": Kind(("python", "peer_kserve.py"), *_OIP),
    "rayserve": _RAY,
    "rayserve-haproxy": replace(_RAY, environment=(*_RAY.environment, *_HAPROXY)),
}  # fmt: skip


@dataclass(frozen=True)
class Running:
    """A server: its processes are those below `pid`."""

    name: str
    port: int
    pid: int
    started: float
    requests: list[bytes]

    @functools.cached_property
    def processes(self) -> list[int]:
        """The processes, once all of them are there."""
        return list(tree(self.pid))

    def cpu(self) -> float:
        """CPU seconds so far of all its processes."""
        seconds = 0
        for pid in tree(self.pid):
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                seconds += int(fields[11]) + int(fields[12])
        return seconds / os.sysconf("SC_CLK_TCK")

    def megabytes(self) -> float:
        """Memory of all its processes, what they share counted once (PSS)."""
        found = 0
        for pid in tree(self.pid):
            with contextlib.suppress(OSError):
                found += int(Path(f"/proc/{pid}/smaps_rollup").read_text().split("Pss:")[1].split()[0])
        return found * 1024 / 1e6

    def ask(self, request: bytes) -> Any:
        """The scores of one request."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            data = b"".join(iter(functools.partial(connection.recv, 1 << 16), b""))
        head, _, body = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"{self.name} answered {data[:500]!r}")
        if b"transfer-encoding: chunked" in head.lower():
            body = _joined(body)
        return scores_of(head, body)


def tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from tree(int(child))


@contextlib.contextmanager
def bedplate(
    root: Path, graph: str, workers: int, wire: str, asked: list[Question], options: tuple[str, ...] = ()
) -> Generator[Running]:
    """`bedplate serve`.

    Args:
        root: the project.
        graph: once, rows or null.
        workers: processes.
        wire: `rank`, `binary` or `json`; tensors are those of the graph `once` or, with any other, `rows`.
        asked: the requests.
        options: of the command.
    """
    path = f"/v2/models/{MODELS[graph]}/infer"
    form = FORMS["oip_json" if wire == "json" else "oip_binary"]
    requests = [q.rank if wire == "rank" else form(path, _tensors(q, graph)) for q in asked]
    begin = time.perf_counter()
    with (
        _log() as errors,
        Served(root, "serve", SERVICES[graph], "--workers", str(workers), *options, errors=errors) as served,
    ):
        took = time.perf_counter() - begin
        name = " ".join([f"bedplate {wire} {graph} x{workers}", *options])
        yield Running(name, served.port, served.process.pid, took, requests)


@contextlib.contextmanager
def peer(kind: str, venv: Path, model: str, workers: int, wire: str, asked: list[Question]) -> Generator[Running]:
    """A peer.

    Args:
        kind: a key of `KINDS`.
        venv: its virtual environment.
        model: an ONNX file, or `null`.
        workers: processes, instances or replicas that run the model.
        wire: `binary` or `json`.
        asked: the requests.
    """
    spec, graph = KINDS[kind], Path(model).stem
    path, form = getattr(spec, wire)
    requests = [FORMS[form](path, _tensors(q, graph)) for q in asked]
    name, begin = f"{kind} {wire} {graph} x{workers}", time.perf_counter()
    if kind == "triton":
        tensors = asked[0].once if graph == "once" else asked[0].rows
        os.environ |= {"MODEL": model}
        with triton(venv, lambda folder: _triton_model(folder, tensors, workers), ("ranker",)) as running:
            yield Running(name, running.http, running.pid, time.perf_counter() - begin, requests)
        return
    port = _free()
    command = [str(venv / "bin" / spec.command[0]), *(str(port) if c == "PORT" else c for c in spec.command[1:])]
    environment = {"MODEL": model, "PORT": str(port), "WORKERS": str(workers)}
    with _process(command, environment | dict(spec.environment)) as process:
        running = Running(name, port, process.pid, 0.0, requests)
        _wait_for(running, process)
        yield Running(name, port, process.pid, time.perf_counter() - begin, requests)


def limit(
    model: Path, question: Question, processes: int, threads: int, seconds: float, rate: float = 0.0
) -> tuple[float, float, float]:
    """Processes that do nothing but run a graph on one request's tensors.

    Args:
        model: the graph.
        question: the request.
        processes: at the same time.
        threads: of each.
        seconds: how long.
        rate: calls a second of all of them, at equal distances; 0: as many as they can.

    Returns:
        Calls a second, and the median of the processes' p50 and p99 of a call in milliseconds.
    """
    import numpy as np

    tensors = model.with_suffix(".npz")
    np.savez(tensors, **_tensors(question, model.stem))
    distance = processes / rate if rate else 0.0
    running: list[subprocess.Popen[str]] = []
    begin = time.time() + 2.0
    for i in range(processes):
        settings = [str(s) for s in (model, tensors, threads, begin + i * distance / processes, seconds, distance)]
        command = [sys.executable, str(HERE / "peer_limit.py"), *settings]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    seen = np.array([json.loads(p.communicate()[0]) for p in running])
    return float(seen[:, 0].sum()), *map(float, np.median(seen[:, 1:], axis=0))


def _tensors(question: Question, graph: str) -> dict[str, Any]:
    return question.once if graph == "once" else question.rows


def _log() -> IO[str]:
    """Where servers write their messages."""
    return Path(os.environ.get("PEERS_LOG", os.devnull)).open("a")


@contextlib.contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Generator[subprocess.Popen[str]]:
    """A process that is ended with all below it."""
    with _log() as errors, tempfile.TemporaryDirectory() as folder:
        for source in HERE.glob("peer_*.py"):
            shutil.copy(source, folder)
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | environment, cwd=folder
        )
        try:
            yield process
        finally:
            below = list(tree(process.pid))
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            for pid in below:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def _wait_for(running: Running, process: subprocess.Popen[str]) -> None:
    """Until it answers a request."""
    end = time.perf_counter() + PATIENCE
    while True:
        try:
            running.ask(running.requests[0])
        except (OSError, SystemExit) as error:
            if process.poll() is not None or time.perf_counter() > end:
                raise SystemExit(f"{running.name} did not become ready: {error}") from error
            time.sleep(0.05)
        else:
            return


def _triton_model(folder: Path, tensors: dict[str, Any], instances: int) -> None:
    kinds = {"float32": "FP32", "int64": "INT64"}
    shapes = [(n, kinds[a.dtype.name], ", ".join(["-1", *map(str, a.shape[1:])])) for n, a in tensors.items()]
    inputs = ", ".join(f'{{ name: "{n}" data_type: TYPE_{t} dims: [{d}] }}' for n, t, d in shapes)
    (folder / "ranker" / "1").mkdir(parents=True)
    for source, target in (("peer_triton.py", "model.py"), ("peer_scoring.py", "peer_scoring.py")):
        (folder / "ranker" / "1" / target).write_text((HERE / source).read_text())
    (folder / "ranker" / "config.pbtxt").write_text(
        f'name: "ranker"\nbackend: "python"\nmax_batch_size: 0\ninput [{inputs}]\n'
        'output [{ name: "score" data_type: TYPE_FP32 dims: [-1] }]\n'
        f"instance_group [{{ count: {instances} kind: KIND_CPU }}]\n"
    )


def _joined(body: bytes) -> bytes:
    """The content of chunks."""
    found = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        found, body = found + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        if size == b"0":
            break
    return found


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
