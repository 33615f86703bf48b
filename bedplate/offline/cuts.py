"""Buckets with more rows than fit into memory, as where a key has most of a table's: cut into parts by time.

The rows of such a bucket lie in several parts, each built as any bucket is. A part ends before a time, or between two
rows of one time by their arrival; so an event of a later part never comes before one of an earlier part, and a lookup
merges what the parts give, as it does with segments. The folders of a segment are numbered by part: where bucket 1 of
2 is cut once they are `0`, `1` and `2`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import final

import msgspec
import numpy as np

from bedplate.features.rows import Rows
from bedplate.features.view import CompiledView
from bedplate.types import Array, Int64s

_SAMPLED = 1 << 17
"""Rows of a bucket that are looked at to find where to cut it."""


@final
class Cut(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Where a part of a bucket ends and the next begins.

    Attributes:
        bucket: the number of the bucket.
        time: events before it are before the cut, microseconds.
        arrival: of events at this very time those that arrived before the row of this number in the bucket.
    """

    bucket: int
    time: int
    arrival: int


def part_counts(buckets: int, cuts: Sequence[Cut]) -> list[int]:
    """In how many parts each bucket is.

    >>> part_counts(3, [Cut(1, 50, 0), Cut(1, 90, 7)])
    [1, 3, 1]
    """
    counts = [1] * buckets
    for cut in cuts:
        counts[cut.bucket] += 1
    return counts


def find_cuts(view: CompiledView, bucket: int, batches: Iterable[Rows], rows: int, parts: int) -> list[Cut]:
    """Where to cut a bucket so that its parts have about as many rows each.

    Events of one time are kept together where the source says how they are ordered: arrival does not say it then.

    Args:
        view: the compiled view.
        bucket: its number.
        batches: its rows, in order of arrival.
        rows: how many there are.
        parts: how many parts are wanted; there are fewer where too many events have the same time.
    """
    source, draw = view.view.source, np.random.default_rng(rows)
    share = min(1.0, _SAMPLED / max(rows, 1))
    times, arrivals, before = list[Int64s](), list[Int64s](), 0
    for batch in batches:
        chosen = np.flatnonzero(draw.random(len(batch)) < share) if share < 1 else np.arange(len(batch))
        times.append(batch.times[chosen])
        arrivals.append(chosen + before)
        before += len(batch)
    time, arrival = np.concatenate(times), np.concatenate(arrivals)
    if source.sequence is not None or source.available is not None:
        arrival[:] = 0
    order = np.lexsort((arrival, time))
    places = order[(np.arange(1, parts) * len(order)) // parts]
    first = int(time[order[0]])
    found = {Cut(bucket, int(time[p]), int(arrival[p])) for p in places}
    return sorted(c for c in found if c.time > first or c.arrival)


def part_numbers(batches: Iterable[Rows], cuts: Sequence[Cut]) -> Iterator[tuple[Rows, Array]]:
    """The batches of a bucket, in order of arrival, each with the numbers [n] int32 of its rows' parts.

    Args:
        batches: the rows.
        cuts: of this bucket, ascending.
    """
    times, arrivals = np.array([c.time for c in cuts]), np.array([c.arrival for c in cuts])
    before = 0
    for batch in batches:
        numbers = np.searchsorted(times, batch.times, side="left")
        ends = np.searchsorted(times, batch.times, side="right")
        tied = np.flatnonzero(numbers < ends)
        first, last = numbers[tied], ends[tied]
        for step in range(int((last - first).max(initial=0))):
            place = np.minimum(first + step, last - 1)
            numbers[tied] += (first + step < last) & (tied + before >= arrivals[place])
        yield batch, numbers.astype(np.int32)
        before += len(batch)
