"""Sums of whole numbers that no word of a row can hold: of which keys they are.

A sum is refused when the event comes that is too much, and not when it is folded later: until then the events that came
before it could not be told from it. So large numbers are tried out at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import numpy as np

from bedplate.aggregations.base import Reduce
from bedplate.errors import DataError
from bedplate.features.view import CompiledView
from bedplate.online.codec import CODES, IS_FLOAT, REDUCE, WORD, Layout
from bedplate.online.folding import merge_into_rows
from bedplate.types import LATEST_TIME, Int64s

LARGE = 1 << 40
"""Sums of smaller numbers need eight million events to fill a word, and are found out when they are folded."""

_HINT = "sum it as floats: pl.col(...).cast(pl.Float64)"


@final
class BeyondWordsError(DataError):
    """The sums of some keys are beyond 64 bits.

    Args:
        view: compiled view.
        keys: [k, entities] int64, k at least 1, as a row's key has them.

    Attributes:
        keys: as given.
    """

    def __init__(self, view: CompiledView, keys: Int64s) -> None:
        self.keys = keys
        more = f" and {len(keys) - 1:,} more" if len(keys) > 1 else ""
        super().__init__(
            f"a sum of whole numbers is beyond 64 bits, for the key {keys[0].tolist()}{more}",
            where=view.place,
            hint=_HINT,
        )


def beyond(merge: Callable[[int, int], Any], begin: int, end: int) -> list[int]:
    """The keys from one number to before another whose sums are beyond 64 bits; found by halving.

    Args:
        merge: does what may be too much for the keys of a range of numbers; raises OverflowError.
        begin: the first key.
        end: after the last key.
    """
    parts, found = [(begin, end)], list[int]()
    while parts:
        first, last = parts.pop()
        try:
            merge(first, last)
        except OverflowError:
            if last - first == 1:
                found.append(first)
            else:
                middle = (first + last) // 2
                parts += [(middle, last), (first, middle)]
    return found


def beyond_in_merge(
    layout: Layout, words: Int64s, offsets: Int64s, events: Int64s, event_offsets: Int64s, line: int
) -> list[int]:
    """The keys whose events can't be merged into their rows; see `merge_into_rows`."""

    def merge(first: int, last: int) -> None:
        rows, new = offsets[first : last + 1], event_offsets[first : last + 1]
        merge_into_rows(layout, words[rows[0] : rows[-1]], rows - rows[0], events[new[0] : new[-1]], new - new[0], line)

    return beyond(merge, 0, len(offsets) - 1)


def beyond_when_folded(
    layout: Layout, words: Int64s, offsets: Int64s, events: Int64s, event_offsets: Int64s
) -> list[int]:
    """The keys with large numbers among their events whose rows could not be folded with all of them."""
    columns = _summed(layout)
    if not len(columns) or not len(events):
        return []
    summed = events[:, columns]
    large = ((summed >= LARGE) | (summed <= -LARGE)).any(axis=1)
    if not large.any():
        return []
    number = np.searchsorted(event_offsets, np.flatnonzero(large), side="right") - 1
    found: list[int] = []
    for k in np.unique(number).tolist():
        rows, new = offsets[k : k + 2], event_offsets[k : k + 2]
        one = words[rows[0] : rows[1]], rows - rows[0], events[new[0] : new[1]], new - new[0]
        found += [k for _ in beyond_in_merge(layout, *one, LATEST_TIME * 2)]
    return found


def _summed(layout: Layout) -> Int64s:
    """The words of an event that are summed as whole numbers."""
    partials = np.concatenate([layout.total_partials, layout.partials])
    is_sum = (partials[:, REDUCE] == CODES[Reduce.SUM]) & (partials[:, IS_FLOAT] == 0)
    return np.unique(partials[is_sum, WORD])
