"""Reading: the compiled passes over the packed rows of many keys (see `codec`) that give partial results.

Each pass takes the rows of n keys one after the other and fills arrays for all keys and all reductions asked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bedplate.aggregations.base import Reduce
from bedplate.online.codec import CODES, COUNTS, MISSING, PENDING, WIDTH
from bedplate.online.folding import is_valid, jit

_MIN, _SUM, _COUNT, _DISTINCT = (CODES[r] for r in (Reduce.MIN, Reduce.SUM, Reduce.COUNT, Reduce.DISTINCT))

TOTAL, TILE, RING, VALUES = range(4)
"""Where a scalar reduction's folded events are: in the totals, tiles, the ring of last events, or distinct values."""

CODE, SOURCE, AT, PARTIAL, NUMBER_AT, SELECTION, WORD, IS_FLOAT, LENGTH, HOP, BOUND = range(11)
"""The columns of scalar requests. AT is a section, or the first word of the totals; PARTIAL and NUMBER_AT are words
from there; LENGTH -1: no window."""

L_AT, L_IS_RING, L_SELECTION, L_DEPTH, L_LENGTH, L_HOP, L_BOUND, L_TTL, L_FIRST, L_NUMBER, L_OUT, L_STRIDE = range(12)
"""The columns of LATEST requests. L_AT is a section or the first word of a slot; L_FIRST and L_NUMBER choose
the words of events in `columns`; L_OUT is the first output column, L_STRIDE the distance to the next; -1: none."""


@jit
def _find_sections(words: Any, row: int, shape: Any, sections: Any, found: Any) -> None:
    """Fills the first word of the pending events, and of each section after it."""
    found[0] = row + shape[2]
    found[1] = found[0] + words[row + PENDING] * shape[1]
    for s in range(len(sections)):
        found[s + 2] = found[s + 1] + words[row + COUNTS + s] * sections[s, WIDTH]


