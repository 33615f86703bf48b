"""Compiled loops over the different values of a range of rows: their counts, their last rows, their smallest hashes.

The conventions are those of `kernels`: rows [a, b) are values of one key. What a loop takes does not grow with the rows
of a key: the rows that are wanted are found from one to the next over blocks of two sizes, `BLOCK` and `BIG`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bedplate.compiling import compiled
from bedplate.hashing import hash_word
from bedplate.offline.kernels import BLOCK
from bedplate.types import Array, Bools, Int64s

BIG = BLOCK * BLOCK
"""Rows under one entry of the second level."""
WALKED = 32
"""Rows for each different value up to which a range is read row by row: a value that is sought costs about as much."""
FINEST = 256
"""Rows in a block of hashes of the first level."""
FAN = 4
"""Blocks of hashes under one of the next level."""


@compiled
def sort_values(values: Int64s, key_starts: Int64s, order: Array, place: Array, before: Array, kinds: Int64s) -> None:
    """The rows of each key by value, equal values as they stand.

    Args:
        values: [m].
        key_starts: [k + 1].
        order: [m], filled with rows.
        place: [m], filled with where each row is in `order`.
        before: [m], filled with the row after the one of the same value before it, 0 where there is none.
        kinds: [k], filled with the number of different values of each key.
    """
    for k in range(len(key_starts) - 1):
        start, stop = key_starts[k], key_starts[k + 1]
        ranks = np.argsort(values[start:stop], kind="mergesort")
        kinds[k] = 0
        for j in range(stop - start):
            row = start + ranks[j]
            order[start + j], place[row] = row, start + j
            same = j > 0 and values[start + ranks[j - 1]] == values[row]
            before[row] = start + ranks[j - 1] + 1 if same else 0
            kinds[k] += not same


@compiled
def next_same(previous: Int64s, after: Array) -> None:
    """For each row the next one of the same value under its key, the number of rows where there is none.

    Args:
        previous: [m] the row of the same value before each, or -1.
        after: [m], filled.
    """
    for i in range(len(previous)):
        after[i] = len(previous)
        if previous[i] >= 0:
            after[previous[i]] = i


@compiled
def next_first(before: Array, first: Array, second: Array, start: Any, at: Any, stop: Any) -> Any:
    """The first row in [at, stop) whose value is not in [start, that row); `stop` where there is none.

    Args:
        before: see `sort_values`.
        first: the smallest of `before` in each block of `BLOCK` rows.
        second: the smallest in each block of `BIG` rows.
        start: the first row of the range.
        at: where to look from.
        stop: the row after the range.
    """
    while at < stop:
        if at & (BIG - 1) == 0 and at + BIG <= stop and second[at // BIG] > start:
            at += BIG
        elif at & (BLOCK - 1) == 0 and at + BLOCK <= stop and first[at // BLOCK] > start:
            at += BLOCK
        elif before[at] <= start:
            return at
        else:
            at += 1
    return stop


@compiled
def next_last(after: Array, first: Array, second: Array, start: Any, at: Any, stop: Any) -> Any:
    """The last row in [start, at) whose value is not in [that row + 1, stop); `start - 1` where there is none.

    Args:
        after: see `next_same`.
        first: the largest of `after` in each block of `BLOCK` rows.
        second: the largest in each block of `BIG` rows.
        start: the first row of the range.
        at: the row before which to look.
        stop: the row after the range.
    """
    while at > start:
        if at & (BIG - 1) == 0 and at - BIG >= start and second[at // BIG - 1] < stop:
            at -= BIG
        elif at & (BLOCK - 1) == 0 and at - BLOCK >= start and first[at // BLOCK - 1] < stop:
            at -= BLOCK
        elif after[at - 1] >= stop:
            return at - 1
        else:
            at -= 1
    return start - 1


@compiled
def _run_end(values: Array, order: Array, slot: Any, stop: Any) -> Any:
    """The place after the last row before `stop` of the value whose first one is at a place of `order`.

    After the rows of a value come those of larger ones of the key, and then other keys', which are not before `stop`.
    """
    value, step = values[order[slot]], 1
    while slot + step < len(order) and order[slot + step] < stop and values[order[slot + step]] == value:
        slot += step
        step += step
    low, high = slot + 1, min(slot + step, len(order))
    while low < high:
        middle = (low + high) >> 1
        if order[middle] < stop and values[order[middle]] == value:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def range_counts(
    values: Array,
    order: Array,
    place: Array,
    before: Array,
    first: Array,
    second: Array,
    a: Int64s,
    b: Int64s,
    offsets: Int64s,
    rows: Int64s,
    counts: Int64s,
    lasts: Int64s,
) -> None:
    """The different values of [a, b) of n ranges, in ascending order, and how often each occurs.

    Args:
        values: [m] the values.
        order: see `sort_values`.
        place: see `sort_values`.
        before: see `next_first`.
        first: see `next_first`.
        second: see `next_first`.
        a: [n].
        b: [n].
        offsets: [n + 1], filled: the values of range i are `offsets[i]` to `offsets[i + 1]` of what follows.
        rows: with room for all values, filled with the first row of each.
        counts: filled with how often it occurs.
        lasts: filled with its last row.
    """
    n = 0
    offsets[0] = 0
    for i in range(len(a)):
        start, stop, begin = a[i], b[i], n
        at = next_first(before, first, second, start, start, stop)
        while at < stop:
            rows[n] = place[at]
            n += 1
            at = next_first(before, first, second, start, at + 1, stop)
        rows[begin:n].sort()
        for j in range(begin, n):
            slot = rows[j]
            end = _run_end(values, order, slot, stop)
            rows[j], counts[j], lasts[j] = order[slot], end - slot, order[end - 1]
        offsets[i + 1] = n


@compiled
def walk_counts(
    before: Array, start: Any, stop: Any, at_row: Int64s, rows: Int64s, counts: Int64s, lasts: Int64s
) -> Any:
    """The different values of [start, stop) in order of their first rows, by a look at every row.

    Args:
        before: see `next_first`.
        start: the first row.
        stop: the row after the last.
        at_row: with room for all rows, filled with the place of each row's value in the next three.
        rows: with room for all values, filled with the first row of each.
        counts: filled with how often it occurs.
        lasts: filled with its last row.

    Returns:
        how many values there are.
    """
    n = 0
    for row in range(start, stop):
        same = np.int64(before[row]) - 1
        if same >= start:
            value = at_row[same - start]
            counts[value] += 1
        else:
            value = n
            rows[n], counts[n] = row, 1
            n += 1
        at_row[row - start], lasts[value] = value, row
    return n


@compiled
def seek_counts(
    values: Array,
    order: Array,
    place: Array,
    before: Array,
    first: Array,
    second: Array,
    start: Any,
    stop: Any,
    rows: Int64s,
    counts: Int64s,
    lasts: Int64s,
) -> Any:
    """What `walk_counts` gives, by a look at the first row of each value and, in its run of rows, for the last."""
    n = 0
    at = next_first(before, first, second, start, start, stop)
    while at < stop:
        slot = place[at]
        end = _run_end(values, order, slot, stop)
        rows[n], counts[n], lasts[n] = at, end - slot, order[end - 1]
        n += 1
        at = next_first(before, first, second, start, at + 1, stop)
    return n


@compiled
def _insert(
    row: Any, count: Any, last: Any, place: Array, begin: Any, end: Any, rows: Int64s, counts: Int64s, lasts: Int64s
) -> None:
    """Puts a value among those from `begin` to `end`, in order of value: where each stands in `order`."""
    at = end
    while at > begin and place[rows[at - 1]] > place[row]:
        rows[at], counts[at], lasts[at] = rows[at - 1], counts[at - 1], lasts[at - 1]
        at -= 1
    rows[at], counts[at], lasts[at] = row, count, last


@compiled
def range_top(
    values: Array,
    order: Array,
    place: Array,
    before: Array,
    first: Array,
    second: Array,
    times: Int64s,
    timeline_rows: Int64s,
    depth: int,
    kinds: Int64s,
    a: Int64s,
    b: Int64s,
    offsets: Int64s,
    rows: Int64s,
    counts: Int64s,
    lasts: Int64s,
) -> None:
    """What `range_counts` gives, of each range the `depth` most frequent values only, the others left out.

    Of equally frequent ones those seen last are kept, and of those seen last at one time the smallest.

    Args:
        values: see `range_counts`.
        order: see `range_counts`.
        place: see `range_counts`.
        before: see `range_counts`.
        first: see `range_counts`.
        second: see `range_counts`.
        times: of the timeline.
        timeline_rows: [m] the timeline's row of each value; empty where every row counts.
        depth: at most so many.
        kinds: [n] the most different values that a range may have.
        a: [n].
        b: [n].
        offsets: see `range_counts`.
        rows: see `range_counts`, with room for `depth` values of each range.
        counts: see `range_counts`.
        lasts: see `range_counts`.
    """
    lengths = np.minimum(b - a, WALKED * kinds + BLOCK)
    most = max(0, np.minimum(b - a, kinds).max()) if len(a) else 0
    at_row = np.empty(max(0, lengths.max()) if len(a) else 0, np.int64)
    all_rows, all_counts, all_lasts = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    best, n = np.empty(min(depth, most), np.int64), 0
    offsets[0] = 0
    for i in range(len(a)):
        start, stop, begin = a[i], b[i], n
        if stop - start <= lengths[i]:
            found = walk_counts(before, start, stop, at_row, all_rows, all_counts, all_lasts)
        else:
            tables = values, order, place, before, first, second
            found = seek_counts(*tables, start, stop, all_rows, all_counts, all_lasts)
        size = _most_frequent(all_rows, all_counts, all_lasts, found, place, times, timeline_rows, best)
        for j in range(size):
            row = best[j]
            _insert(all_rows[row], all_counts[row], all_lasts[row], place, begin, n, rows, counts, lasts)
            n += 1
        offsets[i + 1] = n


@compiled
def _most_frequent(
    rows: Int64s,
    counts: Int64s,
    lasts: Int64s,
    found: Any,
    place: Array,
    times: Int64s,
    timeline_rows: Int64s,
    best: Int64s,
) -> Any:
    """Fills `best` with which of the first `found` values are the most frequent; how many there are."""
    size, least = 0, np.int64(0)
    for j in range(found):
        count = counts[j]
        if count < least:
            continue  # most often so
        at = size
        while at > 0:
            other = best[at - 1]
            if count < counts[other]:
                break
            if count == counts[other] and not _is_later(rows, lasts, place, times, timeline_rows, j, other):
                break
            at -= 1
        if at < len(best):
            size = min(size + 1, len(best))
            for k in range(size - 1, at, -1):
                best[k] = best[k - 1]
            best[at] = j
            if size == len(best):
                least = counts[best[size - 1]]
    return size


@compiled
def _is_later(
    rows: Int64s, lasts: Int64s, place: Array, times: Int64s, timeline_rows: Int64s, one: Any, other: Any
) -> Any:
    """Whether a value was seen later than another, or then too and is smaller."""
    last, other_last = lasts[one], lasts[other]
    if len(timeline_rows):
        last, other_last = timeline_rows[last], timeline_rows[other_last]
    if times[last] != times[other_last]:
        return times[last] > times[other_last]
    return place[rows[one]] < place[rows[other]]


@compiled
def range_latest(
    after: Array, first: Array, second: Array, depth: int, a: Int64s, b: Int64s, offsets: Int64s, rows: Int64s
) -> None:
    """Of each value in [a, b) of n ranges the last row, of these the last `depth`, ascending.

    Args:
        after: see `next_last`.
        first: see `next_last`.
        second: see `next_last`.
        depth: at most so many.
        a: [n].
        b: [n].
        offsets: [n + 1], filled.
        rows: with room for all, filled.
    """
    n = 0
    offsets[0] = 0
    for i in range(len(a)):
        start, stop, begin = a[i], b[i], n
        at = next_last(after, first, second, start, stop, stop)
        while at >= start and n - begin < depth:
            rows[n] = at
            n += 1
            at = next_last(after, first, second, start, at, stop)
        for j in range((n - begin) >> 1):
            rows[begin + j], rows[n - 1 - j] = rows[n - 1 - j], rows[begin + j]
        offsets[i + 1] = n


@compiled
def hash_values(values: Array, out: Int64s) -> None:
    """The hash of each value."""
    for i in range(len(values)):
        out[i] = hash_word(np.int64(values[i]))


@compiled
def smallest_of_blocks(
    hashes: Int64s, starts: Int64s, fan: int, inside: Bools, depth: int, out_starts: Int64s, out: Int64s
) -> int:
    """The `depth` smallest different hashes of each block of a level, ascending.

    Args:
        hashes: of all rows, or those of the blocks below one after the other.
        starts: where those of each block below begin; empty: each row is one.
        fan: how many of these a block holds.
        inside: [blocks] whether all rows of a block are of one key; the others are left empty.
        depth: at most so many hashes.
        out_starts: [blocks + 1], filled.
        out: with room for all, filled.

    Returns:
        how many there are.
    """
    n = 0
    out_starts[0] = 0
    for block in range(len(inside)):
        if inside[block]:
            low, high = block * fan, (block + 1) * fan
            if len(starts):
                low, high = starts[low], starts[high]
            begin = n
            ordered = np.sort(hashes[low:high])
            for j in range(len(ordered)):
                if (j == 0 or ordered[j] != ordered[j - 1]) and n - begin < depth:
                    out[n] = ordered[j]
                    n += 1
        out_starts[block + 1] = n
    return n


@compiled
def _merge(one: Int64s, m: Any, other: Int64s, low: Any, high: Any, depth: int, out: Int64s) -> Any:
    """The `depth` smallest different ones of `one[:m]` and `other[low:high]`, both ascending; how many there are."""
    i, j, n = 0, low, 0
    while n < depth and (i < m or j < high):
        if j >= high or (i < m and one[i] <= other[j]):
            value = one[i]
            i += 1
        else:
            value = other[j]
            j += 1
        if n == 0 or out[n - 1] != value:
            out[n] = value
            n += 1
    return n


@compiled
def range_smallest(
    values: Array,
    hashes: Int64s,
    starts: Int64s,
    levels: Int64s,
    depth: int,
    a: Int64s,
    b: Int64s,
    offsets: Int64s,
    out: Int64s,
) -> None:
    """The `depth` smallest different hashes of the values in [a, b) of n ranges, ascending.

    Args:
        values: [m] the values.
        hashes: those of all blocks of all levels.
        starts: where those of each block begin, level after level.
        levels: [levels] where each level begins in `starts`.
        depth: at most so many.
        a: [n].
        b: [n].
        offsets: [n + 1], filled.
        out: with room for all, filled.
    """
    known, merged, single = np.empty(depth, np.int64), np.empty(depth, np.int64), np.empty(2 * FINEST, np.int64)
    n = 0
    offsets[0] = 0
    for i in range(len(a)):
        at, stop, m, singles = a[i], b[i], 0, 0
        while at < stop:
            level, size = -1, FINEST
            while level + 1 < len(levels) and at % size == 0 and at + size <= stop:
                level, size = level + 1, size * FAN
            if level < 0:
                single[singles] = hash_word(np.int64(values[at]))
                singles += 1
                at += 1
                continue
            size //= FAN
            block = levels[level] + at // size
            m = _merge(known, m, hashes, starts[block], starts[block + 1], depth, merged)
            known, merged = merged, known
            at += size
        single[:singles].sort()
        m = _merge(known, m, single, 0, singles, depth, out[n:])
        n += m
        offsets[i + 1] = n
