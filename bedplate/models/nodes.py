"""An estimator's graph in ONNX: the encoder's tensors become the matrix, its own nodes make the score."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np

from bedplate.features.artifact import MATRIX, SCORE
from bedplate.features.encoding import OF_ITEM, TensorSpec
from bedplate.models.matrix import MatrixLayout
from bedplate.types import Array

# The library's own types are not complete.
_onnx: Any = importlib.import_module("onnx")
_helper: Any = importlib.import_module("onnx.helper")
_arrays: Any = importlib.import_module("onnx.numpy_helper")

OPSET = 17
TREES_OPSET = 5
"""The version of the operators of `ai.onnx.ml` from which on these know trees in float64 and sets of categories."""

IR_VERSION = 10
_LARGEST = 2**31 - 2**24  # a protobuf message, which an ONNX file is, holds less than 2 GiB


class Part(NamedTuple):
    """Nodes of a graph with the constants that they read, and the version of `ai.onnx.ml` that they are of."""

    nodes: list[Any]
    constants: list[Any]
    opset: int = TREES_OPSET


def node(kind: str, inputs: list[str], output: str, *, domain: str = "", **attributes: Any) -> Any:
    """A node with one output."""
    return _helper.make_node(kind, inputs, [output], name=f"{kind}.{output}", domain=domain, **attributes)


def constant(name: str, values: Array) -> Any:
    """A constant of a graph, or an attribute that is a tensor."""
    return _arrays.from_array(np.asarray(values), name)


def float32_of(source: str, target: str) -> Any:
    """A node that makes float32 of a tensor."""
    return node("Cast", [source], target, to=_onnx.TensorProto.FLOAT)


def float64_of(source: str, target: str) -> Any:
    """A node that makes float64 of a tensor."""
    return node("Cast", [source], target, to=_onnx.TensorProto.DOUBLE)


def matrix_part(layout: MatrixLayout) -> Part:
    """From the encoder's tensors to `MATRIX` [N, columns] float32, the very numbers of `MatrixLayout.matrix`."""
    nodes: list[Any] = []
    constants: list[Any] = []
    columns: list[str] = []
    for piece in layout.pieces:
        name = piece.tensor.name
        if piece.first_rows is not None:
            constants.append(constant(f"{name}.first_rows", piece.first_rows))
            nodes.append(node("Sub", [name, f"{name}.first_rows"], f"{name}.codes"))
            nodes.append(float32_of(f"{name}.codes", f"{name}.numbers"))
            name = f"{name}.numbers"
        if piece.level == "request":
            nodes.append(node("Gather", [name, OF_ITEM], f"{name}.of_item", axis=0))
            name = f"{name}.of_item"
        columns.append(name)
    nodes.append(node("Concat", columns, MATRIX, axis=1))
    return Part(nodes, constants)


def inputs_of(layout: MatrixLayout) -> tuple[TensorSpec, ...]:
    """The tensors that the graph takes, in the encoder's order."""
    found = tuple(piece.tensor for piece in layout.pieces)
    if any(piece.level == "request" for piece in layout.pieces):
        return (*found, TensorSpec(OF_ITEM, "int64", ("items",)))
    return found


def to_file(layout: MatrixLayout, own: Part) -> bytes | None:
    """The content of the ONNX file, from the encoder's tensors to `SCORE` [N] float32; None: too large for one.

    Args:
        layout: of the matrix.
        own: from `MATRIX` to `SCORE`.
    """
    first = matrix_part(layout)
    kinds = {"float32": _onnx.TensorProto.FLOAT, "int64": _onnx.TensorProto.INT64}
    inputs = [_helper.make_tensor_value_info(t.name, kinds[t.dtype], list(t.shape)) for t in inputs_of(layout)]
    output = _helper.make_tensor_value_info(SCORE, _onnx.TensorProto.FLOAT, ["items"])
    graph = _helper.make_graph(
        [*first.nodes, *own.nodes], "estimator", inputs, [output], initializer=[*first.constants, *own.constants]
    )
    opsets = [_helper.make_opsetid("", OPSET), _helper.make_opsetid("ai.onnx.ml", own.opset)]
    model = _helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="bedplate")
    return None if model.ByteSize() > _LARGEST else model.SerializeToString()
