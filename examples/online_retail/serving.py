"""Asking the running service: recommendations, ranks, and tensors by the Open Inference Protocol."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bedplate import Client
from bedplate.errors import ProofError
from bedplate.features import artifact
from bedplate.registry.version import ModelVersion

REQUESTS = 200


@contextlib.contextmanager
def service(root: Path) -> Generator[tuple[Client, float]]:
    """`bedplate serve` in a process of its own on a free port; the client, and the seconds until it was ready."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "bedplate", "serve", "--project", str(root), "--port", "0", "shop"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://\S+", line)
            if found is None:
                raise ProofError(f"the service did not start: {line or 'see the message above'}")
            with Client(found[0]) as client:
                yield client, time.perf_counter() - began
        finally:
            process.terminate()


def timed(calls: list[Any]) -> dict[str, float]:
    """The p50 and p99 of calls in milliseconds, after ten to warm up."""
    seconds: list[float] = []
    for number, call in enumerate(calls):
        began = time.perf_counter()
        call()
        if number >= 10:
            seconds.append(time.perf_counter() - began)
    return {"p50_ms": float(np.percentile(seconds, 50) * 1e3), "p99_ms": float(np.percentile(seconds, 99) * 1e3)}


def latencies(client: Client, customers: list[int], products: list[str], now: int) -> dict[str, dict[str, float]]:
    """Latencies seen by a client on this machine, requests one after the other."""
    asked = [customers[i % len(customers)] for i in range(REQUESTS)]
    return {
        "recommend, 200 retrieved and ranked": timed(
            [lambda c=c: client.recommend(customer=c, time=now) for c in asked]
        ),
        "rank, 200 candidates": timed(
            [lambda c=c: client.rank(customer=c, candidates=products[:200], time=now) for c in asked]
        ),
    }


def prove_golden(client: Client, version: ModelVersion) -> int:
    """Sends a model's golden requests as tensors, in binary and in JSON; the outputs must be the golden ones."""
    requests = artifact.read_golden(version.path)
    for number, golden in enumerate(requests):
        place = f"{version}, golden request {number}"
        artifact.compare(golden.outputs, client.infer(version.name, golden.inputs), f"{place}, binary")
        artifact.compare(golden.outputs, infer_json(client, version, golden), f"{place}, JSON")
    return len(requests)


def infer_json(client: Client, version: ModelVersion, golden: artifact.Golden) -> dict[str, np.ndarray]:
    """The same request with JSON numbers, as a client without the binary extension sends it."""
    datatypes = {"float32": "FP32", "int64": "INT64"}
    inputs = [
        {"name": n, "shape": a.shape, "datatype": datatypes[a.dtype.name], "data": a.ravel().tolist()}
        for n, a in golden.inputs.items()
    ]
    body, _ = client.request("POST", f"/v2/models/{version.name}/infer", msgspec.json.encode({"inputs": inputs}))
    answer = msgspec.json.decode(body)
    return {o["name"]: np.array(o["data"], np.float32).reshape(o["shape"]) for o in answer["outputs"]}


def check_metadata(client: Client, version: ModelVersion) -> dict[str, Any]:
    """Server and model metadata and health, by the protocol."""
    server = msgspec.json.decode(client.request("GET", "/v2")[0])
    model = msgspec.json.decode(client.request("GET", f"/v2/models/{version.name}")[0])
    client.request("GET", "/v2/health/live")
    client.request("GET", "/v2/health/ready")
    if model["name"] != version.name or not model["inputs"]:
        raise ProofError(f"got the metadata {model}", where=str(version))
    return {"server": server["name"], "inputs": len(model["inputs"])}
