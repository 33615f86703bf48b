"""Events of one key and time in two segments: whether the order of the segments is the order of the events.

Where a source declares a sequence, or says when rows could be known, that orders events of equal time before their
arrival does. Segments are merged in order of arrival, which is right as long as no such pair of events contradicts it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bedplate.compiling import compiled
from bedplate.offline import seek
from bedplate.offline.index import Timeline
from bedplate.offline.segment import Segment
from bedplate.types import Array, Int64s


def in_order(earlier: Timeline, later: Timeline) -> bool:
    """Whether of each key and time the events of one bucket come before those of another, by what orders them."""
    codes = np.empty(len(later.keys), np.int32)
    seek.find_keys(earlier.keys, np.ascontiguousarray(later.keys), codes)
    return bool(_in_order(codes, *_arrays(earlier), *_arrays(later)))


def follows(earlier: Segment | Timeline, later: Segment | Timeline) -> bool:
    """As `in_order`, for all buckets of two segments."""
    return all(in_order(one, other) for one in _parts(earlier) for other in _parts(later))


def _parts(segment: Segment | Timeline) -> tuple[Timeline, ...]:
    return (segment,) if isinstance(segment, Timeline) else segment.parts


def _arrays(timeline: Timeline) -> tuple[Int64s, Int64s, Array, Array]:
    nothing: Int64s = np.zeros(len(timeline.times), np.int64)
    sequence, known = timeline.sequence, timeline.known
    return (
        timeline.offsets,
        timeline.times,
        nothing if sequence is None else sequence,
        nothing if known is None else known.rows,
    )


@compiled
def _in_order(
    codes: Array,
    offsets: Int64s,
    times: Int64s,
    sequence: Array,
    known: Array,
    other_offsets: Int64s,
    other_times: Int64s,
    other_sequence: Array,
    other_known: Array,
) -> Any:
    """Walks both through each key that both have; `codes` [k of the other] are the positions of its keys."""
    for k in range(len(codes)):
        if codes[k] < 0:
            continue
        i, stop = offsets[codes[k]], offsets[codes[k] + 1]
        j, end = other_offsets[k], other_offsets[k + 1]
        while i < stop and j < end:
            if times[i] < other_times[j]:
                i += 1
            elif times[i] > other_times[j]:
                j += 1
            else:
                while i + 1 < stop and times[i + 1] == times[i]:
                    i += 1
                if sequence[i] > other_sequence[j] or (sequence[i] == other_sequence[j] and known[i] > other_known[j]):
                    return False
                while j < end and other_times[j] == times[i]:
                    j += 1
                i += 1
    return True
