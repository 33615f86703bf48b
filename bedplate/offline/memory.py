"""How much memory a build or a lookup may use, and how much it is expected to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import final

from bedplate.aggregations.base import Reduce
from bedplate.features.view import CompiledView

DEFAULT = 2_000_000_000
"""The budget of a process, where `bedplate.toml` sets none; bytes."""
LEAST = 32_000_000
"""What a build may use at least, however little of the budget is left; bytes."""
_MOST_BUCKETS = 1 << 12
_PLACES = (Reduce.DISTINCT, Reduce.COUNTS, Reduce.SMALLEST, Reduce.LATEST_BY)
"""Reductions for which the places of equal values, or blocks of hashes, are worked out."""
_READING = 0.35
"""The share of the room that the reading of batches and other processes' pages take."""


@final
@dataclass(frozen=True, slots=True)
class Budget:
    """The memory that this process may use, as the operating system counts it.

    Attributes:
        limit: bytes.
    """

    limit: int = DEFAULT

    def room(self) -> int:
        """What is left of it now; bytes."""
        return max(self.limit - resident(), LEAST)

    def batch(self, view: CompiledView) -> int:
        """How many rows to read at once."""
        return min(max(self.room() // (4 * bytes_per_row(view)), 1 << 16), 1 << 20)

    def buckets(self, view: CompiledView, rows: int, threads: int) -> int:
        """Into how many buckets so many rows go, a power of two: 1 where they fit into memory at once."""
        room, needed = (1 - _READING) * self.room(), rows * bytes_per_row(view)
        if needed <= room:
            return 1
        buckets = 2
        # Keys have different numbers of events, so buckets do; several are in work at once.
        while 1.5 * needed * threads / buckets > room and buckets < _MOST_BUCKETS:
            buckets *= 2
        return buckets


def bytes_per_row(view: CompiledView) -> int:
    """About how many bytes of memory building an index takes for each row: its arrays, and what is being written.

    >>> from bedplate.testing.simulator import simulate, simulated_view
    >>> bytes_per_row(simulated_view(simulate(1))) > 100
    True
    """
    sorting = 16 * len(view.key_types) + 28
    source = view.view.source
    sorting += 24 * (source.available is not None) + 16 * (source.sequence is not None)
    values = sum(1 + sum(kind.dtype.itemsize * max(kind.width, 1) for kind in kinds) for kinds in view.types)
    places = any(r.reduce in _PLACES for c in view.calls for r in c.aggregation.reductions)
    return sorting + values + (48 if places else 24)


def resident() -> int:
    """The memory of this process as the operating system counts it now; bytes."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
