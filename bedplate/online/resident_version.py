"""A version of a resident view in memory: cells where they hold, else packed rows, finalised as those of the store."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import final

import numpy as np

from bedplate.batch import Column, Columns, Places, Ragged, Stack
from bedplate.features.reader import Read
from bedplate.online import resident_kernels as kernels
from bedplate.online.fetch import OnlineReader
from bedplate.online.resident_cells import CellPlan, Cells
from bedplate.online.resident_files import Mapped
from bedplate.types import Int64s

_MOST_PLANS = 4096


@final
class ResidentVersion:
    """A mapped version of a view. Any number of threads may read it.

    Args:
        cells: of the view.
        mapped: the files.

    Attributes:
        mapped: as given.
    """

    __slots__ = ("_cells", "_edges", "_lifetimes", "_plans", "mapped")

    def __init__(self, cells: Cells, mapped: Mapped) -> None:
        self._cells, self.mapped = cells, mapped
        self._lifetimes = cells.lifetimes(mapped.manifest.time)
        self._plans: dict[tuple[tuple[str, ...], int, int], _Plan] = {}
        self._edges = sorted({time for lifetime in self._lifetimes.values() for time in lifetime})

    def read(self, read: Read, reader: OnlineReader) -> Columns:
        """The values of n rows; a key that is not there has no events.

        Args:
            read: what to read of the view.
            reader: finalises packed rows, and has the texts.

        Raises:
            AheadError: a row is ahead of a time asked for.
        """
        records = self.mapped.records
        keys, times = np.ascontiguousarray(read.keys), np.ascontiguousarray(read.times, np.int64)
        rows = np.empty(len(times), np.int64)
        early, first, last = kernels.find_rows(self.mapped.slots, records, keys, times, rows)
        plan = self._plan(tuple(read.names), first, last)
        parts: list[Stack | Column] = []
        if plan.ready is not None:
            ready = plan.ready.read(records, rows, reader.texts)
            if early:
                self._settle(ready, Read(read.view, plan.ready.plan.names, keys, times), rows, reader)
            parts += ready.parts
        if plan.others:
            others = reader.unpacked(Read(read.view, plan.others, keys, times), *self.mapped.packed(rows))
            return plan.joined(parts, others)
        return Columns(parts, plan.places)

    def _settle(self, ready: Columns, read: Read, rows: Int64s, reader: OnlineReader) -> None:
        """Replaces the values of rows with events that may not count yet, or not in the window any more."""
        early = np.flatnonzero(self.mapped.records[rows, read.keys.shape[1]] > read.times)
        of_early = Read(read.view, read.names, read.keys[early], read.times[early])
        found = reader.unpacked(of_early, *self.mapped.packed(rows[early]))
        for part, settled in zip(ready.parts, found.parts, strict=True):
            _put(part, settled, early)

    def _plan(self, names: tuple[str, ...], first: int, last: int) -> _Plan:
        """How features are read for times from the first to the last."""
        key = names, bisect_right(self._edges, first), bisect_right(self._edges, last)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            never = 1, 0
            lifetimes = {name: self._lifetimes.get(name, never) for name in names}
            hold = [name for name, (since, until) in lifetimes.items() if since <= first and last < until]
            plan = self._plans[key] = _Plan(self._cells, names, hold)
        return plan


@final
class _Plan:
    """How features are read while the cells of some of them hold.

    Attributes:
        ready: reads those whose cells hold; None: there are none.
        others: those that are finalised of packed rows.
        places: where each feature is, where all are in cells.
    """

    __slots__ = ("_joined", "_names", "others", "places", "ready")

    def __init__(self, cells: Cells, names: tuple[str, ...], hold: Sequence[str]) -> None:
        self.ready = CellPlan(cells, hold) if hold else None
        self.others = [name for name in names if name not in set(hold)]
        self.places: Places = {} if self.ready is None else self.ready.plan.places
        self._names = names
        self._joined: Places | None = None

    def joined(self, parts: list[Stack | Column], others: Columns) -> Columns:
        """The parts with cells and then the others, in the same places each time."""
        if self._joined is None:
            after = {name: (at + len(parts), position) for name, (at, position) in others.places.items()}
            found = {**self.places, **after}
            self._joined = {name: found[name] for name in self._names}
        return Columns([*parts, *others.parts], self._joined)


def _put(part: Stack | Column, values: Stack | Column, rows: Int64s) -> None:
    """Puts values in the place of some rows of a part of the same form."""
    if isinstance(part, Ragged) or isinstance(values, Ragged):
        raise TypeError("lists have no cells")
    at = (slice(None), rows) if isinstance(part, Stack) else rows
    part.values[at] = values.values
    if part.present is not None:
        part.present[at] = True if values.present is None else values.present
