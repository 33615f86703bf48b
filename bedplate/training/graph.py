"""A model's graph in ONNX, checked to compute what the model computes."""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from bedplate.features.artifact import compare
from bedplate.features.encoding import TensorSpec
from bedplate.features.weights import aligned
from bedplate.models.base import Model
from bedplate.training.packing import Graph, Session
from bedplate.training.rehearsal import check_size
from bedplate.types import Array

# This part of torch has no complete types.
_onnx: Any = importlib.import_module("torch.onnx")

OPSET = 17
_CHECKS = ((1, 1, 0), (1, 1, 1), (1, 40, 7), (3, 17, 0), (3, 17, 5), (5, 5, 50))


@final
class _Served(nn.Module):
    """The model's served outputs as a function of tensors in a fixed order, which is what an ONNX graph is."""

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.served(dict(zip(self.names, tensors, strict=True))).values())


def to_onnx(model: Model, tensors: Sequence[TensorSpec]) -> Graph:
    """The graph of `model.served`.

    Traced by PyTorch's TorchScript exporter: the models have no control flow that depends on data, and it takes a
    twentieth of the time of the exporter that is to follow it, for a graph that runs at the same speed. The graph is
    then run on random tensors, single requests and candidates and empty lists among them, and compared.

    Args:
        model: in any mode; it is set to `eval`.
        tensors: what the graph may take; sizes that are texts stay free. Those that the model does not read are left
            out of the graph.

    Raises:
        ArtifactError: the weights are too large for one file, or the graph computes something else.
    """
    check_size(model)
    model.eval()
    example = random_inputs(tensors, model.layout.rows, requests=3, items=17, length=5, seed=0)
    outputs = _describe(model, example)
    buffer = io.BytesIO()
    free = {t.name: {i: d for i, d in enumerate(t.shape) if isinstance(d, str)} for t in (*tensors, *outputs)}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        _onnx.export(
            _Served(model, [t.name for t in tensors]),
            tuple(_to_torch(example).values()),
            buffer,
            input_names=[t.name for t in tensors],
            output_names=[t.name for t in outputs],
            dynamic_axes=free,
            opset_version=OPSET,
            dynamo=False,
        )
    graph = aligned(buffer.getvalue())
    session = Session(graph)
    for requests, items, length in _CHECKS:
        inputs = random_inputs(
            tensors, model.layout.rows, requests=requests, items=items, length=length, seed=requests + items + length
        )
        taken = {name: inputs[name] for name in session.inputs}
        compare(served(model, inputs), session.run(taken), f"export, {requests} requests and {items} candidates")
    return Graph(graph, tuple(t for t in tensors if t.name in session.inputs), outputs)


def served(model: Model, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What the model itself gives for a graph's inputs."""
    model.eval()
    with torch.no_grad():
        return {name: t.numpy() for name, t in model.served(_to_torch(inputs)).items()}


def random_inputs(
    tensors: Sequence[TensorSpec], rows: int, *, requests: int, items: int, length: int, seed: int
) -> dict[str, Array]:
    """Random tensors of these sizes, every request with a candidate as far as they go; length 0 gives empty lists."""
    rng = np.random.default_rng(seed)
    sizes = {"requests": requests, "items": items}
    found: dict[str, Array] = {}
    for tensor in tensors:
        shape = [sizes.get(d, max(length, 1)) if isinstance(d, str) else d for d in tensor.shape]
        is_list = len(shape) > 1 and isinstance(tensor.shape[1], str)
        if tensor.name == "request_of_item":
            found[tensor.name] = np.sort(np.arange(items) % requests)
        elif is_list and length == 0:
            found[tensor.name] = np.zeros(shape, tensor.dtype)
        elif tensor.dtype == "int64":
            ids = rng.integers(1, rows, shape)
            if is_list:  # lists of different lengths, padded at their ends
                ends = rng.integers(0, shape[1] + 1, shape[0])
                ids[np.arange(shape[1]) >= ends[:, None]] = 0
            found[tensor.name] = ids
        else:
            found[tensor.name] = rng.normal(size=shape).astype(tensor.dtype)
    return found


def _to_torch(inputs: Mapping[str, Array]) -> dict[str, Tensor]:
    return {name: torch.tensor(array) for name, array in inputs.items()}


def _describe(model: Model, example: Mapping[str, Array]) -> tuple[TensorSpec, ...]:
    """The outputs; the first size of each is that of requests or of candidates."""
    level = "items" if "item" in model.served_levels else "requests"
    return tuple(TensorSpec(n, a.dtype.name, (level, *a.shape[1:])) for n, a in served(model, example).items())
