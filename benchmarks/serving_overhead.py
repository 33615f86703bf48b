"""What serving adds to the model: HTTP, JSON, the store, the encoding, for one request with 200 candidates.

    python benchmarks/serving_overhead.py [--requests N] [--json FILE]

A project is made with 13 numbers, 26 ids (the candidate is one of them) and an LMDB store of 2,000 users and 5,000
items, and a DCN-V2 is exported for it (its weights don't matter). `bedplate serve` runs as a process of its own, beside
a second one whose model only answers zeros. Then, in turn, blocks of 25 requests of a kind one after the other, each
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
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import polars as pl
from record import machine, save

from bedplate.types import DAY, to_micros

CANDIDATES, USERS, ITEMS, EVENTS = 200, 2_000, 5_000, 100_000
BLOCK = 25
"""Requests of a kind one after the other."""
NOW = to_micros("2026-03-01")
HISTORY = 100
"""The most elements of a sequence, where there is one."""
MODEL: Any = None
"""The class of the model that is served; None: `DCN`."""

FEATURES = """
from pathlib import Path
import polars as pl
from bedplate import Count, Entity, FeatureView, Last, Source, Sum

user, item = Entity("user", key="user_id"), Entity("item", key="item_id")
events = Source("events", "events.parquet", time="time")
users = FeatureView("users", user, events, {
    "orders": Count(windows=["1d", "7d"]),
    "spend": Sum("price", windows=["1d", "7d", "28d"]),
    "last_price": Last("price"),
    **{f"id{i}": Last(f"a{i}") for i in range(12)},
})
items = FeatureView("items", item, events, {
    "sold": Count(windows=["1d", "7d"]),
    "revenue": Sum("price", windows=["7d", "28d"]),
    "price": Last("price"),
    **{f"id{i}": Last(f"b{i}") for i in range(13)},
})
pairs = FeatureView("pairs", [user, item], events, {"times": Count(), "paid": Sum("price")})
"""
SERVICE = """
from bedplate.serving.service import Service
full = Service("full", ranking="dcn@champion", item="item")
null = Service("null", ranking="zeros@champion", item="item")
"""
CONFIG = '[online]\nurl = "lmdb:online"\n[registry]\npath = "registry"\n'


def events() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "user_id": rng.integers(0, USERS, EVENTS),
        "item_id": rng.integers(0, ITEMS, EVENTS),
        "price": rng.gamma(2.0, 10.0, EVENTS),
        "time": np.sort(rng.integers(NOW - 40 * DAY, NOW, EVENTS)),
    }
    columns |= {f"a{i}": rng.integers(0, 1_000, EVENTS) for i in range(12)}
    columns |= {f"b{i}": rng.integers(0, 1_000, EVENTS) for i in range(13)}
    return pl.DataFrame(columns).with_columns(pl.col("time").cast(pl.Datetime("us", "UTC")))


def encoding(feature: str) -> Any:
    """The encoding of a feature: categories are called `id`, sequences `last`."""
    from bedplate.features.encoding import Category, Number, Sequence

    if ".last_ids" in feature:
        return Sequence(Category(), length=HISTORY)
    return Category(vocabulary=feature.rpartition("id")[0] + "id") if ".id" in feature else Number(log=True)


class Bench:
    """The project, its artifacts, and requests with everything that is needed to check them."""

    def __init__(self, root: Path) -> None:
        from bedplate.features.assemble import Join
        from bedplate.features.encoding import CANDIDATE, Category
        from bedplate.online.base import open_store
        from bedplate.online.fetch import OnlineReader
        from bedplate.online.load import bulk_load
        from bedplate.project import Project
        from bedplate.testing.online_store import grouped

        self.root = root
        for name, text in (("bedplate.toml", CONFIG), ("features.py", FEATURES), ("service.py", SERVICE)):
            (root / name).write_text(text)
        frame = events()
        frame.write_parquet(root / "events.parquet")
        self.project = Project(root)
        self.store = open_store("lmdb:online", root)
        for view in self.project.graph.views.values():
            bulk_load(self.store, view, [grouped(view, frame)], NOW)
        self.reader = OnlineReader(self.store)
        self.features = list(self.project.graph.features)
        self.encodings = {name: encoding(name) for name in self.features} | {CANDIDATE: Category()}
        self.rng = np.random.default_rng(1)
        self.join = Join(self.project.graph.select(self.features), "item")
        self._export()

    @contextlib.contextmanager
    def writing(self, steps: int) -> Iterator[None]:
        """Commits so many steps a second to the store meanwhile: what it remembers of a step is then soon forgotten."""
        from bedplate.online.base import Changes

        over = threading.Event()

        def write() -> None:
            while not over.wait(1 / steps):
                self.store.commit(Changes([(b"step", b"1")]))

        writer = threading.Thread(target=write)
        writer.start()
        yield
        over.set()
        writer.join()

    def rows(self, user: int, items: Any) -> Any:
        from bedplate.features.assemble import Candidates

        offsets = np.array([0, len(items)])
        zero = np.zeros(1, np.int64)
        return Candidates({"user": np.array([user])}, "item", items, offsets, np.array([NOW + DAY]), zero)

    def batch(self, user: int, items: Any) -> Any:
        return self.join.batch(self.reader, self.rows(user, items))

    def _export(self) -> None:
        from bedplate.features.fitting import fit
        from bedplate.models.config import DCNConfig
        from bedplate.models.dcn import DCN
        from bedplate.registry.registry import Registry
        from bedplate.training.export import GoldenBatch, export

        sample = [self.batch(u, self.rng.integers(0, ITEMS, 1_000)) for u in range(20)]
        encoder = fit(self.encodings, sample)
        golden = [GoldenBatch(self.batch(7, self.rng.integers(0, ITEMS, CANDIDATES)))]
        defined = self.project.graph.features
        config = DCNConfig(label="bought", rank=0, cross_layers=3, layers=(256, 128))
        self.model, self.encoder = (MODEL or DCN)(config, encoder.layout), encoder
        export(self.model, encoder, self.root / "dcn", features=defined, golden=golden)
        export_zeros(self.root / "dcn", self.root / "zeros")
        registry = Registry(self.root / "registry")
        for name in ("dcn", "zeros"):
            register(registry, name, self.root / name, self.root)
        self.registry = registry


def export_zeros(like: Path, folder: Path) -> None:
    """An artifact that takes the tensors of another and gives a zero for each candidate."""
    import shutil

    import onnx
    from onnx import helper, numpy_helper

    from bedplate.features import artifact as files

    shutil.copytree(like, folder)
    graph = onnx.load(like / files.GRAPH).graph
    nodes = [
        helper.make_node("Cast", ["request_of_item"], ["f"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "zero"], ["score"]),
    ]
    zero = numpy_helper.from_array(np.zeros((), np.float32), "zero")
    made = helper.make_graph(nodes, "zeros", list(graph.input), list(graph.output), [zero])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / files.GRAPH).write_bytes(model.SerializeToString())
    for i, golden in enumerate(files.read_golden(like)):
        nothing = {name: np.zeros_like(a) for name, a in golden.outputs.items()}
        files.write_golden(folder, i, files.Golden(golden.request, golden.inputs, nothing))


def register(registry: Any, name: str, folder: Path, root: Path) -> None:
    from bedplate.registry.manifest import gather

    manifest = gather(root, definitions={}, sources={}, config={}, seeds={}, metrics={})
    version = registry.register(name, folder, manifest=manifest)
    registry.promote(name, version.version)


class Service:
    """`bedplate serve` in a process of its own, and one connection to it."""

    def __init__(self, root: Path, name: str) -> None:
        here = {"PYTHONPATH": str(Path(__file__).parents[1])}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bedplate", "serve", "--project", str(root), "--port", "0", name],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | here,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("ready on http://"), line
        self.started = float(line.split()[-2])
        port = int(line.split()[2].rpartition(":")[2])
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> bytes:
        """The body of the answer."""
        self.socket.sendall(request)
        data = self.socket.recv(1 << 16)
        head, _, body = data.partition(b"\r\n\r\n")
        size = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        while len(body) < size:
            body += self.socket.recv(1 << 16)
        assert head.startswith(b"HTTP/1.1 200"), data
        return body

    def cpu(self) -> float:
        """CPU seconds so far, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> float:
        """Resident memory, MB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def stop(self) -> None:
        self.socket.close()
        self.process.terminate()
        assert self.process.wait(20) == 0


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: bench", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def infer_request(tensors: dict[str, Any], path: str = "/v2/models/zeros/infer") -> bytes:
    kinds = {"float32": "FP32", "int64": "INT64"}
    inputs = [
        {
            "name": n,
            "shape": a.shape,
            "datatype": kinds[a.dtype.name],
            "parameters": {"binary_data_size": a.nbytes},
        }
        for n, a in tensors.items()
    ]
    header = msgspec.json.encode({"inputs": inputs, "parameters": {"binary_data_output": True}})
    body = header + b"".join(a.tobytes() for a in tensors.values())
    return post(path, body, f"Inference-Header-Content-Length: {len(header)}")


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


def cpu_of(service: Service, requests: list[bytes], count: int) -> float:
    """CPU milliseconds of the server for each of many requests in a row."""
    for request in requests:
        service.ask(request)
    begin = service.cpu()
    for i in range(count):
        service.ask(requests[i % len(requests)])
    return (service.cpu() - begin) / count * 1e3


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
    user, items = int(bench.rng.integers(0, USERS)), bench.rng.choice(ITEMS, CANDIDATES, replace=False)
    body = msgspec.json.encode({"user": user, "candidates": items.tolist(), "time": NOW + DAY})
    every = artifact.encoder.encode(bench.batch(user, items))
    tensors = {n: every[n] for n in artifact.model.inputs}
    return Question(user, items, tensors, post("/rank", body), infer_request(tensors))


def timed(ask: Callable[[Question], Any], asked: list[Question]) -> tuple[list[float], list[Any]]:
    """Milliseconds and answers."""
    taken, answers = [], []
    for one in asked:
        begin = time.perf_counter()
        answers.append(ask(one))
        taken.append((time.perf_counter() - begin) * 1e3)
    return taken, answers


def measure(root: Path, count: int) -> dict[str, Any]:
    from bedplate.serving.artifact import load_artifact

    bench = Bench(root)
    artifact = load_artifact(bench.registry.get("dcn@champion"))
    zeros = load_artifact(bench.registry.get("zeros@champion"))
    services = {name: Service(root, name) for name in ("full", "null")}

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
    result = {"machine": machine(), "candidates": CANDIDATES, "requests": count, "worst score difference": worst}
    result |= {
        "inputs": {n: list(t.shape) for n, t in artifact.model.inputs.items()},
        "ms": {n: quantiles(v) for n, v in taken.items()},
        "added by serving ms": quantiles(added),
        "hop ms": measure_hop(3000),
        **cost(services, [(q.rank, q.infer) for q in asked[:100]], count),
    }
    for service in services.values():
        service.stop()
    return result


def cost(services: dict[str, Service], some: list[tuple[bytes, bytes]], count: int) -> dict[str, Any]:
    """What a request costs the server in CPU time, and what the server takes."""
    return {
        "cpu ms": {
            "rank null": cpu_of(services["null"], [r for r, _ in some], 4 * count),
            "infer null": cpu_of(services["null"], [r for _, r in some], 4 * count),
            "metadata": cpu_of(services["null"], [b"GET /v2 HTTP/1.1\r\nHost: b\r\n\r\n"], 8 * count),
        },
        "ready after s": services["full"].started,
        "resident MB": services["full"].resident(),
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
