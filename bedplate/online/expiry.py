"""When a packed row says nothing any more: all that it holds is too old for every window and `ttl` of its view."""

from __future__ import annotations

import numpy as np

from bedplate.online.codec import LAST_FOLDED, PENDING, Layout
from bedplate.types import Int64s

NEVER = np.iinfo(np.int64).max
"""The end of a row of which something counts for ever."""


def ends_of(layout: Layout, words: Int64s, begins: Int64s) -> Int64s:
    """[k] int64 microseconds: from which time of a read on each of k rows gives what a missing row gives.

    Args:
        layout: of the rows.
        words: the rows.
        begins: [k] where each begins.
    """
    ends = np.full(len(begins), NEVER, np.int64)
    if layout.lifetime < 0:
        return ends
    latest, pending = words[begins + LAST_FOLDED], words[begins + PENDING]
    if layout.known_at >= 0:
        is_known = pending == 0  # the last of the pending ones is not the one that is known last
    else:
        is_known = np.ones(len(begins), np.bool_)
        there = np.flatnonzero(pending)
        last = begins[there] + layout.fixed + (pending[there] - 1) * layout.width
        latest[there] = np.maximum(latest[there], words[last] + layout.delay)
    ends[is_known] = np.maximum(latest[is_known], -layout.lifetime) + layout.lifetime + 1
    return ends
