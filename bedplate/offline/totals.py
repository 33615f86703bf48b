"""Counts, sums and means of a lookup, filled in place by one loop over a selection's prefix sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from bedplate.aggregations.base import Finish, Reduce
from bedplate.features.view import Call
from bedplate.offline import kernels
from bedplate.offline.answer import Part, Place
from bedplate.types import Array, Int64s

NOTHING: Int64s = np.zeros(0, np.int64)


def in_place(call: Call) -> bool:
    """Whether a loop can fill the call's value: a count, a sum, or their ratio."""
    reductions = [r.reduce for r in call.aggregation.reductions]
    if call.aggregation.finish is Finish.NUMBER:
        return reductions in ([Reduce.COUNT], [Reduce.SUM])
    return call.aggregation.finish is Finish.RATIO and reductions == [Reduce.SUM, Reduce.COUNT]


def columns_of(call: Call, place: Place) -> tuple[int, int, int, int]:
    """The columns of a call's count, its sum, its mean and the mean's presence, -1 for none; it must be `in_place`."""
    if call.aggregation.finish is Finish.RATIO:
        return -1, -1, place.values, place.present
    if call.aggregation.reductions[0].reduce is Reduce.COUNT:
        return place.values, -1, -1, -1
    return -1, place.values, -1, -1


def lines_of(wanted: Sequence[tuple[int, tuple[int, int, int, int]]]) -> Int64s:
    """Ranges and columns as `kernels.fill_totals` takes them, as few lines as there can be."""
    lines: list[list[int]] = []
    for over, columns in wanted:
        free = [x for x in lines if x[0] == over and all(a < 0 or b < 0 for a, b in zip(x[1:], columns, strict=True))]
        if free:
            free[0][1:] = [max(a, b) for a, b in zip(free[0][1:], columns, strict=True)]
        else:
            lines.append([over, *columns])
    return np.array(lines, np.int64)


@final
@dataclass(frozen=True, slots=True)
class Totals:
    """The counts, sums and means that a lookup wants of one selection.

    Attributes:
        prefix: the selection's prefix sums; None where only counts are asked for.
        exact_starts: [k] where each key's values begin in `exact`, -1 for none; None where no key has any.
        exact: see `kernels.exact_sums`; None where no key needs them.
        starts: [k + 1] where each key's values begin.
        rank: [N + 1] how many values come before each row; None where every row counts.
        lines: see `lines_of`.
    """

    prefix: Array | None
    exact_starts: Int64s | None
    exact: Array | None
    starts: Int64s
    rank: Int64s | None
    lines: Int64s

    def fill(self, codes: Array, first: Int64s, stop: Int64s, part: Part) -> None:
        """Fills the values of n rows.

        Args:
            codes: [n] positions of their keys; -1 for none.
            first: [ranges, n] the first row of each range.
            stop: [n] the row after the last.
            part: where the values go.
        """
        prefix = NOTHING if self.prefix is None else self.prefix
        kernels.fill_totals(
            prefix if len(prefix) else np.zeros(1, prefix.dtype),
            self.exact_starts,
            self.exact,
            self.starts,
            NOTHING if self.rank is None else self.rank,
            codes,
            first,
            stop,
            self.lines,
            part.places,
            part.matrices[8].view(np.int64),
            part.matrices[8].view(prefix.dtype),
            part.matrices[8].view(np.float64),
            part.matrices.get(1, _NO_BYTES),
        )


_NO_BYTES: Array = np.zeros((0, 0), np.uint8)
