"""A small shop for the tests: events, views, two models as artifacts in a registry, and a service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import polars as pl
from onnx import TensorProto, helper, numpy_helper

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.ordered import Last, LastN
from bedplate.canonical import string_ids
from bedplate.features import artifact as files
from bedplate.features.assemble import Candidates, Join
from bedplate.features.derived import DerivedFeature
from bedplate.features.encoding import CANDIDATE, Category, Number, TensorSpec
from bedplate.features.entity import Entity
from bedplate.features.fitting import fit
from bedplate.features.graph import FeatureGraph
from bedplate.features.reader import Reader
from bedplate.features.signature import Signature
from bedplate.features.view import FeatureView
from bedplate.offline.reference import Reference
from bedplate.registry.manifest import gather
from bedplate.registry.registry import Registry
from bedplate.serving.load import load_pipeline
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.service import Retrieval, Service
from bedplate.sources.base import Source
from bedplate.types import DAY, HOUR, to_micros

START = to_micros("2026-01-01")
NOW = START + 15 * DAY + 13 * HOUR
PRODUCTS = [f"P{i:02}" for i in range(30)]
FREE = "FREE"  # has no price
FEATURES = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from shop import customers, hour, pairs, products, ratio
"""

customer = Entity("customer", key="customer_id")
product = Entity("product", key="product_id")


def events() -> pl.DataFrame:
    rng = np.random.default_rng(7)
    n = 400
    names = np.array([*PRODUCTS, FREE])[rng.integers(0, 31, n)]
    return pl.DataFrame(
        {
            "customer_id": rng.integers(1, 9, n),
            "product_id": names,
            "price": [None if p == FREE else float(int(p[1:])) + 0.5 for p in names.tolist()],
            "quantity": rng.integers(1, 5, n),
            "time": np.sort(rng.integers(START, START + 20 * DAY, n)),
        }
    ).with_columns(pl.col("time").cast(pl.Datetime("us", "UTC")))


source = Source("orders", events(), time="time")
customers = FeatureView(
    "customers", customer, source, {"orders": Count(windows="7d"), "bought": LastN("product_id", 3), "all": Count()}
)
products = FeatureView("products", product, source, {"price": Last("price"), "sold": Sum("quantity")})
pairs = FeatureView("pairs", [customer, product], source, {"times": Count()})
hour = DerivedFeature("hour", pl.col("request.time").dt.hour())
ratio = DerivedFeature("ratio", pl.col("products.sold") / (pl.col("customers.all") + 1))


def graph() -> FeatureGraph:
    return FeatureGraph([customers, products, pairs], [hour, ratio])


class Oracle(Reader):
    """Reads features by their definition: slow and right."""

    def __init__(self, features: FeatureGraph) -> None:
        self._views = {view.id: Reference(view) for view in features.views.values()}

    def read(self, view: Any, names: Any, keys: Any, times: Any) -> Any:
        return self._views[view.id].read(view, names, keys, times)


ENCODINGS = {
    "customers.orders_7d": Number(),
    "products.price": Number(),
    "products.sold": Number(log=True),
    "pairs.times": Number(),
    "hour": Number(),
    "ratio": Number(),
    CANDIDATE: Category(),
}


def sample_batch(features: FeatureGraph, requests: int = 4) -> Any:
    names = [n for n in ENCODINGS if n != CANDIDATE]
    ids = np.array(string_ids([*PRODUCTS, FREE]), np.int64)
    rows = Candidates(
        {"customer": np.arange(1, requests + 1)},
        "product",
        np.tile(ids, requests),
        np.arange(requests + 1) * len(ids),
        NOW - np.arange(requests) * 29 * HOUR,
        np.arange(requests),
    )
    return Join(features.select(names), "product").batch(Oracle(features), rows)


def onnx_graph(nodes: list[Any], inputs: list[TensorSpec], outputs: list[TensorSpec], weights: dict[str, Any]) -> bytes:
    kinds = {
        "float32": TensorProto.FLOAT,
        "int64": TensorProto.INT64,
        "bfloat16": TensorProto.BFLOAT16,
        "object": TensorProto.STRING,
    }

    def value(spec: TensorSpec) -> Any:
        return helper.make_tensor_value_info(spec.name, kinds[spec.dtype], list(spec.shape))

    held = [numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items()]
    made = helper.make_graph(nodes, "graph", [value(i) for i in inputs], [value(o) for o in outputs], held)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def write_ranker(folder: Path, features: FeatureGraph, scale: float = 1.0) -> None:
    """score = request_dense . a [of the item's request] + item_dense . b + table[item_ids]."""
    encoder = fit(ENCODINGS, [sample_batch(features)])
    tensors = encoder.layout.tensors()
    layout = encoder.layout
    rng = np.random.default_rng(1)
    weights = {
        "a": rng.normal(size=(layout.request_dense, 1)).astype(np.float32),
        "b": (scale * rng.normal(size=(layout.item_dense, 1))).astype(np.float32),
        "table": rng.normal(size=(layout.rows, 1)).astype(np.float32),
        "flat": np.array([-1], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["request_dense", "a"], ["r"]),
        helper.make_node("Gather", ["r", "request_of_item"], ["expanded"]),
        helper.make_node("MatMul", ["item_dense", "b"], ["i"]),
        helper.make_node("Gather", ["table", "item_ids"], ["rows"]),
        helper.make_node("Add", ["expanded", "i"], ["both"]),
        helper.make_node("Reshape", ["both", "flat"], ["dense"]),
        helper.make_node("Reshape", ["rows", "flat"], ["sparse"]),
        helper.make_node("Add", ["dense", "sparse"], ["score"]),
    ]
    outputs = (TensorSpec("score", "float32", ("items",)),)
    content = onnx_graph(nodes, list(tensors), list(outputs), weights)
    _write(folder, content, features, encoder, tensors, outputs)


