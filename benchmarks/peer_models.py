"""The models and requests of serving_peers.py: one network as two graphs, and its requests in every form on the wire.

`once` is what Bedplate exports: the request's columns enter on one row. `rows` is the usual export of the same
weights: it takes the same tensors with a row of the request's columns for each candidate, and computes everything on
every row. The network is a DCN-V2, or a `SequenceRanker` that encodes the last 100 actions too.
"""

from __future__ import annotations

import base64
import copy
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import msgspec
import numpy as np
import torch
from ranking_project import FEATURES, ITEMS, SERVICE, Bench, infer_request, post, rank_request, register
from record import machine
from torch import Tensor, nn

from bedplate.features.encoding import Layout
from bedplate.layers.cross import CrossNetwork
from bedplate.layers.inputs import InputVectors
from bedplate.layers.linear import SplitLinear, SplitMLP
from bedplate.models.base import seeded
from bedplate.models.binary import BinaryModel
from bedplate.models.config import DCNConfig
from bedplate.training.export import GoldenBatch, export

__all__ = ["Question", "SequenceRanker", "machine", "prepare", "questions"]

WIDTH = 32
SERVICES = 'rows = Service("rows", ranking="rows@champion", item="item")\n'
REQUEST_SIDE = ("request_dense", "request_ids", "sequence_ids.history")


@final
class SequenceRanker(BinaryModel):
    """A DCN-V2 whose request has a vector of its last actions: self-attention over them, then their mean.

    The block is that of SASRec (Kang and McAuley 2018, arXiv 1808.09781), with one head.
    """

    Config = DCNConfig

    def __init__(self, config: DCNConfig, layout: Layout) -> None:
        super().__init__(config, layout)
        with seeded(config.seed):
            self.vectors = InputVectors(layout, config.embedding)
            (group,) = layout.sequences
            self.enter = nn.Linear(self.vectors.element_widths[group.name], WIDTH)
            self.attend = nn.Linear(WIDTH, 3 * WIDTH)
            self.forward_block = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, WIDTH))
            self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
            request, item = self.vectors.request_width + WIDTH, self.vectors.item_width
            self.cross = CrossNetwork(request, item, config.cross_layers, config.rank)
            self.deep = SplitMLP(request, item, config.layers, config.dropout)
            self.out = nn.Linear(request + item + self.deep.width, 1)

    def actions(self, batch: Mapping[str, Tensor]) -> Tensor:
        """[R, WIDTH]."""
        elements, mask = self.vectors.elements(self.layout.sequences[0].name, batch)
        x = self.enter(elements)
        query, key, value = self.attend(self.norms[0](x)).split(WIDTH, dim=2)
        scores = torch.bmm(query, key.transpose(1, 2)) / WIDTH**0.5 + (mask.unsqueeze(1) - 1.0) * 1e4
        x = x + torch.bmm(torch.softmax(scores, dim=2), value)
        x = x + self.forward_block(self.norms[1](x))
        return (x * mask.unsqueeze(2)).sum(dim=1) / (1.0 + mask.sum(dim=1, keepdim=True))

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        of = batch["request_of_item"]
        request = torch.cat((self.vectors.request(batch), self.actions(batch)), dim=1)
        item = self.vectors.item(batch)
        both = torch.cat((self.cross(request, item, of), self.deep(request, item, of)), dim=1)
        return {"logit": self.out(both).squeeze(1)}


@final
class Joined(nn.Module):
    """A `SplitLinear` of rows that have both sides: one matrix product."""

    def __init__(self, split: SplitLinear) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.cat((split.request, split.item), dim=1).detach())
        self.bias = split.bias

    def forward(self, request: Tensor, item: Tensor, request_of_item: Tensor) -> Tensor:
        return nn.functional.linear(torch.cat((request, item), dim=1), self.weight, self.bias)


@final
class RowWise(BinaryModel):
    """A model on rows: the columns of the request are expanded first, and all layers run on N rows."""

    def __init__(self, model: BinaryModel) -> None:
        super().__init__(model.config, model.layout)  # type: ignore[arg-type]
        self.model = copy.deepcopy(model)
        for name, split in list(self.model.named_modules()):
            if isinstance(split, SplitLinear):
                self.model.set_submodule(name, Joined(split))
            if isinstance(split, CrossNetwork):  # all layers, as a network on rows has them
                split.summed = functools.partial(_after_all_layers, split)  # type: ignore[method-assign]

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        of = batch["request_of_item"]
        rows = {n: t.index_select(0, of) if n in REQUEST_SIDE else t for n, t in batch.items()}
        return self.model(rows | {"request_of_item": torch.arange(of.shape[0])})


def _after_all_layers(cross: CrossNetwork, request: Tensor, item: Tensor, of: Tensor, weight: Tensor) -> Tensor:
    return nn.functional.linear(cross(request, item, of), weight.unsqueeze(0)).squeeze(1)


