"""Point-in-time lookups in as-of indexes.

A lookup orders the asked rows by key, so that memory is read in sequence; finds each window's rows by two searches in
the key's slice; reduces them by one subtraction, a few blocks or a copy; and hands the partials to the aggregation.
Blocks of rows are independent: large lookups run on several threads, and fill counts, sums and means in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TypeAlias, final

import numpy as np

from bedplate.aggregations.base import Latest, Newest, Oldest, Partial, Reduce, Reduction, Scalar
from bedplate.aggregations.window import Window
from bedplate.batch import Column
from bedplate.errors import DefinitionError, StoreError
from bedplate.features.rows import GroupedRows, SelectedValues
from bedplate.features.view import Call, CompiledView
from bedplate.offline import kernels, seek
from bedplate.offline.answer import Answer
from bedplate.offline.base import History
from bedplate.offline.blocks import BLOCKED, read_blocks
from bedplate.offline.build import Build
from bedplate.offline.index import ColumnFiles, Timeline, release, row_type, selection_id
from bedplate.offline.ragged import MOST, RAGGED, pieces, read_counts, read_latest_by, read_smallest, room
from bedplate.offline.totals import Totals, columns_of, in_place, lines_of
from bedplate.types import Array, Int64s

_BLOCK = 1 << 14
"""Rows looked up at once by one thread: their working arrays stay in the cache."""
_KEPT = 16
"""Blocks after which a thread lets go of the pages of the index, so that a large lookup does not hold all of it."""
_RUN = 1 << 18
"""Rows put into buckets at once by one thread."""
_BUCKET_BITS = 10
"""The logarithm of the most buckets that rows are put into: so many places are written to in turn."""

Range: TypeAlias = "tuple[Window | None, int | None]"
"""A window and, for values carried forward, a ttl."""


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """n of the asked rows.

    Attributes:
        rows: [n] the place of each row in the answer.
        codes: [n] int32, the position of each row's key; -1 where the index has none.
        times: [n] the times asked for.
    """

    rows: Array
    codes: Array
    times: Int64s

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    @staticmethod
    def room(rows: int) -> Asked:
        """Uninitialised arrays for so many rows."""
        return Asked(np.empty(rows, row_type(rows)), np.empty(rows, np.int32), np.empty(rows, np.int64))

    def block(self, start: int, stop: int) -> Asked:
        """Some of the rows, in order of key and time."""
        part = Asked(self.rows[start:stop], self.codes[start:stop], self.times[start:stop])
        result = Asked.room(len(part))
        seek.arrange(part.codes, part.times, part.rows, result.codes, result.times, result.rows)
        return result


@final
@dataclass(frozen=True, slots=True)
class Block:
    """n of the asked rows, and what their windows cover.

    Attributes:
        asked: the rows.
        first: [ranges, n] the first row of the timeline in each range.
        stop: [n] the row after the last, the same for every range.
    """

    asked: Asked
    first: Int64s
    stop: Int64s

    def part(self, rows: slice) -> Block:
        """Some of the rows."""
        asked = Asked(self.asked.rows[rows], self.asked.codes[rows], self.asked.times[rows])
        return Block(asked, np.ascontiguousarray(self.first[:, rows]), self.stop[rows])


@final
@dataclass(frozen=True, slots=True)
class _KeyTable:
    """Where each known key is.

    Attributes:
        slots: int32 positions of keys, -1 for none: by key, from the smallest on, or by the hash.
        direct: whether by key; so it is for single keys that lie near each other.
    """

    slots: Array
    direct: bool

    @staticmethod
    def of(known: Int64s) -> _KeyTable:
        """The table of ascending keys [k, c]."""
        if len(known) and known.shape[1] == 1:
            span = int(known[-1, 0]) - int(known[0, 0]) + 1
            if span <= 4 * len(known):
                slots = np.full(span, -1, np.int32)
                slots[known[:, 0] - known[0, 0]] = np.arange(len(known), dtype=np.int32)
                return _KeyTable(slots, direct=True)
        size = max(2, 1 << (2 * len(known)).bit_length())
        return _KeyTable(kernels.hash_table(known, len(known), size), direct=False)


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
        self._table: _KeyTable | None = None

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

        def find(asked: Asked) -> Block:
            first, stop = np.empty((len(ranges), len(asked)), np.int64), np.empty(len(asked), np.int64)
            timeline = self.timeline
            seek.find_rows(timeline.times, timeline.offsets, asked.codes, asked.times, shift, limits, first, stop)
            return Block(asked, first, stop)

        if self._table is None and 8 * len(keys) >= len(self.timeline.keys):
            self._table = _KeyTable.of(self.timeline.keys)
        block = None
        if len(keys) <= _BLOCK:
            block = find(Asked(np.arange(len(keys)), self._positions(keys), times))
        if block is not None and len(self._pieces(calls, ranges, ttl, block)) == 1:
            columns = dict(self._columns_of(calls, ranges, ttl, block))
        else:
            columns = self._in_blocks(calls, ranges, ttl, keys, times, find)
        return {name: columns[name] for name in names}

    def _in_blocks(
        self,
        calls: Sequence[Call],
        ranges: Mapping[Range, int],
        ttl: int | None,
        keys: Int64s,
        times: Int64s,
        find: Callable[[Asked], Block],
    ) -> Mapping[str, Column]:
        """The values of many rows, block by block in order of key, by several threads."""
        answer = Answer(len(keys), dict(self._columns_of(calls, ranges, ttl, _no_rows(len(ranges)))))
        totals = self._totals([c for c in calls if in_place(c)], ranges, ttl, answer)
        others = [c for c in calls if not in_place(c)]
        timeline, direct = self.timeline, len(totals) == 1 and not others
        with ThreadPoolExecutor(self._threads) as pool:
            asked = self._arrange(keys, times, pool)

            def work(start: int) -> None:
                for block in self._pieces(others, ranges, ttl, find(asked.block(start, start + _BLOCK))):
                    part = answer.direct(block.asked.rows) if direct else answer.part(block.asked.rows)
                    for group in totals:
                        group.fill(block.asked.codes, block.first, block.stop, part)
                    for name, column in self._columns_of(others, ranges, ttl, block):
                        answer.put(part, name, column)
                    if not direct:
                        answer.add(part)
                if start // _BLOCK % _KEPT == _KEPT - 1:  # keys ascend: what was read is not read again
                    release([timeline.times, *(t.prefix for t in totals if t.prefix is not None)])

            list(pool.map(work, range(0, len(keys), _BLOCK)))
        return answer.columns()

    def _pieces(self, calls: Sequence[Call], ranges: Mapping[Range, int], ttl: int | None, block: Block) -> list[Block]:
        """The block in pieces whose lists of values fit in memory; most often it is the one piece."""
        rooms: Int64s | None = None
        for call in calls:
            for reduction in call.aggregation.reductions:
                if reduction.reduce in RAGGED:
                    index = self.view.reduction_index(reduction)
                    arrays = self.timeline.reduction(self._columns[index], reduction.stored)
                    a, b = self._values(index, ranges[_range(call, reduction, ttl)], block)
                    more = room(reduction, arrays, block.asked.codes, a, b)
                    rooms = more if rooms is None else rooms + more
        if rooms is None or int(rooms.sum()) <= MOST:
            return [block]
        return [block.part(piece) for piece in pieces(rooms)]

    def _values(self, index: int, over: int, block: Block) -> tuple[Int64s, Int64s]:
        """The first value of a selection in each range of a block, and the one after the last."""
        a, b, rank = block.first[over], block.stop, self._files[index].rank
        return (a, b) if rank is None else (rank[a], rank[b])

    def _totals(
        self, calls: Sequence[Call], ranges: Mapping[Range, int], ttl: int | None, answer: Answer
    ) -> list[Totals]:
        """The counts, sums and means of some calls, by selection."""
        indexes = [self.view.reduction_index(c.aggregation.reductions[0]) for c in calls]
        summed = [i for c, i in zip(calls, indexes, strict=True) if c.aggregation.reductions[0].reduce is Reduce.SUM]
        # Where every row counts, all selections have the same counts: they are taken together with sums.
        whole = next((i for i in summed if self._files[i].rank is None), None)
        wanted: dict[int, list[tuple[int, tuple[int, int, int, int]]]] = {}
        for call, own in zip(calls, indexes, strict=True):
            index = own if whole is None or own in summed or self._files[own].rank is not None else whole
            over = ranges[_range(call, call.aggregation.reductions[0], ttl)]
            place = answer.places[f"{self.view.name}.{call.names[0]}"]
            wanted.setdefault(index, []).append((over, columns_of(call, place)))
        totals: list[Totals] = []
        for i, of_selection in wanted.items():
            arrays = self.timeline.reduction(self._columns[i], Reduce.SUM.value) if i in summed else {}
            exact_starts, exact, lines = arrays.get("exact starts"), arrays.get("exact"), lines_of(of_selection)
            totals.append(
                Totals(arrays.get("prefix"), exact_starts, exact, self._starts[i], self._files[i].rank, lines)
            )
        return totals

    def _positions(self, keys: Int64s) -> Array:
        """Each asked key's position among those of the index, int32; -1 where it is not there."""
        known, asked = self.timeline.keys, np.ascontiguousarray(keys)
        codes = np.empty(len(asked), np.int32)
        if self._table is None:
            seek.find_keys(known, asked, codes)
        elif self._table.direct:
            seek.find_direct(known[0, 0], self._table.slots, asked, codes)
        else:
            seek.find_hashed(known, self._table.slots, asked, codes)
        return codes

    def _arrange(self, keys: Int64s, times: Int64s, pool: ThreadPoolExecutor) -> Asked:
        """The asked rows in buckets of neighbouring keys: what one thread reads is then near in memory."""
        runs = [slice(i, i + _RUN) for i in range(0, len(keys), _RUN)]
        codes = list(pool.map(self._positions, [keys[run] for run in runs]))
        shift = max(0, (len(self.timeline.keys) + 1).bit_length() - _BUCKET_BITS)
        counts = np.zeros((len(runs), (len(self.timeline.keys) >> shift) + 1), np.int64)
        list(pool.map(seek.count_buckets, codes, repeat(shift), counts))
        ends = counts.T.cumsum().reshape(counts.T.shape).T
        cursors = np.ascontiguousarray(ends - counts)
        asked = Asked.room(len(keys))

        def fill(run: int) -> None:
            first = runs[run].start
            seek.fill_buckets(
                codes[run], times[runs[run]], first, shift, cursors[run], asked.rows, asked.codes, asked.times
            )

        list(pool.map(fill, range(len(runs))))
        return asked

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
            for name, column in zip(call.names, call.aggregation.finalize(values, block.asked.times), strict=True):
                yield f"{self.view.name}.{name}", column

    def _partial(self, reduction: Reduction, index: int, over: int, block: Block) -> Partial:
        files, reduce = self._files[index], reduction.reduce
        a, b = self._values(index, over, block)
        if reduce is Reduce.LATEST:
            return self._latest(files, reduction.depth, a, b)
        if reduce is Reduce.COUNT:
            return Scalar(b - a)
        if reduce is Reduce.EARLIEST:
            return self._earliest(files, a, b)
        arrays = self.timeline.reduction(self._columns[index], reduction.stored)
        if reduce in RAGGED:
            return self._ragged(reduction, index, a, b, block.asked.codes)
        if reduce in BLOCKED:
            return read_blocks(reduction, arrays, files, self.timeline.times, a, b)
        out = np.empty(len(a), self.view.output_type(reduction).dtype)
        if reduce is Reduce.SUM:
            exact_starts, exact = arrays.get("exact starts"), arrays.get("exact")
            codes, starts = block.asked.codes, self._starts[index]
            kernels.range_sums(arrays["prefix"], exact_starts, exact, starts, codes, a, b, out)
            return Scalar(out)
        if reduce is Reduce.DISTINCT:
            kernels.range_distinct(arrays["previous"], arrays["blocks"], a, b, out)
            return Scalar(out)
        present = np.empty(len(a), np.bool_)
        largest = reduce is Reduce.MAX
        kernels.range_extremes(files.inputs[0], arrays["first"], arrays["second"], largest, a, b, out, present)
        return Scalar(out, present)

    def _ragged(self, reduction: Reduction, index: int, a: Int64s, b: Int64s, codes: Array) -> Partial:
        arrays, files = self.timeline.reduction(self._columns[index], reduction.stored), self._files[index]
        if reduction.reduce is Reduce.SMALLEST:
            return read_smallest(arrays, files, reduction.depth, a, b)
        if reduction.reduce is Reduce.LATEST_BY:
            return read_latest_by(arrays, files, self.timeline.times, reduction.depth, a, b)
        return read_counts(arrays, files, self.timeline.times, room(reduction, arrays, codes, a, b), a, b)

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

    def _earliest(self, files: ColumnFiles, a: Int64s, b: Int64s) -> Oldest:
        present = b > a
        positions = np.where(present, a, 0)
        rows = positions if files.rows is None else _gather(files.rows, positions)
        return Oldest(present, _gather(self.timeline.times, rows), _gather(files.inputs[0], positions), files.texts[0])

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


def _range(call: Call, reduction: Reduction, ttl: int | None) -> Range:
    return call.window, ttl if reduction.reduce in (Reduce.LATEST, Reduce.LATEST_BY) else None


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
    return Block(Asked.room(0), np.zeros((ranges, 0), np.int64), np.zeros(0, np.int64))


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
                what = build.changed or "the as-of index is not built"
                raise StoreError(what, where=view.place, hint="run: bedplate apply")
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
