"""Vocabularies: from 64-bit ids to rows 0 (null), 1 (out of vocabulary), 2 and up (known keys in ascending order)."""

from __future__ import annotations

from typing import final

import numpy as np

from bedplate.errors import DataError
from bedplate.types import Bools, Int64s

NULL_ROW = 0
UNKNOWN_ROW = 1
FIRST_KNOWN_ROW = 2

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Fibonacci hashing, Knuth, TAOCP vol. 3, 6.4
_FEW = 1024  # below this many lookups a binary search beats the fixed cost of the hash table's passes


@final
class Vocabulary:
    """The known keys of a categorical feature.

    >>> v = Vocabulary(np.array([10, 20, 30]))
    >>> v.rows_of(np.array([20, 7, 30]), np.array([True, True, False])).tolist()
    [3, 1, 0]
    """

    __slots__ = ("_bits", "_guarded", "_slot_keys", "_slot_rows", "keys")

    def __init__(self, keys: Int64s) -> None:
        """Holds `keys` [V] int64.

        Raises:
            DataError: the keys are not strictly ascending int64.
        """
        if keys.ndim != 1 or keys.dtype != np.int64 or bool(np.any(keys[1:] <= keys[:-1])):
            raise DataError("got keys that are not one strictly ascending int64 column", where="vocabulary")
        self.keys = keys
        # A value above every key lands one past the end; there it meets the smallest key, which it can't equal.
        self._guarded = np.append(keys, keys[:1])
        self._bits = max(4, (max(len(keys), 1) * 4 - 1).bit_length())
        self._slot_keys, self._slot_rows = _hash_table(keys, self._bits)

    def __len__(self) -> int:
        """The number of rows: those of the known keys and the two reserved ones."""
        return len(self.keys) + FIRST_KNOWN_ROW

    def rows_of(self, values: Int64s, present: Bools | None = None) -> Int64s:
        """The row of each value; any shape.

        Args:
            values: int64 ids.
            present: same shape; where False the row is 0. None: all are present.
        """
        if len(self.keys) == 0:
            rows = np.full(values.shape, UNKNOWN_ROW, np.int64)
        elif values.size <= _FEW:
            rows = self.keys.searchsorted(values)
            unknown = self._guarded[rows] != values
            rows += FIRST_KNOWN_ROW
            rows[unknown] = UNKNOWN_ROW
        else:
            rows = self._probe(values)
        if present is not None:
            rows[~present] = NULL_ROW
        return rows

    def _probe(self, values: Int64s) -> Int64s:
        """Rows by hash table: all values in a pass, then those whose slot held another key in the next slot."""
        slots = _slots(values, self._bits)
        rows = self._slot_rows[slots]
        unknown = self._slot_keys[slots] != values
        unsettled = np.flatnonzero(unknown & (rows != 0))
        rows[unknown | (rows == 0)] = UNKNOWN_ROW
        slots = slots[unsettled]
        last = (1 << self._bits) - 1
        while len(unsettled):
            slots = (slots + 1) & last
            found = self._slot_rows[slots]
            same = (self._slot_keys[slots] == values[unsettled]) & (found != 0)
            rows[unsettled[same]] = found[same]
            going = ~same & (found != 0)
            unsettled, slots = unsettled[going], slots[going]
        return rows


def _slots(values: Int64s, bits: int) -> Int64s:
    product = np.ascontiguousarray(values).view(np.uint64) * _MULTIPLIER
    product >>= np.uint64(64 - bits)
    return product.view(np.int64)


def _hash_table(keys: Int64s, bits: int) -> tuple[Int64s, Int64s]:
    """Open addressing with linear probing: the key of each slot and its row, 0 where the slot is empty."""
    slot_keys, slot_rows = np.zeros(1 << bits, np.int64), np.zeros(1 << bits, np.int64)
    waiting: Int64s = np.arange(len(keys), dtype=np.int64)
    slots = _slots(keys, bits)
    while len(waiting):
        free = slot_rows[slots] == 0
        slot_rows[slots[free]] = waiting[free] + FIRST_KNOWN_ROW  # of several for one slot the last one gets it
        lost = slot_rows[slots] != waiting + FIRST_KNOWN_ROW
        slot_keys[slots[~lost]] = keys[waiting[~lost]]
        waiting, slots = waiting[lost], (slots[lost] + 1) & ((1 << bits) - 1)
    return slot_keys, slot_rows
