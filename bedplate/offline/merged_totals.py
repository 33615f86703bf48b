"""Counts, sums and means over several parts of an index, filled in place by one loop.

A sum of floats is the sum of the parts' differences of running sums, see `running`. Where that has lost too many
digits, because the parts cancel each other or what came before does, it is found anew to twice the digits of a float:
so what an index gives does not depend on how it is cut into segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np

from bedplate.aggregations.merge import beyond_words
from bedplate.compiling import compiled
from bedplate.offline.answer import Part
from bedplate.offline.instructions import choose, load_like, load_word
from bedplate.offline.running import add_exact, fetch_row, is_lost, put_exact
from bedplate.offline.totals import NO_BYTES, NOTHING, Totals
from bedplate.types import Array, Int64s


@final
class MergedTotals:
    """What gives the counts, sums and means of one selection over several parts.

    Args:
        parts: what gives those of each part; at least one.

    Attributes:
        nbytes: how many bytes of the index it may read at most, save those of values.
    """

    __slots__ = ("_dtype", "_parts", "_places", "nbytes")

    def __init__(self, parts: Sequence[Totals]) -> None:
        self._parts = tuple(parts)
        sums = [NOTHING if p.prefix is None else p.prefix for p in parts]
        ranks = [0 if p.rank is None else p.rank.ctypes.data for p in parts]
        places = [[s.ctypes.data for s in sums], [p.starts.ctypes.data for p in parts], ranks]
        self._places, self._dtype = np.array(places, np.uint64), sums[0].dtype
        self.nbytes = sum(a.nbytes for p in parts for a in (p.prefix, p.rank, p.starts) if a is not None)

    def fill(self, chosen: Sequence[int], codes: Array, first: Int64s, stop: Int64s, part: Part) -> None:
        """Fills the values of n rows.

        Args:
            chosen: the numbers of the p parts that have events of these rows.
            codes: [p, n] positions of their keys in each; -1 for none.
            first: [p, ranges, n] the first row of each range in each.
            stop: [p, n] the row after the last.
            part: where the values go.

        Raises:
            DataError: a sum of whole numbers is beyond 64 bits.
        """
        whole = True if self._dtype.kind == "i" else None
        matrix, lines = part.matrices[8], self._parts[0].lines
        lost = np.empty((stop.shape[1] * len(lines), 2), np.int64)
        sums, bytes_of = matrix.view(self._dtype), part.matrices.get(1, NO_BYTES)
        found: tuple[int, float] = merge_totals(
            tuple(np.ascontiguousarray(self._places[:, list(chosen)])),
            np.zeros(1, self._dtype),
            whole,
            (codes, first, stop),
            lines,
            part.places,
            (matrix.view(np.int64), sums, matrix.view(np.float64), bytes_of),
            bool((lines[:, 2:4] >= 0).any()),
            lost,
        )
        if found[0] and whole:
            raise beyond_words(found[1])
        if found[0]:
            self._find_anew(chosen, codes, first, stop, part, lost[: found[0]])

    def _find_anew(
        self, chosen: Sequence[int], codes: Array, first: Int64s, stop: Int64s, part: Part, lost: Int64s
    ) -> None:
        """Fills the sums of floats of some rows and lines; see `merge_totals`."""
        counts, totals, lines = np.zeros(len(lost), np.int64), np.zeros((len(lost), 2)), self._parts[0].lines
        for i, number in enumerate(chosen):
            of = self._parts[number]
            if of.prefix is not None:
                rank = NOTHING if of.rank is None else of.rank
                rows = codes[i], first[i], stop[i]
                add_exact(of.prefix, of.rests, of.values, of.starts, rank, *rows, lines, lost, counts, totals)
        put_exact(lines, lost, part.places, counts, totals, part.matrices[8].view(np.float64))


@compiled
def merge_totals(
    parts: Any,
    like: Array,
    whole: Any,
    rows: Any,
    lines: Int64s,
    places: Array,
    into: Any,
    is_summed: Any,
    lost: Int64s,
) -> Any:
    """Counts, sums and means of one selection over p parts, for n rows, into matrices of many columns.

    Args:
        parts: [p] uint64 addresses each of running sums, of where keys' values begin, of ranks, 0 where all rows count.
        like: [1] a 0 of the sums' type.
        whole: True for sums of whole numbers, None for those of floats: another loop runs.
        rows: positions of keys [p, n], the first row of each range [p, ranges, n], the row after the last [p, n].
        lines: as for `running.fill_totals`.
        places: [n], as for it.
        into: the matrices of counts, sums, means and presence, as for it.
        is_summed: whether any line wants more than counts.
        lost: [n * lines, 2], filled with the rows and lines whose sums are wrong, see `is_wrong`.

    Returns:
        how many these are, and of whole numbers about what the sum of the last one is.
    """
    (prefixes, starts, ranks), (codes, first, stop), (counts, sums, means, present) = parts, rows, into
    found, last, zero = 0, 0.0, like[0]
    number, total, size = np.empty(len(lines), np.int64), np.empty(len(lines), like.dtype), np.empty(len(lines))
    for i in range(len(places)):
        fetch_row(counts, present, places, i)
        number[:], total[:], size[:], place = 0, zero, 0.0, np.uint64(places[i])
        for p in range(len(prefixes)):
            if stop[p, i] == 0:
                continue
            b, start = stop[p, i], load_word(starts[p], np.int64(codes[p, i]))
            b = load_word(ranks[p], b) if ranks[p] else b
            after = load_like(prefixes[p], b - 1, zero) if is_summed and b > start else zero
            for line in range(len(lines)):
                row = first[p, lines[line, 0], i]
                a = load_word(ranks[p], row) if ranks[p] else row
                if b > a:
                    number[line] += b - a
                    if is_summed:
                        before = choose(a > start, load_like(prefixes[p], max(a, 1) - 1, zero), zero)
                        total[line] += after - before
                        size[line] += abs(after) + abs(before) if whole is None else float(after) - float(before)
        for line in range(len(lines)):
            if lines[line, 1] >= 0:
                counts[place, lines[line, 1]] = number[line]
            if lines[line, 2] >= 0:
                sums[place, lines[line, 2]] = total[line]
            if lines[line, 3] >= 0:
                means[place, lines[line, 3]] = total[line] / max(number[line], 1)
                present[place, lines[line, 4]] = number[line] > 0
            if (lines[line, 2] >= 0 or lines[line, 3] >= 0) and is_wrong(total[line], size[line], whole):
                lost[found, 0], lost[found, 1], last = i, line, size[line]
                found += 1
    return found, last


@compiled
def is_wrong(total: Any, size: Any, whole: Any) -> Any:
    """Whether a sum of whole numbers is beyond 64 bits, or one of floats has too few digits; `whole` says which it is.

    Of floats `size` is how much was added and taken off, of whole numbers about what the sum is.
    """
    if whole is None:
        return is_lost(total, size)
    # The wrapped sum and the rounded one differ by 2**64 where it wraps, and else by far less.
    return abs(size - total) > 2.0**62