@jit
def _first_at(words: Any, at: int, count: int, width: int, time: int) -> int:
    """The first of the entries, sorted by their first word, that is at or after `time`."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if words[at + middle * width] < time:
            low = middle + 1
        else:
            high = middle
    return low


@jit
def _start(time: int, length: int, hop: int) -> int:
    """The first event time that a window covers; see `Window.start`."""
    if length < 0:
        return MISSING
    start = time - length
    return start - start % hop if hop > 0 else start


@jit
def _add(total: Any, floats: Any, request: Any, words: Any, word_floats: Any, at: int, number: int) -> None:
    """Merges the partial result at a word, of so many events, into `total`: the result and the number of events."""
    if request[CODE] == _COUNT:
        total[0] += number
    elif request[CODE] == _SUM:
        if request[IS_FLOAT]:
            floats[0] += word_floats[at]
        else:
            total[0] += words[at]
    elif number > 0:
        if total[1] == 0:
            total[0] = words[at]
        elif request[IS_FLOAT]:
            if (word_floats[at] < floats[0]) == (request[CODE] == _MIN):
                total[0] = words[at]
        elif (words[at] < total[0]) == (request[CODE] == _MIN):
            total[0] = words[at]
        total[1] += number


@jit
def _add_tiles(
    total: Any, total_floats: Any, request: Any, words: Any, floats: Any, begin: int, width: int, count: int
) -> None:
    """`_add` for each of the tiles, in loops without a call: they are most of the work of reading windows."""
    code, partial, end = request[CODE], begin + request[PARTIAL], begin + count * width
    if code == _COUNT or (code == _SUM and request[IS_FLOAT] == 0):
        whole = 0
        for at in range(partial, end, width):
            whole += words[at]
        total[0] += whole
    elif code == _SUM:
        real = 0.0
        for at in range(partial, end, width):
            real += floats[at]
        total_floats[0] += real
    else:
        best, number, distance = -1, 0, request[NUMBER_AT] - request[PARTIAL]
        for at in range(partial, end, width):
            if words[at + distance] == 0:
                continue
            number += words[at + distance]
            smaller = floats[at] < floats[best] if request[IS_FLOAT] else words[at] < words[best]
            if best < 0 or smaller == (code == _MIN):
                best = at
        if number > 0:
            _add(total, total_floats, request, words, floats, best, number)


@jit
def _count_values(
    words: Any,
    row: int,
    ring: int,
    ring_at: int,
    found: Any,
    visible: int,
    first: int,
    since: int,
    request: Any,
    size: int,
) -> int:
    """How many different values the distinct section (if any) and the events from `first` on hold."""
    known = 0
    at, count = 0, 0
    if request[SOURCE] == VALUES:
        at, count = found[request[AT] + 1], words[row + COUNTS + request[AT]]
        for k in range(count):
            known += words[at + 2 * k + 1] >= since
    values = np.empty(ring + visible - first, np.int64)
    new = 0
    for k in range(first, ring + visible):
        event = ring_at + k * size if k < ring else found[0] + (k - ring) * size
        if words[event] < since or not is_valid(words, event, request[SELECTION]):
            continue
        value = words[event + request[WORD]]
        entry = _first_at(words, at, count, np.int64(2), value)
        if entry == count or words[at + 2 * entry] != value or words[at + 2 * entry + 1] < since:
            values[new] = value
            new += 1
    ordered = np.sort(values[:new])
    for k in range(new):
        known += k == 0 or ordered[k] != ordered[k - 1]
    return known


@jit
def _scalar(
    words: Any,
    floats: Any,
    row: int,
    shape: Any,
    sections: Any,
    found: Any,
    visible: int,
    time: int,
    request: Any,
    total: Any,
    total_floats: Any,
) -> None:
    size, since = shape[1], _start(time, request[LENGTH], request[HOP])
    ring, ring_at, first = 0, 0, 0
    source, at = request[SOURCE], request[AT]
    if source == RING:
        ring, ring_at = words[row + COUNTS + at], found[at + 1]
        first = max(0, ring + visible - request[BOUND])
    if request[CODE] == _DISTINCT:
        total[0] = _count_values(words, row, ring, ring_at, found, visible, first, since, request, size)
        return
    if source == TOTAL:
        number = words[row + at + request[NUMBER_AT]]
        _add(total, total_floats, request, words, floats, row + at + request[PARTIAL], number)
    elif source == TILE:
        width, begin, count = sections[at, WIDTH], found[at + 1], words[row + COUNTS + at]
        first_tile = _first_at(words, begin, count, width, since)
        begin, count = begin + first_tile * width, count - first_tile
        _add_tiles(total, total_floats, request, words, floats, begin, width, count)
    for k in range(first, ring + visible):
        event = ring_at + k * size if k < ring else found[0] + (k - ring) * size
        if words[event] >= since and is_valid(words, event, request[SELECTION]):
            _add(total, total_floats, request, words, floats, event + request[WORD], np.int64(1))


@jit
def read_scalars(
    words: Any,
    offsets: Any,
    times: Any,
    delay: int,
    shape: Any,
    sections: Any,
    requests: Any,
    values: Any,
    present: Any,
) -> None:
    """Fills `values` [requests, n] int64 (floats bit-cast) and `present` [requests, n] with scalar partial results."""
    floats, total = words.view(np.float64), np.zeros(2, np.int64)
    total_floats = total.view(np.float64)
    found = np.empty(len(sections) + 2, np.int64)
    for i in range(len(times)):
        row = offsets[i]
        is_there = offsets[i + 1] > row
        visible = 0
        if is_there:
            _find_sections(words, row, shape, sections, found)
            visible = _first_at(words, found[0], words[row + PENDING], shape[1], times[i] - delay)
        for r in range(len(requests)):
            total[:] = 0
            if is_there:
                _scalar(words, floats, row, shape, sections, found, visible, times[i], requests[r], total, total_floats)
            values[r, i] = total[0]
            present[r, i] = total[1] > 0


@jit
def read_slots(
    words: Any,
    offsets: Any,
    times: Any,
    delay: int,
    shape: Any,
    requests: Any,
    columns: Any,
    found_times: Any,
    present: Any,
    values: Any,
) -> None:
    """Fills the last event of each request: `found_times` and `present` [requests, n], `values` [columns, n]."""
    size = shape[1]
    for i in range(len(times)):
        row = offsets[i]
        if offsets[i + 1] == row:
            continue
        pending = row + shape[2]
        visible = _first_at(words, pending, words[row + PENDING], size, times[i] - delay)
        for r in range(len(requests)):
            request = requests[r]
            event, is_slot = row + request[L_AT], True
            for k in range(visible - 1, -1, -1):
                if is_valid(words, pending + k * size, request[L_SELECTION]):
                    event, is_slot = pending + k * size, False
                    break
            since = _start(times[i], request[L_LENGTH], request[L_HOP])
            if request[L_TTL] >= 0:
                since = max(since, times[i] - request[L_TTL])
            if words[event] == MISSING or words[event] < since:
                continue
            found_times[r, i], present[r, i] = words[event], True
            for c in range(request[L_NUMBER]):
                word = 1 + c if is_slot else columns[request[L_FIRST] + c]
                values[request[L_OUT] + c * request[L_STRIDE], i] = words[event + word]


@jit
def _latest_events(
    words: Any, row: int, shape: Any, sections: Any, found: Any, visible: int, time: int, request: Any, events: Any
) -> int:
    """Fills the words of the last events of a request, newest first; negative: an entry of a LATEST section."""
    size, at = shape[1], request[L_AT]
    since = _start(time, request[L_LENGTH], request[L_HOP])
    if request[L_TTL] >= 0:
        since = max(since, time - request[L_TTL])
    begin, kept, width = found[at + 1], words[row + COUNTS + at], sections[at, WIDTH]
    number, total = 0, kept + visible
    oldest = max(0, total - request[L_BOUND]) if request[L_IS_RING] else 0
    for k in range(total - 1, oldest - 1, -1):
        is_entry = k < kept
        event = begin + k * width if is_entry else found[0] + (k - kept) * size
        if number == request[L_DEPTH] or words[event] < since:
            break
        if is_entry and not request[L_IS_RING]:
            events[number] = -event
            number += 1
        elif is_valid(words, event, request[L_SELECTION]):
            events[number] = event
            number += 1
    return number


@jit
def count_latest(
    words: Any,
    offsets: Any,
    times: Any,
    delay: int,
    shape: Any,
    sections: Any,
    requests: Any,
    deepest: int,
    counts: Any,
) -> None:
    """Fills `counts` [requests, n]: how many events each request gives for each key."""
    found, events = np.empty(len(sections) + 2, np.int64), np.empty(deepest, np.int64)
    for i in range(len(times)):
        row = offsets[i]
        if offsets[i + 1] == row:
            continue
        _find_sections(words, row, shape, sections, found)
        visible = _first_at(words, found[0], words[row + PENDING], shape[1], times[i] - delay)
        for r in range(len(requests)):
            counts[r, i] = _latest_events(words, row, shape, sections, found, visible, times[i], requests[r], events)


@jit
def fill_latest(
    words: Any,
    offsets: Any,
    times: Any,
    delay: int,
    shape: Any,
    sections: Any,
    requests: Any,
    columns: Any,
    deepest: int,
    ends: Any,
    found_times: Any,
    values: Any,
) -> None:
    """Fills `found_times` [m] and `values` [most inputs, m]; the events of request r and key i end at `ends[r, i]`."""
    found, events = np.empty(len(sections) + 2, np.int64), np.empty(deepest, np.int64)
    for i in range(len(times)):
        row = offsets[i]
        if offsets[i + 1] == row:
            continue
        _find_sections(words, row, shape, sections, found)
        visible = _first_at(words, found[0], words[row + PENDING], shape[1], times[i] - delay)
        for r in range(len(requests)):
            number = _latest_events(words, row, shape, sections, found, visible, times[i], requests[r], events)
            for k in range(number):
                to, event = ends[r, i] - 1 - k, abs(events[k])
                found_times[to] = words[event]
                for c in range(requests[r, L_NUMBER]):
                    word = 1 + c if events[k] < 0 else columns[requests[r, L_FIRST] + c]
                    values[c, to] = words[event + word]
