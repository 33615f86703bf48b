"""Where the data of labels end: what is later is not known, so one row that is wrong there decides over many labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import polars as pl

from bedplate.datasets.labels import CompiledLabel
from bedplate.offline.base import History
from bedplate.sources.base import AVAILABLE, TIME, Source
from bedplate.types import DAY, HOUR, Int64s, format_time

_LAST = 10
"""So many of the last silences between hours that have rows are looked at."""
_BEFORE = 10
"""So many silences it takes to say that another one is long."""
_FEW = 0.01
"""Stray rows are at most this share of all."""
_FAR = 3
"""They come after a silence so many times as long as the longest one before."""


@final
@dataclass(frozen=True, slots=True)
class StrayRows:
    """A few rows at the end of a source, after a silence much longer than any before.

    Attributes:
        rows: how many.
        of: how many rows there are in all.
        silence: between them and the rows before, microseconds.
        before: the time of the last row before, microseconds.
        uncensored: how many requests count as complete that would not if the data ended there.
    """

    rows: int
    of: int
    silence: int
    before: int
    uncensored: int

    def __str__(self) -> str:
        """A line for a person to read.

        >>> print(StrayRows(1, 5000, 11 * DAY, 0, 7))
        the last 1 of 5,000 rows come 11 days after the row before, of 1970-01-01T00:00:00Z
        """
        unit, name = (DAY, "days") if self.silence >= 2 * DAY else (HOUR, "hours")
        return (
            f"the last {self.rows:,} of {self.of:,} rows come {self.silence // unit:,} {name} after the row before, "
            f"of {format_time(self.before)}"
        )


@final
@dataclass(frozen=True, slots=True)
class LabelEnd:
    """Where the data of a label end.

    Attributes:
        label: its name.
        source: the name of its source.
        end: the greatest time of an event there, or of when a row could be known; microseconds. -1: there is none. Of a
            label that is joined by the request's id, of the rows that have one.
        stray: the rows that alone say so, if there are such.
    """

    label: str
    source: str
    end: int
    stray: StrayRows | None = None

    def __str__(self) -> str:
        """A line for a person to read.

        >>> print(LabelEnd("paid", "orders", 0))
          data of 'paid' end 1970-01-01T00:00:00Z, in source 'orders'
        """
        if self.end < 0:
            return f"  no data of '{self.label}', in source '{self.source}'"
        stray = f": {self.stray}" if self.stray is not None and self.stray.uncensored else ""
        return f"  data of '{self.label}' end {format_time(self.end)}, in source '{self.source}'{stray}"


def read_ends(
    labels: Sequence[CompiledLabel], root: Path | None, history: History, times: Int64s
) -> tuple[LabelEnd, ...]:
    """Where the data of labels end.

    Args:
        labels: of a dataset.
        root: the project's folder, where relative paths start.
        history: where the labels are read.
        times: [R] int64, of the requests, ascending.
    """
    hours: dict[str, tuple[Int64s, Int64s]] = {}
    result: list[LabelEnd] = []
    for compiled in labels:
        source, end = compiled.label.source, history.known(compiled.view)
        if source.name not in hours:
            hours[source.name] = _hours(source, root)
        found, stray = _stray(*hours[source.name], end), None
        if found is not None:
            ends = np.array([found[-1], end]) - compiled.label.complete_after
            least, most = np.searchsorted(times, ends, side="right").tolist()
            stray = StrayRows(*found, most - least)
        result.append(LabelEnd(compiled.label.name, source.name, end, stray))
    return tuple(result)


def _hours(source: Source, root: Path | None) -> tuple[Int64s, Int64s]:
    """Of each hour with rows, ascending: [h, 2] the first and the last time that one is known, and [h] how many are."""
    known = pl.col(TIME) if source.available is None else pl.max_horizontal(TIME, AVAILABLE)
    read = source.scan(root).select(known.alias("known")).drop_nulls()
    grouped = read.group_by(pl.col("known") // HOUR).agg(
        first=pl.col("known").min(), last=pl.col("known").max(), n=pl.len()
    )
    found = grouped.sort("first").collect(engine="streaming")
    return found.select("first", "last").to_numpy(), found["n"].cast(pl.Int64).to_numpy()


def _stray(spans: Int64s, counts: Int64s, end: int) -> tuple[int, int, int, int] | None:
    """The stray rows of up to a time: how many, of how many, the silence before them and the last time before it."""
    kept = spans[:, 0] <= end
    spans, counts = spans[kept], counts[kept]
    silences = spans[1:, 0] - spans[:-1, 1]
    for at in range(max(_BEFORE, len(silences) - _LAST), len(silences)):
        rows, total = int(counts[at + 1 :].sum()), int(counts.sum())
        if silences[at] > _FAR * max(int(silences[:at].max()), HOUR) and rows <= _FEW * total:
            return rows, total, int(silences[at]), int(spans[at, 1])
    return None
