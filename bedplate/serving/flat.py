"""Reading of FlatBuffers, the form of an Arrow stream's headers; see https://flatbuffers.dev/internals.

What is damaged raises `struct.error` or `ValueError`; nothing is read from outside the bytes.
"""

from __future__ import annotations

import struct
from typing import TypeAlias, final

import numpy as np

from bedplate.types import Int64s

Span: TypeAlias = "tuple[int, int]"
"""Where the elements of a vector begin, and how many they are."""


@final
class FlatTable:
    """A table.

    Args:
        data: the bytes.
        at: where in them it begins.
    """

    __slots__ = ("_at", "_data", "_fields", "_size")

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at
        self._fields = at - _number("<i", data, at)
        self._size = _number("<H", data, self._fields)

    @staticmethod
    def root(data: bytes) -> FlatTable:
        """The table that bytes are."""
        return FlatTable(data, _number("<I", data, 0))

    def has(self, field: int) -> bool:
        """Whether a field is given."""
        return self._place(field) is not None

    def number(self, field: int, form: str, default: int = 0) -> int:
        """The number in a field, by its form of `struct`."""
        at = self._place(field)
        return default if at is None else _number(form, self._data, at)

    def table(self, field: int) -> FlatTable:
        """The table in a field.

        Raises:
            ValueError: there is none.
        """
        return FlatTable(self._data, self._target(field))

    def tables(self, field: int) -> list[FlatTable]:
        """The tables of a vector; an empty list: there is no such field."""
        begin, count = self._span(field, 4)
        places = range(begin, begin + 4 * count, 4)
        return [FlatTable(self._data, at + _number("<I", self._data, at)) for at in places]

    def text(self, field: int) -> bytes:
        """The bytes of a text."""
        begin, count = self._span(field, 1)
        return self._data[begin : begin + count]

    def numbers(self, field: int, width: int = 1) -> Int64s:
        """A vector of int64, or of structs of so many of them, [n, width]."""
        begin, count = self._span(field, 8 * width)
        return np.frombuffer(self._data, "<i8", count * width, begin).reshape(count, width)

    def _span(self, field: int, size: int) -> Span:
        if not self.has(field):
            return 0, 0
        at = self._target(field)
        count = _number("<I", self._data, at)
        if at + 4 + count * size > len(self._data):
            raise ValueError("a vector is longer than the header that it is in")
        return at + 4, count

    def _target(self, field: int) -> int:
        at = self._place(field)
        if at is None:
            raise ValueError(f"a header has no field {field}")
        return at + _number("<I", self._data, at)

    def _place(self, field: int) -> int | None:
        entry = 4 + 2 * field
        offset = _number("<H", self._data, self._fields + entry) if entry + 2 <= self._size else 0
        return self._at + offset if offset else None


def _number(form: str, data: bytes, at: int) -> int:
    if at < 0:
        raise ValueError("a header points to before itself")
    return int(struct.unpack_from(form, data, at)[0])
