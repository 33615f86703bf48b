"""An ONNX graph as two: what it computes of some inputs alone, and the rest.

Of the inputs that describe candidates one by one a ranking model computes much without knowing who asks: embeddings,
and the products of its first layers. That part of the graph gives the same rows whenever it is given the same rows, so
that they can be kept (`item_side`). Nodes are taken as they are in the file, and none is computed another way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

from bedplate.features.encoding import TensorSpec
from bedplate.features.weights import GRAPH, INITIALIZER, Buffer, fields, number, wrapped

# https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3: fields of a graph, of a node, and of an attribute.
_NODE, _NAME, _INPUT, _OUTPUT = 1, 2, 11, 12
_READS, _GIVES, _KIND, _ATTRIBUTE = 1, 2, 4, 5
_SUBGRAPHS = (6, 11)
_TENSOR_NAME = 8
ELEMENTS = {"float32": 1, "int32": 6, "int64": 7, "bool": 9, "float64": 11}
"""Types of numbers that may go between the two."""
_SHAPES = frozenset({"Shape", "Size", "NonZero"})
"""What these give is not a row for each row that they take."""
_PRODUCTS = frozenset({"MatMul", "Gemm"})


@final
class Sides(NamedTuple):
    """A model in two parts, each the content of an ONNX file without the types of what goes between them.

    Attributes:
        first: takes the inputs that were chosen, gives `between`.
        rest: takes the other inputs and `between`, and gives what the whole model gives.
        between: the tensors that go from the one to the other.
    """

    first: bytes
    rest: bytes
    between: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class _Node:
    content: bytes
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    kind: str
    has_graphs: bool


def sides(model: bytes, chosen: Collection[str], between: Sequence[TensorSpec] = ()) -> Sides | None:
    """A model as two.

    Args:
        model: the content of its file.
        chosen: names of inputs.
        between: what goes from the first to the rest, where it is known from `first`; the rest can't be run without.

    Returns:
        None: no matrix product is of these inputs alone, or the graph has conditions or loops.

    Raises:
        ValueError: it is no protobuf message.
    """
    graph = next((f for f in fields(model, 0, len(model)) if f.number == GRAPH), None)
    if graph is None:
        return None
    content = memoryview(model)[graph.at : graph.end]
    parts = list(fields(content, 0, len(content)))
    nodes = [_node(content[p.at : p.end]) for p in parts if p.number == _NODE]
    if any(node.has_graphs for node in nodes):
        return None
    named = {
        kind: {_text(content[p.at : p.end], name): bytes(content[p.begin : p.end]) for p in parts if p.number == kind}
        for kind, name in ((_INPUT, 1), (_OUTPUT, 1), (INITIALIZER, _TENSOR_NAME))
    }
    weights = named[INITIALIZER]
    first, constant, other = _split(nodes, chosen, weights)
    given = {name for node in first for name in node.gives}
    read = {name for node in other for name in node.reads} | named[_OUTPUT].keys()
    names = tuple([name for node in first for name in node.gives if name and name in read])  # "": given to nobody
    if not given or not any(node.kind in _PRODUCTS for node in first):
        return None
    values = [_value(spec.name, _type(spec)) for spec in between] or [_value(name) for name in names]

    def made(some: Sequence[_Node], extra: Iterable[bytes], outputs: Mapping[str, bytes]) -> bytes:
        needed = {name for node in some for name in node.reads} | outputs.keys()
        kept = [weight for name, weight in weights.items() if name in needed]
        inputs = [entry for name, entry in named[_INPUT].items() if name in needed and name not in weights]
        inside = [wrapped(_NODE, node.content) for node in some]
        body = b"".join([*inside, wrapped(_NAME, b"side"), *kept, *inputs, *extra, *outputs.values()])
        return bytes(model[: graph.begin]) + wrapped(GRAPH, body) + bytes(model[graph.end :])

    return Sides(
        made([*constant, *first], [], {n: wrapped(_OUTPUT, value) for n, value in zip(names, values, strict=True)}),
        made([*constant, *other], [wrapped(_INPUT, value) for value in values], named[_OUTPUT]),
        names,
    )


def _split(
    nodes: Sequence[_Node], chosen: Collection[str], weights: Collection[str]
) -> tuple[list[_Node], list[_Node], list[_Node]]:
    """Nodes of the chosen inputs alone, nodes of weights alone, and all others; a file has them in order."""
    first, constant, other = list[_Node](), list[_Node](), list[_Node]()
    known, fixed = set(chosen), {*weights, ""}
    for node in nodes:
        if fixed.issuperset(node.reads):
            constant.append(node)
            fixed.update(node.gives)
        elif node.kind not in _SHAPES and all(name in known or name in fixed for name in node.reads):
            first.append(node)
            known.update(node.gives)
        else:
            other.append(node)
    return first, constant, other


def _value(name: str, kind: bytes = b"") -> bytes:
    return wrapped(1, name.encode()) + kind


def _type(spec: TensorSpec) -> bytes:
    sizes = [wrapped(2, d.encode()) if isinstance(d, str) else number(1, d) for d in spec.shape]
    shape = wrapped(2, b"".join(wrapped(1, size) for size in sizes))
    return wrapped(2, wrapped(1, number(1, ELEMENTS[spec.dtype]) + shape))


def _node(content: Buffer) -> _Node:
    found = list(fields(content, 0, len(content)))
    texts = {
        n: tuple([_decoded(content[f.at : f.end]) for f in found if f.number == n]) for n in (_READS, _GIVES, _KIND)
    }
    attributes = [content[f.at : f.end] for f in found if f.number == _ATTRIBUTE]
    has_graphs = any(f.number in _SUBGRAPHS for a in attributes for f in fields(a, 0, len(a)))
    return _Node(bytes(content), texts[_READS], texts[_GIVES], "".join(texts[_KIND]), has_graphs)


def _text(content: Buffer, field: int) -> str:
    """A field of a message that is a text."""
    return next((_decoded(content[f.at : f.end]) for f in fields(content, 0, len(content)) if f.number == field), "")


def _decoded(content: Buffer) -> str:
    return bytes(content).decode()
