"""Point-in-time lookups in as-of indexes.

A lookup orders the asked rows by key, so that memory is read in sequence; finds each window's rows by two binary
searches in the key's slice; reduces them by one subtraction, a few blocks or a copy; and hands the partials to the
aggregation. Blocks of rows are independent: large lookups run on several threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, final

import numpy as np

from bedplate.aggregations.base import Latest, Newest, Partial, Reduce, Reduction, Scalar
from bedplate.aggregations.window import Window
from bedplate.batch import Column
from bedplate.errors import DefinitionError, StoreError
from bedplate.features.rows import GroupedRows, SelectedValues
from bedplate.features.view import Call, CompiledView
from bedplate.offline import kernels
from bedplate.offline.answer import Answer
from bedplate.offline.base import History
from bedplate.offline.build import Build
from bedplate.offline.index import ColumnFiles, Timeline, selection_id
from bedplate.types import Array, Int64s

_BLOCK = 1 << 14
"""Rows looked up at once by one thread: their working arrays stay in the cache."""

Range: TypeAlias = "tuple[Window | None, int | None]"
"""A window and, for values carried forward, a ttl."""


@final
@dataclass(frozen=True, slots=True)
class Block:
    """n of the asked rows.

    Attributes:
        order: [n] the place of each row in the answer.
        codes: [n] the position of each row's key; -1 where the index has none.
        times: [n] the times asked for.
        first: [ranges, n] the first row of the timeline in each range.
        stop: [n] the row after the last, the same for every range.
    """

    order: Int64s
    codes: Int64s
    times: Int64s
    first: Int64s
    stop: Int64s


@final
class IndexReader:
    """Reads one view's index.

    Args:
        view: the compiled view.
        timeline: its timeline, complete for the view.
        threads: how many threads a large lookup may use.
    """

    __slots__ = ("_columns", "_files", "_starts", "_table", "_threads", "timeline", "view")

    def __init__(self, view: CompiledView, timeline: Timeline, threads: int) -> None:
        self.view, self.timeline, self._threads = view, timeline, threads
        self._columns = [selection_id(s, t) for s, t in zip(view.selections, view.types, strict=True)]
        self._files = [timeline.column(c, t) for c, t in zip(self._columns, view.types, strict=True)]
        self._starts = [timeline.key_starts(c, f) for c, f in zip(self._columns, self._files, strict=True)]
        self._table: Array | None = None

    def read(self, names: Sequence[str], keys: Int64s, times: Int64s) -> Mapping[str, Column]:
        """The values before each time; see `Reader`."""
        return self._lookup(names, keys, times, -self.view.view.source.delay, self.view.view.ttl)

    def ahead(self, names: Sequence[str], keys: Int64s, times: Int64s, within: int) -> Mapping[str, Column]:
        """The values over `time <= event < time + within`; see `History`."""
        return self._lookup(names, keys, times, within, None, ahead=True)

    def _lookup(
        self, names: Sequence[str], keys: Int64s, times: Int64s, shift: int, ttl: int | None, *, ahead: bool = False
    ) -> Mapping[str, Column]:
        wanted = {self.view.short(n) for n in names}
        calls = [c for c in self.view.calls if wanted.intersection(c.names)]
        ranges = _ranges(calls, ttl)
        limits = np.array([(0, 0, -1, -1) if ahead else _limits(r) for r in ranges], np.int64).reshape(-1, 4)
        codes, order = self._find(keys, times)
        answer = Answer(len(keys))

        def work(rows: Int64s) -> None:
            own, asked = codes, times
            if len(keys) > _BLOCK:
                own, asked = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
                kernels.gather_sorted(codes, times, rows, own, asked)
            first, stop = np.empty((len(ranges), len(own)), np.int64), np.empty(len(own), np.int64)
            timeline = self.timeline
            kernels.find_rows(timeline.times, timeline.offsets, own, asked, shift, limits, first, stop)
            block = Block(rows, own, asked, first, stop)
            answer.add(rows, dict(self._columns_of(calls, ranges, ttl, block)))

        blocks = [order[i : i + _BLOCK] for i in range(0, max(1, len(order)), _BLOCK)]
        answer.start(dict(self._columns_of(calls, ranges, ttl, _no_rows(len(ranges)))), len(blocks))
        if len(blocks) == 1 or self._threads == 1:
            for rows in blocks:
                work(rows)
        else:
            with ThreadPoolExecutor(self._threads) as pool:
                list(pool.map(work, blocks))
        columns = answer.columns()
        return {name: columns[name] for name in names}

    def _find(self, keys: Int64s, times: Int64s) -> tuple[Int64s, Int64s]:
        """Each asked key's position, and an order by position and nearly by time (for few rows as they are)."""
        known, asked = self.timeline.keys, np.ascontiguousarray(keys)
        codes = np.empty(len(asked), np.int64)
        if 8 * len(asked) < len(known) and self._table is None:
            kernels.find_keys(known, asked, codes)
        else:
            if self._table is None:
                size = max(2, 1 << (2 * len(known)).bit_length())
                self._table = kernels.hash_table(known, len(known), size)
            kernels.find_hashed(known, self._table, asked, codes)
        if len(codes) <= _BLOCK:
            return codes, np.arange(len(codes))
        order, offsets = np.empty(len(codes), np.int64), np.zeros(len(known) + 2, np.int64)
        kernels.counting_sort(codes + 1, _by_time(times), offsets, order)
        return codes, order

    def _columns_of(
        self, calls: Sequence[Call], ranges: Mapping[Range, int], ttl: int | None, block: Block
    ) -> Iterator[tuple[str, Column]]:
        """The values of a block of rows, each by its full name."""
        partials: dict[tuple[int, Reduce, int, int], Partial] = {}
        for call in calls:
            values: list[Partial] = []
            for reduction in call.aggregation.reductions:
                over = ranges[_range(call, reduction, ttl)]
                index = self.view.reduction_index(reduction)
                key = (index, reduction.reduce, reduction.depth, over)
                if key not in partials:
                    partials[key] = self._partial(reduction, index, over, block)
                values.append(partials[key])
            for name, column in zip(call.names, call.aggregation.finalize(values, block.times), strict=True):
                yield f"{self.view.name}.{name}", column

    def _partial(self, reduction: Reduction, index: int, over: int, block: Block) -> Partial:
        files, reduce = self._files[index], reduction.reduce
        a, b = block.first[over], block.stop
        if files.rank is not None:
            a, b = files.rank[a], files.rank[b]
        if reduce is Reduce.LATEST:
            return self._latest(files, reduction.depth, a, b)
        if reduce is Reduce.COUNT:
            return Scalar(b - a)
        arrays = self.timeline.reduction(self._columns[index], reduce)
        out = np.empty(len(a), self.view.output_type(reduction).dtype)
        if reduce is Reduce.SUM:
            kernels.range_sums(arrays["prefix"], self._starts[index], block.codes, a, b, out)
            return Scalar(out)
        if reduce is Reduce.DISTINCT:
            kernels.range_distinct(arrays["previous"], arrays["blocks"], a, b, out)
            return Scalar(out)
        present = np.empty(len(a), np.bool_)
        largest = reduce is Reduce.MAX
        kernels.range_extremes(files.inputs[0], arrays["first"], arrays["second"], largest, a, b, out, present)
        return Scalar(out, present)

    def _latest(self, files: ColumnFiles, depth: int, a: Int64s, b: Int64s) -> Latest | Newest:
        if depth == 1:
            present = b > a
            positions = np.where(present, b - 1, 0)
            rows = positions if files.rows is None else _gather(files.rows, positions)
            columns = tuple(_gather(v, positions) for v in files.inputs)
            return Newest(present, _gather(self.timeline.times, rows), columns, files.texts)
        offsets = np.zeros(len(a) + 1, np.int64)
        np.cumsum(np.minimum(b - a, depth), out=offsets[1:])
        positions = np.empty(int(offsets[-1]), np.int64)
        kernels.last_positions(b, offsets, positions)
        rows = positions if files.rows is None else files.rows[positions]
        return Latest(offsets, self.timeline.times[rows], tuple(v[positions] for v in files.inputs), files.texts)

    def grouped(self, keys_at_once: int) -> Iterator[GroupedRows]:
        """All events, a run of keys at a time."""
        timeline = self.timeline
        key_texts = tuple(timeline.key_texts(i) for i in range(len(self.view.key_types)))
        for first in range(0, len(timeline.keys), keys_at_once):
            last = min(len(timeline.keys), first + keys_at_once)
            start, stop = int(timeline.offsets[first]), int(timeline.offsets[last])
            yield GroupedRows(
                keys=timeline.keys[first:last],
                offsets=timeline.offsets[first : last + 1] - start,
                times=timeline.times[start:stop],
                selections=tuple(_expand(files, start, stop) for files in self._files),
                key_texts=key_texts,
            )


