"""Compiled loops over index arrays. Plain arrays in, plain arrays filled; none of them holds the interpreter's lock.

Conventions: a key's events are rows `offsets[k]` to `offsets[k + 1]`, ascending in time. A selection may count only
some of the rows; its values are then stored for those rows alone, and `rank[i]` is how many of them come before row i,
so that rows [a, b) are values [rank[a], rank[b]). All positions are int64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit

from bedplate.types import Array, Bools, Int64s

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """The function compiled on first use, cached on disk, without the interpreter's lock."""
    return cast("_Function", njit(cache=True, nogil=True)(function))


BLOCK = 64
"""Values under one entry of the first level of extremes; the second level is over BLOCK entries of the first."""
DISTINCT_BLOCK = 256
"""Values in one sorted block of a distinct count."""


@compiled
def lower_bound(values: Int64s, start: Any, stop: Any, bound: Any) -> Any:
    """The first position in values[start:stop] whose value is at least `bound`."""
    while start < stop:
        middle = (start + stop) >> 1
        if values[middle] < bound:
            start = middle + 1
        else:
            stop = middle
    return start


@compiled
def hash_word(word: Any) -> Any:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014), for open addressing."""
    x = np.uint64(word)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((x ^ (x >> np.uint64(31))) & np.uint64(0x7FFFFFFFFFFFFFFF))


@compiled
def first_codes(keys: Int64s, codes: Array, firsts: Int64s, table: Int64s) -> int:
    """Numbers the different keys in order of first appearance.

    Args:
        keys: [n, c].
        codes: [n] int32, filled with each row's number.
        firsts: [n], filled with the first row of each number.
        table: [a power of two of at least 2n], filled with -1.

    Returns:
        how many different keys there are.
    """
    mask = len(table) - 1
    width = keys.shape[1]
    count = 0
    for row in range(len(keys)):
        mixed = np.int64(0)
        for c in range(width):
            mixed = hash_word(mixed ^ keys[row, c])
        slot = mixed & mask
        while True:
            code = table[slot]
            if code < 0:
                table[slot] = count
                firsts[count] = row
                codes[row] = count
                count += 1
                break
            same = True
            for c in range(width):
                if keys[firsts[code], c] != keys[row, c]:
                    same = False
                    break
            if same:
                codes[row] = code
                break
            slot = (slot + 1) & mask
    return count


@compiled
def counting_sort(codes: Array, offsets: Int64s, order: Array) -> None:
    """A stable order of rows by code.

    Args:
        codes: [n] numbers below k.
        offsets: [k + 1] zeros, filled with where each code's rows begin.
        order: [n], filled with row numbers.
    """
    for row in range(len(codes)):
        offsets[codes[row] + 1] += 1
    for k in range(1, len(offsets)):
        offsets[k] += offsets[k - 1]
    cursor = offsets[:-1].copy()
    for row in range(len(codes)):
        code = codes[row]
        order[cursor[code]] = row
        cursor[code] += 1


@compiled
def sort_slices(times: Int64s, offsets: Int64s, order: Array) -> None:
    """Puts each key's rows in order of time, rows of equal time in order of arrival; `order` is changed in place."""
    for k in range(len(offsets) - 1):
        start, stop = offsets[k], offsets[k + 1]
        for i in range(start + 1, stop):
            if times[order[i]] < times[order[i - 1]]:
                rows = order[start:stop].copy()
                keys = np.empty(stop - start, np.int64)
                for j in range(stop - start):
                    keys[j] = times[rows[j]]
                ranks = np.argsort(keys, kind="mergesort")
                for j in range(stop - start):
                    order[start + j] = rows[ranks[j]]
                break


@compiled
def find_keys(known: Int64s, asked: Int64s, codes: Int64s) -> None:
    """The position of each asked key [n, c] among the known ones [k, c], ascending; -1 where it is not there."""
    width = known.shape[1]
    for i in range(len(asked)):
        start, stop = 0, len(known)
        while start < stop:
            middle = (start + stop) >> 1
            less = False
            for c in range(width):
                if known[middle, c] != asked[i, c]:
                    less = known[middle, c] < asked[i, c]
                    break
            if less:
                start = middle + 1
            else:
                stop = middle
        found = start < len(known)
        if found:
            for c in range(width):
                if known[start, c] != asked[i, c]:
                    found = False
                    break
        codes[i] = start if found else -1


@compiled
def find_rows(
    times: Int64s, offsets: Int64s, codes: Int64s, starts: Int64s, stops: Int64s, bound: int, a: Int64s, b: Int64s
) -> None:
    """For each code the rows [a, b) with starts <= time < stops; with bound >= 0 at most the last `bound` of them."""
    for i in range(len(codes)):
        code = codes[i]
        if code < 0:
            a[i] = 0
            b[i] = 0
            continue
        first, end = offsets[code], offsets[code + 1]
        stop = lower_bound(times, first, end, stops[i])
        start = first
        if starts[i] > times[first]:
            start = lower_bound(times, first, stop, starts[i])
        if bound >= 0 and stop - start > bound:
            start = stop - bound
        a[i] = start
        b[i] = stop


@compiled
def prefix_sums(values: Array, key_starts: Int64s, out: Array) -> None:
    """Inclusive sums that begin afresh at each key's first value, so that rounding never crosses keys."""
    for k in range(len(key_starts) - 1):
        total = out[:1].dtype.type(0)
        for i in range(key_starts[k], key_starts[k + 1]):
            total += values[i]
            out[i] = total


