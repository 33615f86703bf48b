"""Compiled loops over index arrays. Plain arrays in, plain arrays filled; none of them holds the interpreter's lock.

Conventions: a key's events are rows `offsets[k]` to `offsets[k + 1]`, ascending in time. A selection may count only
some of the rows; its values are then stored for those rows alone, and `rank[i]` is how many of them come before row i,
so that rows [a, b) are values [rank[a], rank[b]). All positions are int64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bedplate.compiling import compiled
from bedplate.hashing import finalized
from bedplate.types import Array, Bools, Int64s

SMALL = 12
"""Places that a row may be moved on average before insertion gives way to a merge sort."""
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
def slot_word(word: Any) -> Any:
    """The hash of an int64 for open addressing and buckets, an int64 that is not negative."""
    return np.int64(finalized(word) & np.uint64(0x7FFFFFFFFFFFFFFF))


@compiled
def same_key(one: Int64s, i: Any, other: Int64s, j: Any) -> Any:
    """Whether row i of the first keys equals row j of the others."""
    same = True
    for c in range(one.shape[1]):
        same &= one[i, c] == other[j, c]
    return same


@compiled
def hash_key(keys: Int64s, i: Any) -> Any:
    """The hash of row i."""
    mixed = np.int64(0)
    for c in range(keys.shape[1]):
        mixed = slot_word(mixed ^ keys[i, c])
    return mixed


@compiled
def first_bits(keys: Int64s, shift: Any, out: Array) -> None:
    """The first bits of each key's hash, which has 63: those above the lowest `shift`.

    Args:
        keys: [n, c].
        shift: how many bits to leave out.
        out: [n] int32, filled.
    """
    for i in range(len(keys)):
        out[i] = hash_key(keys, i) >> shift


@compiled
def hash_table(known: Int64s, count: Any, size: Any) -> Array:
    """An open-addressing table [size, a power of two] of the first `count` known keys; -1 is free."""
    table = np.full(size, -1, np.int32)
    for code in range(count):
        slot = hash_key(known, code) & (size - 1)
        while table[slot] >= 0:
            slot = (slot + 1) & (size - 1)
        table[slot] = code
    return table


@compiled
def number_keys(keys: Int64s, codes: Array, known: Int64s) -> Any:
    """Numbers the different keys in order of first appearance; the table grows with them and stays small for few.

    Args:
        keys: [n, c].
        codes: [n] int32, filled with each row's number.
        known: [n, c], filled with the different keys.

    Returns:
        how many different keys there are.
    """
    size = 1 << 12
    table = hash_table(known, 0, size)
    count = 0
    for row in range(len(keys)):
        slot = hash_key(keys, row) & (size - 1)
        while table[slot] >= 0 and not same_key(known, table[slot], keys, row):
            slot = (slot + 1) & (size - 1)
        if table[slot] < 0:
            table[slot] = count
            for c in range(keys.shape[1]):
                known[count, c] = keys[row, c]
            codes[row] = count
            count += 1
            if 2 * count > size:
                size *= 4
                table = hash_table(known, count, size)
        else:
            codes[row] = table[slot]
    return count


@compiled
def mark_keys(keys: Int64s, low: Any, there: Bools) -> None:
    """Marks which keys there are among [n, 1], by their distance from the smallest one."""
    for row in range(len(keys)):
        there[keys[row, 0] - low] = True


@compiled
def place_keys(keys: Int64s, low: Any, place: Array, codes: Array) -> None:
    """Fills the position of each key [n, 1], given by its distance from the smallest one."""
    for row in range(len(keys)):
        codes[row] = place[keys[row, 0] - low]


@compiled
def count_codes(codes: Array, counts: Int64s) -> None:
    """Adds up how often each code is there."""
    for row in range(len(codes)):
        counts[codes[row]] += 1


@compiled
def place_rows(codes: Array, before: Array, start: Any, stop: Any, cursors: Int64s, order: Array) -> None:
    """Puts rows, those from `start` to `stop` of an order before, where the next one of their code goes.

    Args:
        codes: [n] of all rows.
        before: [n] row numbers, or empty for the rows as they stand.
        start: the first place.
        stop: the place after the last.
        cursors: [k] where the next row of each code goes; moved on.
        order: [n], filled with row numbers.
    """
    for i in range(start, stop):
        row = before[i] if len(before) else i
        code = codes[row]
        order[cursors[code]] = row
        cursors[code] += 1


@compiled
def is_ascending(values: Int64s) -> Any:
    """Whether no value is smaller than the one before it."""
    ascending = True
    for i in range(1, len(values)):
        ascending &= values[i] >= values[i - 1]
    return ascending


@compiled
def sort_slice(times: Int64s, order: Array, start: Any, stop: Any) -> None:
    """Puts order[start:stop] in order of time, equal times as they stand; fast when they nearly are."""
    moves, most = 0, SMALL * (stop - start)
    i = start + 1
    while i < stop and moves <= most:
        row = order[i]
        time = times[row]
        j = i
        while j > start and times[order[j - 1]] > time:
            order[j] = order[j - 1]
            j -= 1
        order[j] = row
        moves += i - j
        i += 1
    if i < stop:
        rows = order[start:stop].copy()
        keys = np.empty(stop - start, np.int64)
        for j in range(stop - start):
            keys[j] = times[rows[j]]
        ranks = np.argsort(keys, kind="mergesort")
        for j in range(stop - start):
            order[start + j] = rows[ranks[j]]


@compiled
def sort_slices(times: Int64s, offsets: Int64s, order: Array) -> None:
    """Puts each key's rows in order of time, rows of equal time in order of arrival; `order` is changed in place."""
    for k in range(len(offsets) - 1):
        sort_slice(times, order, offsets[k], offsets[k + 1])


