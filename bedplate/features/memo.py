"""Values of strings, remembered: each is computed once, and a new one costs its own work, however many are known."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import numpy as np

from bedplate.batch import Column, Dense, Embedding, Ids, Ragged
from bedplate.types import Array, Int64s

MOST_REMEMBERED = 1_000_000
"""The values of so many different strings are remembered; then it begins afresh."""


@final
class Memo:
    """The value of each string that was asked for, by the string's id. Any number of threads may use it."""

    __slots__ = ("_known", "_lock")

    def __init__(self) -> None:
        self._known = _Known()
        self._lock = threading.Lock()

    def values(self, ids: Int64s, compute: Callable[[Int64s], Column]) -> Column:
        """The values of n strings.

        Args:
            ids: [n] int64 of the strings.
            compute: gives the column of different ids; called with those that are not known yet, if any.

        >>> memo = Memo()
        >>> memo.values(np.array([7, 9, 7]), lambda ids: Dense(ids * 2)).values.tolist()
        [14, 18, 14]
        >>> memo.values(np.array([9]), lambda ids: Dense(ids * 3)).values.tolist()
        [18]
        """
        unique, inverse = np.unique(ids, return_inverse=True)
        wanted: list[int] = unique.tolist()
        known = self._known
        try:
            rows = [known.rows[i] for i in wanted]
        except KeyError:
            known = self._learn(wanted, compute)
            rows = [known.rows[i] for i in wanted]
        if known.column is None:  # nothing was ever asked for
            known = self._learn(wanted, compute)
        return known.view().take(np.array(rows, np.int64)[inverse])

    def _learn(self, wanted: list[int], compute: Callable[[Int64s], Column]) -> _Known:
        """What is known once the wanted ones are; what was given to others stays as it is."""
        with self._lock:
            known = self._known
            if len(known.rows) > MOST_REMEMBERED:
                known = _Known()
            new = [i for i in wanted if i not in known.rows]
            if new or known.column is None:
                column = compute(np.array(new, np.int64))
                known.column = known.column or _Growing.of(column)
                first = len(known.rows)
                known.column.add(column)
                # Last: a reader that finds an id finds its value too.
                known.rows.update(zip(new, range(first, first + len(new)), strict=True))
            self._known = known
            return known


@final
@dataclass(slots=True)
class _Known:
    """The row of each known id, and the values."""

    rows: dict[int, int] = field(default_factory=dict[int, int])
    column: _Growing | None = None

    def view(self) -> Column:
        """The values as they are now."""
        if self.column is None:
            raise RuntimeError("nothing is known yet")
        return self.column.view()


@final
class _Grown:
    """An array that grows by pieces; a view of its rows stays as it is when it grows."""

    __slots__ = ("_array", "used")

    def __init__(self, like: Array) -> None:
        self._array: Array = np.empty((0, *like.shape[1:]), like.dtype)
        self.used = 0

    def add(self, piece: Array) -> None:
        """Appends rows: a constant number of copies of each on average."""
        stop = self.used + len(piece)
        if stop > len(self._array):
            wider: Array = np.empty((2 * stop, *self._array.shape[1:]), self._array.dtype)
            wider[: self.used] = self._array[: self.used]
            self._array = wider
        self._array[self.used : stop] = piece
        self.used = stop

    def view(self) -> Array:
        """The rows."""
        return self._array[: self.used]


@final
class _Growing:
    """A column that grows by pieces of its own form."""

    __slots__ = ("_inner", "_like", "_offsets", "_present", "_texts", "_values", "_whole")

    def __init__(self, like: Dense | Ids | Embedding, inner: _Growing | None = None) -> None:
        self._like, self._inner = like, inner
        self._values, self._present = _Grown(like.values), _Grown(np.zeros(0, np.bool_))
        self._offsets = _Grown(np.zeros(0, np.int64))
        self._offsets.add(np.zeros(1, np.int64))
        self._texts: dict[int, str] = {}
        self._whole = True

    @classmethod
    def of(cls, like: Column) -> _Growing:
        """An empty column of the form of another."""
        return cls(like.values, cls(like.values)) if isinstance(like, Ragged) else cls(like)

    def add(self, column: Column) -> None:
        """Appends rows."""
        if isinstance(column, Ragged):
            if self._inner is not None:
                start = int(self._offsets.view()[-1])
                self._inner.add(column.values)
                self._offsets.add(column.offsets[1:] + start)
            return
        if isinstance(column, Ids) and column.texts is not None:
            self._texts.update(column.texts)
        self._whole = self._whole and (column.present is None or bool(column.present.all()))
        self._values.add(column.values)
        self._present.add(np.ones(len(column), np.bool_) if column.present is None else column.present)

    def view(self) -> Column:
        """The rows as they are now."""
        if self._inner is not None:
            offsets, inner = self._offsets.view(), self._inner.view()
            if isinstance(inner, Dense | Ids):
                return Ragged(inner, offsets)
        # The shorter first: another thread may be adding.
        present, values = self._present.view(), self._values.view()
        values = values[: len(present)]
        there = None if self._whole else present
        if isinstance(self._like, Ids):
            return Ids(values, there, None if self._like.texts is None else self._texts)
        return Embedding(values, there) if isinstance(self._like, Embedding) else Dense(values, there)
