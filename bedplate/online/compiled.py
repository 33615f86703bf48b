"""What the compiled passes over packed rows share."""

from __future__ import annotations

import functools
from typing import Any

from bedplate.compiling import compiled
from bedplate.online.codec import MISSING, PARTIAL_WIDTH, VALID_BITS

TOTAL, TILE, RING, VALUES = range(4)
"""Where a scalar reduction's folded events are: in the totals, tiles, the ring of last events, or distinct values."""

CODE, SOURCE, AT, PARTIAL, NUMBER_AT, SELECTION, WORD, IS_FLOAT, LENGTH, HOP, BOUND = range(11)
"""The columns of scalar requests. AT is a section, or the first word of the totals; PARTIAL and NUMBER_AT are words
from there; LENGTH -1: no window. After them come, for results of several words, the row that `Layout.partials` has, and
how many requests later the next word goes."""

SCALAR_WIDTH = BOUND + 1 + PARTIAL_WIDTH + 1
"""The number of columns of scalar requests."""

FILLED = -1
"""The code of a request that is filled by one before it."""

jit: Any = functools.partial(compiled, error_model="numpy")
"""Loops copy word by word, and integers that are not literals begin them: slices and literals cost compile time."""


@jit
def is_valid(words: Any, at: int, selection: int) -> bool:
    """Whether the event at a word counts for a selection; every event counts for selection -1."""
    if selection < 0:
        return True
    return (words[at + 1 + selection // VALID_BITS] >> (selection % VALID_BITS)) & 1 == 1


@jit
def first_at(words: Any, at: int, count: int, width: int, time: int) -> int:
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
def window_start(time: int, length: int, hop: int) -> int:
    """The first event time that a window covers; see `Window.start`."""
    if length < 0:
        return MISSING
    start = time - length
    return start - start % hop if hop > 0 else start
