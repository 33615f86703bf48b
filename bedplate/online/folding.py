"""Folding: the compiled pass that merges events into packed rows (see `codec`), many keys at a time.

Every section is merged with the new events in one linear pass, so a batch costs the size of the rows that it touches.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bedplate.aggregations.base import Reduce
from bedplate.hashing import hash_word
from bedplate.online.codec import (
    CODES,
    COUNT_AT,
    COUNTED,
    COUNTS,
    DEPTH,
    DISTINCT,
    FINGERPRINT,
    FIRST,
    HOP,
    IS_FLOAT,
    KEEP,
    KIND,
    LAST_FOLDED,
    LATEST,
    LATEST_BY,
    MISSING,
    NUMBER,
    OF_SELECTION,
    PENDING,
    PLACE,
    REDUCE,
    SELECTION,
    SMALLEST,
    WIDE,
    WIDTH,
    WORD,
    Layout,
)
from bedplate.online.compiled import is_valid, jit
from bedplate.online.wide import take_event
from bedplate.types import Int64s

_MIN, _SUM, _COUNT = CODES[Reduce.MIN], CODES[Reduce.SUM], CODES[Reduce.COUNT]

_LARGEST = 2**63 - 1


@jit
def _copy(source: Any, begin: int, count: int, out: Any, to: int) -> None:
    for k in range(count):
        out[to + k] = source[begin + k]


@jit
def _is_before(words: Any, at: int, width: int, others: Any, other: int, other_width: int, ties: int) -> bool:
    """Whether an entry comes before another one by time and ties, which are the last words of both."""
    if words[at] != others[other]:
        return words[at] < others[other]
    for k in range(ties):
        one, two = words[at + width - ties + k], others[other + other_width - ties + k]
        if one != two:
            return one < two
    return False


@jit
def _merge_events(
    words: Any, at: int, count: int, events: Any, first: int, last: int, width: int, ties: int, out: Any
) -> int:
    """Pending and new events in order (time, ties, arrival); the pending ones arrived earlier. How many there are."""
    i, j, n = 0, first, 0
    while i < count or j < last:
        if j >= last or (i < count and not _is_before(events, j * width, width, words, at + i * width, width, ties)):
            _copy(words, at + i * width, width, out, n * width)
            i += 1
        else:
            _copy(events, j * width, width, out, n * width)
            j += 1
        n += 1
    return n


@jit
def add_whole(a: int, b: int) -> int:
    """The sum of two whole numbers.

    Raises:
        OverflowError: it is beyond 64 bits.
    """
    # Compared before they are added: compiled code takes for granted that an addition does not overflow.
    if (b > 0 and a > _LARGEST - b) or (b < 0 and a < -_LARGEST - 1 - b):
        raise OverflowError("a sum of whole numbers is beyond 64 bits")
    return a + b


@jit
def _accumulate(
    out: Any, floats: Any, at: int, partials: Any, first: int, number: int, events: Any, event_floats: Any, event: int
) -> bool:
    """Adds an event to the partial results at a word; whether it counts for any of them."""
    counted = False
    for p in range(first, first + number):
        if not is_valid(events, event, partials[p, OF_SELECTION]):
            continue
        counted = True
        reduce, here, word = partials[p, REDUCE], at + partials[p, PLACE], event + partials[p, WORD]
        if reduce >= WIDE:
            count = out[at + partials[p, COUNT_AT]]
            take_event(out, floats, here, count, partials[p], events, event_floats, event)
        elif reduce == _COUNT:
            out[here] += 1
        elif reduce == _SUM:
            if partials[p, IS_FLOAT]:
                floats[here] += event_floats[word]
            else:
                out[here] = add_whole(out[here], events[word])
        elif out[at + partials[p, COUNT_AT]] == 0:
            out[here] = events[word]
        elif partials[p, IS_FLOAT]:
            if (event_floats[word] < floats[here]) == (reduce == _MIN):
                out[here] = events[word]
        elif (events[word] < out[here]) == (reduce == _MIN):
            out[here] = events[word]
    return counted


@jit
def _separate(
    merged: Any, count: int, size: int, known_at: int, delay: int, line: int, seen: int, apart: Any
) -> tuple[int, int]:
    """Puts the events that are folded before those that stay pending, each in order.

    What could be seen no later than an event that is folded is folded too, whatever the line.

    Returns:
        how many are folded, and when the last of all that are could be seen; `seen` is that of those before.
    """
    folded, latest = 0, seen
    if known_at < 0:  # then they are in the order in which they could be seen
        while folded < count and (merged[folded * size] + delay < line or merged[folded * size] + delay <= seen):
            latest = max(latest, merged[folded * size] + delay)
            folded += 1
        return folded, latest
    left = 0
    for i in range(count):
        known = merged[i * size + known_at]
        if known < line or known <= seen:
            _copy(merged, i * size, size, merged, folded * size)
            latest = max(latest, known)
            folded += 1
        else:
            _copy(merged, i * size, size, apart, left * size)
            left += 1
    _copy(apart, 0 * size, left * size, merged, folded * size)
    return folded, latest


@jit
def _fold_latest(
    words: Any,
    at: int,
    old: int,
    events: Any,
    folded: int,
    size: int,
    ties: int,
    spec: Any,
    columns: Any,
    out: Any,
    to: int,
) -> int:
    """The last `depth` of the entries and the events that count; an event comes after entries of its time and ties."""
    valid = 0
    for j in range(folded):
        valid += is_valid(events, j * size, spec[SELECTION])
    taken = min(spec[DEPTH], old + valid)
    width, first = spec[WIDTH], spec[FIRST]
    i, j = old - 1, folded - 1
    for k in range(taken - 1, -1, -1):
        here = to + k * width
        while j >= 0 and not is_valid(events, j * size, spec[SELECTION]):
            j -= 1
        if j >= 0 and (i < 0 or not _is_before(events, j * size, size, words, at + i * width, width, ties)):
            out[here] = events[j * size]
            for c in range(spec[NUMBER]):
                out[here + 1 + c] = events[j * size + columns[first + c]]
            j -= 1
        else:
            _copy(words, at + i * width, width, out, here)
            i -= 1
    return taken


@jit
def _fold_latest_by(
    words: Any,
    at: int,
    old: int,
    events: Any,
    folded: int,
    size: int,
    ties: int,
    spec: Any,
    columns: Any,
    out: Any,
    to: int,
) -> int:
    """Of each value of the last input the last of the entries and events that count, of these the last `depth`."""
    width, first, number, depth = spec[WIDTH], spec[FIRST], spec[NUMBER], spec[DEPTH]
    own = number - ties  # the word of the value in an entry: ties follow it
    by = columns[first + own - 1]
    values, entries, places = np.empty(depth, np.int64), np.empty(depth, np.bool_), np.empty(depth, np.int64)
    i, j, taken = old - 1, folded - 1, 0
    while taken < depth and (i >= 0 or j >= 0):
        if j >= 0 and not is_valid(events, j * size, spec[SELECTION]):
            j -= 1
            continue
        is_entry = j < 0 or (i >= 0 and _is_before(events, j * size, size, words, at + i * width, width, ties))
        value = words[at + i * width + own] if is_entry else events[j * size + by]
        new = True
        for k in range(taken):
            new &= values[k] != value
        if new:
            values[taken], entries[taken], places[taken] = value, is_entry, i if is_entry else j
            taken += 1
        if is_entry:
            i -= 1
        else:
            j -= 1
    for k in range(taken):
        here, place = to + (taken - 1 - k) * width, places[k]
        if entries[k]:
            _copy(words, at + place * width, width, out, here)
        else:
            out[here] = events[place * size]
            for c in range(number):
                out[here + 1 + c] = events[place * size + columns[first + c]]
    return taken


@jit
def _seen(events: Any, folded: int, size: int, spec: Any, values: Any, times: Any) -> int:
    """Fills the values and times of the events that count for a section, and says how many they are."""
    new = 0
    for j in range(folded):
        if is_valid(events, j * size, spec[SELECTION]):
            value = events[j * size + spec[FIRST]]
            values[new] = hash_word(value) if spec[KIND] == SMALLEST else value
            times[new] = events[j * size]
            new += 1
    return new


@jit
def _without_hidden(out: Any, to: int, count: int, depth: int) -> int:
    """Leaves out the entries of which `depth` smaller ones were seen at their time or later."""
    if count <= depth:
        return count
    latest = np.empty(depth, np.int64)  # a heap: the times of the `depth` smaller ones seen latest, the first on top
    kept = 0
    for i in range(count):
        seen = out[to + 2 * i + 1]
        if kept >= depth and seen <= latest[0]:
            continue
        out[to + 2 * kept], out[to + 2 * kept + 1] = out[to + 2 * i], seen
        if kept < depth:
            k = kept
            while k > 0 and latest[(k - 1) // 2] > seen:
                latest[k] = latest[(k - 1) // 2]
                k = (k - 1) // 2
        else:
            k = 0
            while 2 * k + 1 < depth:
                child = 2 * k + 1
                if child + 1 < depth and latest[child + 1] < latest[child]:
                    child += 1
                if latest[child] >= seen:
                    break
                latest[k] = latest[child]
                k = child
        latest[k] = seen
        kept += 1
    return kept


@jit
def _fold_counted(
    words: Any, at: int, old: int, events: Any, folded: int, size: int, spec: Any, since: int, out: Any, to: int
) -> int:
    """The counts of each value and tile from `since` on (a multiple of the hop), with the events added to theirs."""
    values, times = np.empty(folded, np.int64), np.empty(folded, np.int64)
    new = _seen(events, folded, size, spec, values, times)
    order = np.argsort(values[:new], kind="mergesort")  # stable: the events of a value stay in order of time
    hop, width = spec[HOP], spec[WIDTH]
    count, i, j = 0, 0, 0
    while i < old or j < new:
        value, start = np.int64(0), np.int64(0)
        if j < new:
            value = values[order[j]]
            start = times[order[j]] // hop * hop if hop > 0 else start
        entry = at + i * width
        tile = words[entry + 3] if i < old and hop > 0 else np.int64(0)
        is_old = i < old and (j >= new or words[entry] < value or (words[entry] == value and tile <= start))
        number, seen = np.int64(0), MISSING
        if is_old:
            value, start, number, seen = words[entry], tile, words[entry + 1], words[entry + 2]
            i += 1
        while j < new and values[order[j]] == value and (hop == 0 or times[order[j]] // hop * hop == start):
            number += 1
            seen = max(seen, times[order[j]])
            j += 1
        if start >= since:
            here = to + count * width
            out[here], out[here + 1], out[here + 2] = value, number, seen
            if hop > 0:
                out[here + 3] = start
            count += 1
    return count


@jit
def _fold_distinct(
    words: Any, at: int, old: int, events: Any, folded: int, size: int, spec: Any, since: int, out: Any, to: int
) -> int:
    """Each value or hash once with the time it was last seen, those last seen before `since` left out."""
    values, times = np.empty(folded, np.int64), np.empty(folded, np.int64)
    new = _seen(events, folded, size, spec, values, times)
    order = np.argsort(values[:new])
    count, i, j = 0, 0, 0
    while i < old or j < new:
        from_old = i < old and (j >= new or words[at + 2 * i] <= values[order[j]])
        value = words[at + 2 * i] if from_old else values[order[j]]
        seen = MISSING
        if from_old:
            seen = words[at + 2 * i + 1]
            i += 1
        while j < new and values[order[j]] == value:
            seen = max(seen, times[order[j]])
            j += 1
        if seen >= since:
            out[to + 2 * count], out[to + 2 * count + 1] = value, seen
            count += 1
    return count


@jit
def _fold_tiles(
    words: Any,
    at: int,
    old: int,
    events: Any,
    folded: int,
    size: int,
    spec: Any,
    partials: Any,
    since: int,
    event_floats: Any,
    floats: Any,
    out: Any,
    to: int,
) -> int:
    """The tiles from `since` on (a multiple of the hop), with the events added to theirs."""
    hop, width = spec[HOP], spec[WIDTH]
    count, i, j = 0, 0, 0
    while i < old or j < folded:
        here = to + count * width
        start = events[j * size] // hop * hop if j < folded else words[at + i * width]
        is_old = i < old and words[at + i * width] <= start
        if is_old:
            start = words[at + i * width]
            _copy(words, at + i * width, width, out, here)
            i += 1
        else:
            out[here] = start
            for k in range(1, width):
                out[here + k] = 0
        counted = is_old
        while j < folded and events[j * size] // hop * hop == start:
            counted |= _accumulate(
                out, floats, here + 1, partials, spec[FIRST], spec[NUMBER], events, event_floats, j * size
            )
            j += 1
        if counted and start >= since:
            count += 1
    return count


@jit
def _fold_slots(out: Any, row: int, events: Any, folded: int, size: int, ties: int, slots: Any, columns: Any) -> None:
    for s in range(len(slots)):
        at = row + slots[s, 1]
        for j in range(folded - 1, -1, -1):
            if is_valid(events, j * size, slots[s, 0]):
                if not _is_before(events, j * size, size, out, at, 1 + slots[s, 3], ties):
                    out[at] = events[j * size]
                    for c in range(slots[s, 3]):
                        out[at + 1 + c] = events[j * size + columns[slots[s, 2] + c]]
                break


@jit
def _fold_section(
    words: Any,
    at: int,
    old: int,
    events: Any,
    folded: int,
    size: int,
    ties: int,
    spec: Any,
    columns: Any,
    partials: Any,
    last: int,
    event_floats: Any,
    floats: Any,
    out: Any,
    to: int,
) -> int:
    kind = spec[KIND]
    if kind == LATEST:
        return _fold_latest(words, at, old, events, folded, size, ties, spec, columns, out, to)
    if kind == LATEST_BY:
        return _fold_latest_by(words, at, old, events, folded, size, ties, spec, columns, out, to)
    since = MISSING
    if spec[KEEP] >= 0 and last != MISSING:
        since = last - spec[KEEP]
    if kind == DISTINCT:
        return _fold_distinct(words, at, old, events, folded, size, spec, since, out, to)
    if kind == SMALLEST:
        count = _fold_distinct(words, at, old, events, folded, size, spec, since, out, to)
        return _without_hidden(out, to, count, spec[DEPTH])
    if since != MISSING:
        since = since // spec[HOP] * spec[HOP]
    if kind == COUNTED:
        return _fold_counted(words, at, old, events, folded, size, spec, since, out, to)
    return _fold_tiles(words, at, old, events, folded, size, spec, partials, since, event_floats, floats, out, to)


@jit
def _begin(words: Any, begin: int, end: int, shape: Any, slots: Any, out: Any, row: int) -> None:
    """The fixed part as it was, or of a row without events."""
    fixed = shape[2]
    if end > begin:
        _copy(words, begin, fixed, out, row)
        return
    for k in range(fixed):
        out[row + k] = 0
    out[row + FINGERPRINT], out[row + LAST_FOLDED] = shape[0], MISSING
    for s in range(len(slots)):
        out[row + slots[s, 1]] = MISSING


@jit
def room(words: Any, offsets: Any, event_offsets: Any, shape: Any, sections: Any) -> tuple[int, int]:
    """The most words that `fold` can write, and the most events that it merges for one key."""
    total, longest = 0, 0
    for k in range(len(offsets) - 1):
        events = event_offsets[k + 1] - event_offsets[k]
        if offsets[k + 1] > offsets[k]:
            events += words[offsets[k] + PENDING]
        total += max(offsets[k + 1] - offsets[k], shape[2]) + events * shape[1]
        for s in range(len(sections)):
            is_list = sections[s, KIND] == LATEST or sections[s, KIND] == LATEST_BY
            more = min(events, sections[s, DEPTH]) if is_list else events
            total += more * sections[s, WIDTH]
        longest = max(longest, events)
    return total, longest


@jit
def fold(
    words: Any,
    offsets: Any,
    events: Any,
    event_offsets: Any,
    lines: Any,
    keep: bool,
    delay: int,
    ties: int,
    known_at: int,
    shape: Any,
    slots: Any,
    total_partials: Any,
    sections: Any,
    partials: Any,
    columns: Any,
    merged: Any,
    merged_floats: Any,
    apart: Any,
    out: Any,
    floats: Any,
    out_offsets: Any,
) -> None:
    """Merges events into rows; see `codec` for the arrays and `merge_into_rows` for their meaning."""
    size, fixed = shape[1], shape[2]
    none = row = out_offsets[0]
    for k in range(len(offsets) - 1):
        begin, end = offsets[k], offsets[k + 1]
        _begin(words, begin, end, shape, slots, out, row)
        old_pending = words[begin + PENDING] if end > begin else none
        n = _merge_events(
            words, begin + fixed, old_pending, events, event_offsets[k], event_offsets[k + 1], size, ties, merged
        )
        folded, seen = _separate(merged, n, size, known_at, delay, lines[k], out[row + LAST_FOLDED], apart)
        out[row + LAST_FOLDED] = seen
        _fold_slots(out, row, merged, folded, size, ties, slots, columns)
        for j in range(folded):
            _accumulate(
                out, floats, row + shape[3], total_partials, none, len(total_partials), merged, merged_floats, j * size
            )
        last = seen - delay if seen != MISSING else seen
        at, to = begin + fixed + old_pending * size, row + fixed
        pending = n - folded if keep else none
        out[row + PENDING] = pending
        _copy(merged, folded * size, pending * size, out, to)
        to += pending * size
        for s in range(len(sections)):
            spec = sections[s]
            old = words[begin + COUNTS + s] if end > begin else none
            count = _fold_section(
                words, at, old, merged, folded, size, ties, spec, columns, partials, last, merged_floats, floats,
                out, to,
            )  # fmt: skip
            out[row + COUNTS + s] = count
            at, to = at + old * spec[WIDTH], to + count * spec[WIDTH]
        row = to
        out_offsets[k + 1] = row


def merge_into_rows(
    layout: Layout,
    words: Int64s,
    offsets: Int64s,
    events: Int64s,
    event_offsets: Int64s,
    lines: int | Int64s,
    *,
    keep: bool = True,
) -> tuple[Int64s, Int64s]:
    """The rows of k keys after more events.

    Args:
        layout: of the view.
        words: [total] int64, the k rows as they are, one after the other; a key without a row has none of the words.
        offsets: [k + 1] int64, where each begins.
        events: [n, width] int64, packed events sorted by (key, time, ties, arrival).
        event_offsets: [k + 1] int64, the events of each key.
        lines: events that could be seen before it are folded, the others stay pending; one for all, or [k] one a key.
        keep: whether pending events stay in the rows.

    Returns:
        the rows in the same form.
    """
    total, longest = room(words, offsets, event_offsets, layout.shape, layout.sections)
    out = np.empty(int(total), np.int64)
    merged = np.empty(int(longest) * layout.width, np.int64)
    apart = np.empty(len(merged) if layout.known_at >= 0 else 0, np.int64)
    out_offsets: Int64s = np.zeros(len(offsets), np.int64)
    tables = (layout.shape, layout.slots, layout.total_partials, layout.sections, layout.partials, layout.columns)
    outputs = (merged, merged.view(np.float64), apart, out, out.view(np.float64), out_offsets)
    by_key = np.full(len(offsets) - 1, lines, np.int64)
    order = layout.delay, layout.ties, layout.known_at
    fold(words, offsets, events.reshape(-1), event_offsets, by_key, keep, *order, *tables, *outputs)
    return out[: out_offsets[-1]], out_offsets


def settle(layout: Layout, words: Int64s, offsets: Int64s, times: Int64s) -> tuple[Int64s, Int64s]:
    """Rows as reads at k times see them: the pending events that could be known by then folded, the others left out.

    Args:
        layout: of the view, whose source says by row when it could be known.
        words: as for `merge_into_rows`.
        offsets: as for `merge_into_rows`.
        times: [k] int64, the times of the reads.
    """
    begins = offsets[:-1][offsets[1:] > offsets[:-1]]
    if not words[begins + PENDING].any() or (words[begins] != layout.fingerprint).any():
        return words, offsets  # what is wrong with a row is said where rows are read
    none: Int64s = np.zeros(len(offsets), np.int64)
    return merge_into_rows(layout, words, offsets, none[:0], none, times, keep=False)
