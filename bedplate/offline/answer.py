"""Putting together the columns of blocks that were looked up in another order than they were asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import numpy as np

from bedplate.batch import Column, Dense, Embedding, Ids, Ragged
from bedplate.offline import kernels
from bedplate.types import Int64s


@final
class Answer:
    """The columns of n rows, filled block by block, by several threads at once.

    A single block is handed through. Of several, values of fixed width are put in place as they come; lists are joined
    at the end.
    """

    __slots__ = ("_blocks", "_fixed", "_lists", "_rows", "_whole")

    def __init__(self, rows: int) -> None:
        self._rows, self._blocks = rows, 1
        self._whole: dict[str, Column] = {}
        self._fixed: dict[str, Dense | Ids | Embedding] = {}
        self._lists: dict[str, list[tuple[Int64s, Ragged]]] = {}

    def start(self, like: Iterable[tuple[str, Column]], blocks: int) -> None:
        """Makes room for columns like these (of no rows)."""
        self._blocks = blocks
        if blocks == 1:
            return
        for name, column in like:
            if isinstance(column, Ragged):
                self._lists[name] = []
            else:
                self._fixed[name] = _room(column, self._rows)

    def add(self, name: str, rows: Int64s, column: Column) -> None:
        """Takes a column's values for a block of rows."""
        if self._blocks == 1:
            self._whole[name] = column
        elif isinstance(column, Ragged):
            self._lists[name].append((rows, column))
        else:
            room = self._fixed[name]
            kernels.scatter(column.values, rows, room.values)
            if column.present is not None and room.present is not None:
                kernels.scatter(column.present, rows, room.present)

    def columns(self) -> dict[str, Column]:
        """All columns, in the order asked for."""
        joined: dict[str, Column] = {name: _join(blocks) for name, blocks in self._lists.items()}
        return self._whole | dict(self._fixed) | joined


def _room(column: Dense | Ids | Embedding, rows: int) -> Dense | Ids | Embedding:
    present = None if column.present is None else np.empty(rows, np.bool_)
    if isinstance(column, Embedding):
        return Embedding(np.empty((rows, column.values.shape[1]), np.float32), present)
    if isinstance(column, Ids):
        return Ids(np.empty(rows, np.int64), present, column.texts)
    return Dense(np.empty(rows, column.values.dtype), present)


def _join(blocks: list[tuple[Int64s, Ragged]]) -> Ragged:
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
