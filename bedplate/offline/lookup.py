"""Point-in-time lookups in as-of indexes.

A lookup orders the asked rows by key, so that memory is read in sequence; finds each window's rows by two binary
searches in the key's slice; reduces them by one subtraction, a few blocks or a copy; and hands the partials to the
aggregation. Blocks of rows are independent: large lookups run on several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, final

import numpy as np

from bedplate.aggregations.base import Latest, Partial, Reduce, Reduction, Scalar
from bedplate.aggregations.window import Window
from bedplate.batch import Column
from bedplate.errors import DefinitionError, StoreError
from bedplate.features.rows import GroupedRows, SelectedValues
from bedplate.features.view import Call, CompiledView
from bedplate.offline import kernels
from bedplate.offline.build import Build
from bedplate.offline.index import ColumnFiles, Timeline, selection_id
from bedplate.types import EARLIEST_TIME, Array, Bools, Int64s

_BLOCK = 1 << 16
"""Rows looked up at once by one thread: their working arrays stay in the cache."""

Bounds: TypeAlias = "tuple[Int64s, Int64s, int]"
"""For n rows the first time and the time after the last, and the greatest number of events (-1: no limit)."""

Range: TypeAlias = "tuple[Window | None, int | None]"
"""A window and, for values carried forward, a ttl."""


@final
@dataclass(slots=True)
class Asked:
    """n rows in the order of their keys.

    Attributes:
        order: [n] the place of each row in the answer.
        codes: [n] the position of each row's key, ascending; -1 where the index has none.
        bounds: the bounds of a range.
        found: the rows [a, b) of each range that was looked up.
    """

    order: Int64s
    codes: Int64s
    bounds: Callable[[Range], Bounds]
    found: dict[Range, tuple[Int64s, Int64s]] = field(default_factory=dict[Range, tuple[Int64s, Int64s]])


@final
class IndexReader:
    """Reads one view's index.

    Args:
        view: the compiled view.
        timeline: its timeline, complete for the view.
        threads: how many threads a large lookup may use.
    """

    __slots__ = ("_columns", "_files", "_starts", "_threads", "timeline", "view")

    def __init__(self, view: CompiledView, timeline: Timeline, threads: int) -> None:
        self.view, self.timeline, self._threads = view, timeline, threads
        self._columns = [selection_id(s, t) for s, t in zip(view.selections, view.types, strict=True)]
        self._files = [timeline.column(c, t) for c, t in zip(self._columns, view.types, strict=True)]
        self._starts = [timeline.key_starts(c, f) for c, f in zip(self._columns, self._files, strict=True)]

    def read(self, names: Sequence[str], keys: Int64s, times: Int64s) -> Mapping[str, Column]:
        """The values before each time; see `Reader`."""
        view = self.view.view

        def past(asked: Int64s) -> Callable[[Range], Bounds]:
            def bounds(over: Range) -> Bounds:
                window, ttl = over
                starts = (
                    np.full(len(asked), EARLIEST_TIME, np.int64) if window is None else window_starts(window, asked)
                )
                if ttl is not None:
                    starts = np.maximum(starts, asked - ttl)
                return starts, asked - view.source.delay, -1 if window is None or window.bound is None else window.bound

            return bounds

        return self._lookup(names, keys, times, past, view.ttl)

    def ahead(self, names: Sequence[str], keys: Int64s, times: Int64s, within: int) -> Mapping[str, Column]:
        """The values over `time <= event < time + within`; see `History`."""

        def future(asked: Int64s) -> Callable[[Range], Bounds]:
            return lambda _: (asked, asked + within, -1)

        return self._lookup(names, keys, times, future, None)

    def _lookup(
        self,
        names: Sequence[str],
        keys: Int64s,
        times: Int64s,
        bounds: Callable[[Int64s], Callable[[Range], Bounds]],
        ttl: int | None,
    ) -> Mapping[str, Column]:
        codes = np.empty(len(keys), np.int64)
        kernels.find_keys(self.timeline.keys, np.ascontiguousarray(keys), codes)
        order = np.argsort(codes, kind="stable")
        blocks = [
            Asked(rows, codes[rows], bounds(times[rows]))
            for rows in (order[i : i + _BLOCK] for i in range(0, max(1, len(order)), _BLOCK))
        ]
        result: dict[str, Column] = {}
        partials: dict[tuple[str, Range], Partial] = {}
        for call in self._calls(names):
            values: list[Partial] = []
            for reduction in call.aggregation.reductions:
                over = (call.window, ttl if reduction.reduce is Reduce.LATEST else None)
                key = (f"{self.view.reduction_index(reduction)} {reduction.reduce} {reduction.depth}", over)
                if key not in partials:
                    partials[key] = self._partial(reduction, over, blocks, len(keys))
                values.append(partials[key])
            columns = call.aggregation.finalize(values, times)
            result |= {f"{self.view.name}.{n}": c for n, c in zip(call.names, columns, strict=True)}
        return {name: result[name] for name in names}

    def _calls(self, names: Sequence[str]) -> Iterable[Call]:
        wanted = {self.view.short(n) for n in names}
        return (c for c in self.view.calls if wanted.intersection(c.names))

    def _partial(self, reduction: Reduction, over: Range, blocks: Sequence[Asked], size: int) -> Partial:
        index = self.view.reduction_index(reduction)
        if reduction.reduce is Reduce.LATEST:
            return self._latest(index, reduction.depth, over, blocks, size)
        values = np.empty(size, self.view.output_type(reduction).dtype)
        present = np.empty(size, np.bool_) if reduction.reduce in (Reduce.MIN, Reduce.MAX) else None

        def work(asked: Asked) -> None:
            a, b = self._positions(asked, over, self._files[index])
            out, there = np.empty(len(a), values.dtype), np.empty(len(a), np.bool_)
            self._reduce(index, reduction.reduce, asked.codes, a, b, out, there)
            values[asked.order] = out
            if present is not None:
                present[asked.order] = there

        self._each(work, blocks)
        return Scalar(values, present)

    def _reduce(
        self, index: int, reduce: Reduce, codes: Int64s, a: Int64s, b: Int64s, out: Array, present: Bools
    ) -> None:
        if reduce is Reduce.COUNT:
            np.subtract(b, a, out=out)
            return
        arrays = self.timeline.reduction(self._columns[index], reduce)
        if reduce is Reduce.SUM:
            kernels.range_sums(arrays["prefix"], self._starts[index], codes, a, b, out)
        elif reduce is Reduce.DISTINCT:
            kernels.range_distinct(arrays["previous"], arrays["blocks"], a, b, out)
        else:
            largest = reduce is Reduce.MAX
            values = self._files[index].inputs[0]
            kernels.range_extremes(values, arrays["first"], arrays["second"], largest, a, b, out, present)

    def _latest(self, index: int, depth: int, over: Range, blocks: Sequence[Asked], size: int) -> Latest:
        files = self._files[index]
        counts, ends = np.empty(size, np.int64), np.empty(size, np.int64)

        def work(asked: Asked) -> None:
            a, b = self._positions(asked, over, files)
            counts[asked.order] = np.minimum(b - a, depth)
            ends[asked.order] = b

        self._each(work, blocks)
        offsets = np.zeros(size + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        positions = np.empty(int(offsets[-1]), np.int64)
        kernels.last_positions(ends, offsets, positions)
        rows = positions if files.rows is None else files.rows[positions]
        columns = tuple(values[positions] for values in files.inputs)
        return Latest(offsets, self.timeline.times[rows], columns, files.texts)

    def _positions(self, asked: Asked, over: Range, files: ColumnFiles) -> tuple[Int64s, Int64s]:
        """For each row the values [a, b) of a selection that lie in a range."""
        if over not in asked.found:
            a, b = np.empty(len(asked.codes), np.int64), np.empty(len(asked.codes), np.int64)
            starts, stops, bound = asked.bounds(over)
            timeline = self.timeline
            kernels.find_rows(timeline.times, timeline.offsets, asked.codes, starts, stops, bound, a, b)
            asked.found[over] = (a, b)
        a, b = asked.found[over]
        return (a, b) if files.rank is None else (files.rank[a], files.rank[b])

    def _each(self, work: Callable[[Asked], None], blocks: Sequence[Asked]) -> None:
        if len(blocks) == 1 or self._threads == 1:
            for block in blocks:
                work(block)
        else:
            with ThreadPoolExecutor(self._threads) as pool:
                for _ in pool.map(work, blocks):
                    continue

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


def window_starts(window: Window, times: Int64s) -> Int64s:
    """The first event time of a window at each of n times; see `Window.start`.

    >>> window_starts(Window(length=10, hop=4), np.array([15, 16])).tolist()
    [4, 4]
    """
    starts = times - window.length
    return starts - starts % window.hop if window.hop else starts


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
class IndexedHistory:
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
