"""The compiled loops of embedding tables: adding gradients up by row, and the step of the rows that have one.

One thread each: with some thousands of rows a step, that takes less time than it takes several threads to meet.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bedplate.compiling import compiled

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""2^64 / golden ratio: Fibonacci hashing, Knuth, TAOCP vol. 3, 6.4."""


@compiled
def number_ids(ids: Any, slots: Any, bits: Any, places: Any, rows: Any) -> Any:
    """Numbers the different ids in order of first appearance, by a hash table with linear probing.

    Args:
        ids: [n] int64.
        slots: [2 ** bits] int32, more than n, all -1.
        bits: of the table's size.
        places: [n] int32, filled with each id's number.
        rows: [n] int64, filled with the different ids.

    Returns:
        how many different ids there are.
    """
    last, shift, count = len(slots) - 1, np.uint64(64 - bits), 0
    for i in range(len(ids)):
        slot = np.int64((np.uint64(ids[i]) * MULTIPLIER) >> shift)
        while slots[slot] >= 0 and rows[slots[slot]] != ids[i]:
            slot = (slot + 1) & last
        if slots[slot] < 0:
            slots[slot] = count
            rows[count] = ids[i]
            count += 1
        places[i] = slots[slot]
    return count


@compiled
def add_rows(places: Any, values: Any, out: Any) -> None:
    """Adds each row of values [n, width] to row `places[i]` of `out`, in the order of the rows."""
    for i in range(len(places)):
        place = places[i]
        for c in range(values.shape[1]):
            out[place, c] += values[i, c]


@compiled
def adagrad_rows(table: Any, sums: Any, rows: Any, gradients: Any, rate: Any, eps: Any) -> int:
    """A step of row-wise Adagrad; see `training.optimizer.RowWiseAdagrad`.

    A row whose gradient is not finite, or has no finite square, is left as it is.

    Args:
        table: [k, width] float32, changed.
        sums: [k] float32, changed.
        rows: [n] int64, each once.
        gradients: [n, width] float32.
        rate: float32.
        eps: float32.

    Returns:
        how many rows were left.
    """
    width, left = gradients.shape[1], 0
    for i in range(len(rows)):
        squares = np.float32(0)
        for c in range(width):
            squares += gradients[i, c] * gradients[i, c]
        if not squares < np.inf:
            left += 1
            continue
        row = rows[i]
        sums[row] += squares / np.float32(width)
        factor = rate / (np.sqrt(sums[row]) + eps)
        for c in range(width):
            table[row, c] -= factor * gradients[i, c]
    return left
