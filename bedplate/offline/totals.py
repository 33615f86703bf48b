"""Counts, sums and means of a lookup, filled in place by one loop over a selection's running sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from bedplate.aggregations.base import Finish, Reduce
from bedplate.features.view import Call, CompiledView
from bedplate.offline import running
from bedplate.offline.answer import Part, Place
from bedplate.offline.ranges import Range, range_of
from bedplate.types import Array, Int64s

NOTHING: Int64s = np.zeros(0, np.int64)
NO_BYTES: Array = np.zeros((0, 0), np.uint8)


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
    """Ranges and columns as `running.fill_totals` takes them, as few lines as there can be."""
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
class Wanted:
    """The counts, sums and means that a lookup wants of one selection.

    Attributes:
        index: the position of the selection.
        summed: whether it is more than counts.
        lines: see `lines_of`.
    """

    index: int
    summed: bool
    lines: Int64s


def wanted_totals(
    view: CompiledView,
    calls: Sequence[Call],
    ranges: Mapping[Range, int],
    ttl: int | None,
    places: Mapping[str, Place],
    is_whole: Callable[[int], bool],
) -> list[Wanted]:
    """What some calls want, by selection; all must be `in_place`.

    Args:
        view: the compiled view.
        calls: the calls.
        ranges: the number of each range.
        ttl: of the view, where it applies.
        places: where the value of each call goes, by its full name.
        is_whole: whether every row counts for the selection at a position.
    """
    indexes = [view.reduction_index(c.aggregation.reductions[0]) for c in calls]
    summed = [i for c, i in zip(calls, indexes, strict=True) if c.aggregation.reductions[0].reduce is Reduce.SUM]
    # Where every row counts, all selections have the same counts: they are taken together with sums.
    whole = next((i for i in summed if is_whole(i)), None)
    wanted: dict[int, list[tuple[int, tuple[int, int, int, int]]]] = {}
    for call, own in zip(calls, indexes, strict=True):
        index = own if whole is None or own in summed or not is_whole(own) else whole
        over = ranges[range_of(call, call.aggregation.reductions[0], ttl)]
        wanted.setdefault(index, []).append((over, columns_of(call, places[f"{view.name}.{call.names[0]}"])))
    return [Wanted(i, i in summed, lines_of(lines)) for i, lines in wanted.items()]


@final
@dataclass(frozen=True, slots=True)
class Totals:
    """What gives the counts, sums and means of one selection.

    Attributes:
        prefix: the selection's running sums; not empty; None where only counts are asked for.
        rests: see `running.prefix_sums`; None where nothing was left off any sum.
        values: the selection's values; None as `rests` is.
        starts: [k + 1] where each key's values begin.
        rank: [N + 1] how many values come before each row; None where every row counts.
        lines: see `lines_of`.
    """

    prefix: Array | None
    rests: Array | None
    values: Array | None
    starts: Int64s
    rank: Int64s | None
    lines: Int64s

    @staticmethod
    def of(
        wanted: Wanted, arrays: Mapping[str, Array], values: Array | None, starts: Int64s, rank: Int64s | None
    ) -> Totals:
        """From the arrays of the selection's sum, by name, and from its values."""
        prefix, rests = arrays.get("prefix"), arrays.get("rests")
        if prefix is not None and not len(prefix):
            prefix = np.zeros(1, prefix.dtype)
        return Totals(prefix, rests, None if rests is None else values, starts, rank, wanted.lines)

    def fill(self, codes: Array, first: Int64s, stop: Int64s, part: Part) -> None:
        """Fills the values of n rows.

        Args:
            codes: [n] positions of their keys; -1 for none.
            first: [ranges, n] the first row of each range.
            stop: [n] the row after the last.
            part: where the values go.
        """
        prefix = _NO_SUMS if self.prefix is None else self.prefix
        running.fill_totals(
            prefix,
            self.rests,
            self.values,
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
            part.matrices.get(1, NO_BYTES),
        )


_NO_SUMS: Int64s = np.zeros(1, np.int64)
