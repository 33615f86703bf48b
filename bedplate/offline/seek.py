"""Compiled loops of a lookup: the asked keys' positions, an order that reads memory in sequence, the windows' rows.

As in `kernels`, plain arrays come in and plain arrays are filled, without the interpreter's lock. The asked rows are
put into buckets of neighbouring keys first, by several threads; then each block of them is put in order by itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bedplate.compiling import compiled
from bedplate.offline.instructions import AHEAD, count_smaller, fetch_to_read, load_word
from bedplate.offline.kernels import hash_key, is_ascending, same_key
from bedplate.types import Array, Int64s

PLACES = 1 << 11
"""Groups into which a block is split by time, and by key."""
TOGETHER = 32
"""Keys that are looked up at the same time: about as many as a core can wait for."""
SMALL = 12
"""Places that an asked row may be moved; what is further from its place stays, and is found by a longer search."""
_ONE, _AHEAD = np.uint64(1), np.uint64(AHEAD)


@compiled
def find_hashed(known: Int64s, table: Array, asked: Int64s, codes: Array) -> None:
    """The position of each asked key [n, c] among the known ones, by their hash table; -1 where it is not there.

    The slots of some keys, and then the keys that they name, are fetched at once: memory answers them together.
    """
    mask, places = len(table) - 1, table.reshape(-1, 1)
    slots = np.empty(TOGETHER, np.int64)
    for start in range(0, len(asked), TOGETHER):
        count = min(TOGETHER, len(asked) - start)
        for i in range(count):
            slots[i] = hash_key(asked, start + i) & mask
            fetch_to_read(places, slots[i], 0)
        for i in range(count):
            fetch_to_read(known, max(np.int64(table[slots[i]]), 0), 0)
        for i in range(count):
            slot = slots[i]
            while table[slot] >= 0 and not same_key(known, table[slot], asked, start + i):
                slot = (slot + 1) & mask
            codes[start + i] = table[slot]


@compiled
def find_direct(low: Any, table: Array, asked: Int64s, codes: Array) -> None:
    """As `find_hashed` for single keys of a small range, by a table [range] of positions that begins at key `low`."""
    size = np.uint64(len(table))
    for i in range(len(asked)):
        place = np.uint64(asked[i, 0]) - np.uint64(low)
        codes[i] = table[place] if place < size else -1


@compiled
def find_keys(known: Int64s, asked: Int64s, codes: Array) -> None:
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
def count_buckets(codes: Array, shift: Any, counts: Int64s) -> None:
    """Adds up how many codes (-1 and up) are in each bucket `(code + 1) >> shift`."""
    for i in range(len(codes)):
        counts[(codes[i] + 1) >> shift] += 1


@compiled
def fill_buckets(
    codes: Array, times: Int64s, first: Any, shift: Any, cursors: Int64s, rows: Array, own: Array, asked: Int64s
) -> None:
    """Puts a run of rows into their buckets, in order.

    Args:
        codes: [n] of the run.
        times: [n] of the run.
        first: the number of the run's first row.
        shift: as for `count_buckets`.
        cursors: where the next row of each bucket goes; moved on.
        rows: [N] of all buckets, filled with row numbers where this run's rows go.
        own: [N], filled with codes.
        asked: [N], filled with times.
    """
    for i in range(len(codes)):
        code = codes[i]
        bucket = (code + 1) >> shift
        at = cursors[bucket]
        cursors[bucket] = at + 1
        rows[at], own[at], asked[at] = first + i, code, times[i]


@compiled
def group(values: Array, before: Array, out: Array) -> None:
    """An order of rows by value, nearly (by one of `PLACES` spans of equal length), stable towards an order before.

    Args:
        values: [n].
        before: [n] row numbers, or empty for the rows as they stand.
        out: [n], filled with row numbers.
    """
    low, high = values[0], values[0]
    for i in range(len(values)):
        low, high = min(low, values[i]), max(high, values[i])
    shift = np.uint64(0)
    while (np.uint64(high) - np.uint64(low)) >> shift >= np.uint64(PLACES):
        shift += _ONE
    cursors = np.zeros(PLACES + 1, np.int32)
    for i in range(len(values)):
        cursors[np.int64((np.uint64(values[i]) - np.uint64(low)) >> shift) + 1] += 1
    for p in range(PLACES):
        cursors[p + 1] += cursors[p]
    for i in range(len(values)):
        row = before[i] if len(before) else i
        place = np.int64((np.uint64(values[row]) - np.uint64(low)) >> shift)
        out[cursors[place]] = row
        cursors[place] += 1


@compiled
def arrange(codes: Array, times: Int64s, rows: Array, own: Array, asked: Int64s, numbers: Array) -> None:
    """A block in order of key and time, as far as the order is worth it: it saves time, nothing depends on it.

    Args:
        codes: [n].
        times: [n].
        rows: [n] row numbers.
        own: [n], filled with codes.
        asked: [n], filled with times.
        numbers: [n], filled with row numbers.
    """
    by_time, order = np.empty(len(codes), np.int32), np.empty(len(codes), np.int32)
    if is_ascending(times):
        group(codes, by_time[:0], order)
    else:
        group(times, by_time[:0], by_time)
        group(codes, by_time, order)
    for i in range(len(codes)):
        code, time, row = codes[order[i]], times[order[i]], rows[order[i]]
        own[i] = code
        j = i
        while j > 0 and own[j - 1] == code and asked[j - 1] > time and i - j < SMALL:
            asked[j], numbers[j] = asked[j - 1], numbers[j - 1]
            j -= 1
        asked[j], numbers[j] = time, row


@compiled
def first_from(times: Int64s, start: Any, stop: Any, bound: Any) -> Any:
    """The first position in times[start:stop], ascending, of at least `bound`; fast when it is near `start`."""
    if start + _AHEAD <= np.uint64(len(times)):
        near, left = count_smaller(times, start, bound), stop - start
        if near < _AHEAD or left <= _AHEAD:
            return start + min(near, left)
        start += _AHEAD
    step = _AHEAD
    while start + step <= stop and times[start + step - _ONE] < bound:
        start += step
        step += step
    stop = min(stop, start + step)
    while start < stop:
        middle = (start + stop) >> _ONE
        if times[middle] < bound:
            start = middle + _ONE
        else:
            stop = middle
    return start


@compiled
def find_rows(
    times: Int64s,
    offsets: Int64s,
    codes: Array,
    asked: Int64s,
    shift: Any,
    ranges: Int64s,
    span: tuple[int, int],
    a: Int64s,
    b: Int64s,
) -> None:
    """For n keys and times the rows of w ranges, which all end before `asked + shift`; 0 and 0 where all are empty.

    Rows that follow each other with the same key and a later time are found from where the one before was.

    Args:
        times: the timeline's.
        offsets: the timeline's.
        codes: [n] positions of keys, -1 for none.
        asked: [n] times.
        shift: microseconds: minus the delay, or how far ahead to look.
        ranges: [w, 4]: length (-1: all history), hop (0: exact), bound (-1: none) and ttl (-1: none).
        span: no time of the timeline is before the first or after the second: what is outside needs no search.
        a: [w, n], filled with the first row of each range.
        b: [n], filled with the row after the last.
    """
    count, low, high = len(ranges), span[0], span[1]
    at = np.zeros(count + 1, np.uint64)
    before_code, before_time, end, reach = np.int64(-2), np.int64(0), np.uint64(0), np.int64(0)
    for w in range(count):
        reach = max(reach, ranges[w, 0] + ranges[w, 1] if ranges[w, 0] >= 0 else np.int64(2**62))
    for i in range(len(codes)):
        code, time = np.int64(codes[i]), asked[i]
        if code < 0 or time + shift <= low or time - reach > high:
            b[i], a[:, i] = 0, 0
            continue
        if code != before_code or time < before_time:
            at[:] = np.uint64(offsets[code])
            end = np.uint64(offsets[code + 1])
        before_code, before_time = code, time
        if time + shift > high:
            at[count] = end
        elif time + shift > low:
            at[count] = first_from(times, at[count], end, time + shift)
        stop = np.int64(at[count])
        b[i] = stop
        for w in range(count):
            length, hop, last, ttl = ranges[w, 0], ranges[w, 1], ranges[w, 2], ranges[w, 3]
            youngest = time - ttl if ttl >= 0 else np.int64(-(2**62))
            start = max(time - length, youngest) if length >= 0 else youngest
            # A hop is rounded down to only where that can matter: a division takes as long as all else.
            if start > low and max(start - hop, youngest) > high:
                at[w] = end
            elif start > low:
                if length >= 0 and hop > 0:
                    start = max(time - length - (time - length) % hop, youngest)
                at[w] = first_from(times, at[w], end, start)
            row = min(np.int64(at[w]), stop)
            a[w, i] = row if last < 0 else max(row, stop - last)


@compiled
def bound_rows(times: Array, known: Array, asked: Int64s, bound: Any, first: Int64s, stop: Int64s) -> None:
    """Moves the first rows of a range in p timelines up to the last `bound` rows that count in all of them together.

    Of rows with equal times those of a later timeline come later.

    Args:
        times: [p] uint64 addresses of the timelines' times.
        known: [p] uint64 addresses of when their rows could be known; 0: at once.
        asked: [n] the times asked for; a row counts if it could be known before.
        bound: how many rows count.
        first: [p, n] the first row of the range in each timeline; changed.
        stop: [p, n] the row after the last.
    """
    parts = len(times)
    heads = np.empty(parts, np.int64)
    for i in range(len(asked)):
        total = np.int64(0)
        for p in range(parts):
            heads[p] = stop[p, i]
            total += stop[p, i] - first[p, i]
        left = bound
        while total > bound and left > 0:
            best, latest = -1, np.int64(0)
            for p in range(parts):
                while known[p] and heads[p] > first[p, i] and load_word(known[p], heads[p] - 1) >= asked[i]:
                    heads[p] -= 1
                if heads[p] > first[p, i]:
                    time = load_word(times[p], heads[p] - 1)
                    if best < 0 or time >= latest:
                        best, latest = p, time
            if best < 0:
                break
            heads[best] -= 1
            left -= 1
        if total > bound and left == 0:
            for p in range(parts):
                first[p, i] = heads[p]