def write_tower(folder: Path, features: FeatureGraph) -> None:
    """query = request_dense @ w, over a catalogue of all products."""
    encoder = fit(ENCODINGS, [sample_batch(features)]).making({"request_dense"})
    tensors = tuple(t for t in encoder.layout.tensors() if t.name != "request_of_item")
    rng = np.random.default_rng(2)
    weights = {"w": rng.normal(size=(encoder.layout.request_dense, 4)).astype(np.float32)}
    outputs = (TensorSpec("query", "float32", ("requests", 4)),)
    content = onnx_graph(
        [helper.make_node("MatMul", ["request_dense", "w"], ["query"])], list(tensors), list(outputs), weights
    )
    _write(folder, content, features, encoder, tensors, outputs)
    names = [*PRODUCTS, FREE]
    order = np.argsort(np.array(string_ids(names)))
    (folder / files.RETRIEVAL).mkdir()
    np.save(folder / files.KEYS, np.array(string_ids(names), np.int64)[order])
    np.save(folder / files.VECTORS, rng.normal(size=(len(names), 4)).astype(np.float32))
    (folder / files.TEXTS).write_bytes(msgspec.json.encode([names[i] for i in order]))


def _write(folder: Path, content: bytes, features: Any, encoder: Any, tensors: Any, outputs: Any) -> None:
    folder.mkdir(parents=True)
    (folder / files.GRAPH).write_bytes(content)
    (folder / "signature.json").write_bytes(Signature.of(encoder, features.features, tensors, outputs).to_json())
    encoder.save(folder / files.ENCODER)
    batch = sample_batch(features, 2)
    encoded = encoder.encode(batch)
    inputs = {t.name: encoded[t.name] for t in tensors}
    names = [o.name for o in outputs]
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    got = dict(zip(names, session.run(names, inputs), strict=True))
    request = files.GoldenRequest(
        "0.npz", [0, 1], batch.times.tolist(), {}, batch.offsets.tolist(), batch.candidates.tolist()
    )
    files.write_golden(folder, 0, files.Golden(request, inputs, got))
    (folder / files.GOLDEN_INDEX).write_bytes(msgspec.json.encode([request]))


def register(root: Path, features: FeatureGraph) -> Registry:
    registry = Registry(root / "registry")
    for name, write in (("ranker", write_ranker), ("towers", write_tower)):
        write(root / name, features)
        manifest = gather(root, definitions={}, sources={}, config={}, seeds={}, metrics={})
        version = registry.register(name, root / name, manifest=manifest)
        registry.promote(name, version.version)
    return registry


def service(**changes: Any) -> Service:
    values: dict[str, Any] = {
        "name": "shop",
        "ranking": "ranker@champion",
        "item": "product",
        "retrieval": Retrieval("towers@champion", count=20),
        "filters": [pl.col("products.price").is_not_null()],
        "exclude": ["customers.bought"],
        "top": 5,
    }
    return Service(**(values | changes))


def pipeline(registry: Registry, features: FeatureGraph, **changes: Any) -> Pipeline:
    return load_pipeline(service(**changes), features, Oracle(features), registry, clock=lambda: NOW)


def write_project(root: Path, features: FeatureGraph, service: str) -> Path:
    """A project's folder: the shop's definitions, models and loaded store, and this `service.py`."""
    # Servers import this file for its definitions, and need none of these.
    from bedplate.online.base import open_store
    from bedplate.online.load import bulk_load
    from bedplate.testing.online_store import grouped

    (root / "bedplate.toml").write_text('[online]\nurl = "lmdb:online"\n[registry]\npath = "registry"\n')
    (root / "features.py").write_text(FEATURES)
    (root / "service.py").write_text(service)
    register(root, features)
    with open_store("lmdb:online", root) as store:
        for view in features.views.values():
            bulk_load(store, view, [grouped(view, events())], NOW)
    return root


@contextmanager
def running(handler: Any, **options: Any) -> Iterator[Any]:
    """A server on a free port, on a thread of its own; drained at the end."""
    from bedplate.http.server import Server

    server = Server(handler, port=0, **options)
    with on_a_thread(server.start, server.drain):
        yield server


@contextmanager
def on_a_thread(start: Callable[[], Awaitable[None]], drain: Callable[[], Awaitable[None]]) -> Iterator[None]:
    """What is started on an event loop of its own, and drained at the end."""
    started, box = threading.Event(), []

    async def main() -> None:
        await start()
        stop = asyncio.Event()
        box.extend([asyncio.get_running_loop(), stop])
        started.set()
        await stop.wait()
        await drain()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert started.wait(10)
    try:
        yield
    finally:
        box[0].call_soon_threadsafe(box[1].set)
        thread.join(20)
        assert not thread.is_alive()
