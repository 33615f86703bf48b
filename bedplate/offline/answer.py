"""Putting together the columns of rows that were looked up in another order than they were asked for."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from bedplate.batch import Column, Dense, Embedding, Ids, Ragged, TextLookup
from bedplate.offline import kernels
from bedplate.types import Array, Int64s


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Where a column of fixed width is in the matrices of an answer.

    Attributes:
        values: the first column of its values in the matrix of their size.
        present: the column, in the matrix of bytes, that says which are there; -1: all.
    """

    values: int
    present: int


@final
@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of an answer while they are put together.

    Attributes:
        rows: [n] their places in the answer.
        places: [n] their places in the matrices.
        matrices: by the bytes of a value, [.., columns] unsigned integers that hold any value of that size.
        lists: columns that are lists, by name.
    """

    rows: Array
    places: Array
    matrices: dict[int, Array]
    lists: dict[str, Ragged]

    def repeated(self, rows: Array, counts: Int64s) -> Part:
        """The same values for more rows.

        Args:
            rows: [m] their places in the answer, those of the first row of the part first.
            counts: [n] how many of them have the values of each row of the part.
        """
        if len(rows) == len(self.rows):
            return self
        of_part = np.repeat(np.arange(len(counts)), counts)
        matrices = {size: matrix[of_part] for size, matrix in self.matrices.items()}
        lists = {name: column.take(of_part) for name, column in self.lists.items()}
        return Part(rows, np.arange(len(rows), dtype=rows.dtype), matrices, lists)


@final
class Answer:
    """The columns of n rows, filled part by part, by several threads at once.

    Values of fixed width go into one matrix for each size of value, so that a row is put in place with one access to
    memory, and a column is a strided view; lists are joined at the end.

    Args:
        rows: n.
        like: the columns, of no rows, with the texts of all rows.
    """

    __slots__ = ("_like", "_lists", "_matrices", "_texts", "places")

    def __init__(self, rows: int, like: Mapping[str, Column]) -> None:
        self._like = {name: column for name, column in like.items() if not isinstance(column, Ragged)}
        self._lists: dict[str, list[tuple[Array, Ragged]]] = {n: [] for n in like if n not in self._like}
        lists = {name: column.values for name, column in like.items() if isinstance(column, Ragged)}
        self._texts = {name: values.texts for name, values in lists.items() if isinstance(values, Ids)}
        self.places: dict[str, Place] = {}
        widths: dict[int, int] = {}

        def claim(array: Array) -> int:
            size = array.dtype.itemsize
            at = widths.get(size, 0)
            widths[size] = at + (array.shape[1] if array.ndim > 1 else 1)
            return at

        for name, column in self._like.items():
            values = claim(column.values)
            self.places[name] = Place(values, -1 if column.present is None else claim(column.present))
        self._matrices = {size: _aligned(rows, width, np.dtype(f"u{size}")) for size, width in widths.items()}

    def part(self, rows: Array) -> Part:
        """Uninitialised room for these rows."""
        matrices = {size: np.empty((len(rows), m.shape[1]), m.dtype) for size, m in self._matrices.items()}
        return Part(rows, np.arange(len(rows), dtype=rows.dtype), matrices, {})

    def direct(self, rows: Array) -> Part:
        """The room of these rows in the answer itself, where one loop fills all columns; it is not to be added."""
        return Part(rows, rows, self._matrices, {})

    def put(self, part: Part, name: str, column: Column) -> None:
        """Puts a column into a part."""
        if isinstance(column, Ragged):
            part.lists[name] = column
            return
        place = self.places[name]
        _columns(part.matrices, place.values, column.values)[...] = column.values
        if column.present is not None:
            _columns(part.matrices, place.present, column.present)[...] = column.present

    def add(self, part: Part) -> None:
        """Takes a part that is complete."""
        for size, matrix in part.matrices.items():
            kernels.scatter(matrix, part.rows, self._matrices[size])
        for name, column in part.lists.items():
            self._lists[name].append((part.rows, column))

    def columns(self, pool: ThreadPoolExecutor | None = None) -> dict[str, Column]:
        """All columns; lists are joined by the threads of a pool."""
        result: dict[str, Column] = {}
        for name, column in self._like.items():
            place = self.places[name]
            values = _columns(self._matrices, place.values, column.values)
            present = None if column.present is None else _columns(self._matrices, place.present, column.present)
            if isinstance(column, Ids):
                result[name] = Ids(values, present, column.texts)
            else:
                result[name] = Dense(values, present) if isinstance(column, Dense) else Embedding(values, present)
        joined = {name: _join(parts, self._texts.get(name), pool) for name, parts in self._lists.items()}
        return result | joined


def _columns(matrices: Mapping[int, Array], at: int, like: Array) -> Array:
    """The columns of a matrix from `at` on that hold an array like this one, as such an array."""
    matrix = matrices[like.dtype.itemsize].view(like.dtype)
    return matrix[:, at : at + like.shape[1]] if like.ndim > 1 else matrix[:, at]


def _aligned(rows: int, width: int, dtype: np.dtype[Any]) -> Array:
    """An uninitialised matrix that begins with a cache line, so that a row touches as few of them as it can."""
    line = 64 // dtype.itemsize
    words = np.empty(rows * width + line, dtype)
    start = -words.ctypes.data // dtype.itemsize % line
    return words[start : start + rows * width].reshape(rows, width)


def _join(parts: list[tuple[Array, Ragged]], texts: TextLookup | None, pool: ThreadPoolExecutor | None) -> Ragged:
    """The lists of all rows in order; the parts are taken out one by one, so that few values are there twice."""
    offsets = np.zeros(sum(len(rows) for rows, _ in parts) + 1, np.int64)
    for rows, column in parts:
        offsets[rows + 1] = np.diff(column.offsets)
    np.cumsum(offsets, out=offsets)
    first = parts[0][1].values
    values = np.empty((int(offsets[-1]), *first.values.shape[1:]), first.values.dtype)

    def put(_: int) -> None:
        rows, column = parts.pop()
        found = np.ascontiguousarray(column.values.values)
        kernels.scatter_lists(_matrix(found), column.offsets, rows, offsets, _matrix(values))

    list((map if pool is None else pool.map)(put, range(len(parts))))
    return Ragged(Ids(values, None, texts) if isinstance(first, Ids) else Dense(values), offsets)


def _matrix(values: Array) -> Array:
    return values.reshape(len(values), -1) if values.size else values.reshape(len(values), 0)
