"""Partial results of several words in tiles and totals: the first event, moments and decayed sums.

    EARLIEST                    time and value of the first event, then its ties; means nothing where the count is 0
    MOMENTS                     mean, what is to be added to it, squared deviations; 0 where the count is 0
    DECAYED_SUM, DECAYED_COUNT  the sum, and the time that it is as of; 0 where there is no event

The count is the word of the COUNT of the same selection; an event is taken in before the count is raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bedplate.aggregations.base import Decayed, Moments, Oldest, Partial, Reduce
from bedplate.aggregations.decay import decay
from bedplate.aggregations.moments import merge_moments
from bedplate.batch import TextLookup
from bedplate.online.codec import (
    CODES,
    COUNTS,
    HALF_LIFE,
    IS_FLOAT,
    REDUCE,
    TIE_WORD,
    TIES,
    WIDTH,
    WORD,
    from_words,
)
from bedplate.online.compiled import (
    AT,
    BOUND,
    CODE,
    FILLED,
    HOP,
    LENGTH,
    NUMBER_AT,
    PARTIAL,
    SCALAR_WIDTH,
    SELECTION,
    SOURCE,
    TILE,
    TOTAL,
    first_at,
    is_valid,
    jit,
    window_start,
)
from bedplate.types import Bools, Int64s, Type

_EARLIEST, _MOMENTS, _DECAYED_SUM = (CODES[r] for r in (Reduce.EARLIEST, Reduce.MOMENTS, Reduce.DECAYED_SUM))

MOST_WORDS = 8
"""More words than a partial result and its count have."""

_merge, _decay = jit(merge_moments), jit(decay)


RESULTS = {Reduce.EARLIEST: 2, Reduce.MOMENTS: 4, Reduce.DECAYED_SUM: 2, Reduce.DECAYED_COUNT: 2}
"""How many words a read finds for each key."""


def filled(requests: int, reduce: Reduce) -> Sequence[tuple[int, ...]]:
    """The requests that so many requests before them fill: those of each further word of their results."""
    return [(FILLED, *[0] * (SCALAR_WIDTH - 1))] * (requests * (RESULTS[reduce] - 1))


def wide_partial(
    reduce: Reduce, out: Int64s, present: Bools, begin: int, end: int, kinds: Sequence[Type], texts: TextLookup
) -> Partial:
    """The partial of what `read_wide` found.

    Args:
        reduce: of which reduction.
        out: words, of each key the first word of its result from `begin` to `end`, then the second ones, and so on.
        present: in the same places whether there is a result.
        begin: the place of the first.
        end: the place after the last.
        kinds: the types of the inputs.
        texts: behind string ids.
    """
    n = end - begin
    words = [out[begin + i * n : end + i * n] for i in range(RESULTS[reduce])]
    if reduce is Reduce.EARLIEST:
        there, kind = present[begin:end], kinds[0]
        return Oldest(there, words[0], from_words(words[1], kind), texts if kind is Type.STRING else None)
    if reduce is Reduce.MOMENTS:
        return Moments(words[0], *(from_words(w, Type.FLOAT) for w in words[1:]))
    return Decayed(from_words(words[0], Type.FLOAT), words[1])


@jit
def _add_decayed(out: Any, floats: Any, here: int, value: float, time: int, half_life: int) -> None:
    """Adds a decayed sum to another one: the older one decays to the time of the newer one."""
    if value == 0.0:
        return
    if floats[here] == 0.0:
        floats[here], out[here + 1] = value, time
    elif time >= out[here + 1]:
        floats[here] = _decay(floats[here], np.float64(time - out[here + 1]), half_life) + value
        out[here + 1] = time
    else:
        floats[here] += _decay(value, np.float64(out[here + 1] - time), half_life)


@jit
def take_event(
    out: Any, floats: Any, here: int, count: int, partial: Any, events: Any, event_floats: Any, event: int
) -> None:
    """Adds an event to the partial result at a word.

    Args:
        out: words.
        floats: the same words as floats.
        here: where the partial result begins.
        count: how many events are in it.
        partial: a row as `Layout.partials` has them.
        events: words of events.
        event_floats: the same words as floats.
        event: where the event begins.
    """
    word = event + partial[WORD]
    if partial[REDUCE] == _EARLIEST:
        ties, tie = partial[TIES], event + partial[TIE_WORD]
        is_first = count == 0 or events[event] < out[here]
        if count > 0 and events[event] == out[here]:
            for k in range(ties):
                if events[tie + k] != out[here + 2 + k]:
                    is_first = events[tie + k] < out[here + 2 + k]
                    break
        if is_first:
            out[here], out[here + 1] = events[event], events[word]
            for k in range(ties):
                out[here + 2 + k] = events[tie + k]
        return
    value = 1.0
    if partial[REDUCE] == _MOMENTS or partial[REDUCE] == _DECAYED_SUM:
        value = event_floats[word] if partial[IS_FLOAT] else np.float64(events[word])
    if partial[REDUCE] == _MOMENTS:
        floats[here], floats[here + 1], floats[here + 2] = _merge(
            np.float64(count), floats[here], floats[here + 1], floats[here + 2], 1.0, value, 0.0, 0.0
        )
    else:
        _add_decayed(out, floats, here, value, events[event], partial[HALF_LIFE])


@jit
def _take_tile(out: Any, floats: Any, partial: Any, words: Any, word_floats: Any, at: int, count: int) -> None:
    """Adds the partial result at a word, of `count` events, to the one in `out`, which begins with its count."""
    if partial[REDUCE] == _EARLIEST:
        if count > 0 and (out[0] == 0 or words[at] < out[1]):
            for k in range(2 + partial[TIES]):
                out[1 + k] = words[at + k]
    elif partial[REDUCE] == _MOMENTS:
        floats[1], floats[2], floats[3] = _merge(
            np.float64(out[0]), floats[1], floats[2], floats[3],
            np.float64(count), word_floats[at], word_floats[at + 1], word_floats[at + 2],
        )  # fmt: skip
    else:
        _add_decayed(out, floats, 1, word_floats[at], words[at + 1], partial[HALF_LIFE])
    out[0] += count


@jit
def read_wide(
    words: Any,
    floats: Any,
    offsets: Any,
    times: Any,
    size: int,
    sections: Any,
    located: Any,
    visible: Any,
    request: Any,
    values: Any,
    r: int,
    present: Any,
) -> None:
    """Fills what request `r` finds for n keys: the count and the words of the result, or for a decayed sum its words.

    They go into `values` [requests * n] at r and every `stride` requests after it; into `present` that there is one.
    `request` is a row of scalar requests, which ends with one as `Layout.partials` has them and the stride.
    """
    code, source, at, partial_at, count_at, selection = (
        request[CODE], request[SOURCE], request[AT], request[PARTIAL], request[NUMBER_AT], request[SELECTION],
    )  # fmt: skip
    partial, stride, n = request[BOUND + 1 : -1], request[-1], len(times)
    whole = np.zeros(MOST_WORDS, np.int64)
    real = whole.view(np.float64)
    is_decayed = code > _MOMENTS
    outputs, skipped = (4, 0) if code == _MOMENTS else (2, 1)
    for i in range(n):
        whole[:] = 0
        if located[i, 0] >= 0:
            since = window_start(times[i], request[LENGTH], request[HOP])
            begin, end, width, kept, first = 0, 0, 1, 0, 0
            if source == TOTAL:
                begin = offsets[i] + at
                end = begin + 1
            elif source == TILE:
                width, begin, end = sections[at, WIDTH], located[i, at + 1], located[i, at + 2]
                begin += first_at(words, begin, (end - begin) // width, width, since) * width
            else:
                kept = words[offsets[i] + COUNTS + at]
                first = max(0, kept + visible[i] - request[BOUND])
            for k in range(begin, end, width):
                number = 1 if is_decayed else words[k + count_at]
                _take_tile(whole, real, partial, words, floats, k + partial_at, number)
            for k in range(first, kept + visible[i]):
                event = located[i, at + 1] + k * size if k < kept else located[i, 0] + (k - kept) * size
                if words[event] >= since and is_valid(words, event, selection):
                    take_event(whole, real, 1, whole[0], partial, words, floats, event)
                    whole[0] += 1
        present[r * n + i] = whole[0] > 0
        for word in range(outputs):
            values[(r + word * stride) * n + i] = whole[word + skipped]