@compiled
def block_extremes(values: Array, size: int, largest: bool, out: Array) -> None:
    """The extreme of each run of `size` values."""
    for block in range(len(out)):
        start, stop = np.uint64(block * size), np.uint64(min(len(values), (block + 1) * size))
        best = values[start]
        if largest:
            for i in range(start, stop):
                best = values[i] if values[i] > best else best
        else:
            for i in range(start, stop):
                best = values[i] if values[i] < best else best
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
            slot = slot_word(values[i]) & (size - 1)
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
def distinct_values(
    values: Array, previous: Int64s, blocks: Int64s, a: Int64s, b: Int64s, offsets: Int64s, out: Array
) -> None:
    """The different values in [a, b), each once; blocks that have no new one are passed over.

    Args:
        values: [m].
        previous: [m] as for `range_distinct`.
        blocks: [m] as for `range_distinct`.
        a: [n].
        b: [n].
        offsets: [n + 1] where the values of each range go.
        out: filled.
    """
    size = DISTINCT_BLOCK
    for i in range(len(a)):
        at, j = offsets[i], a[i]
        while j < b[i]:
            # The smallest of a block stands first.
            if j % size == 0 and j + size <= b[i] and blocks[j] >= a[i]:
                j += size
                continue
            if previous[j] < a[i]:
                out[at] = values[j]
                at += 1
            j += 1


@compiled
def last_positions(b: Int64s, offsets: Int64s, out: Int64s) -> None:
    """The positions of the last offsets[i + 1] - offsets[i] values before b[i], ascending."""
    for i in range(len(b)):
        first = b[i] - (offsets[i + 1] - offsets[i])
        for j in range(offsets[i], offsets[i + 1]):
            out[j] = first + j - offsets[i]


@compiled
def gather(values: Array, positions: Array, out: Array) -> None:
    """Fills `out` with values[positions]."""
    for i in range(len(positions)):
        out[i] = values[positions[i]]


@compiled
def scatter(values: Array, rows: Array, out: Array) -> None:
    """Puts row i of values [n, c] at out[rows[i]]."""
    for i in range(len(rows)):
        row = np.uint64(rows[i])
        for c in range(values.shape[1]):
            out[row, c] = values[i, c]


@compiled
def scatter_lists(values: Array, starts: Int64s, rows: Array, offsets: Int64s, out: Array) -> None:
    """Puts list i, `values[starts[i]:starts[i + 1]]` of [m, c], at `out[offsets[rows[i]]]`."""
    for i in range(len(rows)):
        at = np.uint64(offsets[rows[i]])
        for j in range(starts[i], starts[i + 1]):
            for c in range(values.shape[1]):
                out[at, c] = values[j, c]
            at += np.uint64(1)


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
