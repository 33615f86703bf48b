"""Rows in flight: events that had happened by a time but could not be known yet.

Where a source says by row when it could be known (`available`), a lookup at `t` leaves out the rows with `time < t`
that could be known at `t` or later. Most rows are on time, so the few others are found by descending from the greatest
such time of large blocks of rows to that of small ones; runs of them by the least. What lies between them are pieces
of rows, which are reduced like any other rows and then merged.

    known.npy [N]                   when each row could be known, never before its time
    greatest 0.npy ... least 2.npy  the extremes of it over blocks of 64, 64 ** 2 and 64 ** 3 rows
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np

from bedplate.compiling import compiled
from bedplate.offline.kernels import BLOCK, block_extremes
from bedplate.types import Array, Bools, Int64s

_SMALL, _MIDDLE, _LARGE = BLOCK, BLOCK**2, BLOCK**3
Levels: TypeAlias = "tuple[Int64s, Int64s, Int64s]"
"""The extremes of blocks of three sizes."""

_NONE: Int64s = np.zeros(0, np.int64)


def following_same(previous: Int64s) -> Int64s:
    """For each value the position of the same value after it under the same key, or -1.

    >>> following_same(np.array([-1, -1, 0])).tolist()
    [2, -1, -1]
    """
    result = np.full(len(previous), -1, np.int64)
    later = np.flatnonzero(previous >= 0)
    result[previous[later]] = later
    return result


@final
@dataclass(frozen=True, slots=True)
class Known:
    """When the rows of a timeline could be known.

    Attributes:
        rows: [N] int64 microseconds.
        greatest: the greatest of each block of rows, for blocks of three sizes.
        least: the least of them.
    """

    rows: Int64s
    greatest: Levels
    least: Levels

    @staticmethod
    def of(rows: Int64s) -> Known:
        """With the blocks of rows."""
        return Known(rows, _blocks(rows, largest=True), _blocks(rows, largest=False))

    def save(self, folder: Path) -> None:
        """Writes the arrays into a folder."""
        np.save(folder / "known.npy", self.rows)
        for name, levels in (("greatest", self.greatest), ("least", self.least)):
            for level, values in enumerate(levels):
                np.save(folder / f"{name} {level}.npy", values)

    def in_flight(self, times: Int64s, first: Int64s, stop: Int64s) -> Bools:
        """[n]: whether one of the rows `[first, stop)` could not be known before a time.

        Args:
            times: [n] int64.
            first: [n] int64.
            stop: [n] int64.
        """
        found = np.empty(len(times), np.bool_)
        _any_late(self.rows, *self.greatest, times, first, stop, found)
        return found

    def pieces(self, times: Int64s, first: Int64s, stop: Int64s, bound: int) -> Pieces:
        """The rows of `[first, stop)` that could be known before a time, in pieces.

        Args:
            times: [n] int64.
            first: [n] int64.
            stop: [n] int64.
            bound: how many rows count, the last ones; -1: all.
        """
        starts, counts = first.copy(), np.empty(len(times), np.int64)
        _count_pieces(self.rows, *self.greatest, *self.least, times, starts, stop, bound, counts)
        owners = np.zeros(len(times) + 1, np.int64)
        np.cumsum(counts, out=owners[1:])
        begin, end = np.empty(int(owners[-1]), np.int64), np.empty(int(owners[-1]), np.int64)
        _fill_pieces(self.rows, *self.greatest, *self.least, times, starts, stop, owners, begin, end)
        return Pieces(begin, end, owners, starts)

    def count_late(
        self,
        times: Int64s,
        first: Int64s,
        stop: Int64s,
        rank: Int64s | None,
        rows: Int64s | None,
        previous: Int64s,
        following: Int64s,
    ) -> Int64s:
        """[n]: how many different values of the rows `[first, stop)` only rows in flight have.

        Args:
            times: [n] int64.
            first: [n] int64.
            stop: [n] int64.
            rank: [N + 1] how many values come before each row; None: each row has one.
            rows: [M] the row of each value; None: as `rank`.
            previous: [M] the value before with the same content under the same key, or -1.
            following: [M] the value after it, or -1.
        """
        ranks, places = (_NONE, _NONE) if rank is None or rows is None else (rank, rows)
        found = np.empty(len(times), np.int64)
        _count_only_late(self.rows, *self.greatest, times, first, stop, ranks, places, previous, following, found)
        return found


@final
@dataclass(frozen=True, slots=True)
class Pieces:
    """The rows that count for n of the asked rows, in m pieces; each asked row has one at least, which may be empty.

    Attributes:
        first: [m] int64, the first row of each piece.
        stop: [m] int64, the row after its last.
        owners: [n + 1] int64: the pieces of asked row i are `owners[i]` to `owners[i + 1]`.
        start: [n] int64, the first row that may count of each asked row.
    """

    first: Int64s
    stop: Int64s
    owners: Int64s
    start: Int64s

    def part(self, rows: slice) -> Pieces:
        """Those of some of the asked rows."""
        owners = self.owners[rows.start : rows.stop + 1]
        pieces = slice(owners[0], owners[-1])
        return Pieces(self.first[pieces], self.stop[pieces], owners - owners[0], self.start[rows])

    def spread(self, values: Array) -> Array:
        """[m] the values [n] of the asked rows, for each piece."""
        return np.repeat(values, np.diff(self.owners))


def split(
    known: Known, times: Int64s, first: Int64s, stop: Int64s, bounds: Sequence[int]
) -> tuple[Int64s, tuple[Pieces, ...] | None]:
    """What the ranges of n asked rows cover without the rows in flight.

    Args:
        known: of the timeline.
        times: [n] int64, the times asked for.
        first: [ranges, n] int64, the first row of each range, whatever its bound.
        stop: [n] int64, the row after the last.
        bounds: of each range, how many of its rows count, the last ones; -1: all.

    Returns:
        where nothing is in flight, the first rows with the bounds applied, and None; else the rows of each range in
        pieces.
    """
    lowest = first.min(axis=0) if len(first) else stop
    if not known.in_flight(times, lowest, stop).any():
        limits = np.array([np.iinfo(np.int64).max if b < 0 else b for b in bounds], np.int64).reshape(-1, 1)
        return np.maximum(first, stop - limits), None
    return first, tuple(known.pieces(times, f, stop, b) for f, b in zip(first, bounds, strict=True))


def _blocks(rows: Int64s, *, largest: bool) -> Levels:
    def extremes(values: Int64s) -> Int64s:
        out = np.empty(-(-len(values) // BLOCK), np.int64)
        block_extremes(values, BLOCK, largest, out)
        return out

    small = extremes(rows)
    middle = extremes(small)
    return small, middle, extremes(middle)


@compiled
def _next(
    rows: Int64s, small: Int64s, middle: Int64s, large: Int64s, start: Any, stop: Any, time: Any, late: Any
) -> Any:
    """The first row of [start, stop) that could not be known before a time (`late`) or could; `stop` if there is none.

    The blocks are the greatest for late rows, the least for the others: they show whether a block has such a row.
    """
    at = start
    while at < stop:
        if at % _LARGE == 0 and (large[at // _LARGE] >= time) != late:
            at += _LARGE
        elif at % _MIDDLE == 0 and (middle[at // _MIDDLE] >= time) != late:
            at += _MIDDLE
        elif at % _SMALL == 0 and (small[at // _SMALL] >= time) != late:
            at += _SMALL
        elif (rows[at] >= time) == late:
            return at
        else:
            at += 1
    return stop


@compiled
def _any_late(
    rows: Int64s, g0: Int64s, g1: Int64s, g2: Int64s, times: Int64s, first: Int64s, stop: Int64s, found: Bools
) -> None:
    for i in range(len(times)):
        found[i] = _next(rows, g0, g1, g2, first[i], stop[i], times[i], True) < stop[i]


@compiled
def _count_pieces(
    rows: Int64s,
    g0: Int64s,
    g1: Int64s,
    g2: Int64s,
    l0: Int64s,
    l1: Int64s,
    l2: Int64s,
    times: Int64s,
    first: Int64s,
    stop: Int64s,
    bound: Any,
    counts: Int64s,
) -> None:
    """Counts the pieces of each range, one at least; a bound moves the first rows to the last `bound` that count."""
    for i in range(len(times)):
        end, time = stop[i], times[i]
        total, pieces = np.int64(0), np.int64(0)
        at = _next(rows, l0, l1, l2, first[i], end, time, False)
        while at < end:
            late = _next(rows, g0, g1, g2, at, end, time, True)
            total += late - at
            pieces += 1
            at = _next(rows, l0, l1, l2, late, end, time, False)
        if 0 <= bound < total:
            extra = total - bound
            at = _next(rows, l0, l1, l2, first[i], end, time, False)
            late = _next(rows, g0, g1, g2, at, end, time, True)
            while extra >= late - at:
                extra -= late - at
                pieces -= 1
                at = _next(rows, l0, l1, l2, late, end, time, False)
                late = _next(rows, g0, g1, g2, at, end, time, True)
            first[i] = at + extra
        counts[i] = max(pieces, 1)


@compiled
def _fill_pieces(
    rows: Int64s,
    g0: Int64s,
    g1: Int64s,
    g2: Int64s,
    l0: Int64s,
    l1: Int64s,
    l2: Int64s,
    times: Int64s,
    first: Int64s,
    stop: Int64s,
    owners: Int64s,
    begin: Int64s,
    end: Int64s,
) -> None:
    for i in range(len(times)):
        last, time, piece = stop[i], times[i], owners[i]
        begin[piece], end[piece] = first[i], first[i]
        at = _next(rows, l0, l1, l2, first[i], last, time, False)
        while at < last:
            late = _next(rows, g0, g1, g2, at, last, time, True)
            begin[piece], end[piece] = at, late
            piece += 1
            at = _next(rows, l0, l1, l2, late, last, time, False)


@compiled
def _count_only_late(
    known: Int64s,
    g0: Int64s,
    g1: Int64s,
    g2: Int64s,
    times: Int64s,
    first: Int64s,
    stop: Int64s,
    rank: Int64s,
    rows: Int64s,
    previous: Int64s,
    following: Int64s,
    found: Int64s,
) -> None:
    """For each range, values of which every occurrence is in flight: looked at from the first of them on."""
    whole = len(rank) == 0
    for i in range(len(times)):
        last, time, count = stop[i], times[i], np.int64(0)
        begin = first[i] if whole else rank[first[i]]
        end = last if whole else rank[last]
        at = _next(known, g0, g1, g2, first[i], last, time, True)
        while at < last:
            value = at if whole else rank[at]
            if (whole or rank[at + 1] > value) and previous[value] < begin:
                value = following[value]
                while 0 <= value < end and known[value if whole else rows[value]] >= time:
                    value = following[value]
                count += value < 0 or value >= end
            at = _next(known, g0, g1, g2, at + 1, last, time, True)
        found[i] = count
