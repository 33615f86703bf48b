"""Reading: the compiled passes over the packed rows of many keys (see `codec`) that give partial results.

Each pass takes the rows of n keys one after the other and fills arrays for all keys and all reductions asked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bedplate.aggregations.base import Reduce
from bedplate.online.codec import CODES, COUNTS, LAST_FOLDED, MISSING, PENDING, WIDE, WIDTH, Layout
from bedplate.online.compiled import (
    AT,
    BOUND,
    CODE,
    FILLED,
    HOP,
    IS_FLOAT,
    LENGTH,
    NUMBER_AT,
    PARTIAL,
    RING,
    SCALAR_WIDTH,
    SELECTION,
    SOURCE,
    TILE,
    TOTAL,
    VALUES,
    WORD,
    first_at,
    is_valid,
    jit,
    window_start,
)
from bedplate.online.tiles import find_tiles, is_of_tiles, read_sum_and_counts, read_tiles, same_window, take
from bedplate.online.wide import read_wide
from bedplate.types import Int64s

_MIN, _SUM, _COUNT, _DISTINCT = (CODES[r] for r in (Reduce.MIN, Reduce.SUM, Reduce.COUNT, Reduce.DISTINCT))

LATEST_WIDTH = 13
"""The number of columns of LATEST requests."""

L_AT, L_IS_RING, L_SELECTION, L_DEPTH, L_LENGTH, L_HOP, L_BOUND, L_TTL, L_BY = range(9)
L_FIRST, L_NUMBER, L_OUT, L_STRIDE = range(9, 13)
"""The columns of LATEST requests. L_AT is a section or the first word of a slot; L_FIRST and L_NUMBER choose
the words of events in `columns`; L_OUT is the first output column, L_STRIDE the distance to the next; L_BY is the word
of an event whose values must differ; -1: none."""

FIRST_TIME = MISSING + 1
"""Before every event, and after a slot that has none."""


@jit
def locate_rows(
    words: Any, offsets: Any, times: Any, delay: int, shape: Any, sections: Any, found: Any, visible: Any
) -> int:
    """Where everything is in the rows of n keys.

    Args:
        words: the rows.
        offsets: [n + 1] into them; an empty row: the store has none.
        times: [n] the times asked for.
        delay: of the source.
        shape: `Layout.shape`.
        sections: `Layout.sections`.
        found: [n, 2 + sections], filled with the first word of the pending events and of each section after them,
            and the end; -1 in the first column: there is no row.
        visible: [n], filled with the number of pending events that count.

    Returns:
        the first row that has another fingerprint or is ahead of its time; -1: none.
    """
    for i in range(len(times)):
        row = offsets[i]
        visible[i] = 0
        if offsets[i + 1] == row:
            found[i, 0] = -1
            continue
        if words[row] != shape[0] or words[row + LAST_FOLDED] >= times[i]:
            return i
        at = row + shape[2]
        found[i, 0] = at
        at += words[row + PENDING] * shape[1]
        found[i, 1] = at
        for s in range(len(sections)):
            at += words[row + COUNTS + s] * sections[s, WIDTH]
            found[i, s + 2] = at
        if words[row + PENDING] > 0:
            visible[i] = first_at(words, found[i, 0], words[row + PENDING], shape[1], times[i] - delay)
    return -1


@jit
def _read_totals(
    words: Any, floats: Any, offsets: Any, located: Any, request: Any, values: Any, value_floats: Any, present: Any
) -> None:
    code, is_float, at = request[CODE], request[IS_FLOAT], request[AT]
    partial, number = at + request[PARTIAL], at + request[NUMBER_AT]
    for i in range(len(values)):
        row = offsets[i]
        if located[i, 0] < 0:
            continue
        if code == _COUNT:
            values[i] = words[row + partial]
        elif code == _SUM or words[row + number] > 0:
            take(code, is_float, words, floats, row + partial, values, value_floats, present, i)


@jit
def _add_events(
    words: Any,
    floats: Any,
    offsets: Any,
    times: Any,
    size: int,
    located: Any,
    visible: Any,
    request: Any,
    values: Any,
    value_floats: Any,
    present: Any,
) -> None:
    """Adds the events that are kept as they are: those of an exact window's ring, and the pending ones."""
    code, is_float, selection, word = request[CODE], request[IS_FLOAT], request[SELECTION], request[WORD]
    is_ring, at = request[SOURCE] == RING, request[AT]
    for i in range(len(times)):
        if located[i, 0] < 0 or (visible[i] == 0 and not is_ring):
            continue
        since = window_start(times[i], request[LENGTH], request[HOP])
        kept = words[offsets[i] + COUNTS + at] if is_ring else 0
        first = max(0, kept + visible[i] - request[BOUND]) if is_ring else 0
        for k in range(first, kept + visible[i]):
            event = located[i, at + 1] + k * size if k < kept else located[i, 0] + (k - kept) * size
            if words[event] >= since and is_valid(words, event, selection):
                take(code, is_float, words, floats, event + word, values, value_floats, present, i)


