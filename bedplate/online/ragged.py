"""Reading counts of values and smallest hashes: partial results that are lists, out of the packed rows of many keys.

As in `kernels`, each pass takes the rows of n keys one after the other for all reductions asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, final

import numpy as np

from bedplate.aggregations.base import Counts, Hashes, Reduce
from bedplate.batch import TextLookup
from bedplate.hashing import hash_word
from bedplate.online.codec import COUNTS, MISSING, WIDTH, Layout, Need, from_words
from bedplate.online.compiled import is_valid, jit, window_start
from bedplate.types import Int64s, Type

R_AT, R_IS_RING, R_SELECTION, R_WORD, R_DEPTH, R_LENGTH, R_HOP, R_BOUND = range(8)
"""The columns of requests. R_AT is a section; R_WORD the word of the value in an event; R_DEPTH -1: counts."""


@jit
def _room(words: Any, offsets: Any, located: Any, visible: Any, requests: Any) -> int:
    """How many values the requests give at most."""
    total = 0
    for r in range(len(requests)):
        for i in range(len(visible)):
            if located[i, 0] >= 0:
                total += words[offsets[i] + COUNTS + requests[r, R_AT]] + visible[i]
    return total


@jit
def _event_values(
    words: Any, row: int, size: int, found: Any, visible: int, request: Any, since: int, values: Any, times: Any
) -> int:
    """Fills the values (or hashes) and times of the events that are kept as they are, and says how many they are."""
    is_ring, at = request[R_IS_RING], request[R_AT]
    kept = words[row + COUNTS + at] if is_ring else 0
    first = max(0, kept + visible - request[R_BOUND]) if is_ring else 0
    number = 0
    for k in range(first, kept + visible):
        event = found[at + 1] + k * size if k < kept else found[0] + (k - kept) * size
        if words[event] >= since and is_valid(words, event, request[R_SELECTION]):
            value = words[event + request[R_WORD]]
            values[number] = value if request[R_DEPTH] < 0 else hash_word(value)
            times[number] = words[event]
            number += 1
    return number


@jit
def _add_counts(
    words: Any,
    entry: int,
    end: int,
    width: int,
    since: int,
    number: int,
    new_values: Any,
    new_times: Any,
    n: int,
    values: Any,
    counts: Any,
    times: Any,
) -> int:
    """Appends the counts of entries and of the first `number` new values to those before, and says where they end."""
    order, j = np.argsort(new_values[:number]), 0
    while entry < end or j < number:
        value = new_values[order[j]] if j < number else words[entry]
        if entry < end:
            value = min(value, words[entry])
        count, seen = np.int64(0), MISSING
        while entry < end and words[entry] == value:
            if width == 3 or words[entry + 3] >= since:
                count += words[entry + 1]
                seen = max(seen, words[entry + 2])
            entry += width
        while j < number and new_values[order[j]] == value:
            count += 1
            seen = max(seen, new_times[order[j]])
            j += 1
        if count > 0:
            values[n], counts[n], times[n] = value, count, seen
            n += 1
    return n


@jit
def _add_hashes(
    words: Any, entry: int, end: int, since: int, number: int, new: Any, depth: int, n: int, values: Any
) -> int:
    """Appends the `depth` smallest hashes of entries and of the first `number` new ones, and says where they end."""
    begin, j = n, 0
    new[:number].sort()
    while n - begin < depth and (entry < end or j < number):
        if entry < end and words[entry + 1] < since:
            entry += 2
            continue
        value = new[j] if j < number else words[entry]
        if entry < end:
            value = min(value, words[entry])
        if entry < end and words[entry] == value:
            entry += 2
        while j < number and new[j] == value:
            j += 1
        values[n] = value
        n += 1
    return n


@jit
def _read(
    words: Any,
    offsets: Any,
    asked: Any,
    size: int,
    sections: Any,
    located: Any,
    visible: Any,
    requests: Any,
    ends: Any,
    values: Any,
    counts: Any,
    times: Any,
) -> None:
    """Fills values or hashes, counts and times last seen; those of request r and key i end at `ends[r * n + i + 1]`."""
    most = 0
    for i in range(len(asked)):
        if located[i, 0] >= 0:
            for r in range(len(requests)):
                kept = words[offsets[i] + COUNTS + requests[r, R_AT]] if requests[r, R_IS_RING] else 0
                most = max(most, kept + visible[i])
    new_values, new_times = np.empty(most, np.int64), np.empty(most, np.int64)
    n = 0
    for r in range(len(requests)):
        request = requests[r]
        at, is_ring = request[R_AT], request[R_IS_RING]
        for i in range(len(asked)):
            found = located[i]
            if found[0] >= 0:
                since = window_start(asked[i], request[R_LENGTH], request[R_HOP])
                number = _event_values(
                    words, offsets[i], size, found, visible[i], request, since, new_values, new_times
                )
                entry, end = found[at + 1], found[at + 1] if is_ring else found[at + 2]
                if request[R_DEPTH] >= 0:
                    n = _add_hashes(words, entry, end, since, number, new_values, request[R_DEPTH], n, values)
                else:
                    width = sections[at, WIDTH]
                    n = _add_counts(
                        words, entry, end, width, since, number, new_values, new_times, n, values, counts, times
                    )
            ends[r * len(asked) + i + 1] = n


@final
class RaggedFound(NamedTuple):
    """What was found for n keys, request by request.

    Attributes:
        ends: [requests * n + 1] where the values of each request and key begin and end.
        values: words of values, or hashes.
        counts: how often each value occurs; nothing for hashes.
        times: when it was last seen; nothing for hashes.
        n: the number of keys.
    """

    ends: Int64s
    values: Int64s
    counts: Int64s
    times: Int64s
    n: int

    def hashes(self, first: int, last: int) -> Hashes:
        """The partial of the requests [first, last)."""
        offsets = self.ends[first * self.n : last * self.n + 1]
        return Hashes(offsets - offsets[0], self.values[offsets[0] : offsets[-1]])

    def counted(self, first: int, last: int, kind: Type, texts: TextLookup) -> Counts:
        """The partial of the requests [first, last), of values of a type."""
        offsets = self.ends[first * self.n : last * self.n + 1]
        a, b = offsets[0], offsets[-1]
        values = from_words(self.values[a:b], kind)
        known = texts if kind is Type.STRING else None
        return Counts(offsets - a, values, self.counts[a:b], self.times[a:b], known)


def ragged_request(layout: Layout, need: Need, window: tuple[int, int, int]) -> tuple[int, ...]:
    """A request for a COUNTS or a SMALLEST; `window` is its length, hop and bound, -1 where there is none."""
    is_counts, selection = need.reduction.reduce is Reduce.COUNTS, need.selection
    if need.is_exact:
        at = layout.ring
    else:
        at = layout.counted[selection, need.hop] if is_counts else layout.smallest[selection]
    depth = -1 if is_counts else need.reduction.depth
    return (at, int(need.is_exact), selection, layout.words[selection][0], depth, *window)


def ragged_requests(rows: Sequence[Sequence[int]]) -> Int64s:
    """[requests, 8]: the requests as `read_ragged` takes them."""
    return np.array(rows, np.int64).reshape(-1, 8)


def read_ragged(
    layout: Layout, requests: Int64s, words: Int64s, offsets: Int64s, asked: Int64s, located: Int64s, visible: Int64s
) -> RaggedFound:
    """What the requests give.

    Args:
        layout: of the rows.
        requests: see `ragged_requests`.
        words: packed rows of n keys.
        offsets: [n + 1] into them.
        asked: [n] the times asked for.
        located: see `kernels.locate_rows`.
        visible: the same.
    """
    room = int(_room(words, offsets, located, visible, requests))
    ends = np.zeros(len(requests) * len(asked) + 1, np.int64)
    values, counts, times = (np.empty(room, np.int64) for _ in range(3))
    size = layout.width
    _read(words, offsets, asked, size, layout.sections, located, visible, requests, ends, values, counts, times)
    return RaggedFound(ends, values, counts, times, len(asked))