def _gather(values: Array, rows: Int64s) -> Array:
    return values[rows] if len(values) else np.zeros(len(rows), values.dtype)


def _by_time(times: Int64s) -> Int64s:
    """The rows nearly in order of time, by one of 65,536 spans of equal length; empty where they stand in order."""
    if kernels.is_ascending(times):
        return times[:0]
    first = int(times.min())
    shift = max(0, (int(times.max()) - first).bit_length() - 16)
    buckets, order = np.empty(len(times), np.int32), np.empty(len(times), np.int64)
    kernels.time_buckets(times, shift, first, buckets)
    kernels.counting_sort(buckets, order[:0], np.zeros((1 << 16) + 1, np.int64), order)
    return order


def _range(call: Call, reduction: Reduction, ttl: int | None) -> Range:
    return call.window, ttl if reduction.reduce is Reduce.LATEST else None


def _ranges(calls: Sequence[Call], ttl: int | None) -> dict[Range, int]:
    """Every different range with its number."""
    found = dict.fromkeys(_range(c, r, ttl) for c in calls for r in c.aggregation.reductions)
    return {over: number for number, over in enumerate(found)}


def _limits(over: Range) -> tuple[int, int, int, int]:
    """A range as `find_rows` takes it."""
    window, ttl = over
    last = -1 if ttl is None else ttl
    if window is None:
        return -1, 0, -1, last
    return window.length, window.hop, -1 if window.bound is None else window.bound, last


