"""Moments and decayed sums of any range of values, from partial results of blocks.

Nothing is subtracted, so no digit is lost whatever lies before the range. The values of a selection are in blocks of
`FAN`, those in blocks of `FAN` blocks, and so on, whole blocks only: a range is some values at either end and some
blocks of each size. So a lookup costs at most 2 * `FAN` steps for each size, and the files hold one partial result for
about `FAN - 1` values. A block may cross keys; then no range holds all of it.

    means, rests, squares    of a MOMENTS, [blocks]: see `Moments`; the count follows from the size
    sums                     of a decayed sum, [blocks]: as of the block's last event
    levels                   [sizes + 1] where the blocks of each size begin, and the end
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bedplate.aggregations.base import Decayed, Moments, Reduce, Reduction
from bedplate.aggregations.decay import decay
from bedplate.aggregations.moments import merge_moments
from bedplate.compiling import compiled
from bedplate.offline.index import ColumnFiles
from bedplate.types import Array, Int64s

BLOCKED = (Reduce.MOMENTS, Reduce.DECAYED_SUM, Reduce.DECAYED_COUNT)
"""The reductions that are kept so."""

FAN = 16
"""Values in a block of the smallest size, and blocks in one of the next."""

_merge, _decay = compiled(merge_moments), compiled(decay)
_NO_ROWS: Int64s = np.zeros(0, np.int64)
_ONES: Array = np.ones(1, np.float64)


def build_blocks(reduction: Reduction, files: ColumnFiles, times: Int64s) -> dict[str, Array]:
    """The arrays that history keeps for one of these reductions, by name.

    Args:
        reduction: the reduction.
        files: the values of its selection.
        times: [N] of the timeline.
    """
    rows = _NO_ROWS if files.rows is None else files.rows
    levels = _levels(len(times if files.rows is None else files.rows))
    blocks = int(levels[-1])
    if reduction.reduce is Reduce.MOMENTS:
        means, rests, squares = np.empty(blocks), np.empty(blocks), np.empty(blocks)
        fill_moments(files.inputs[0], levels, means, rests, squares)
        return {"means": means, "rests": rests, "squares": squares, "levels": levels}
    sums = np.empty(blocks)
    fill_decayed(_values(reduction, files), times, rows, reduction.half_life, levels, sums)
    return {"sums": sums, "levels": levels}


def read_blocks(
    reduction: Reduction, arrays: dict[str, Array], files: ColumnFiles, times: Int64s, a: Int64s, b: Int64s
) -> Moments | Decayed:
    """The partial over the values [a, b) of each of n ranges.

    Args:
        reduction: the reduction.
        arrays: those of `build_blocks`.
        files: the values of its selection.
        times: [N] of the timeline.
        a: [n] positions of values, each range those of one key.
        b: [n].
    """
    n = len(a)
    if reduction.reduce is Reduce.MOMENTS:
        means, rests, squares = np.empty(n), np.empty(n), np.empty(n)
        blocks = arrays["means"], arrays["rests"], arrays["squares"]
        range_moments(files.inputs[0], *blocks, arrays["levels"], a, b, means, rests, squares)
        return Moments(np.maximum(b - a, 0), means, rests, squares)
    rows = _NO_ROWS if files.rows is None else files.rows
    values, asof = np.empty(n), np.empty(n, np.int64)
    range_decayed(
        _values(reduction, files),
        arrays["sums"],
        times,
        rows,
        reduction.half_life,
        arrays["levels"],
        a,
        b,
        values,
        asof,
    )
    return Decayed(values, asof)


def _levels(count: int) -> Int64s:
    ends, size = [0], FAN
    while count // size:
        ends.append(ends[-1] + count // size)
        size *= FAN
    return np.array(ends, np.int64)


def _values(reduction: Reduction, files: ColumnFiles) -> Array:
    """What is summed; one 1 where events are counted."""
    return files.inputs[0] if reduction.reduce is Reduce.DECAYED_SUM else _ONES


@compiled
def _number(value: Any) -> Any:
    return np.float64(value)


@compiled
def add_moments(
    values: Array, means: Array, rests: Array, squares: Array, at: Any, size: Any, first: Any, last: Any, state: Any
) -> Any:
    """Adds blocks [first, last) of a size, which begin at `at`, to a state; values themselves where the size is 1."""
    count, mean, rest, square = state
    for i in range(first, last):
        if size == 1:
            mean, rest, square = _merge(count, mean, rest, square, 1.0, _number(values[i]), 0.0, 0.0)
        else:
            k = at + i
            mean, rest, square = _merge(count, mean, rest, square, size, means[k], rests[k], squares[k])
        count += size
    return count, mean, rest, square


@compiled
def fill_moments(values: Array, levels: Int64s, means: Array, rests: Array, squares: Array) -> None:
    """The moments of all blocks, those of a size from those of the size before."""
    size, before = 1.0, np.int64(0)
    for level in range(len(levels) - 1):
        for block in range(levels[level + 1] - levels[level]):
            begin = block * FAN
            _, mean, rest, square = add_moments(
                values, means, rests, squares, before, size, begin, begin + FAN, (0.0, 0.0, 0.0, 0.0)
            )
            at = levels[level] + block
            means[at], rests[at], squares[at] = mean, rest, square
        before = levels[level]
        size *= FAN


@compiled
def range_moments(
    values: Array,
    means: Array,
    rests: Array,
    squares: Array,
    levels: Int64s,
    a: Int64s,
    b: Int64s,
    out_means: Array,
    out_rests: Array,
    out_squares: Array,
) -> None:
    """The moments of the values [a, b)."""
    for i in range(len(a)):
        low, high, size, at = a[i], max(a[i], b[i]), 1.0, np.int64(0)
        state = (0.0, 0.0, 0.0, 0.0)
        for level in range(len(levels)):
            inner, outer = (low + FAN - 1) // FAN, high // FAN
            if inner >= outer or level == len(levels) - 1:
                state = add_moments(values, means, rests, squares, at, size, low, high, state)
                break
            state = add_moments(values, means, rests, squares, at, size, low, inner * FAN, state)
            state = add_moments(values, means, rests, squares, at, size, outer * FAN, high, state)
            low, high, size, at = inner, outer, size * FAN, levels[level]
        out_means[i], out_rests[i], out_squares[i] = state[1], state[2], state[3]


@compiled
def _time(times: Int64s, rows: Int64s, value: Any) -> Any:
    """The time of the event behind a value."""
    return times[rows[value]] if len(rows) else times[value]


@compiled
def add_decayed(
    values: Array,
    sums: Array,
    times: Int64s,
    rows: Int64s,
    half_life: Any,
    at: Any,
    size: Any,
    first: Any,
    last: Any,
    asof: Any,
) -> Any:
    """The decayed sum, as of a time, of blocks [first, last) of a size; of values themselves where the size is 1."""
    total = 0.0
    for i in range(first, last):
        value = _number(values[i if len(values) > 1 else 0]) if size == 1 else sums[at + i]
        total += _decay(value, np.float64(asof - _time(times, rows, (i + 1) * size - 1)), half_life)
    return total


@compiled
def fill_decayed(values: Array, times: Int64s, rows: Int64s, half_life: Any, levels: Int64s, sums: Array) -> None:
    """The decayed sums of all blocks, those of a size from those of the size before."""
    size, before = np.int64(1), np.int64(0)
    for level in range(len(levels) - 1):
        for block in range(levels[level + 1] - levels[level]):
            begin = block * FAN
            asof = _time(times, rows, (begin + FAN) * size - 1)
            sums[levels[level] + block] = add_decayed(
                values, sums, times, rows, half_life, before, size, begin, begin + FAN, asof
            )
        before = levels[level]
        size *= FAN


@compiled
def range_decayed(
    values: Array,
    sums: Array,
    times: Int64s,
    rows: Int64s,
    half_life: Any,
    levels: Int64s,
    a: Int64s,
    b: Int64s,
    out: Array,
    out_times: Int64s,
) -> None:
    """The decayed sum of the values [a, b) as of their last event, and its time; 0 of none."""
    for i in range(len(a)):
        low, high, size, at = a[i], b[i], np.int64(1), np.int64(0)
        out[i], out_times[i] = 0.0, 0
        if low >= high:
            continue
        asof = _time(times, rows, high - 1)
        total = 0.0
        for level in range(len(levels)):
            inner, outer = (low + FAN - 1) // FAN, high // FAN
            if inner >= outer or level == len(levels) - 1:
                total += add_decayed(values, sums, times, rows, half_life, at, size, low, high, asof)
                break
            total += add_decayed(values, sums, times, rows, half_life, at, size, low, inner * FAN, asof)
            total += add_decayed(values, sums, times, rows, half_life, at, size, outer * FAN, high, asof)
            low, high, size, at = inner, outer, size * FAN, levels[level]
        out[i], out_times[i] = total, asof
