"""Looks into the lists of candidates of requests, one after the other: what repeats in a list, and where an item is.

A list has an open-addressed table of at least twice its length, so both take time in proportion to the rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bedplate.compiling import compiled
from bedplate.datasets.counter import mix
from bedplate.types import Array, Bools, Int64s

_mix: Any = compiled(mix)


def first_of_each(values: Int64s, offsets: Int64s) -> Bools:
    """Whether a row is the first one of its value in its list.

    Args:
        values: [n].
        offsets: [lists + 1], where each list begins, and the end.

    >>> first_of_each(np.array([5, 6, 5, 5]), np.array([0, 3, 4])).tolist()
    [True, True, False, True]
    """
    found = np.empty(len(values), np.bool_)
    _mark_first(values, offsets, *_tables(offsets), found)
    return found


def positions(values: Int64s, offsets: Int64s, lists: Int64s, items: Int64s) -> Int64s:
    """Where items are: [m], the row of the first equal value in the list, or -1.

    Args:
        values: [n].
        offsets: [lists + 1], where each list begins, and the end.
        lists: [m], the list of each item.
        items: [m].

    >>> positions(np.array([5, 6, 5]), np.array([0, 2, 3]), np.array([0, 1, 1]), np.array([6, 5, 6])).tolist()
    [1, 2, -1]
    """
    begins, slots = _tables(offsets)
    _mark_first(values, offsets, begins, slots, np.empty(len(values), np.bool_))
    found = np.empty(len(items), np.int64)
    _find(values, offsets, begins, slots, lists, items, found)
    return found


def _tables(offsets: Int64s) -> tuple[Int64s, Array]:
    """Where the table of each list begins, [lists + 1], and empty slots, int32; each size is a power of two."""
    sizes = np.int64(1) << np.ceil(np.log2(np.maximum(2 * np.diff(offsets), 1))).astype(np.int64)
    begins = np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))
    return begins, np.full(int(begins[-1]), -1, np.int32)


@compiled
def _slot_of(values: Int64s, begin: Any, table: Any, end: Any, slots: Array, value: Any) -> Any:
    """The slot of a list that begins at `begin` whose row has the value, or the empty one where it would be."""
    mask = end - table - 1
    at = np.int64(_mix(np.uint64(value)) & np.uint64(mask))
    while slots[table + at] >= 0 and values[begin + slots[table + at]] != value:
        at = (at + 1) & mask
    return table + at


@compiled
def _mark_first(values: Int64s, offsets: Int64s, begins: Int64s, slots: Array, found: Bools) -> None:
    """Fills the tables with the first row of each value, counted from the begin of its list."""
    for i in range(len(offsets) - 1):
        for row in range(offsets[i], offsets[i + 1]):
            slot = _slot_of(values, offsets[i], begins[i], begins[i + 1], slots, values[row])
            found[row] = slots[slot] < 0
            if found[row]:
                slots[slot] = row - offsets[i]


@compiled
def _find(
    values: Int64s, offsets: Int64s, begins: Int64s, slots: Array, lists: Int64s, items: Int64s, found: Int64s
) -> None:
    for row in range(len(items)):
        i = lists[row]
        slot = _slot_of(values, offsets[i], begins[i], begins[i + 1], slots, items[row])
        found[row] = offsets[i] + slots[slot] if slots[slot] >= 0 else -1
