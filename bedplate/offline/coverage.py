"""Ranges of event times that an index holds, where it was built for some only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np

from bedplate.errors import StoreError
from bedplate.features.view import CompiledView
from bedplate.offline.segment import SegmentManifest
from bedplate.types import Int64s, format_time

_EVER, _NEVER = -(2**62), 2**62
"""Before and after all times."""


@final
class Coverage:
    """The ranges of event times that an index holds.

    Args:
        view: the compiled view.
        begins: [r] int64 the first time of each range, ascending; before all times where nothing is missing before it.
        ends: [r] int64 the time after the last of each, after all times where nothing is missing after it.
        bounds: the smallest and the greatest time of the table's events.
    """

    __slots__ = ("_begins", "_bounds", "_ends", "_view")

    def __init__(self, view: CompiledView, begins: Int64s, ends: Int64s, bounds: tuple[int, int]) -> None:
        self._view, self._begins, self._ends, self._bounds = view, begins, ends, bounds

    @staticmethod
    def of(view: CompiledView, manifests: Sequence[SegmentManifest]) -> Coverage:
        """What segments hold; the table has no events before the smallest of their times or after the greatest."""
        lows = [m.low for m in manifests if m.low is not None]
        highs = [m.high for m in manifests if m.high is not None]
        low, high = min(lows, default=_NEVER), max(highs, default=_EVER)
        joined: list[list[int]] = []
        for begin, end in sorted({(_start(m, low), _stop(m, high)) for m in manifests}):
            if joined and begin <= joined[-1][1]:
                joined[-1][1] = max(joined[-1][1], end)
            else:
                joined.append([begin, end])
        found = np.array(joined, np.int64).reshape(-1, 2)
        return Coverage(view, np.ascontiguousarray(found[:, 0]), np.ascontiguousarray(found[:, 1]), (low, high))

    @property
    def is_whole(self) -> bool:
        """Whether all of the table's events are held."""
        return len(self._begins) == 1 and self._begins[0] == _EVER and self._ends[0] == _NEVER

    def check_whole(self) -> None:
        """Raises `StoreError` where not all of the table's events are held."""
        if not self.is_whole:
            raise StoreError(
                f"the as-of index holds events {self.text} only, and all are needed",
                where=self._view.place,
                hint="run: bedplate apply",
            )

    @property
    def text(self) -> str:
        """The ranges for a person, such as "from 2026-01-01T00:00:00Z to 2026-02-01T00:00:00Z"."""
        return " and ".join(_text(b, e) for b, e in zip(self._begins.tolist(), self._ends.tolist(), strict=True))

    def end(self, last: int) -> int:
        """The greatest time of which all is known, where the last event held is at `last`."""
        return last if self._ends[-1] == _NEVER else int(self._ends[-1]) - 1

    def check(self, limits: Int64s, times: Int64s, shift: int, *, ahead: bool) -> None:
        """Raises `StoreError` where asked rows need events that are not held.

        Args:
            limits: [ranges, 4] as `seek.find_rows` takes them.
            times: [n] the times asked for.
            shift: as `seek.find_rows` takes it.
            ahead: whether the rows look forward.
        """
        if self.is_whole or not len(times):
            return
        begin = np.full(len(times), _NEVER, np.int64)
        for length, hop, _, ttl in limits.tolist():
            start = np.full(len(times), _EVER, np.int64)
            if ahead:
                start = times
            elif length >= 0:
                start = times - length
                start = start - start % hop if hop > 0 else start
            if ttl >= 0:
                start = np.maximum(start, times - ttl)
            begin = np.minimum(begin, start)
        end = np.maximum(times + shift, begin)
        place = np.searchsorted(self._begins, begin, side="right") - 1
        inside = (place >= 0) & (end <= self._ends[np.maximum(place, 0)])
        if inside.all():
            return
        low, high = int(begin[~inside].min()), int(end[~inside].max())
        # Nothing is built of a range without events: one that holds the first or the last is whole on its other side.
        first, last = self._bounds
        begin_text, end_text = format_time(max(min(low, last), 0)), format_time(max(high, first + 1))
        hint = f"bedplate backfill {self._view.name} --from {begin_text} --to {end_text}"
        wanted = _text(low, high) if low > _EVER else f"of all history up to {format_time(high)}"
        raise StoreError(
            f"the as-of index holds events {self.text} only; {np.count_nonzero(~inside):,} of {len(times):,} rows need "
            f"events {wanted}",
            where=self._view.place,
            hint=f"run: {hint if low > _EVER else 'bedplate apply'}",
        )


def _start(manifest: SegmentManifest, low: int) -> int:
    begin = manifest.span.begin
    return _EVER if begin is None or begin <= low else begin


def _stop(manifest: SegmentManifest, high: int) -> int:
    until = manifest.span.until
    return _NEVER if until is None or until > high else until


def _text(begin: int, end: int) -> str:
    parts = [f"from {format_time(begin)}" if begin > _EVER else "", f"to {format_time(end)}" if end < _NEVER else ""]
    return " ".join(filter(None, parts)) or "of all times"
