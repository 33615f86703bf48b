"""What serving adds to the model: HTTP, JSON, the store, the encoding, for one request with 200 candidates.

    python benchmarks/serving_overhead.py [--requests N] [--json FILE]

The project is that of `ranking_project.py`, with a DCN-V2. `bedplate serve` runs as a process of its own, beside a
second one whose model only answers zeros. Then, in turn, blocks of 25 requests of a kind one after the other, each
request with another user and other candidates:

    model         the graph alone, in this process, on the tensors of the request
    hydrated      the same, but from ids: LMDB reads, joins, encoding, and the graph
    rank          POST /rank to the server: ids in, scores out, over loopback
    rank busy     the same while ten steps a second are committed to the store
    rank null     POST /rank to the server with the model of zeros
    infer null    POST /v2/models/zeros/infer there, with the same tensors in binary
    hop           handing an empty function to a thread pool and back, on an event loop: what it would add

The target is `rank - model` below 1 ms at the median: of each block the medians are subtracted. Scores of `rank` must
equal those of `model`. CPU seconds of the servers are read from the operating system.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from ranking_project import Bench, infer_request, rank_request
from record import machine, save
from served import Served

BLOCK = 25
"""Requests of a kind one after the other."""


def measure_hop(rounds: int) -> float:
    """Median milliseconds of handing nothing to a thread and back."""

    async def run() -> list[float]:
        loop, pool, taken = asyncio.get_running_loop(), ThreadPoolExecutor(1), []
        for _ in range(rounds):
            begin = time.perf_counter()
            await loop.run_in_executor(pool, int)
            taken.append(time.perf_counter() - begin)
        return taken

    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return float(np.median(runner.run(run()))) * 1e3


def cpu_of(service: Served, requests: list[bytes], count: int) -> float:
    """CPU milliseconds of the server for each of many requests in a row."""
    for request in requests:
        service.ask(request)
    begin = service.sample()["cpu"]
    for i in range(count):
        service.ask(requests[i % len(requests)])
    return (service.sample()["cpu"] - begin) / count * 1e3


def quantiles(values: list[float]) -> dict[str, float]:
    """The tenth percentile is what a quiet machine gives at the median."""
    return {f"p{q}": float(np.quantile(values, q / 100)) for q in (10, 50, 99)}


class Question(NamedTuple):
    """One request in every form in which it is asked."""

    user: int
    items: Any
    tensors: dict[str, Any]
    rank: bytes
    infer: bytes


def question(bench: Bench, artifact: Any) -> Question:
    user, items = bench.draw()
    every = artifact.encoder.encode(bench.batch(user, items))
    tensors = {n: every[n] for n in artifact.model.inputs}
    return Question(user, items, tensors, rank_request(user, items), infer_request(tensors))


def timed(ask: Callable[[Question], Any], asked: list[Question]) -> tuple[list[float], list[Any]]:
    """Milliseconds and answers."""
    taken, answers = [], []
    for one in asked:
        begin = time.perf_counter()
        answers.append(ask(one))
        taken.append((time.perf_counter() - begin) * 1e3)
    return taken, answers


def measure(root: Path, count: int) -> dict[str, Any]:
    bench = Bench(root)
    with ExitStack() as stack:
        services = {name: stack.enter_context(Served(root, "serve", name)) for name in ("full", "null")}
        return measured(bench, services, count)


def measured(bench: Bench, services: dict[str, Served], count: int) -> dict[str, Any]:
    from bedplate.inference.artifact import load_artifact

    artifact = load_artifact(bench.registry.get("dcn@champion"))
    zeros = load_artifact(bench.registry.get("zeros@champion"))

    def hydrated(q: Question) -> Any:
        tensors = artifact.encoder.encode(bench.batch(q.user, q.items))
        return artifact.model.run({n: tensors[n] for n in artifact.model.inputs}, ["score"])[0]

    ways: dict[str, Callable[[Question], Any]] = {
        "model": lambda q: artifact.model.run(q.tensors, ["score"])[0],
        "hydrated": hydrated,
        "rank": lambda q: services["full"].ask(q.rank),
        "rank null": lambda q: services["null"].ask(q.rank),
        "infer null": lambda q: services["null"].ask(q.infer),
        "zeros": lambda q: zeros.model.run(q.tensors, ["score"]),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    added: list[float] = []
    worst, asked = 0.0, [question(bench, artifact) for _ in range(count + BLOCK)]
    for block in range(0, count + BLOCK, BLOCK):
        some = asked[block : block + BLOCK]
        results = {name: timed(ask, some) for name, ask in ways.items()}
        for answer, scores, again in zip(*(results[n][1] for n in ("rank", "model", "hydrated")), strict=True):
            got = np.array(msgspec.json.decode(answer)["scores"])
            worst = max(worst, float(np.abs(got - scores).max()), float(np.abs(again - scores).max()))
        if block:  # the first block warms up
            for name, (milliseconds, _) in results.items():
                taken[name] += milliseconds
            added.append(float(np.median(results["rank"][0]) - np.median(results["model"][0])))
    with bench.writing(10):
        taken["rank busy"] = timed(ways["rank"], asked[BLOCK:])[0]
    result = {"machine": machine(), "candidates": bench.candidates, "requests": count, "worst score difference": worst}
    return result | {
        "inputs": {n: list(t.shape) for n, t in artifact.model.inputs.items()},
        "ms": {n: quantiles(v) for n, v in taken.items()},
        "added by serving ms": quantiles(added),
        "hop ms": measure_hop(3000),
        **cost(services, [(q.rank, q.infer) for q in asked[:100]], count),
    }


def cost(services: dict[str, Served], some: list[tuple[bytes, bytes]], count: int) -> dict[str, Any]:
    """What a request costs the server in CPU time, and what the server takes."""
    return {
        "cpu ms": {
            "rank null": cpu_of(services["null"], [r for r, _ in some], 4 * count),
            "infer null": cpu_of(services["null"], [r for _, r in some], 4 * count),
            "metadata": cpu_of(services["null"], [b"GET /v2 HTTP/1.1\r\nHost: b\r\n\r\n"], 8 * count),
        },
        "ready after s": services["full"].ready["seconds"],
        "resident MB": services["full"].sample()["MB"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1500)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options.requests)
    for name, ms in (result["ms"] | {"rank - model": result["added by serving ms"]}).items():
        print(f"{name:12} p10 {ms['p10']:7.3f}   p50 {ms['p50']:7.3f}   p99 {ms['p99']:7.3f} ms")
    for name, ms in result["cpu ms"].items():
        print(f"{name:12} cpu {ms:7.4f} ms of the server a request")
    print(f"handing work to a thread and back {result['hop ms']:.3f} ms")
    print(f"ready after {result['ready after s']:.1f} s, {result['resident MB']:.0f} MB")
    added, worst = result["added by serving ms"]["p50"], result["worst score difference"]
    print(f"serving adds {added:.3f} ms at the median (target: below 1); scores differ by at most {worst:.1e}")
    print(f"wrote {save('serving_overhead', result, options.json)}")
    if worst > 1e-5:
        sys.exit("scores differ")


if __name__ == "__main__":
    main()
