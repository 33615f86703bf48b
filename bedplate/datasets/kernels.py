"""Compiled loops that draw negatives; none of them holds the interpreter's lock."""

from __future__ import annotations

from typing import Any

import numpy as np

from bedplate.compiling import compiled
from bedplate.datasets.counter import GAMMA, UInt64s, mix
from bedplate.offline.kernels import lower_bound
from bedplate.types import Array, Bools, Int64s

_mix: Any = compiled(mix)


@compiled
def _enter(table: Int64s, stamps: Int64s, stamp: Any, code: Any) -> bool:
    """Adds a code to the open-addressed set that belongs to a stamp; False where it is there already.

    The code -1, of what is not in the catalogue, is a member like any other; none of it is ever drawn.
    """
    mask = len(table) - 1
    slot = np.int64(_mix(np.uint64(code)) & np.uint64(mask))
    while stamps[slot] == stamp:
        if table[slot] == code:
            return False
        slot = (slot + 1) & mask
    stamps[slot] = stamp
    table[slot] = code
    return True


@compiled
def _new_code(
    stream: Any,
    counter: Any,
    attempts: Any,
    low: Any,
    events: Any,
    event_codes: Array,
    table: Int64s,
    stamps: Int64s,
    stamp: Any,
) -> Any:
    """The item of an event drawn from [low, low + events) that the request does not have yet, which enters its set.

    Returns:
        the item's code, -1 when every attempt met one that it has, and how many attempts did.
    """
    for attempt in range(attempts):
        number = _mix(stream + np.uint64(counter + attempt) * GAMMA)
        code = np.int64(event_codes[low + np.int64(number % events)])
        if _enter(table, stamps, stamp, code):
            return code, attempt
    return np.int64(-1), attempts


@compiled
def draw(
    chosen: Int64s,
    offsets: Int64s,
    items: Int64s,
    codes: Int64s,
    streams: UInt64s,
    lows: Int64s,
    highs: Int64s,
    wanted: Int64s,
    event_codes: Array,
    catalogue: Int64s,
    attempts: int,
    table: Int64s,
    out_offsets: Int64s,
    out_items: Int64s,
    out_codes: Int64s,
    out_sampled: Bools,
) -> tuple[int, int]:
    """The positives of each chosen request, then its negatives.

    Args:
        chosen: [r] positions of requests.
        offsets: [R + 1], as `items` [P] and `codes` [P] of the positives of all requests.
        items: their keys.
        codes: their places in the catalogue, or -1.
        streams: [r] the first counter of each chosen request.
        lows: [R] the first event that each request draws from.
        highs: [R] the one after the last.
        wanted: [R] how many negatives.
        event_codes: [E] the item of each event, in order of time.
        catalogue: [K] the key of each code.
        attempts: draws for one negative before it is given up.
        table: [a power of two, at least twice the most candidates of a request].
        out_offsets: [r + 1] filled.
        out_items: filled up to `out_offsets[r]`.
        out_codes: likewise.
        out_sampled: likewise.

    Returns:
        how many draws met an item that the request had, and how many negatives were given up.
    """
    stamps = np.full(len(table), -1, np.int64)
    cursor = repeated = missing = out_offsets[0] = 0
    for i in range(len(chosen)):
        r = chosen[i]
        for p in range(offsets[r], offsets[r + 1]):
            out_items[cursor], out_codes[cursor], out_sampled[cursor] = items[p], codes[p], False
            cursor += 1
            _enter(table, stamps, i, codes[p])
        events = np.uint64(highs[r] - lows[r])
        for n in range(wanted[r]):
            code, again = _new_code(streams[i], n * attempts, attempts, lows[r], events, event_codes, table, stamps, i)
            repeated += again
            if code < 0:
                missing += 1
            else:
                out_items[cursor], out_codes[cursor], out_sampled[cursor] = catalogue[code], code, True
                cursor += 1
        out_offsets[i + 1] = cursor
    return repeated, missing


@compiled
def count_events(
    codes: Int64s, item_offsets: Int64s, positions: Int64s, lows: Int64s, highs: Int64s, counts: Int64s
) -> None:
    """For each row how many of its item's events are at positions [low, high) of the order of time.

    Args:
        codes: [n] places in the catalogue, or -1.
        item_offsets: [K + 1]; the events of item k are `positions[item_offsets[k]:item_offsets[k + 1]]`.
        positions: [E] places in the order of time, ascending within an item.
        lows: [n].
        highs: [n].
        counts: [n] filled.
    """
    for i in range(len(codes)):
        code = codes[i]
        if code < 0:
            counts[i] = 0
        else:
            start = lower_bound(positions, item_offsets[code], item_offsets[code + 1], lows[i])
            counts[i] = lower_bound(positions, start, item_offsets[code + 1], highs[i]) - start
