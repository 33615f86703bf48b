"""Vocabularies: from 64-bit ids to rows 0 (null), 1 (out of vocabulary), 2 and up (known keys in ascending order).

All vocabularies of an encoder share one embedding table, in which each has a block of rows. They share one hash table
as well, so that the ids of any number of features are looked up at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, final

import numpy as np

from bedplate.errors import DataError
from bedplate.features import kernels
from bedplate.types import Bools, Int32s, Int64s

NULL_ROW = 0
UNKNOWN_ROW = 1
FIRST_KNOWN_ROW = 2

_ALL_PRESENT = np.zeros((0, 0), np.bool_)


@final
class Vocabulary:
    """The known keys of a categorical feature.

    >>> len(Vocabulary(np.array([10, 20, 30])))
    5
    """

    __slots__ = ("keys",)

    def __init__(self, keys: Int64s) -> None:
        """Holds `keys` [V] int64.

        Raises:
            DataError: the keys are not strictly ascending int64.
        """
        if keys.ndim != 1 or keys.dtype != np.int64 or bool(np.any(keys[1:] <= keys[:-1])):
            raise DataError("got keys that are not one strictly ascending int64 column", where="vocabulary")
        self.keys = keys

    def __len__(self) -> int:
        """The number of rows: those of the known keys and the two reserved ones."""
        return len(self.keys) + FIRST_KNOWN_ROW


class _Table(NamedTuple):
    """Where a vocabulary is in the shared hash table and in the shared keys, and its row of unknown ids."""

    base: int
    shift: int
    first: int
    unknown: int


@final
class Choice:
    """The vocabularies of c features, in the order of the features; made by `Vocabularies.choose`."""

    __slots__ = ("bases", "firsts", "shifts", "unknowns")

    def __init__(self, tables: Sequence[_Table]) -> None:
        self.bases = np.array([t.base for t in tables], np.int64)
        self.firsts = np.array([t.first for t in tables], np.int64)
        self.unknowns = np.array([t.unknown for t in tables], np.int64)
        self.shifts = np.array([t.shift for t in tables], np.uint64)


@final
class Vocabularies(Mapping[str, Vocabulary]):
    """Vocabularies by name, with their rows of the embedding table, whose row 0 is padding.

    Attributes:
        first_rows: the first row of each vocabulary.
        rows: of the embedding table.

    >>> v = Vocabularies({"item": Vocabulary(np.array([10, 20, 30])), "shop": Vocabulary(np.array([7]))})
    >>> v.first_rows, v.rows
    ({'item': 1, 'shop': 6}, 9)
    >>> v.rows_of(v.choose(["item", "shop"]), np.array([[20, 5], [7, 7]])).tolist()
    [[4, 8], [2, 8]]
    """

    __slots__ = ("_keys", "_named", "_slots", "_tables", "first_rows", "rows")

    def __init__(self, named: Mapping[str, Vocabulary]) -> None:
        self._named = dict(named)
        self.first_rows: dict[str, int] = {}
        self._tables: dict[str, _Table] = {}
        slots = [np.zeros(0, np.int32)]
        self.rows, base, first = 1, 0, 0
        for name, vocabulary in self._named.items():
            self.first_rows[name] = self.rows
            bits = max(4, (max(len(vocabulary.keys), 1) * 4 - 1).bit_length())
            self._tables[name] = _Table(base, 64 - bits, first, self.rows + UNKNOWN_ROW)
            slots.append(_hash_table(vocabulary.keys, bits))
            base, first = base + len(slots[-1]), first + len(vocabulary.keys)
            self.rows += len(vocabulary)
        self._slots = slots[1] if len(slots) == 2 else np.concatenate(slots)
        keys = [v.keys for v in self._named.values()]
        self._keys = np.ascontiguousarray(keys[0]) if len(keys) == 1 else np.concatenate([np.zeros(0, np.int64), *keys])

    def __getitem__(self, name: str) -> Vocabulary:
        """The vocabulary of a name."""
        return self._named[name]

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._named)

    def __len__(self) -> int:
        """How many vocabularies there are."""
        return len(self._named)

    def choose(self, names: Sequence[str]) -> Choice:
        """The vocabularies that c features have, for `rows_of`; one may be there several times."""
        return Choice([self._tables[name] for name in names])

    def rows_of(self, choice: Choice, values: Int64s, present: Bools | None = None) -> Int64s:
        """The row of the embedding table of each id.

        Args:
            choice: the vocabularies of c features.
            values: [c, n] int64 ids, C-contiguous.
            present: [c, n]; where False the row is the vocabulary's null row. None: all are present.

        Returns:
            [n, c] int64, C-contiguous.
        """
        out = np.empty(values.shape[::-1], np.int64)
        kernels.find_rows(
            values, _ALL_PRESENT if present is None else present,
            choice.shifts, choice.bases, choice.firsts, choice.unknowns, self._slots, self._keys, out,
        )  # fmt: skip
        return out


def _hash_table(keys: Int64s, bits: int) -> Int32s:
    """Open addressing with linear probing: for each slot the number of its key from 1 on; empty slots hold 0.

    It is longer than 2^bits, so that a search never has to begin again at its first slot, and the last slot is empty.
    """
    waiting = np.arange(1, len(keys) + 1, dtype=np.int32)
    slots = (np.ascontiguousarray(keys).view(np.uint64) * kernels.MULTIPLIER >> np.uint64(64 - bits)).view(np.int64)
    table, end = np.zeros((1 << bits) + len(keys) + 1, np.int32), 1 << bits
    while len(waiting):
        free = table[slots] == 0
        table[slots[free]] = waiting[free]  # of several for one slot the last one gets it
        lost = table[slots] != waiting
        end = max(end, int(slots.max()) + 1)
        waiting, slots = waiting[lost], slots[lost] + 1
    return table[: end + 1].copy()