SEQUENCE = {
    "events": 400_000,
    "features": FEATURES.replace("Last, Source", "Last, LastN, Source").replace(
        '"orders":', '"last_ids": LastN("item_id", 100),\n    "orders":'
    ),
    "model": SequenceRanker,
}
"""What the project of a `SequenceRanker` has in place of the usual one's."""


def prepare(root: Path, *, sequence: bool) -> Bench:
    """A project with the services `full` (once), `rows` and `null`, and in it the graphs once.onnx and rows.onnx."""
    more: dict[str, Any] = SEQUENCE if sequence else {}
    bench = Bench(root, service=SERVICE + SERVICES, **more)
    golden = [GoldenBatch(bench.batch(7, bench.rng.integers(0, ITEMS, bench.candidates)))]
    model, folder = RowWise(bench.model), root / "rows"
    export(model, bench.encoder, folder, features=bench.project.graph.features, golden=golden)
    register(bench.registry, "rows", folder, root)
    for graph, made in (("once", root / "dcn"), ("rows", folder)):
        (root / f"{graph}.onnx").write_bytes((made / "model.onnx").read_bytes())
    return bench


@final
@dataclass(frozen=True)
class Question:
    """One request: its ids as a POST to /rank, its tensors for the graph `once` and for `rows`, its scores."""

    rank: bytes
    once: dict[str, Any]
    rows: dict[str, Any]
    scores: Any


def questions(bench: Bench, count: int) -> list[Question]:
    """Requests of other users and other candidates each."""
    from bedplate.inference.artifact import load_artifact

    artifact, found = load_artifact(bench.registry.get("dcn@champion")), []
    for _ in range(count):
        user, items = bench.draw()
        every = artifact.encoder.encode(bench.batch(user, items))
        once = {n: every[n] for n in artifact.model.inputs}
        rows = {n: np.repeat(a, len(items), axis=0) if n in REQUEST_SIDE else a for n, a in once.items()}
        rows["request_of_item"] = np.arange(len(items))
        scores = artifact.model.run(once, ["score"])[0]
        found.append(Question(rank_request(user, items), once, rows, scores))
    return found


def oip_binary(path: str, tensors: dict[str, Any]) -> bytes:
    return infer_request(tensors, path)


def oip_json(path: str, tensors: dict[str, Any]) -> bytes:
    kinds = {"float32": "FP32", "int64": "INT64"}
    inputs = [
        {"name": n, "shape": a.shape, "datatype": kinds[a.dtype.name], "data": a.ravel().tolist()}
        for n, a in tensors.items()
    ]
    return post(path, msgspec.json.encode({"inputs": inputs}), "Content-Type: application/json")


def columns(path: str, tensors: dict[str, Any]) -> bytes:
    """A JSON object of nested lists by name, as frameworks without a protocol take them."""
    body = msgspec.json.encode({n.replace(".", "_"): a.tolist() for n, a in tensors.items()})
    return post(path, body, "Content-Type: application/json")


def in_base64(path: str, tensors: dict[str, Any]) -> bytes:
    """The binary body as text in JSON, for what takes JSON only."""
    head, body = _binary(tensors)
    text = base64.b64encode(body).decode()
    return post(path, msgspec.json.encode({"length": head, "body": text}), "Content-Type: application/json")


def oip_base64(path: str, tensors: dict[str, Any]) -> bytes:
    """The binary body as one element of BYTES, for what takes the protocol's JSON only."""
    head, body = _binary(tensors)
    content = {"name": "body", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(body).decode()]}
    content["parameters"] = {"length": str(head), "content_type": "base64"}
    return post(path, msgspec.json.encode({"inputs": [content]}), "Content-Type: application/json")


FORMS = {f.__name__: f for f in (oip_binary, oip_json, columns, in_base64, oip_base64)}


def _binary(tensors: dict[str, Any]) -> tuple[int, bytes]:
    head, _, body = infer_request(tensors).partition(b"\r\n\r\n")
    return int(head.partition(b"Inference-Header-Content-Length: ")[2].partition(b"\r\n")[0]), body


def scores_of(head: bytes, body: bytes) -> Any:
    """The scores in an answer: tensors after the protocol's JSON, float32 alone, or JSON."""
    length = head.lower().partition(b"inference-header-content-length: ")[2].partition(b"\r\n")[0]
    if length:
        return np.frombuffer(body[int(length) :], np.float32)
    if b"octet-stream" in head.lower():
        return np.frombuffer(body, np.float32)
    answer = json.loads(body)
    if "body" in answer:
        return np.frombuffer(base64.b64decode(answer["body"]), np.float32)
    if isinstance(answer, dict):
        answer = answer["outputs"][0]["data"] if "outputs" in answer else answer["scores"]
    return np.array(answer, np.float32)