@jit
def _read_distinct(
    words: Any,
    offsets: Any,
    times: Any,
    size: int,
    located: Any,
    visible: Any,
    request: Any,
    values: Any,
) -> None:
    for i in range(len(times)):
        found = located[i]
        if found[0] < 0:
            continue
        ring, ring_at, first = 0, 0, 0
        if request[SOURCE] == RING:
            ring, ring_at = words[offsets[i] + COUNTS + request[AT]], found[request[AT] + 1]
            first = max(0, ring + visible[i] - request[BOUND])
        since = window_start(times[i], request[LENGTH], request[HOP])
        values[i] = _count_values(words, offsets[i], ring, ring_at, found, visible[i], first, since, request, size)


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
        entry = first_at(words, at, count, np.int64(2), value)
        if entry == count or words[at + 2 * entry] != value or words[at + 2 * entry + 1] < since:
            values[new] = value
            new += 1
    ordered = np.sort(values[:new])
    for k in range(new):
        known += k == 0 or ordered[k] != ordered[k - 1]
    return known


@jit
def read_scalars(
    words: Any,
    offsets: Any,
    times: Any,
    shape: Any,
    sections: Any,
    located: Any,
    visible: Any,
    requests: Any,
    values: Any,
    present: Any,
) -> None:
    """Fills `values` [requests * n] int64 (floats bit-cast) with scalar partial results, 0 where there is none.

    `present` [requests * n] is filled where the reduction is an extreme.
    """
    floats, size, n = words.view(np.float64), shape[1], len(times)
    values[:] = 0
    present[:] = False
    first = np.empty((len(requests), n), np.int64)  # of those with a window of tiles: where they begin
    done = np.zeros(len(requests), np.bool_)
    for r in range(len(requests)):
        if is_of_tiles(requests, r) and same_window(requests, r) == r:
            find_tiles(words, times, sections[requests[r, AT], WIDTH], located, requests[r], first[r])
            read_sum_and_counts(
                words, floats, sections[requests[r, AT], WIDTH], located, first[r], requests, r, values, done
            )
    for r in range(len(requests)):
        request, out, there = requests[r], values[r * n : (r + 1) * n], present[r * n : (r + 1) * n]
        out_floats = out.view(np.float64)
        if request[CODE] == FILLED:
            continue
        if request[CODE] >= WIDE:
            read_wide(words, floats, offsets, times, size, sections, located, visible, request, values, r, present)
            continue
        if request[CODE] == _DISTINCT:
            _read_distinct(words, offsets, times, size, located, visible, request, out)
            continue
        if request[SOURCE] == TOTAL:
            _read_totals(words, floats, offsets, located, request, out, out_floats, there)
        elif request[SOURCE] == TILE and not done[r]:
            width, begins = sections[request[AT], WIDTH], first[same_window(requests, r)]
            read_tiles(words, floats, width, located, begins, request, out, out_floats, there)
        _add_events(words, floats, offsets, times, size, located, visible, request, out, out_floats, there)


