"""The order of a bucket's rows by key and time, found by several threads: each takes a run of the rows."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np

from bedplate.features.rows import Rows
from bedplate.offline import kernels
from bedplate.offline.index import row_type
from bedplate.types import Array, Int64s

_RUN = 1 << 19
"""Fewer rows than this are left to one thread."""


@final
@dataclass(frozen=True, slots=True)
class KeyOrder:
    """Rows in order of key and time.

    Attributes:
        keys: [k, entities] the different keys, ascending.
        offsets: [k + 1] where each key's rows begin.
        order: [n] row numbers.
    """

    keys: Int64s
    offsets: Int64s
    order: Array


def order_rows(rows: Rows, threads: int) -> KeyOrder:
    """Rows in order of key, time, what orders ties, and arrival."""
    keys, codes = number_keys(rows.keys, threads)
    offsets = np.zeros(len(keys) + 1, np.int64)
    order = np.empty(len(rows), row_type(len(rows)))
    before = np.lexsort(rows.ties[::-1]).astype(order.dtype) if rows.ties else order[:0]
    order_by_code(codes, before, offsets, order, threads)
    if len(before) or not kernels.is_ascending(rows.times):
        kernels.sort_slices(rows.times, offsets, order)
    return KeyOrder(keys, offsets, order)


def extremes(values: Int64s, threads: int) -> tuple[int, int]:
    """The smallest and the largest value; there is one at least."""
    found: list[tuple[int, int]] = []
    in_runs(lambda _, run: found.append((int(values[run].min()), int(values[run].max()))), len(values), threads)
    return min(low for low, _ in found), max(high for _, high in found)


def in_runs(work: Callable[[int, slice], None], rows: int, threads: int) -> int:
    """Calls `work` with the number of each run of rows and the run itself, side by side; how many runs there are."""
    runs = max(1, min(threads, rows // _RUN))
    bounds = [rows * i // runs for i in range(runs + 1)]
    slices = [slice(a, b) for a, b in pairwise(bounds)]
    if runs == 1:
        work(0, slices[0])
    else:
        with ThreadPoolExecutor(runs) as pool:
            list(pool.map(work, range(runs), slices))
    return runs


def number_keys(keys: Int64s, threads: int) -> tuple[Int64s, Array]:
    """The different keys in ascending order, and each row's position among them (int32)."""
    rows = len(keys)
    codes = np.empty(rows, np.int32)
    if rows and keys.shape[1] == 1:
        low, high = int(keys.min()), int(keys.max())
        if high - low < rows:
            there = np.zeros(high - low + 1, np.bool_)
            in_runs(lambda _, run: kernels.mark_keys(keys[run], low, there), rows, threads)
            place = np.cumsum(there, dtype=np.int32) - np.int32(1)
            in_runs(lambda _, run: kernels.place_keys(keys[run], low, place, codes[run]), rows, threads)
            return (np.flatnonzero(there) + low).reshape(-1, 1), codes
    known = np.empty(keys.shape, np.int64)
    count = int(kernels.number_keys(keys, codes, known))
    different = known[:count]
    order = np.lexsort(different.T[::-1])
    place = np.empty(count, np.int32)
    place[order] = np.arange(count, dtype=np.int32)
    np.take(place, codes, out=codes, mode="clip")
    return np.ascontiguousarray(different[order]), codes


def order_by_code(codes: Array, before: Array, offsets: Int64s, order: Array, threads: int) -> None:
    """An order of rows by code, stable with regard to an order before.

    Args:
        codes: [n] numbers below k.
        before: [n] row numbers, or empty for the rows as they stand.
        offsets: [k + 1] zeros, filled with where each code's rows begin.
        order: [n], filled with row numbers.
        threads: how many threads may work on it.
    """
    counts = np.zeros((threads, len(offsets) - 1), np.int64)

    def count(number: int, run: slice) -> None:
        kernels.count_codes(codes[run], counts[number])

    def place(number: int, run: slice) -> None:
        kernels.place_rows(codes, before, run.start, run.stop, cursors[number], order)

    if len(before):  # the runs of the order before are not those of the rows
        threads = 1
    runs = in_runs(count, len(codes), threads)
    counts = counts[:runs]
    np.cumsum(counts.sum(axis=0), out=offsets[1:])
    cursors = np.cumsum(counts, axis=0) - counts + offsets[:-1]
    in_runs(place, len(codes), threads)
