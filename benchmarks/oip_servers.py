"""The two servers that are compared: Bedplate and a real Triton, with the same models.

`echo` gives back a tensor of each datatype; `one` has one input and one output, `in` and `out`, FP32 [-1, 2], and the
versions 1 and 2, of which 1 is loaded at first.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bedplate.errors import NotFoundError
from bedplate.features.encoding import TensorSpec
from bedplate.http.dispatch import respond
from bedplate.http.message import Request, Response
from bedplate.http.metrics import Metrics
from bedplate.http.server import Server
from bedplate.http.settings import Settings
from bedplate.inference.batch_plan import measure
from bedplate.inference.joining import Joiner
from bedplate.inference.model import Model
from bedplate.inference.repository import Repository
from bedplate.oip.grpc import GrpcServer
from bedplate.oip.methods import InferenceService
from bedplate.oip.routes import ProtocolRoutes
from bedplate.runtimes.base import Runtime

TYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
    "BYTES": "object",
}  # fmt: skip
"""Every datatype that Triton's python backend can hold: all but BF16."""

CONFIG = """name: "{name}"
backend: "python"
max_batch_size: 0
{policy}
"""
MODEL = """import triton_python_backend_utils as utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            tensors = [
                utils.Tensor(i.name().replace("in", "out", 1), i.as_numpy()) for i in request.inputs()
            ]
            wanted = request.requested_output_names()
            answers.append(utils.InferenceResponse([t for t in tensors if t.name() in wanted]))
        return answers
"""


@dataclass(frozen=True)
class Asked:
    """A server to ask: its name and its ports on 127.0.0.1; its process, where it has one of its own."""

    name: str
    http: int
    grpc: int
    pid: int = 0


class Echo(Runtime):
    platform = "python"

    def __init__(self, tensors: Mapping[str, tuple[str, tuple[int | str, ...]]]) -> None:
        self._tensors = tensors

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        return {n: TensorSpec(n, *t) for n, t in self._tensors.items()}

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        return {n.replace("in", "out", 1): TensorSpec(n.replace("in", "out", 1), *t) for n, t in self._tensors.items()}

    def run(self, tensors: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        return [tensors[name.replace("out", "in", 1)] for name in outputs]


def model(name: str, version: str) -> Model:
    """A model, measured as `bedplate serve` measures it: whether requests share calls of it."""
    tensors = (
        {"in": ("float32", ("n", 2))} if name == "one" else {f"in_{kind}": (d, ("n",)) for kind, d in TYPES.items()}
    )
    made = Model(Echo(tensors), name, version)
    plan = measure(made, Joiner(tuple(made.inputs.values()), tuple(made.outputs.values())), [], 0.001)
    made.calls = str(plan)
    return made


class Source:
    """What Bedplate may load. Satisfies `ModelSource`."""

    def versions(self) -> Mapping[str, Sequence[str]]:
        return {"echo": ["1"], "one": ["1", "2"]}

    def default(self, name: str) -> str:
        if name not in self.versions():
            raise NotFoundError(f"no model '{name}'")
        return "1"

    def load(self, name: str, version: str) -> Model:
        return model(name, version)

    def release(self, model: Model) -> None:
        pass


@contextlib.contextmanager
def bedplate() -> Generator[Asked]:
    repository, metrics = Repository(Source(), is_controlled=True), Metrics()
    repository.serve([model("echo", "1")])
    routes = ProtocolRoutes(repository, lambda: True)

    def unknown(request: Request) -> Response:
        raise NotFoundError(f"no path '{request.path}'")

    http = Server(lambda r: respond(r, routes.find(r.path) or ("unknown", "*", unknown), metrics), port=0)
    grpc = GrpcServer(InferenceService(repository, lambda: True), metrics, Settings(), port=0)
    started, ended = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        await repository.load("one", {})
        await http.start()
        await grpc.start(http.turns, http.door, http.bodies)
        started.set()
        await ended.wait()
        await asyncio.gather(http.drain(), grpc.drain())

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    if not started.wait(20):
        raise RuntimeError("the server did not start within 20 s")
    try:
        yield Asked("Bedplate", http.port, grpc.port)
    finally:
        loops[0].call_soon_threadsafe(ended.set)
        thread.join(20)


@contextlib.contextmanager
def triton(
    venv: Path, write: Callable[[Path], None] | None = None, names: Sequence[str] = ("echo", "one")
) -> Generator[Asked]:
    """Triton's server of the package nvidia-pytriton in a virtual environment.

    Args:
        venv: the environment.
        write: writes a model repository into a folder; None: `echo` and `one`.
        names: the models that are loaded.
    """
    (package,) = venv.glob("lib/python3.*/site-packages/pytriton")
    python = package.parents[1].name.removeprefix("python")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copytree(package / "tritonserver", root / "server")
        stub = package / "tritonserver" / "python_backend_stubs" / python / "triton_python_backend_stub"
        shutil.copy(stub, root / "server" / "backends" / "python")
        (write or _write_models)(root / "models")
        ports = [_free(), _free()]
        libraries = [root / "server", root / "server" / "lib", package.parent / "nvidia_pytriton.libs"]
        paths = {"LD_LIBRARY_PATH": ":".join(map(str, libraries)), "PATH": f"{venv}/bin:{os.environ['PATH']}"}
        options = {
            "model-repository": root / "models", "backend-directory": root / "server" / "backends",
            "model-control-mode": "explicit", "http-port": ports[0], "grpc-port": ports[1], "allow-metrics": "false",
        }  # fmt: skip
        command = [root / "server" / "bin" / "tritonserver", *(f"--load-model={n}" for n in names)]
        command += [f"--{name}={value}" for name, value in options.items()]
        with (root / "log").open("wb") as log:
            process = subprocess.Popen(command, env=os.environ | paths, stdout=log, stderr=log)
        try:
            _wait_for(ports[0], process, root / "log")
            yield Asked("Triton", *ports, process.pid)
        finally:
            process.terminate()
            process.wait(30)


def _write_models(folder: Path) -> None:
    tensors = {"echo": [(f"_{t}", t.replace("BYTES", "STRING"), "-1") for t in TYPES], "one": [("", "FP32", "-1, 2")]}
    for name, of_model in tensors.items():
        policy = "version_policy: { specific: { versions: [1] } }\n"
        for side in ("in", "out"):
            lines = [f'{{ name: "{side}{n}" data_type: TYPE_{t} dims: [{d}] }}' for n, t, d in of_model]
            policy += f"{side}put [{', '.join(lines)}]\n"
        for version in ("1", "2") if name == "one" else ("1",):
            (folder / name / version).mkdir(parents=True)
            (folder / name / version / "model.py").write_text(MODEL)
        (folder / name / "config.pbtxt").write_text(CONFIG.format(name=name, policy=policy))


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready"):
            return
        if process.poll() is not None:
            raise SystemExit(f"Triton ended with {process.returncode}:\n{log.read_text()[-3000:]}")
        time.sleep(0.1)
    raise SystemExit(f"Triton is not ready after a minute:\n{log.read_text()[-3000:]}")
