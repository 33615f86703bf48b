"""How much memory a build or a lookup may use, and how much it is expected to."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final

from bedplate.aggregations.base import Reduce
from bedplate.features.view import CompiledView
from bedplate.types import Type

DEFAULT = 2_000_000_000
"""The budget of a process, where `bedplate.toml` sets none; bytes."""
LEAST = 32_000_000
"""What a build may use at least, however little of the budget is left; bytes."""
_MOST_BUCKETS = 1 << 12
_PLACES = (Reduce.DISTINCT, Reduce.COUNTS, Reduce.SMALLEST, Reduce.LATEST_BY)
"""Reductions for which the places of equal values, or blocks of hashes, are worked out."""
_READING = 0.35
"""The share of the room that the reading of batches and other processes' pages take."""
_READ, _WHOLE = 150_000_000, 0.85
"""Bytes that reading a table in pieces takes beside its rows, and the share of a large room that both may take."""
_FULL = 0.8
"""The share of the budget above which a lookup lets go of the pages of the index."""
_UNEQUAL = 1.5
"""How many times the mean a bucket may be before it is cut."""
_LOOKUP = 0.25
"""The share of the room that a lookup's working arrays take, beside pages of the index and what it gives back."""
_READ_AHEAD = 0.5
"""The share of the room that pages of the index may take which one loop reads."""
_TOUCHED = 2 * (64 << 10)
"""Bytes of a part that come into memory where a row's range begins or ends: the system reads around a page."""
_VALUE = 150
"""Bytes that a value of a list takes while the lists of several parts are merged."""
_RANGE = 100
"""Bytes that a row takes for each range in each part: where it begins and ends, and what it gives, twice."""
_KEY = 8
"""Bytes of a key of a row."""
_PLACED = 16
"""Bytes that a row's time takes, its place of arrival, and its place in the order."""
_STRING = 40
"""Bytes that a string of a row takes while its part is built: its id and place, several times."""
_HELD = 250
"""Bytes that a string takes in memory beside its characters, which are there twice."""


@final
@dataclass(frozen=True, slots=True)
class TextSize:
    """About how many bytes of memory strings take.

    Attributes:
        table: all of a table's, each once.
        row: those of a row, by the mean.
    """

    table: float = 0.0
    row: float = 0.0

    @staticmethod
    def of(samples: Sequence[Mapping[int, str]], looked_at: int, rows: int) -> TextSize:
        """From runs of rows of a column of strings.

        How many different strings there are follows from how many come again in another run.

        Args:
            samples: the different strings of each run, by id.
            looked_at: how many rows the runs have.
            rows: how many the table has.

        >>> same, different = [{7: "mug"}] * 4, [{i: "mug"} for i in range(4)]
        >>> TextSize.of(same, 4, 10**6).table < TextSize.of(different, 4, 10**6).table
        True
        """
        found = sum(map(len, samples))
        if not found:
            return TextSize()
        again = found - len(set[int]().union(*samples))
        kinds = (found**2 - sum(len(s) ** 2 for s in samples)) / 2 / max(again, 0.5)
        drawn = rows * found / looked_at
        different = kinds * -math.expm1(-drawn / kinds) if kinds else drawn
        size = _HELD + 2 * sum(len(t.encode()) for s in samples for t in s.values()) / found
        return TextSize(different * size, size * found / looked_at)

    def __add__(self, other: TextSize) -> TextSize:
        """Of both."""
        return TextSize(self.table + other.table, self.row + other.row)


_PAGE = os.sysconf("SC_PAGE_SIZE")


class _Mapped(Protocol):
    def release(self) -> None:
        """Lets go of the pages that were read."""