@jit
def read_slots(
    words: Any,
    offsets: Any,
    times: Any,
    shape: Any,
    located: Any,
    visible: Any,
    requests: Any,
    columns: Any,
    found_times: Any,
    present: Any,
    values: Any,
) -> None:
    """Fills the last event of each request: `found_times` and `present` [requests * n], `values` [columns * n].

    What is not present is 0.
    """
    size, n = shape[1], len(times)
    for r in range(len(requests)):
        request = requests[r]
        at, selection, ttl, first, number = (
            request[L_AT], request[L_SELECTION], request[L_TTL], request[L_FIRST], request[L_NUMBER],
        )  # fmt: skip
        length, hop, out, stride = request[L_LENGTH], request[L_HOP], request[L_OUT], request[L_STRIDE]
        time, since = MISSING, FIRST_TIME
        there, seen, taken = present[r * n : r * n + n], found_times[r * n : r * n + n], values[out * n : out * n + n]
        for i in range(n):
            if located[i, 0] < 0:
                there[i], seen[i] = False, 0
                for c in range(number):
                    values[(out + c * stride) * n + i] = 0
                continue
            if times[i] != time:  # most often all rows are asked for as of one time
                time = times[i]
                since = max(window_start(time, length, hop), FIRST_TIME)
                if ttl >= 0:
                    since = max(since, time - ttl)
            event, is_slot = offsets[i] + at, True
            if visible[i] > 0:
                pending = _last_pending(words, located[i, 0], visible[i], size, selection)
                if pending >= 0:
                    event, is_slot = pending, False
            is_there = words[event] >= since
            there[i] = is_there
            seen[i] = words[event] if is_there else 0
            if number == 1 and is_slot:
                taken[i] = words[event + 1] if is_there else 0
                continue
            for c in range(number):
                word = 1 + c if is_slot else columns[first + c]
                values[(out + c * stride) * n + i] = words[event + word] if is_there else 0


@jit
def _last_pending(words: Any, pending: int, visible: int, size: int, selection: int) -> int:
    """The word of the last event that counts, of those that are kept as they are; -1: none does."""
    for k in range(visible - 1, -1, -1):
        if is_valid(words, pending + k * size, selection):
            return pending + k * size
    return -1


@jit
def _is_new(words: Any, event: int, request: Any, events: Any, number: int) -> bool:
    """Whether none of the events taken before has the event's value."""
    value = words[event + request[L_BY]] if event >= 0 else words[-event + request[L_NUMBER]]
    for k in range(number):
        taken = events[k]
        if value == (words[taken + request[L_BY]] if taken >= 0 else words[-taken + request[L_NUMBER]]):
            return False
    return True


@jit
def _latest_events(
    words: Any, row: int, shape: Any, sections: Any, found: Any, visible: int, time: int, request: Any, events: Any
) -> int:
    """Fills the words of the last events of a request, newest first; negative: an entry of a LATEST section."""
    size, at = shape[1], request[L_AT]
    since = window_start(time, request[L_LENGTH], request[L_HOP])
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
        is_entry = is_entry and not request[L_IS_RING]
        if not is_entry and not is_valid(words, event, request[L_SELECTION]):
            continue
        event = -event if is_entry else event
        if request[L_BY] < 0 or _is_new(words, event, request, events, number):
            events[number] = event
            number += 1
    return number


@jit
def count_latest(
    words: Any,
    offsets: Any,
    times: Any,
    shape: Any,
    sections: Any,
    located: Any,
    visible: Any,
    requests: Any,
    deepest: int,
    counts: Any,
) -> None:
    """Fills `counts` [requests * n]: how many events each request gives for each key."""
    events = np.empty(deepest, np.int64)
    for i in range(len(times)):
        for r in range(len(requests)):
            counts[r * len(times) + i] = 0
            if located[i, 0] >= 0:
                counts[r * len(times) + i] = _latest_events(
                    words, offsets[i], shape, sections, located[i], visible[i], times[i], requests[r], events
                )


