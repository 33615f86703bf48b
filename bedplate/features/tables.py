"""Large embedding tables of an ONNX graph, in a file beside it.

A graph's file is a protobuf message, which holds less than 2 GiB, and who works on it holds it in memory as a whole. So
tables are left out of it: in the graph they are weights that lie in another file
(https://github.com/onnx/onnx/blob/main/docs/ExternalData.md), which ONNX Runtime maps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, final

import numpy as np

from bedplate.features.weights import GRAPH, INITIALIZER, Buffer, Field, fields, number, wrapped
from bedplate.types import Float32s

LEAST_BYTES = 64 << 20
"""A smaller table stays in the graph."""
_ALIGNMENT = 4096
"""A file is mapped in pages."""
_INPUT = 11
_DIMS, _TYPE, _NAME, _EXTERNAL, _LOCATION = 1, 2, 8, 13, 14
_NAMES = {_INPUT: 1, INITIALIZER: _NAME}
"""Which fields of a graph have names, and the number of a name in each."""
_FLOAT = 1


@final
class Table(NamedTuple):
    """Where a table of float32 lies in a file: its shape, and its first byte.

    >>> Table((1000, 16), 4096).nbytes
    64000
    """

    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return 4 * math.prod(self.shape)


def places_of(tables: Mapping[str, Float32s]) -> dict[str, Table]:
    """Where tables lie that `write_tables` writes."""
    found, at = dict[str, Table](), 0
    for name, array in tables.items():
        found[name] = Table(array.shape, at)
        at += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    return found


def write_tables(path: Path, tables: Mapping[str, Float32s]) -> None:
    """Writes tables into a file, each from memory as it is.

    Raises:
        OSError: the disk is full, or the file can't be written.
    """
    with path.open("wb") as file:
        for table, array in zip(places_of(tables).values(), tables.values(), strict=True):
            file.seek(table.offset)
            # NumPy's own `tofile` does not say why it failed.
            file.write(np.ascontiguousarray(array, "<f4").data.cast("B"))


def with_tables(content: Buffer, tables: Mapping[str, Table], file: str) -> bytes:
    """A graph whose inputs of these names are weights that lie in a file; the reverse of `without_tables`.

    Args:
        content: of the graph's file.
        tables: the weights by the names of the inputs.
        file: the name of the file that they lie in.

    Raises:
        ValueError: it is no protobuf message.
    """
    added = [_external(name, table, file) for name, table in tables.items()]
    return _changed(content, lambda kind, name: kind == _INPUT and name in tables, added)


def without_tables(content: Buffer, tables: Mapping[str, Table]) -> bytes:
    """A graph whose weights of these names are inputs: what works on it then need not hold them.

    Args:
        content: of the graph's file.
        tables: the weights by their names.

    Raises:
        ValueError: it is no protobuf message.
    """
    added = [_input(name, table) for name, table in tables.items()]
    return _changed(content, lambda kind, name: kind == INITIALIZER and name in tables, added)


def tables_of(content: Buffer, file: str) -> dict[str, Table]:
    """The weights of a graph that `with_tables` said to lie in the file of this name.

    Args:
        content: of the graph's file.
        file: the name.

    Raises:
        ValueError: it is no protobuf message.
    """
    found = dict[str, Table]()
    for graph in fields(content, 0, len(content)):
        for tensor in fields(content, graph.at, graph.end) if graph.number == GRAPH else ():
            inner = list(fields(content, tensor.at, tensor.end)) if tensor.number == INITIALIZER else []
            said: dict[str, str] = {}
            for entry in [f for f in inner if f.number == _EXTERNAL]:
                key, value = (_text(content, part) for part in fields(content, entry.at, entry.end))
                said[key] = value
            if said.get("location") == file:
                shape = tuple([f.value for f in inner if f.number == _DIMS])
                found[_name(content, tensor)] = Table(shape, int(said["offset"]))
    return found


def inputs_of(content: Buffer) -> list[str]:
    """The names of a graph's inputs.

    Raises:
        ValueError: it is no protobuf message.
    """
    graphs = [f for f in fields(content, 0, len(content)) if f.number == GRAPH]
    parts = (part for graph in graphs for part in fields(content, graph.at, graph.end))
    return [_name(content, part) for part in parts if part.number == _INPUT]


def _changed(content: Buffer, leaves: Callable[[int, str], bool], added: list[bytes]) -> bytes:
    """A model, some inputs or weights of its graph left out, others added."""
    made: list[Buffer] = []
    for field in fields(content, 0, len(content)):
        if field.number == GRAPH:
            parts = fields(content, field.at, field.end)
            kept = [p for p in parts if p.number not in _NAMES or not leaves(p.number, _name(content, p))]
            made.append(wrapped(GRAPH, b"".join([*(content[p.begin : p.end] for p in kept), *added])))
        else:
            made.append(content[field.begin : field.end])
    return b"".join(made)


def _external(name: str, table: Table, file: str) -> bytes:
    place = {"location": file, "offset": str(table.offset), "length": str(table.nbytes)}
    entries = [wrapped(_EXTERNAL, wrapped(1, k.encode()) + wrapped(2, v.encode())) for k, v in place.items()]
    shape = [number(_DIMS, size) for size in table.shape]
    parts = [*shape, number(_TYPE, _FLOAT), wrapped(_NAME, name.encode()), *entries, number(_LOCATION, 1)]
    return wrapped(INITIALIZER, b"".join(parts))


def _input(name: str, table: Table) -> bytes:
    shape = wrapped(2, b"".join(wrapped(1, number(1, size)) for size in table.shape))
    return wrapped(_INPUT, wrapped(1, name.encode()) + wrapped(2, wrapped(1, number(1, _FLOAT) + shape)))


def _name(content: Buffer, part: Field) -> str:
    inner = fields(content, part.at, part.end)
    return next((_text(content, f) for f in inner if f.number == _NAMES[part.number]), "")


def _text(content: Buffer, field: Field) -> str:
    return bytes(content[field.at : field.end]).decode()
