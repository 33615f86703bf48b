"""A model's graph in ONNX, checked to compute what the model computes."""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from bedplate.errors import ArtifactError
from bedplate.features.artifact import TABLES, compare
from bedplate.features.encoding import TensorSpec
from bedplate.features.tables import LEAST_BYTES, inputs_of, places_of, with_tables
from bedplate.features.weights import aligned
from bedplate.layers.embedding import FusedEmbedding
from bedplate.models.base import Model
from bedplate.training.packing import Graph, Session
from bedplate.types import Array

# This part of torch has no complete types.
_onnx: Any = importlib.import_module("torch.onnx")

_LARGEST = 2**31 - 2**24  # a protobuf message, which an ONNX file is, holds less than 2 GiB
OPSET = 17
_CHECKS = ((1, 1, 0), (1, 1, 1), (1, 40, 7), (3, 17, 0), (3, 17, 5), (5, 5, 50))


@final
class _Served(nn.Module):
    """The model's served outputs as a function of tensors in a fixed order, which is what an ONNX graph is."""

    def __init__(self, model: Model, names: Sequence[str], tabled: Sequence[Any] = ()) -> None:
        super().__init__()
        self.model, self.names, self.tabled = model, names, tuple(tabled)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Gives the outputs for the inputs, and after them the tables that are not the modules' own meanwhile."""
        inputs, tables = tensors[: len(self.names)], tensors[len(self.names) :]
        for module, table in zip(self.tabled, tables, strict=True):
            module.weight = table
        return tuple(self.model.served(dict(zip(self.names, inputs, strict=True))).values())


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
        ArtifactError: the weights beside embedding tables are too large for one file, or the graph computes something
            else.
    """
    check_size(model)
    model.eval()
    example = random_inputs(tensors, model.layout.rows, requests=3, items=17, length=5, seed=0)
    outputs = _describe(model, example)
    large = large_tables(model)
    untyped: Any = model
    names: dict[nn.Module, str] = {m: f"{name}.weight" for name, m in untyped.named_modules() if m in large}
    traced = _traced(model, example, (*tensors, *outputs), names)
    read = inputs_of(traced)
    tables = {name: large[module].numpy() for module, name in names.items() if name in read}
    graph = with_tables(aligned(traced), places_of(tables), TABLES)
    session = Session(graph, tables=tables)
    for requests, items, length in _CHECKS:
        inputs = random_inputs(
            tensors, model.layout.rows, requests=requests, items=items, length=length, seed=requests + items + length
        )
        taken = {name: inputs[name] for name in session.inputs}
        try:
            compare(served(model, inputs), session.run(taken), f"export, {requests} requests and {items} candidates")
        except ArtifactError as error:
            error.hint = (
                "a graph has the steps that were taken once: no step of forward and served may depend on values or "
                "lengths (if, for, int(), .item(), NumPy); choose by torch.where"
            )
            raise
    return Graph(graph, tuple(t for t in tensors if t.name in session.inputs), outputs, tables)


def _traced(
    model: Model, example: Mapping[str, Array], specs: Sequence[TensorSpec], names: Mapping[nn.Module, str]
) -> bytes:
    """The content of an ONNX file.

    Args:
        model: in `eval`.
        example: inputs.
        specs: of the inputs and the outputs.
        names: the modules whose `weight` is to be an input of the graph too, and its name there.
    """
    buffer, free = io.BytesIO(), {t.name: {i: d for i, d in enumerate(t.shape) if isinstance(d, str)} for t in specs}
    with warnings.catch_warnings(), torch.no_grad(), _taken_out(names) as tables:
        warnings.simplefilter("ignore", DeprecationWarning)
        _onnx.export(
            _Served(model, list(example), list(names)),
            (*_to_torch(example).values(), *tables),
            buffer,
            input_names=[*example, *names.values()],
            output_names=[t.name for t in specs if t.name not in example],
            dynamic_axes=free,
            opset_version=OPSET,
            dynamo=False,
        )
    return buffer.getvalue()


@contextmanager
def _taken_out(modules: Iterable[Any]) -> Generator[list[Tensor]]:
    """The weights of modules, which do not have them meanwhile: the exporter would write them into the graph."""
    taken: list[tuple[Any, nn.Parameter]] = [(module, module.weight) for module in modules]
    for module, _ in taken:
        del module.weight
    try:
        yield [weight.detach() for _, weight in taken]
    finally:
        for module, weight in taken:
            module.weight = weight


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


def served_tensors(model: Model) -> list[TensorSpec]:
    """The tensors that the exported graph may take."""
    sizes = {"request": "requests", "item": "items"}
    firsts = {sizes[level] for level in model.served_levels}
    return [tensor for tensor in model.layout.tensors() if tensor.shape[0] in firsts]


def large_tables(model: Model) -> dict[nn.Module, Tensor]:
    """The embedding tables that an artifact has beside its graph, by the modules whose `weight` they are."""
    untyped: Any = model
    found = {m: m.weight.detach() for m in untyped.modules() if isinstance(m, FusedEmbedding | nn.Embedding)}
    return {m: t for m, t in found.items() if t.nbytes >= LEAST_BYTES and t.dtype == torch.float32}


def check_size(model: Model) -> None:
    """Checks that the weights of a model that are no large tables fit into one graph.

    Raises:
        ArtifactError: they do not.
    """
    untyped: Any = model
    large = large_tables(model)
    beside = {  # each once, whoever shares it; a table that a layer has as well is written into the graph for that
        id(weight): weight.nbytes
        for module in untyped.modules()
        for name, weight in module.named_parameters(recurse=False)
        if name != "weight" or module not in large
    }
    size = sum(beside.values())
    if size > _LARGEST:
        raise ArtifactError(
            f"the weights beside embedding tables are {size / 2**30:.1f} GiB, expected less than 2",
            where="export",
            hint="make layers smaller; look ids up in a FusedEmbedding or nn.Embedding, whose tables may have any size",
        )
