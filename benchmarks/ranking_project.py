"""A project with a ranking model to serve, and requests for it; what benchmarks of serving measure with.

It has 13 numbers, 26 ids (the candidate is one of them) and an LMDB store of 2,000 users and 5,000 items. A DCN-V2 is
exported for it (its weights don't matter) and served as `full`; a model of the same tensors that only answers zeros is
served as `null`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from bedplate.types import DAY, to_micros

USERS, ITEMS = 2_000, 5_000
NOW = to_micros("2026-03-01")
HISTORY = 100
"""The most elements of a sequence, where there is one."""

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


def events_of(count: int) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "user_id": rng.integers(0, USERS, count),
        "item_id": rng.integers(0, ITEMS, count),
        "price": rng.gamma(2.0, 10.0, count),
        "time": np.sort(rng.integers(NOW - 40 * DAY, NOW, count)),
    }
    columns |= {f"a{i}": rng.integers(0, 1_000, count) for i in range(12)}
    columns |= {f"b{i}": rng.integers(0, 1_000, count) for i in range(13)}
    return pl.DataFrame(columns).with_columns(pl.col("time").cast(pl.Datetime("us", "UTC")))


def encoding(feature: str) -> Any:
    """The encoding of a feature: categories are called `id`, sequences `last`."""
    from bedplate.features.encoding import Category, Number, Sequence

    if ".last_ids" in feature:
        return Sequence(Category(), length=HISTORY)
    return Category(vocabulary=feature.rpartition("id")[0] + "id") if ".id" in feature else Number(log=True)


class Bench:
    """The project, its artifacts, and what is needed to make requests and to check their answers.

    Args:
        root: an empty folder.
        candidates: of a request.
        events: rows of the table.
        features: the file of definitions.
        model: the class of the model that is served; None: `DCN`.
        service: the file of services.
    """

    def __init__(
        self,
        root: Path,
        *,
        candidates: int = 200,
        events: int = 100_000,
        features: str = FEATURES,
        model: Any = None,
        service: str = SERVICE,
    ) -> None:
        from bedplate.features.assemble import Join
        from bedplate.online.base import open_store
        from bedplate.online.fetch import OnlineReader
        from bedplate.online.load import bulk_load
        from bedplate.project import Project
        from bedplate.registry.registry import Registry
        from bedplate.testing.online_store import grouped

        self.root, self.candidates = root, candidates
        for name, text in (("bedplate.toml", CONFIG), ("features.py", features), ("service.py", service)):
            (root / name).write_text(text)
        frame = events_of(events)
        frame.write_parquet(root / "events.parquet")
        self.project = Project(root)
        self.store = open_store("lmdb:online", root)
        for view in self.project.graph.views.values():
            bulk_load(self.store, view, [grouped(view, frame)], NOW)
        self.reader = OnlineReader(self.store)
        self.rng = np.random.default_rng(1)
        self.join = Join(self.project.graph.select(list(self.project.graph.features)), "item")
        self.registry = Registry(root / "registry")
        self._export(model)

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

    def draw(self) -> tuple[int, Any]:
        """A user, and candidates for it."""
        return int(self.rng.integers(0, USERS)), self.rng.choice(ITEMS, self.candidates, replace=False)

    def _export(self, model: Any) -> None:
        from bedplate.features.encoding import CANDIDATE, Category
        from bedplate.features.fitting import fit
        from bedplate.models.config import DCNConfig
        from bedplate.models.dcn import DCN
        from bedplate.training.export import GoldenBatch, export

        defined = self.project.graph.features
        encodings = {name: encoding(name) for name in defined} | {CANDIDATE: Category()}
        sample = [self.batch(u, self.rng.integers(0, ITEMS, 1_000)) for u in range(20)]
        self.encoder = fit(encodings, sample)
        golden = [GoldenBatch(self.batch(7, self.rng.integers(0, ITEMS, self.candidates)))]
        config = DCNConfig(label="bought", rank=0, cross_layers=3, layers=(256, 128))
        self.model = (model or DCN)(config, self.encoder.layout)
        export(self.model, self.encoder, self.root / "dcn", features=defined, golden=golden)
        export_zeros(self.root / "dcn", self.root / "zeros")
        for name in ("dcn", "zeros"):
            register(self.registry, name, self.root / name, self.root)


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


def rank_request(user: int, items: Any) -> bytes:
    """A request to /rank for the scores of items, a day after the last event."""
    return post("/rank", msgspec.json.encode({"user": user, "candidates": items.tolist(), "time": NOW + DAY}))


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