@jit
def fill_latest(
    words: Any,
    offsets: Any,
    times: Any,
    shape: Any,
    sections: Any,
    located: Any,
    visible: Any,
    requests: Any,
    columns: Any,
    deepest: int,
    ends: Any,
    found_times: Any,
    values: Any,
) -> None:
    """Fills `found_times` [m] and `values` [most inputs, m]; those of request r and key i end at `ends[r * n + i]`."""
    events = np.empty(deepest, np.int64)
    for i in range(len(times)):
        if located[i, 0] < 0:
            continue
        for r in range(len(requests)):
            number = _latest_events(
                words, offsets[i], shape, sections, located[i], visible[i], times[i], requests[r], events
            )
            for k in range(number):
                to, event = ends[r * len(times) + i] - 1 - k, abs(events[k])
                found_times[to] = words[event]
                for c in range(requests[r, L_NUMBER]):
                    word = 1 + c if events[k] < 0 else columns[requests[r, L_FIRST] + c]
                    values[c, to] = words[event + word]


TABLES = 5
"""So many sizes begin the tables of `read_rows`."""


def pack_tables(layout: Layout, scalars: Int64s, slots: Int64s, columns: Int64s) -> Int64s:
    """What `read_rows` needs to know of a plan in one array: each array that a compiled pass takes costs time."""
    sizes = (len(layout.sections), len(scalars), len(slots), len(columns), layout.delay)
    tables = (layout.shape, layout.sections, scalars, slots, columns)
    return np.concatenate([np.array(sizes, np.int64), *(t.reshape(-1) for t in tables)])


@jit
def read_rows(words: Any, offsets: Any, times: Any, tables: Any, out: Any, present: Any) -> int:
    """Locates the rows of n keys and reads their scalars and slots: `locate_rows`, `read_scalars` and `read_slots`.

    Args:
        words: the rows.
        offsets: [n + 1] into them.
        times: [n] the times asked for.
        tables: see `pack_tables`.
        out: what is found, one array [n] after the other: those of the scalars, the times of the slots, their values,
            then what `locate_rows` fills, [n, 2 + sections] and [n].
        present: which of the scalars and of the slots are there, [n] each.

    Returns:
        as `locate_rows`.
    """
    n, sections, scalars, slots = len(times), tables[0], tables[1], tables[2]
    at = TABLES
    shape = tables[at : at + 4]
    at += 4
    section_rows = tables[at : at + sections * 8].reshape(sections, 8)
    at += sections * 8
    scalar_rows = tables[at : at + scalars * SCALAR_WIDTH].reshape(scalars, SCALAR_WIDTH)
    at += scalars * SCALAR_WIDTH
    slot_rows = tables[at : at + slots * LATEST_WIDTH].reshape(slots, LATEST_WIDTH)
    at += slots * LATEST_WIDTH
    columns = tables[at : at + tables[3]]
    end = len(out) - n
    visible = out[end:]
    located = out[end - n * (sections + 2) : end].reshape(n, sections + 2)
    wrong = locate_rows(words, offsets, times, tables[4], shape, section_rows, located, visible)
    if wrong >= 0:
        return wrong
    if scalars:
        read_scalars(
            words, offsets, times, shape, section_rows, located, visible, scalar_rows,
            out[: scalars * n], present[: scalars * n],
        )  # fmt: skip
    if slots:
        first = scalars + slots
        read_slots(
            words, offsets, times, shape, located, visible, slot_rows, columns,
            out[scalars * n : first * n], present[scalars * n :], out[first * n : end - n * (sections + 2)],
        )  # fmt: skip
    return -1