def _no_rows(ranges: int) -> Block:
    none = np.zeros(0, np.int64)
    return Block(none, none, none, np.zeros((ranges, 0), np.int64), none)


def _expand(files: ColumnFiles, start: int, stop: int) -> SelectedValues:
    """A selection's values for the timeline's rows [start, stop), which may not all count."""
    if files.rank is None or files.rows is None:
        return SelectedValues(None, tuple(v[start:stop] for v in files.inputs), files.texts)
    low, high = int(files.rank[start]), int(files.rank[stop])
    valid = np.zeros(stop - start, np.bool_)
    rows = files.rows[low:high] - start
    valid[rows] = True
    inputs: list[Array] = []
    for values in files.inputs:
        full = np.zeros(stop - start, values.dtype)
        full[rows] = values[low:high]
        inputs.append(full)
    return SelectedValues(valid, tuple(inputs), files.texts)


@final
class IndexedHistory(History):
    """The offline store: as-of indexes of many views. Satisfies `History`.

    Args:
        path: the store's folder.
        threads: how many threads a large lookup may use.
    """

    __slots__ = ("_path", "_readers", "_threads")

    def __init__(self, path: Path, threads: int = 2) -> None:
        self._path, self._threads = path, threads
        self._readers: dict[str, IndexReader] = {}

    def build(self, view: CompiledView) -> Build:
        """What the view needs, and the building of it."""
        return Build(self._path, view)

    def reader(self, view: CompiledView) -> IndexReader:
        """The reader of a view's index as of the source's snapshot at the first call.

        Raises:
            StoreError: the index is not (wholly) built.
        """
        if view.id not in self._readers:
            build = self.build(view)
            if not build.is_complete:
                raise StoreError("the as-of index is not built", where=view.place, hint="run: bedplate apply")
            self._readers[view.id] = IndexReader(view, build.timeline, self._threads)
        return self._readers[view.id]

    def read(self, view: CompiledView, names: Sequence[str], keys: Int64s, times: Int64s) -> Mapping[str, Column]:
        """The values before each time; see `Reader`."""
        return self.reader(view).read(names, keys, times)

    def ahead(
        self, view: CompiledView, names: Sequence[str], keys: Int64s, times: Int64s, within: int
    ) -> Mapping[str, Column]:
        """The values over `time <= event < time + within`; see `History`."""
        if any(call.window is not None for call in view.calls):
            raise DefinitionError("a label's aggregation has a window of its own", where=view.place)
        return self.reader(view).ahead(names, keys, times, within)

    def end(self, view: CompiledView) -> int:
        """The greatest event time of the view, microseconds."""
        return self.reader(view).timeline.manifest.end

    def grouped(self, view: CompiledView, keys_at_once: int = 4096) -> Iterator[GroupedRows]:
        """All events of a view by key, for an online store's bulk load."""
        return self.reader(view).grouped(keys_at_once)
