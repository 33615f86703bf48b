"""The ranges of a key's events that calls reduce: one for each different window and, for carried values, age."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from bedplate.aggregations.base import Reduce, Reduction
from bedplate.aggregations.window import Window
from bedplate.features.view import Call
from bedplate.types import Int64s

Range: TypeAlias = "tuple[Window | None, int | None]"
"""A window and, for values carried forward, a ttl."""


def range_of(call: Call, reduction: Reduction, ttl: int | None) -> Range:
    """The range over which a call wants a reduction."""
    return call.window, ttl if reduction.reduce in (Reduce.LATEST, Reduce.LATEST_BY) else None


def ranges_of(calls: Sequence[Call], ttl: int | None) -> dict[Range, int]:
    """Every different range with its number."""
    found = dict.fromkeys(range_of(c, r, ttl) for c in calls for r in c.aggregation.reductions)
    return {over: number for number, over in enumerate(found)}


def limits_of(ranges: Mapping[Range, int], *, ahead: bool) -> Int64s:
    """[ranges, 4] as `seek.find_rows` takes them."""
    return np.array([(0, 0, -1, -1) if ahead else _limits(r) for r in ranges], np.int64).reshape(-1, 4)


def _limits(over: Range) -> tuple[int, int, int, int]:
    """A range as `find_rows` takes it."""
    window, ttl = over
    last = -1 if ttl is None else ttl
    if window is None:
        return -1, 0, -1, last
    return window.length, window.hop, -1 if window.bound is None else window.bound, last
