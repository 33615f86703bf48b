"""Compiled loops that put rows in order of key range, and the rows of a range in order of key; see `key_ranges`.

As in `kernels`, plain arrays come in and plain arrays are filled, without the interpreter's lock.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bedplate.compiling import compiled
from bedplate.types import Array, Int64s


@compiled
def count_spans(keys: Int64s, low: Any, shift: Any, counts: Int64s) -> None:
    """Adds up how many keys, none below `low`, are in each span of `2 ** shift` keys."""
    for i in range(len(keys)):
        counts[(np.uint64(keys[i]) - np.uint64(low)) >> np.uint64(shift)] += 1


@compiled
def by_range(
    keys: Int64s, times: Int64s, low: Any, shift: Any, spans: Array, begin: Any, bounds: Int64s, rows: Array
) -> Any:
    """The order of a batch's rows by the range of their first key, rows of one range as they stand.

    Args:
        keys: [n, c].
        times: [n].
        low: the key with which the first span begins; lower ones are in it too.
        shift: the logarithm of the keys in a span.
        spans: [s] uint8, the range of each span, ascending; keys after the last one are in it too.
        begin: how many rows came before the batch.
        bounds: [r + 1] zeros, filled with where each range's rows begin among all rows.
        rows: [n], filled with row numbers, those of the batch from `begin` on.

    Returns:
        whether the times ascend.
    """
    numbers, sizes = np.empty(len(keys), np.uint8), np.zeros(len(bounds), np.int64)
    last, ascending = np.uint64(len(spans) - 1), True
    for i in range(len(keys)):
        key = keys[i, 0]
        span = min((np.uint64(key) - np.uint64(low)) >> np.uint64(shift), last)
        number = spans[np.uint64(0) if key < low else span]
        numbers[i] = number
        sizes[np.uint64(number)] += 1
    for i in range(1, len(times)):
        ascending &= times[i] >= times[i - 1]
    bounds[0] = begin
    for r in range(len(bounds) - 1):
        bounds[r + 1] = bounds[r] + sizes[r]
    places = bounds[:-1] - begin
    for i in range(len(keys)):
        number = np.uint64(numbers[i])
        rows[places[number]] = begin + i
        places[number] += 1
    return ascending


@compiled
def put_rows(values: Array, rows: Array, begin: Any, out: Array) -> None:
    """Fills the values [n] of a batch in the order of rows that are counted from `begin` on."""
    for i in range(len(rows)):
        out[i] = values[np.uint64(rows[i]) - np.uint64(begin)]


@compiled
def extremes(keys: Int64s, starts: Int64s, stops: Int64s) -> Any:
    """The smallest and the largest first key [n, c] of runs of rows, of which one at least has a row."""
    low, high = np.int64(2**63 - 1), np.int64(-(2**63))
    for run in range(len(starts)):
        for i in range(starts[run], stops[run]):
            low, high = min(low, keys[i, 0]), max(high, keys[i, 0])
    return low, high


@compiled
def order_near(keys: Int64s, starts: Int64s, stops: Int64s, low: Any, offsets: Int64s, order: Array) -> None:
    """The order of the rows of some runs by key, rows of one key as they stand, where keys lie near each other.

    Args:
        keys: [n, 1].
        starts: where each run begins.
        stops: where it ends.
        low: the smallest key of the runs.
        offsets: [s + 1] zeros for the s keys from `low` to the largest one, filled with where each key's rows begin.
        order: filled with row numbers.
    """
    first = np.uint64(low)
    for run in range(len(starts)):
        for i in range(starts[run], stops[run]):
            offsets[np.uint64(keys[i, 0]) - first + np.uint64(1)] += 1
    for k in range(len(offsets) - 1):
        offsets[k + 1] += offsets[k]
    places = offsets[:-1].copy()
    for run in range(len(starts)):
        for i in range(starts[run], stops[run]):
            key = np.uint64(keys[i, 0]) - first
            order[places[key]] = i
            places[key] += 1


@compiled
def rows_of(starts: Int64s, stops: Int64s, rows: Array) -> None:
    """Fills the numbers of the rows of some runs."""
    at = 0
    for run in range(len(starts)):
        for i in range(starts[run], stops[run]):
            rows[at] = i
            at += 1
