"""Compiled loops over running sums, and the sums of any range of values that follow from them; see `kernels`.

A running sum of floats is kept as the exact sum rounded once, and every `RESTS` values also what rounding left off it.
A range's sum is the difference of two. Where that has lost too many digits, because most of what came before cancels
out, both are followed from the last place where they are known to twice the digits of a float.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bedplate.compiling import compiled
from bedplate.offline.instructions import choose, fetch_ahead
from bedplate.types import Array, Int64s

LARGEST = 2**63 - 1
"""The largest whole number of 64 bits."""
RESTS = 64
"""Values for which what rounding left off is kept once."""
LOST = 22
"""Bits that a difference of rounded sums may lose: 30 of 53 are left, and float32 has 24."""
FETCHED = 16
"""Rows from whose filling on the place of a row is brought near."""


@compiled
def two_sum(one: Any, other: Any) -> Any:
    """The rounded sum of two floats and what rounding left off, exactly (Knuth, TAOCP 2, 4.2.2, theorem B)."""
    total = one + other
    part = total - one
    return total, (one - (total - part)) + (other - part)


@compiled
def add_float(total: Any, rest: Any, value: Any) -> Any:
    """A sum and all that rounding left off it, with one more value; beyond the range of a float nothing is left off.

    The two together are right to about n * 2 ** -106 after n values (Neumaier 1974).
    """
    total, left = two_sum(total, value)
    if left == left:  # noqa: PLR0124  NaN beyond the range of a float
        rest += left
    return total, rest


@compiled
def rounded(total: Any, rest: Any) -> Any:
    """A sum and all that rounding left off it, as the nearest float and what is to be added to that."""
    whole = total + rest
    return whole, (total - whole) + rest if np.isfinite(whole) else 0.0


@compiled
def prefix_sums(values: Array, key_starts: Int64s, first: Any, out: Array, rests: Array) -> Any:
    """Inclusive sums that begin afresh at each key's first value, each the exact sum rounded once.

    Args:
        values: [m] floats, those of some keys.
        key_starts: [k + 1] where the values of each of these keys begin.
        first: how many values there are of the keys before.
        out: [m] float64, filled.
        rests: of all keys, what was left off the sum at value `RESTS * (i + 1) - 1`; filled for these keys.

    Returns:
        whether anything was left off any sum.
    """
    is_rounded = False
    for k in range(len(key_starts) - 1):
        total, rest = 0.0, 0.0
        for i in range(key_starts[k], key_starts[k + 1]):
            total, rest = add_float(total, rest, values[i])
            out[i], left = rounded(total, rest)
            is_rounded |= left != 0.0 or not np.isfinite(out[i])
            if (first + i + 1) % RESTS == 0:
                rests[(first + i) // RESTS] = left
    return is_rounded


@compiled
def whole_prefix_sums(values: Array, key_starts: Int64s, out: Int64s) -> None:
    """`prefix_sums` of whole numbers.

    Raises:
        OverflowError: a sum is beyond 64 bits.
    """
    for k in range(len(key_starts) - 1):
        total = np.int64(0)
        for i in range(key_starts[k], key_starts[k + 1]):
            value = np.int64(values[i])
            # Compared before it is added: compiled code takes for granted that an addition does not overflow.
            if (value > 0 and total > LARGEST - value) or (value < 0 and total < -LARGEST - 1 - value):
                raise OverflowError("a sum of whole numbers is beyond 64 bits")
            total += value
            out[i] = total


@compiled
def follow(prefix: Array, rests: Array, values: Array, start: Any, stop: Any) -> Any:
    """The sum of values [start, stop) of a key whose values begin at `start`, and what rounding leaves off it."""
    known = stop // RESTS
    i = known * RESTS
    if i > start:
        total, rest = prefix[i - 1], rests[known - 1]
    else:
        i, total, rest = start, 0.0, 0.0
    while i < stop:
        total, rest = add_float(total, rest, values[i])
        i += 1
    return total, rest


@compiled
def exact_between(prefix: Array, rests: Array | None, values: Array | None, start: Any, a: Any, b: Any) -> Any:
    """The sum of values [a, b) of a key whose values begin at `start`, and what rounding leaves off it.

    A running sum beyond the range of a float says nothing: then the values themselves are added up.

    Args:
        prefix: those of `prefix_sums`.
        rests: those of `prefix_sums`; None: nothing was left off any sum.
        values: the values; None as `rests` is.
        start: where the key's values begin.
        a: the first.
        b: the one after the last.
    """
    total, rest = 0.0, 0.0
    if b <= a:
        return total, rest
    if rests is None or values is None:
        return two_sum(prefix[b - 1], -prefix[a - 1] if a > start else 0.0)
    if b - a <= 2 * RESTS or not np.isfinite(prefix[b - 1]):
        for i in range(a, b):
            total, rest = add_float(total, rest, values[i])
        return total, rest
    total, rest = follow(prefix, rests, values, start, b)
    before, more = follow(prefix, rests, values, start, a)
    total, left = two_sum(total, -before)
    return total, left + (rest - more)


@compiled
def is_lost(total: Any, size: Any) -> Any:
    """Whether a sum of rounded numbers, whose amounts add up to `size`, has too few digits left, or is no number."""
    return not abs(total) >= size * 2.0**-LOST


@compiled
def sum_between(prefix: Array, start: Any, a: Any, b: Any) -> Any:
    """The sum of values [a, b) of a key whose values begin at `start`, by one subtraction, and its size for `is_lost`.

    `prefix` is not empty.
    """
    nothing = prefix.dtype.type(0)
    after = choose(b > a, prefix[max(b, 1) - 1], nothing)
    before = choose((b > a) & (a > start), prefix[max(a, 1) - 1], nothing)
    return after - before, abs(after) + abs(before)


@compiled
def range_sums(
    prefix: Array,
    rests: Array | None,
    values: Array | None,
    key_starts: Int64s,
    codes: Array,
    a: Int64s,
    b: Int64s,
    out: Array,
) -> None:
    """The sum of values [a, b) of each code; see `fill_totals`."""
    found, lost = 0, np.empty(len(codes) if rests is not None else 0, np.int64)
    for i in range(len(codes)):
        out[i] = 0
        if len(prefix):
            out[i], size = sum_between(prefix, key_starts[max(codes[i], 0)], a[i], b[i])
            if rests is not None and is_lost(out[i], size):
                lost[found] = i
                found += 1
    if rests is not None:
        for i in lost[:found]:
            total, rest = exact_between(prefix, rests, values, key_starts[codes[i]], a[i], b[i])
            out[i] = total + rest


@compiled
def exact_range_sums(
    prefix: Array,
    rests: Array | None,
    values: Array | None,
    key_starts: Int64s,
    codes: Array,
    a: Int64s,
    b: Int64s,
    out: Array,
    low: Array,
) -> None:
    """As `range_sums` of floats, and what is to be added to each sum for twice the digits of a float."""
    for i in range(len(codes)):
        total, rest = exact_between(prefix, rests, values, key_starts[max(codes[i], 0)], a[i], b[i])
        out[i], low[i] = rounded(total, rest)


@compiled
def add_exact(
    prefix: Array,
    rests: Array | None,
    values: Array | None,
    key_starts: Int64s,
    rank: Int64s,
    codes: Array,
    first: Int64s,
    stop: Int64s,
    lines: Int64s,
    lost: Int64s,
    counts: Int64s,
    totals: Array,
) -> None:
    """Adds what a part has of some rows and lines: how many values, and their sum to twice the digits of a float.

    Args:
        prefix: as for `exact_between`, as are the next two.
        rests: the same.
        values: the same.
        key_starts: as for `fill_totals`, as are the next five.
        rank: the same.
        codes: [n].
        first: [ranges, n].
        stop: [n].
        lines: [lines, 5].
        lost: [k, 2] the rows and lines.
        counts: [k], added to.
        totals: [k, 2], the sum and what rounding left off it, added to.
    """
    for j in range(len(lost)):
        i, line = lost[j, 0], lost[j, 1]
        a, b = first[lines[line, 0], i], stop[i]
        if len(rank):
            a, b = rank[a], rank[b]
        if b > a:
            counts[j] += b - a
            high, low = exact_between(prefix, rests, values, key_starts[codes[i]], a, b)
            totals[j, 0], rest = add_float(totals[j, 0], totals[j, 1], high)
            totals[j, 1] = rest + low


@compiled
def put_exact(lines: Int64s, lost: Int64s, places: Array, counts: Int64s, totals: Array, matrix: Array) -> None:
    """Fills sums and means of some rows and lines with what `add_exact` has found."""
    for j in range(len(lost)):
        line, place = lost[j, 1], np.uint64(places[lost[j, 0]])
        total = totals[j, 0] + totals[j, 1]
        if lines[line, 2] >= 0:
            matrix[place, lines[line, 2]] = total
        if lines[line, 3] >= 0:
            matrix[place, lines[line, 3]] = total / max(counts[j], 1)


@compiled
def fetch_row(values: Array, present: Array, places: Array, i: Any) -> None:
    """Brings near what is soon to be written of two matrices: rows in order of key go to places that are anywhere."""
    if i + FETCHED < len(places):
        row = np.int64(places[i + FETCHED])
        fetch_ahead(values, row, np.int64(0))
        fetch_ahead(values, row, values.shape[1] - 1)
        if len(present):
            fetch_ahead(present, row, np.int64(0))


@compiled
def fill_totals(
    prefix: Array,
    rests: Array | None,
    values: Array | None,
    key_starts: Int64s,
    rank: Int64s,
    codes: Array,
    first: Int64s,
    stop: Int64s,
    lines: Int64s,
    places: Array,
    counts: Int64s,
    sums: Array,
    means: Array,
    present: Array,
) -> None:
    """Counts, sums and means of one selection, for n rows, into matrices of many columns.

    Args:
        prefix: [m] sums of the selection's values; one 0 where only counts are asked for, or there are no values.
        rests: as for `exact_between`.
        values: as for `exact_between`.
        key_starts: [k + 1] where each key's values begin.
        rank: as in the conventions of `kernels`, or empty where every row counts.
        codes: [n] positions of keys; -1 for none, whose ranges are empty.
        first: [ranges, n] the first row of each range.
        stop: [n] the row after the last.
        lines: [lines, 5]: a range, the columns of its count, its sum, its mean and the mean's presence; -1: none.
        places: [n] the rows of the matrices that are filled.
        counts: [.., columns] int64, filled in the columns of counts; the next two may be the same memory.
        sums: [.., columns] of the type of `prefix`, filled in the columns of sums.
        means: [.., columns] float64, filled in the columns of means; 0 where nothing counts.
        present: [.., columns] bytes, filled in the columns of presence.
    """
    found, lost = 0, np.empty((len(codes) * len(lines) if rests is not None else 0, 2), np.int64)
    for i in range(len(codes)):
        fetch_row(counts, present, places, i)
        start, place = key_starts[max(codes[i], 0)], np.uint64(places[i])
        last = rank[stop[i]] if len(rank) else stop[i]
        for line in range(len(lines)):
            row = first[lines[line, 0], i]
            a = rank[row] if len(rank) else row
            count = last - a
            if lines[line, 1] >= 0:
                counts[place, lines[line, 1]] = count
            if lines[line, 2] < 0 and lines[line, 3] < 0:
                continue
            total, size = sum_between(prefix, start, a, last)
            if lines[line, 2] >= 0:
                sums[place, lines[line, 2]] = total
            if lines[line, 3] >= 0:
                means[place, lines[line, 3]] = total / max(count, 1)
                present[place, lines[line, 4]] = count > 0
            if rests is not None and is_lost(total, size):
                lost[found, 0], lost[found, 1] = i, line
                found += 1
    if rests is not None and found:  # a loop of its own: the calls of it would slow the other one
        numbers, totals, lost = np.zeros(found, np.int64), np.zeros((found, 2)), lost[:found]
        add_exact(prefix, rests, values, key_starts, rank, codes, first, stop, lines, lost, numbers, totals)
        put_exact(lines, lost, places, numbers, totals, means)