@final
@dataclass(frozen=True, slots=True)
class Budget:
    """The memory that this process may use, as the operating system counts it.

    Attributes:
        limit: bytes.
        texts: the strings of the table that is read.
        whole: bytes of a row where all are in one bucket, see `bytes_of_whole`; 0: as many as in one of several.
    """

    limit: int = DEFAULT
    texts: TextSize = TextSize()
    whole: int = 0

    def room(self) -> int:
        """What is left of it now; bytes."""
        return max(self.limit - resident(), LEAST)

    @property
    def is_full(self) -> bool:
        """Whether little is left of it, so that pages of indexes that were read are to be let go of."""
        return resident() > _FULL * self.limit

    def ease(self, reader: _Mapped) -> None:
        """Lets go of the pages that a part was just read from, where memory is short."""
        if self.is_full:
            reader.release()

    def holds(self, size: int) -> bool:
        """Whether so many bytes of an index may be read before the next look at `is_full`."""
        return size <= _READ_AHEAD * self.room()

    def batch(self, view: CompiledView) -> int:
        """How many rows of the table to read by one query."""
        return min(max(self._rows(view, 4), 1 << 12 if self.texts.row else 1 << 16), 1 << 20)

    def piece(self, view: CompiledView) -> int:
        """How many of them to take at once."""
        return min(max(self._rows(view, 16), 1 << 10), 1 << 17)

    def _rows(self, view: CompiledView, share: int) -> int:
        return int(self.room() // (share * (bytes_per_row(view) + self.texts.row)))

    def buckets(self, view: CompiledView, rows: int, threads: int) -> int:
        """Into how many buckets so many rows go, a power of two: 1 where they fit into memory at once."""
        needed = rows * bytes_per_row(view)
        if needed + self.texts.table <= self.share(1):
            return 1
        if self.whole and rows * self.whole + self.texts.table + _READ <= _WHOLE * self.room():
            return 1
        buckets = 2
        # Keys have different numbers of events, so buckets do; several are in work at once.
        while _UNEQUAL * needed / buckets > self.share(threads) and buckets < _MOST_BUCKETS:
            buckets *= 2
        return buckets

    def parts(self, view: CompiledView, rows: int, threads: int) -> int:
        """Into how many parts a bucket of so many rows is cut."""
        return max(1, math.ceil(rows * bytes_per_row(view) / self.share(threads)))

    def values(self, threads: int) -> int:
        """How many values of lists one of some threads of a lookup may hold at once."""
        return max(int(_LOOKUP * self.room() / threads / _VALUE), 1 << 10)

    def block(self, ranges: int, readers: int, threads: int) -> int:
        """How many rows one of some threads of a lookup may take at once, of so many ranges in so many parts."""
        return max(int(_LOOKUP * self.room() / threads / (readers * (_RANGE * ranges + _RANGE))), 1 << 7)

    def rows_of_pages(self, ranges: int, readers: int) -> int:
        """As `block`, where the parts are larger than what `holds` them: between two looks at `is_full`."""
        return max(int(_READ_AHEAD * self.room() / (_TOUCHED * (ranges + 1) * readers)), 1 << 4)

    def share(self, threads: int) -> float:
        """What one of several parts that are built at once may take; bytes."""
        return (1 - _READING) * self.room() / threads


def bytes_of_whole(view: CompiledView) -> int:
    """As `bytes_per_row`, for a segment of one bucket, whose rows are put in order while they are read.

    Its keys and times are not in memory any more when columns and reductions are made.
    """
    reading = _KEY * len(view.key_types) + _PLACED + _bytes_of_values(view)
    return max(reading, _PLACED + _bytes_of_reductions(view))


def bytes_per_row(view: CompiledView) -> int:
    """About how many bytes of memory building an index takes for each row: its arrays, and what is being written.

    >>> from bedplate.testing.simulator import simulate, simulated_view
    >>> bytes_per_row(simulated_view(simulate(1))) > 100
    True
    """
    source = view.view.source
    sorting = 2 * _KEY * len(view.key_types) + 28
    sorting += 24 * (source.available is not None) + 16 * (source.sequence is not None)
    return sorting + _bytes_of_values(view) + _bytes_of_reductions(view)


def _bytes_of_values(view: CompiledView) -> int:
    strings = sum(kind is Type.STRING for kinds in (view.key_types, *view.types) for kind in kinds)
    widths = (1 + sum(kind.dtype.itemsize * max(kind.width, 1) for kind in kinds) for kinds in view.types)
    return _STRING * strings + sum(widths)


def _bytes_of_reductions(view: CompiledView) -> int:
    places = any(r.reduce in _PLACES for c in view.calls for r in c.aggregation.reductions)
    return 48 if places else 24


def resident() -> int:
    """The memory of this process as the operating system counts it now; bytes."""
    try:
        file = os.open("/proc/self/statm", os.O_RDONLY)  # lookups ask often: this takes a fifth of `Path.read_text`
    except OSError:
        return 0
    try:
        return int(os.read(file, 100).split()[1]) * _PAGE
    finally:
        os.close(file)
