"""Reductions whose partials are lists of values: what history keeps for them, and how a lookup reads it.

    counts     order, place, before: the rows of each key by value; first, second: the smallest of `before` in blocks;
               kinds: the number of different values of each key
    latest-by  after: the next row of the same value; first, second: the largest of it in blocks
    smallest-K hashes, starts, levels: the K smallest different hashes of blocks of 256, 1,024, 4,096 ... rows

See `values` for what each array holds exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bedplate.aggregations.base import Counts, Hashes, Latest, Reduce, Reduction
from bedplate.offline import kernels, values
from bedplate.offline.index import ColumnFiles, row_type
from bedplate.types import Array, Bools, Int64s

RAGGED = (Reduce.COUNTS, Reduce.LATEST_BY, Reduce.SMALLEST)

_NO_ROWS: Int64s = np.zeros(0, np.int64)

MOST = 1 << 20
"""Values that a lookup holds at once, about; it takes the asked rows in pieces where they give more."""


def build_ragged(reduction: Reduction, files: ColumnFiles, key_starts: Int64s) -> dict[str, Array]:
    """The arrays that history keeps for one of these reductions, by name.

    Args:
        reduction: the reduction.
        files: the values of its selection.
        key_starts: [k + 1] where each key's values begin.
    """
    column = files.inputs[-1 if reduction.reduce is Reduce.LATEST_BY else 0].astype(np.int64, copy=False)
    if reduction.reduce is Reduce.SMALLEST:
        return _hash_blocks(column, key_starts, reduction.depth)
    rows = row_type(len(column))
    if reduction.reduce is Reduce.LATEST_BY:
        previous, after = np.empty(len(column), np.int64), np.empty(len(column), rows)
        kernels.previous_same(column, key_starts, previous_table(key_starts), previous)
        values.next_same(previous, after)
        return {"after": after, **_extremes(after, largest=True)}
    order, place, before = (np.empty(len(column), rows) for _ in range(3))
    kinds = np.empty(len(key_starts) - 1, np.int64)
    values.sort_values(column, key_starts, order, place, before, kinds)
    return {"order": order, "place": place, "before": before, "kinds": kinds, **_extremes(before, largest=False)}


def previous_table(key_starts: Int64s) -> Int64s:
    """Room for `kernels.previous_same`."""
    longest = int(np.diff(key_starts).max(initial=0))
    return np.empty(max(2, 1 << (2 * max(longest, 1)).bit_length()), np.int64)


def _extremes(rows: Array, *, largest: bool) -> dict[str, Array]:
    levels: dict[str, Array] = {}
    below = rows
    for name in ("first", "second"):
        level = np.empty(-(-len(below) // kernels.BLOCK), rows.dtype)
        kernels.block_extremes(below, kernels.BLOCK, largest, level)
        levels[name] = below = level
    return levels


def _hash_blocks(column: Int64s, key_starts: Int64s, depth: int) -> dict[str, Array]:
    hashes = np.empty(len(column), np.int64)
    values.hash_values(column, hashes)
    longest, size, fan = int(np.diff(key_starts).max(initial=0)), values.FINEST, values.FINEST
    found, begins, levels = [hashes[:0]], [key_starts[:0]], list[int]()
    below, starts, held, at = hashes, key_starts[:0], 0, 0
    while size <= longest:
        inside = _inside(key_starts, len(column) // size, size)
        out, ends = np.empty(int(inside.sum()) * min(size, depth), np.int64), np.empty(len(inside) + 1, np.int64)
        out = out[: values.smallest_of_blocks(below, starts, fan, inside, depth, ends, out)].copy()
        found.append(out)
        begins.append(ends + held)
        levels.append(at)
        below, starts, held, at = out, ends, held + len(out), at + len(ends)
        size, fan = size * values.FAN, values.FAN
    return {
        "hashes": np.concatenate(found),
        "starts": np.concatenate(begins),
        "levels": np.array(levels, np.int64),
    }


def _inside(key_starts: Int64s, blocks: int, size: int) -> Bools:
    """[blocks]: whether all rows of a block are of one key."""
    first = np.arange(blocks, dtype=np.int64) * size
    ends = key_starts[np.searchsorted(key_starts, first, side="right")] if blocks else first
    return ends >= first + size


def room(reduction: Reduction, arrays: dict[str, Array], codes: Array | None, a: Int64s, b: Int64s) -> Int64s:
    """[n]: how many values the partial of each range [a, b) has at most.

    Args:
        reduction: one of `RAGGED`.
        arrays: what history keeps for it.
        codes: [n] positions of keys, -1 for none, whose ranges are empty; None: a range may be read in pieces, each of
            which gives values of its own.
        a: [n].
        b: [n].
    """
    if codes is None:
        return b - a
    if reduction.reduce is not Reduce.COUNTS:
        return np.minimum(b - a, reduction.depth)
    rooms = np.minimum(b - a, _kinds(arrays, codes))
    return np.minimum(rooms, reduction.depth) if reduction.depth else rooms


def _kinds(arrays: dict[str, Array], codes: Array) -> Int64s:
    """[n]: the number of different values of each key."""
    kinds = arrays["kinds"]
    return kinds[np.maximum(codes, 0)] if len(kinds) else np.zeros(len(codes), np.int64)


def runs(rooms: Sequence[Int64s], most: int = MOST) -> list[slice]:
    """Runs of rows whose values are at most so many together, or of one row; of no rows one that is empty.

    Args:
        rooms: [n] each: how many values a row has, in several places.
        most: of all values of a run.

    >>> runs([np.array([3, 3, 9, 1])], 6)
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    ends, start = np.cumsum(np.sum(rooms, axis=0)), 0
    rows = len(ends)
    if not rows or int(ends[-1]) <= most:
        return [slice(0, rows)]
    found: list[slice] = []
    while start < rows:
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        found.append(slice(start, stop))
        start = stop
    return found


