"""The large weights of an ONNX file: where they lie in it, so that processes that map the file share them.

An ONNX file is a protobuf message (https://protobuf.dev/programming-guides/encoding/); its weights are the field
`initializer` of its field `graph` (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3), and most have their values
in `raw_data`, as they are in memory, or in a file of their own, which ONNX Runtime maps. That may be the same file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias, final

Buffer: TypeAlias = bytes | memoryview

LARGE_BYTES = 1 << 16
"""A smaller weight is no page worth sharing."""

_ALIGNMENT = 64
GRAPH, INITIALIZER = 7, 5
"""The numbers of fields: of a model its graph, of a graph its weights."""
_TYPE, _RAW, _DOC, _EXTERNAL, _LOCATION = 2, 9, 12, 13, 14
_WIDTHS = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
_LENGTH = 5  # bytes in which every length below 2 GiB can be written


@final
class Field(NamedTuple):
    """A field of a message: its number, where it begins with its key, its value, and where that begins and ends."""

    number: int
    begin: int
    value: int
    at: int
    end: int


def linked(content: Buffer, file: str) -> bytes | None:
    """The graph of a file with its large weights said to lie in the file of this name; None: there are none.

    What begins at no multiple of its width stays in the graph.

    Args:
        content: of the file.
        file: its name; the folder is told to ONNX Runtime.

    Raises:
        ValueError: it is no protobuf message.
    """
    made, count = list[bytes](), 0
    for field in fields(content, 0, len(content)):
        if field.number != GRAPH:
            made.append(bytes(content[field.begin : field.end]))
            continue
        parts: list[bytes] = []
        for inner in fields(content, field.at, field.end):
            link = _link(content, inner, file) if inner.number == INITIALIZER else None
            count += link is not None
            parts.append(bytes(content[inner.begin : inner.end]) if link is None else link)
        made.append(wrapped(GRAPH, b"".join(parts)))
    return b"".join(made) if count else None


def aligned(content: bytes) -> bytes:
    """The same model, its large weights at multiples of 64 bytes.

    Raises:
        ValueError: it is no protobuf message.
    """
    made, size = list[Buffer](), 0
    for field in fields(content, 0, len(content)):
        if field.number == GRAPH:
            parts = _aligned_graph(content, field, size + 1 + _LENGTH)
            head = _key(GRAPH, 2) + _length(sum(map(len, parts)))
            made += [head, *parts]
            size += len(head) + sum(map(len, parts))
        else:
            made.append(content[field.begin : field.end])
            size += field.end - field.begin
    return b"".join(made)


def _aligned_graph(content: bytes, graph: Field, at: int) -> list[Buffer]:
    made, view = list[Buffer](), memoryview(content)
    for field in fields(content, graph.at, graph.end):
        raw = None
        if field.number == INITIALIZER:
            raw = next((f for f in fields(content, field.at, field.end) if f.number == _RAW), None)
        if raw is None or raw.end - raw.at < LARGE_BYTES:
            parts: list[Buffer] = [view[field.begin : field.end]]
        else:
            others = (f for f in fields(content, field.at, field.end) if f.number not in (_RAW, _DOC))
            kept: list[Buffer] = [view[f.begin : f.end] for f in others]
            heads = 3 * (1 + _LENGTH)  # of the tensor, its padding and its values
            pad = -(at + heads + sum(map(len, kept))) % _ALIGNMENT
            padding = _key(_DOC, 2) + _length(pad) + b" " * pad
            inner: list[Buffer] = [*kept, padding, _key(_RAW, 2) + _length(raw.end - raw.at), view[raw.at : raw.end]]
            parts = [_key(INITIALIZER, 2) + _length(sum(map(len, inner))), *inner]
        made += parts
        at += sum(map(len, parts))
    return made


def _link(content: Buffer, tensor: Field, file: str) -> bytes | None:
    """A weight that is said to lie in a file; None: it stays where it is."""
    kind, raw, kept = 0, None, list[bytes]()
    for field in fields(content, tensor.at, tensor.end):
        if field.number == _TYPE:
            kind = field.value
        if field.number == _RAW:
            raw = field
        elif field.number != _DOC:
            kept.append(bytes(content[field.begin : field.end]))
    if raw is None or raw.end - raw.at < LARGE_BYTES or raw.at % _WIDTHS.get(kind, LARGE_BYTES):
        return None
    place = {"location": file, "offset": str(raw.at), "length": str(raw.end - raw.at)}
    for name, value in place.items():
        kept.append(wrapped(_EXTERNAL, wrapped(1, name.encode()) + wrapped(2, value.encode())))
    return wrapped(INITIALIZER, b"".join([*kept, _key(_LOCATION, 0), b"\x01"]))


def fields(content: Buffer, at: int, end: int) -> Iterator[Field]:
    """The fields of a message; the value is -1 where it is not a number."""
    while at < end:
        begin = at
        key, at = _varint(content, at, end)
        value, kind = -1, key & 7
        if kind == 0:
            first = at
            value, at = _varint(content, at, end)
        elif kind in (1, 5):
            first, at = at, at + (8 if kind == 1 else 4)
        elif kind == 2:
            size, first = _varint(content, at, end)
            at = first + size
        else:
            raise ValueError(f"a field of the unknown kind {kind} at byte {begin}")
        if at > end:
            raise ValueError(f"the field at byte {begin} ends beyond its message")
        yield Field(key >> 3, begin, value, first, at)


def _varint(content: Buffer, at: int, end: int) -> tuple[int, int]:
    number = shift = 0
    while at < end and shift < 70:
        byte = content[at]
        at, number, shift = at + 1, number | (byte & 127) << shift, shift + 7
        if byte < 128:
            return number, at
    raise ValueError(f"a number without an end at byte {at}")


def _key(number: int, kind: int) -> bytes:
    return bytes([number << 3 | kind])


def _length(size: int) -> bytes:
    """A length in always as many bytes, so that what follows stays where it is."""
    return bytes([size >> 7 * i & 127 | (128 if i + 1 < _LENGTH else 0) for i in range(_LENGTH)])


def wrapped(number: int, content: bytes) -> bytes:
    """A field that holds bytes, a text or a message."""
    return _key(number, 2) + _length(len(content)) + content


def number(field: int, value: int) -> bytes:
    """A field that holds a number that is not negative."""
    return _key(field, 0) + _length(value)