@compiled
def range_sums(prefix: Array, key_starts: Int64s, codes: Int64s, a: Int64s, b: Int64s, out: Array) -> None:
    """The sum of values [a, b) of each code, by one subtraction."""
    for i in range(len(codes)):
        if b[i] <= a[i]:
            out[i] = 0
        elif a[i] > key_starts[codes[i]]:
            out[i] = prefix[b[i] - 1] - prefix[a[i] - 1]
        else:
            out[i] = prefix[b[i] - 1]


@compiled
def block_extremes(values: Array, size: int, largest: bool, out: Array) -> None:
    """The extreme of each run of `size` values."""
    for block in range(len(out)):
        best = values[block * size]
        for i in range(block * size + 1, min(len(values), (block + 1) * size)):
            if (values[i] > best) == largest and values[i] != best:
                best = values[i]
        out[block] = best


@compiled
def _scan_extreme(values: Array, start: int, stop: int, largest: bool, best: Any) -> Any:
    for i in range(start, stop):
        if (values[i] > best) == largest and values[i] != best:
            best = values[i]
    return best


@compiled
def range_extremes(
    values: Array, first: Array, second: Array, largest: bool, a: Int64s, b: Int64s, out: Array, present: Bools
) -> None:
    """The extreme of values [a, b): single values at the ends, whole blocks of two sizes between."""
    big = BLOCK * BLOCK
    for i in range(len(a)):
        start, stop = a[i], b[i]
        present[i] = stop > start
        if stop <= start:
            out[i] = 0
            continue
        best = values[start]
        low, high = (start + BLOCK - 1) // BLOCK, stop // BLOCK
        if low >= high:
            out[i] = _scan_extreme(values, start, stop, largest, best)
            continue
        best = _scan_extreme(values, start, low * BLOCK, largest, best)
        best = _scan_extreme(values, high * BLOCK, stop, largest, best)
        top_low, top_high = (low * BLOCK + big - 1) // big, (high * BLOCK) // big
        if top_low >= top_high:
            best = _scan_extreme(first, low, high, largest, best)
        else:
            best = _scan_extreme(first, low, top_low * BLOCK, largest, best)
            best = _scan_extreme(first, top_high * BLOCK, high, largest, best)
            best = _scan_extreme(second, top_low, top_high, largest, best)
        out[i] = best


@compiled
def previous_same(values: Int64s, key_starts: Int64s, table: Int64s, out: Int64s) -> None:
    """For each value the position of the same value before it under the same key, or -1.

    Args:
        values: [m].
        key_starts: [k + 1].
        table: [a power of two of at least twice the longest key's values], any content.
        out: [m], filled.
    """
    for k in range(len(key_starts) - 1):
        start, stop = key_starts[k], key_starts[k + 1]
        size = 2
        while size < 2 * (stop - start):
            size *= 2
        table[:size] = -1
        for i in range(start, stop):
            slot = hash_word(values[i]) & (size - 1)
            while table[slot] >= 0 and values[table[slot]] != values[i]:
                slot = (slot + 1) & (size - 1)
            out[i] = table[slot]
            table[slot] = i


@compiled
def sort_blocks(values: Int64s, size: int, out: Int64s) -> None:
    """Each run of `size` values in ascending order."""
    for start in range(0, len(values), size):
        stop = min(len(values), start + size)
        out[start:stop] = np.sort(values[start:stop])


@compiled
def range_distinct(previous: Int64s, blocks: Int64s, a: Int64s, b: Int64s, out: Int64s) -> None:
    """The number of different values in [a, b): those whose previous same value lies before a."""
    size = DISTINCT_BLOCK
    for i in range(len(a)):
        start, stop = a[i], b[i]
        count = 0
        low, high = (start + size - 1) // size, stop // size
        if low >= high:
            for j in range(start, stop):
                count += previous[j] < start
        else:
            for j in range(start, low * size):
                count += previous[j] < start
            for block in range(low, high):
                first = block * size
                count += lower_bound(blocks, first, first + size, start) - first
            for j in range(high * size, stop):
                count += previous[j] < start
        out[i] = count


@compiled
def last_counts(a: Int64s, b: Int64s, depth: int, counts: Int64s) -> None:
    """How many of values [a, b) are among the last `depth`."""
    for i in range(len(a)):
        counts[i] = min(depth, b[i] - a[i])


@compiled
def last_positions(b: Int64s, offsets: Int64s, out: Int64s) -> None:
    """The positions of the last offsets[i + 1] - offsets[i] values before b[i], ascending."""
    for i in range(len(b)):
        first = b[i] - (offsets[i + 1] - offsets[i])
        for j in range(offsets[i], offsets[i + 1]):
            out[j] = first + j - offsets[i]


@compiled
def gather(values: Array, positions: Int64s, out: Array) -> None:
    """Fills `out` with values[positions]."""
    for i in range(len(positions)):
        out[i] = values[positions[i]]


@compiled
def valid_rows(valid: Bools, order: Array, rank: Int64s, rows: Int64s) -> int:
    """Ranks and row numbers of the rows that count, in index order.

    Args:
        valid: [n] by arrival.
        order: [n], the arrival of each index row.
        rank: [n + 1], filled.
        rows: [n], filled up to the number returned.
    """
    count = 0
    for i in range(len(order)):
        rank[i] = count
        if valid[order[i]]:
            rows[count] = i
            count += 1
    rank[len(order)] = count
    return count
