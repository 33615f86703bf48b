"""Putting together the columns of blocks that were looked up in another order than they were asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np

from bedplate.batch import Column, Dense, Embedding, Ids, Ragged
from bedplate.offline import kernels
from bedplate.types import Array


@final
class Answer:
    """The columns of n rows, filled block by block, by several threads at once.

    A single block is handed through. Of several, values of fixed width go into one matrix for each size of value, so
    that a row is put in place with one access to memory, and a column is a strided view; lists are joined at the end.
    """

    __slots__ = ("_blocks", "_like", "_lists", "_matrices", "_rows", "_whole")

    def __init__(self, rows: int) -> None:
        self._rows, self._blocks = rows, 1
        self._whole: dict[str, Column] = {}
        self._like: dict[str, Dense | Ids | Embedding] = {}
        self._matrices: dict[int, Array] = {}
        self._lists: dict[str, list[tuple[Array, Ragged]]] = {}

    def start(self, like: Mapping[str, Column], blocks: int) -> None:
        """Makes room for columns like these (of no rows)."""
        self._blocks = blocks
        if blocks == 1:
            return
        self._lists = {name: [] for name, column in like.items() if isinstance(column, Ragged)}
        self._like = {name: column for name, column in like.items() if not isinstance(column, Ragged)}
        for size, parts in _by_size(self._like).items():
            self._matrices[size] = _aligned(self._rows, sum(_width(p) for p in parts), np.dtype(f"u{size}"))

    def add(self, rows: Array, columns: Mapping[str, Column]) -> None:
        """Takes the values of a block of rows."""
        if self._blocks == 1:
            self._whole = dict(columns)
            return
        fixed = {name: columns[name] for name in self._like}
        for size, parts in _by_size(fixed).items():
            matrix = self._matrices[size]
            block, at = np.empty((matrix.shape[1], len(rows)), matrix.dtype), 0
            for part in parts:
                block[at : at + _width(part)] = part.view(matrix.dtype).reshape(len(rows), -1).T
                at += _width(part)
            kernels.scatter(block, rows, matrix)
        for name, blocks in self._lists.items():
            column = columns[name]
            if isinstance(column, Ragged):
                blocks.append((rows, column))

    def columns(self) -> dict[str, Column]:
        """All columns, in the order asked for."""
        at = dict.fromkeys(self._matrices, 0)

        def take(like: Array) -> Array:
            size, width = like.dtype.itemsize, _width(like)
            found = self._matrices[size][:, at[size] : at[size] + width].view(like.dtype)
            at[size] += width
            return found if like.ndim > 1 else found[:, 0]

        result: dict[str, Column] = dict(self._whole)
        for name, column in self._like.items():
            values = take(column.values)
            present = None if column.present is None else take(column.present)
            if isinstance(column, Ids):
                result[name] = Ids(values, present, column.texts)
            else:
                result[name] = Dense(values, present) if isinstance(column, Dense) else Embedding(values, present)
        return result | {name: _join(blocks) for name, blocks in self._lists.items()}


def _by_size(columns: Mapping[str, Column]) -> dict[int, list[Array]]:
    """The arrays of columns (values, then which are present) by the bytes of a value, in order."""
    found: dict[int, list[Array]] = {}
    for column in columns.values():
        if not isinstance(column, Ragged):
            for array in (column.values,) if column.present is None else (column.values, column.present):
                found.setdefault(array.dtype.itemsize, []).append(array)
    return found


def _width(array: Array) -> int:
    return array.shape[1] if array.ndim > 1 else 1


def _aligned(rows: int, width: int, dtype: np.dtype[Any]) -> Array:
    """An uninitialised matrix that begins with a cache line, so that a row touches as few of them as it can."""
    line = 64 // dtype.itemsize
    words = np.empty(rows * width + line, dtype)
    start = -words.ctypes.data // dtype.itemsize % line
    return words[start : start + rows * width].reshape(rows, width)


def _join(blocks: list[tuple[Array, Ragged]]) -> Ragged:
    order = np.concatenate([rows for rows, _ in blocks])
    lengths = np.concatenate([np.diff(column.offsets) for _, column in blocks])
    offsets = np.zeros(len(order) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    values = np.concatenate([column.values.values for _, column in blocks])
    first = blocks[0][1].values
    flat = Ids(values, None, first.texts) if isinstance(first, Ids) else Dense(values)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return Ragged(flat, offsets).take(place)
