"""Compiled passes over resident records: an open-addressing table from keys to rows, and cells out of records."""

from __future__ import annotations

from typing import Any

import numpy as np

from bedplate.online.codec import LAST_FOLDED, PENDING
from bedplate.online.compiled import jit

_ODD = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
_BLOCK = 8
"""So many rows are taken together: their cells of one column fill a line of the cache."""


@jit
def _slot(keys: Any, row: int, entities: int, mask: int) -> Any:
    """Where the search for a key begins: a multiplicative hash of its words."""
    mixed = np.uint64(0)
    for e in range(entities):
        mixed = (mixed ^ np.uint64(keys[row, e])) * _ODD
        mixed ^= mixed >> _HALF
    return np.int64(mixed & np.uint64(mask))


@jit
def _is_key(records: Any, row: int, keys: Any, at: int, entities: int) -> bool:
    same = True
    for e in range(entities):
        same &= records[row, e] == keys[at, e]
    return same


@jit
def fill_slots(records: Any, entities: int, slots: Any) -> None:
    """Enters the records but the last into a table that is -1 everywhere; of those with one key the last counts.

    Args:
        records: [k + 1, width]; each begins with its key.
        entities: words of a key.
        slots: [a power of two, more than k] int32, filled with rows.
    """
    mask = len(slots) - 1
    for row in range(len(records) - 1):
        at = _slot(records, row, entities, mask)
        while slots[at] >= 0 and not _is_key(records, slots[at], records, row, entities):
            at = (at + 1) & mask
        slots[at] = row


@jit
def find_rows(slots: Any, records: Any, keys: Any, times: Any, rows: Any) -> tuple[int, int, int]:
    """Fills `rows` [n] with the row of each key [n, entities]; the last row of the records: it is not there.

    Returns:
        how many of the rows are asked for before their cells hold, the first of the times and the last.
    """
    entities, mask, missing, early = keys.shape[1], len(slots) - 1, len(records) - 1, 0
    if len(rows) == 0:
        return 0, 0, 0
    first, last = times[0], times[0]
    for i in range(len(rows)):
        at = _slot(keys, i, entities, mask)
        while slots[at] >= 0 and not _is_key(records, slots[at], keys, i, entities):
            at = (at + 1) & mask
        row = slots[at] if slots[at] >= 0 else missing
        rows[i] = row
        early += times[i] < records[row, entities]
        first, last = min(first, times[i]), max(last, times[i])
    return early, first, last


@jit
def take_cells(records: Any, rows: Any, words: Any, bits_at: int, bits: Any, out: Any, present: Any) -> None:
    """Takes cells of records, column by column.

    Args:
        records: [k + 1, width].
        rows: [n] of them.
        words: [c] the words of the cells.
        bits_at: the word of the first presence bit.
        bits: [p] the presence bits.
        out: [c, n], filled with the cells.
        present: [p, n], filled.
    """
    n = len(rows)
    for begin in range(0, n, _BLOCK):
        end = min(n, begin + _BLOCK)
        for c in range(len(words)):
            word = words[c]
            for i in range(begin, end):
                out[c, i] = records[rows[i], word]
        for p in range(len(bits)):
            word, shift = bits_at + (bits[p] >> 6), bits[p] & 63
            for i in range(begin, end):
                present[p, i] = (records[rows[i], word] >> shift) & 1 == 1


@jit
def put_bits(present: Any, first: int, at: int, records: Any) -> None:
    """Sets presence bits of records: those of columns [p, n] from bit `first` on, whose words begin at `at`."""
    for p in range(len(present)):
        word, bit = at + ((first + p) >> 6), np.int64(1) << ((first + p) & 63)
        for i in range(present.shape[1]):
            if present[p, i]:
                records[i, word] |= bit


@jit
def copy_rows(words: Any, offsets: Any, rows: Any, ends: Any, out: Any) -> None:
    """Copies packed rows [n], the row i to `out[ends[i]:ends[i + 1]]`."""
    for i in range(len(rows)):
        begin, to = offsets[rows[i]], ends[i]
        for k in range(ends[i + 1] - to):
            out[to + k] = words[begin + k]


@jit
def settled_at(words: Any, offsets: Any, shape: Any, delay: int, known_at: int, out: Any) -> None:
    """Fills `out` [n] with the first time at which all events of a packed row count.

    Args:
        words: the rows; none is empty.
        offsets: [n + 1] into them.
        shape: `Layout.shape`.
        delay: of the source.
        known_at: `Layout.known_at`.
        out: filled.
    """
    for i in range(len(out)):
        row = offsets[i]
        last = words[row + LAST_FOLDED]
        event = row + shape[2]
        for _ in range(words[row + PENDING]):
            last = max(last, words[event] + delay)
            if known_at >= 0:
                last = max(last, words[event + known_at])
            event += shape[1]
        out[i] = last + 1
