"""How a worker stands: what it took in, how fast, how far it is behind, and what went wrong.

One thread, the worker's, writes; others read at any time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import final

from bedplate.online.streams import Position

RATE_SECONDS = 10.0
"""The rate of events is that of so many seconds."""


@final
@dataclass(slots=True)
class PartitionMeasures:
    """How a worker stands in one partition.

    Attributes:
        events: events taken in.
        passed_over: events that were not, as the loads of the views had those of their time.
        newest: when the newest event of the last micro-batch could be known, apart from a delay; microseconds, -1: no
            view counts any.
        lag: events of the stream that are not taken in yet when it was last asked; None: that is not known.
    """

    events: int = 0
    passed_over: int = 0
    newest: int = -1
    lag: int | None = None


@final
@dataclass(slots=True)
class Measures:
    """How a worker stands.

    Attributes:
        source: the name of the source.
        events: events taken in.
        passed_over: as of a partition, of all.
        files: files taken in to their end.
        conflicts: steps that were made anew, as another worker or partition was first.
        store_errors: turns that ended because the store could not be reached, or did not say what became of a step.
        trouble: what the store said last, while it can't be reached; empty: it can.
        stream_trouble: why the stream can't be reached now; empty: it can.
        letters: events that went aside.
        ahead: events taken in that were further ahead of the clock than is allowed: they count once it has come so far.
        swept: rows that were deleted, as nothing of them counted any more.
        stream_errors: errors of the stream that passed.
        stuck: why partitions can't go on, by their names, while they can't.
        strangers: what is where the stream is and no part of it.
        place: what was taken in last, as a person knows it.
        newest: as of a partition, in the last micro-batch of all.
        partitions: how it stands in each.
        watermarks: of each view by its name, when its state was last read; microseconds.
    """

    source: str
    events: int = 0
    passed_over: int = 0
    files: int = 0
    conflicts: int = 0
    store_errors: int = 0
    trouble: str = ""
    stream_trouble: str = ""
    letters: int = 0
    ahead: int = 0
    swept: int = 0
    stream_errors: int = 0
    stuck: dict[str, str] = field(default_factory=dict[str, str])
    strangers: tuple[str, ...] = ()
    place: str = ""
    newest: int = -1
    partitions: dict[str, PartitionMeasures] = field(default_factory=dict[str, PartitionMeasures])
    watermarks: dict[str, int] = field(default_factory=dict[str, int])
    _began: float = field(default_factory=monotonic)
    _taken: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])

    def took(self, partition: str, end: Position, events: int, newest: int, passed_over: int = 0) -> None:
        """A micro-batch was taken in."""
        self.trouble = ""
        found = self.partitions.setdefault(partition, PartitionMeasures())
        found.events += events
        found.passed_over += passed_over
        self.events += events
        self.passed_over += passed_over
        if newest >= 0:
            found.newest = self.newest = newest
        self.place = f"{'/'.join(filter(None, (partition, end.name)))}, {end.at:,} rows"
        now = monotonic()
        while self._taken and self._taken[0][0] < now - RATE_SECONDS:
            self._taken.popleft()
        self._taken.append((now, events))

    def found_lags(self, lags: dict[str, int | None], partitions: Sequence[str]) -> None:
        """So many events are left in each partition; of those that are not said it is not known."""
        for partition in partitions:
            self.partitions.setdefault(partition, PartitionMeasures()).lag = lags.get(partition)
        for partition in self.partitions.keys() - set(partitions):  # another worker has it
            self.partitions[partition].lag = None

    def failed(self, error: Exception) -> None:
        """The store can't be reached now."""
        self.store_errors += 1
        self.trouble = str(error).partition("\n")[0]

    @property
    def errors(self) -> int:
        """Errors of the store and of the stream that passed."""
        return self.store_errors + self.stream_errors

    @property
    def lag(self) -> int | None:
        """Events that are not taken in yet, of the partitions of which that is known; None: of none."""
        known = [p.lag for p in list(self.partitions.values()) if p.lag is not None]
        return sum(known) if known else None

    @property
    def rate(self) -> float:
        """Events a second, of the last ten seconds."""
        now = monotonic()
        seconds = min(RATE_SECONDS, now - self._began)
        return sum(n for at, n in list(self._taken) if at >= now - RATE_SECONDS) / max(seconds, 0.001)

    def freshness(self, now: int) -> float | None:
        """Seconds from the newest event of the last micro-batch to a time in microseconds; None: there is none."""
        return age(self.newest, now)


def age(newest: int, now: int) -> float | None:
    """Seconds between two times in microseconds; 0 where the first is later, as by another clock, None where it is -1.

    >>> age(1_000_000, 3_500_000), age(3_500_000, 1_000_000)
    (2.5, 0.0)
    """
    return None if newest < 0 else max(now - newest, 0) / 1e6