def read_ragged(
    reduction: Reduction,
    files: ColumnFiles,
    arrays: dict[str, Array],
    times: Int64s,
    codes: Array,
    a: Int64s,
    b: Int64s,
) -> Counts | Latest | Hashes:
    """The partial of one of these reductions over the values [a, b) of n ranges.

    Args:
        reduction: one of `RAGGED`; a COUNTS with a depth gives the most frequent values only.
        files: the values of its selection.
        arrays: what history keeps for it.
        times: the timeline's.
        codes: [n] positions of keys, -1 for none, whose ranges are empty.
        a: [n] the first value of each range.
        b: [n] the one after the last.
    """
    offsets, total = np.empty(len(a) + 1, np.int64), int(room(reduction, arrays, codes, a, b).sum())
    rows = np.empty(total, np.int64)
    if reduction.reduce is Reduce.SMALLEST:
        tables = arrays["hashes"], arrays["starts"], arrays["levels"]
        values.range_smallest(files.inputs[0], *tables, reduction.depth, a, b, offsets, rows)
        return Hashes(offsets, rows[: offsets[-1]])
    first, second = arrays["first"], arrays["second"]
    if reduction.reduce is Reduce.LATEST_BY:
        values.range_latest(arrays["after"], first, second, reduction.depth, a, b, offsets, rows)
        rows = rows[: offsets[-1]]
        return Latest(offsets, times[_timeline_rows(files, rows)], tuple(v[rows] for v in files.inputs), files.texts)
    order, place, before = arrays["order"], arrays["place"], arrays["before"]
    counts, lasts = np.empty(total, np.int64), np.empty(total, np.int64)
    tables = files.inputs[0], order, place, before, first, second
    if reduction.depth:
        in_time = times, _NO_ROWS if files.rows is None else files.rows
        kinds = _kinds(arrays, codes)
        values.range_top(*tables, *in_time, reduction.depth, kinds, a, b, offsets, rows, counts, lasts)
    else:
        values.range_counts(*tables, a, b, offsets, rows, counts, lasts)
    rows, counts, lasts = rows[: offsets[-1]], counts[: offsets[-1]], lasts[: offsets[-1]]
    return Counts(offsets, files.inputs[0][rows], counts, times[_timeline_rows(files, lasts)], files.texts[0])


def _timeline_rows(files: ColumnFiles, rows: Int64s) -> Int64s:
    return rows if files.rows is None else files.rows[rows]
