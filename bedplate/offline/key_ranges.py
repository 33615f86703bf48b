"""The order of a large table's rows by key, prepared while they are read: each batch is put in order of key range.

A sort of rows that lie anywhere waits for memory at every row. So the keys are cut into ranges that have about as many
rows each, as the first batch shows, and the rows of each batch are put in order of range while the processor's cache
holds them. Afterwards the rows of a range are put in order of key, one range at a time, and what is read for it fits
into the cache: the rows of a range are one run in each batch.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import final

import numpy as np

from bedplate.features.rows import Put, Rows, RowsColumn
from bedplate.offline import kernels, ranging
from bedplate.offline.index import row_type
from bedplate.offline.order import KeyOrder, number_keys, order_by_code
from bedplate.types import Array, Int64s

LEAST = 1 << 23
"""Rows of a table for which it is worth the places of arrival that it takes: the columns of fewer are in the cache."""
_ROWS = 1 << 16
"""About how many rows a range has: their columns fit into the cache of a core."""
_MOST = 256
"""The most ranges: so many places are written to in turn."""
_CELLS = 1 << 12
"""Spans of keys of equal length of which the ranges are made."""


@final
@dataclass(frozen=True, slots=True)
class RangedRows:
    """n rows, those of each batch in order of key range.

    Attributes:
        rows: the rows.
        arrival: [n] each row's place of arrival.
        bounds: [batches, ranges + 1] where the rows of each range begin in each batch, and where the batch ends.
        ascending: whether they came in order of time.
    """

    rows: Rows
    arrival: Array
    bounds: Int64s
    ascending: bool

    def order(self, threads: int) -> KeyOrder:
        """The rows in order of key and time, those of equal time in order of arrival; ranges side by side."""
        sizes = np.diff(self.bounds, axis=1).sum(axis=0)
        ends = np.cumsum(sizes)
        order = np.empty(len(self.rows), row_type(len(self.rows)))
        found: dict[int, tuple[Int64s, Int64s]] = {}

        def work(number: int) -> None:
            begin, end = int(ends[number] - sizes[number]), int(ends[number])
            keys, offsets = self._order_range(number, order[begin:end])
            if not self.ascending:
                kernels.sort_slices(self.rows.times, offsets, order[begin:end])
            found[number] = keys, offsets[:-1] + begin

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, np.flatnonzero(sizes).tolist()))
        every = [found[number] for number in sorted(found)]
        keys = np.concatenate([self.rows.keys[:0], *(k for k, _ in every)])
        offsets = np.concatenate([*(o for _, o in every), np.array([len(order)])])
        return KeyOrder(keys, offsets, order)

    def _order_range(self, number: int, order: Array) -> tuple[Int64s, Int64s]:
        """Fills the order of a range's rows by key; its keys, and where the rows of each begin in the order."""
        keys = self.rows.keys
        starts, stops = np.ascontiguousarray(self.bounds[:, number]), np.ascontiguousarray(self.bounds[:, number + 1])
        low, high = ranging.extremes(keys, starts, stops)
        if keys.shape[1] == 1 and high - low <= 4 * len(order):
            offsets = np.zeros(high - low + 2, np.int64)
            ranging.order_near(keys, starts, stops, low, offsets, order)
            there = np.flatnonzero(np.diff(offsets))
            return (there + low).reshape(-1, 1), np.append(offsets[there], len(order))
        rows = np.empty(len(order), order.dtype)
        ranging.rows_of(starts, stops, rows)
        different, codes = number_keys(keys[rows], 1)
        offsets, own = np.zeros(len(different) + 1, np.int64), np.empty(len(order), order.dtype)
        order_by_code(codes, own[:0], offsets, own, 1)
        np.take(rows, own, out=order, mode="clip")
        return different, offsets


@final
class KeyRanges:
    """Puts the rows of each batch of a table in order of key range.

    Args:
        rows: about how many rows the table has.
    """

    __slots__ = ("_arrival", "_ascending", "_bounds", "_low", "_number", "_rows", "_shift", "_spans", "_time")

    def __init__(self, rows: int) -> None:
        self._number = max(1, min(rows // _ROWS, _MOST))
        self._arrival = RowsColumn((rows,), row_type(4 * rows))
        self._bounds: list[Int64s] = []
        self._rows, self._ascending, self._time = 0, True, -(2**63)
        self._low, self._shift, self._spans = 0, 0, np.zeros(1, np.uint8)

    def arrange(self, batch: Rows) -> Put:
        """What puts a batch's rows in order of key range, rows of one range as they stand."""
        keys, times, begin = np.ascontiguousarray(batch.keys), batch.times, self._rows
        if not self._rows and len(batch):
            self._cut(keys[:, 0])
        bounds, rows = np.zeros(self._number + 1, np.int64), self._arrival.room(len(batch))
        is_ascending = ranging.by_range(keys, times, self._low, self._shift, self._spans, begin, bounds, rows)
        if len(batch):
            self._ascending &= bool(is_ascending) and int(times[0]) >= self._time
            self._time = int(times[-1])
        self._bounds.append(bounds)
        self._rows += len(batch)

        def put(values: Array, out: Array) -> None:
            if values.ndim > 1 and values.shape[1] > 1:
                np.take(values, rows - begin, axis=0, out=out, mode="clip")
            else:
                ranging.put_rows(values.reshape(-1), rows, begin, out.reshape(-1))

        return put

    def _cut(self, keys: Int64s) -> None:
        """Cuts the keys into ranges by those of the first batch."""
        self._low, high = int(keys.min()), int(keys.max())
        self._shift = max(0, (high - self._low + 1).bit_length() - _CELLS.bit_length() + 1)
        counts = np.zeros(((high - self._low) >> self._shift) + 1, np.int64)
        ranging.count_spans(keys, self._low, self._shift, counts)
        before = np.cumsum(counts) - counts
        self._spans = (before * self._number // len(keys)).astype(np.uint8)

    def rows(self, joined: Rows) -> RangedRows:
        """The rows of all batches, each in the order that was given for it."""
        bounds = np.stack(self._bounds) if self._bounds else np.zeros((1, self._number + 1), np.int64)
        return RangedRows(joined, self._arrival.array(), bounds, self._ascending)
