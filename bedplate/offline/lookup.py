"""Point-in-time lookups in as-of indexes.

A lookup orders the asked rows by key, so that memory is read in sequence; finds each window's rows by two searches in
the key's slice; reduces them by one subtraction, a few blocks or a copy; and hands the partials to the aggregation.
Blocks of rows are independent: large lookups run on several threads, and fill counts, sums and means in place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from typing import final

import numpy as np

from bedplate.aggregations.base import Latest, Newest, Oldest, Partial, Reduce, Reduction, Scalar, Values
from bedplate.aggregations.merge import Piece, merge, union
from bedplate.batch import Column
from bedplate.errors import StoreError
from bedplate.features.rows import GroupedRows, SelectedValues
from bedplate.features.view import Call, CompiledView
from bedplate.offline import kernels, running, seek
from bedplate.offline.answer import Answer
from bedplate.offline.blocks import BLOCKED, read_blocks
from bedplate.offline.build import column_ids
from bedplate.offline.flight import Pieces, split
from bedplate.offline.index import ColumnFiles, Timeline, row_type
from bedplate.offline.mapped import release
from bedplate.offline.ragged import MOST, RAGGED, read_ragged, room, runs
from bedplate.offline.ranges import Range, limits_of, range_of, ranges_of
from bedplate.offline.totals import Totals, Wanted, in_place, wanted_totals
from bedplate.types import Array, Int64s

BLOCK = 1 << 14
"""Rows looked up at once by one thread: their working arrays stay in the cache."""
_HELD = 16 << 20
"""Bytes of the index that a large lookup has read when it lets go of the pages, so that it does not hold all of it."""
_CACHED = 512 << 10
"""Bytes of the index that stay in a core's cache whatever the order in which they are read."""
_ANY_TIME = -(2**63), 2**63 - 1
_RUN = 1 << 18
"""Rows put into buckets at once by one thread."""
_BUCKET_BITS = 10
"""The logarithm of the most buckets that rows are put into: so many places are written to in turn."""


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
    def of(codes: Array, times: Int64s) -> Asked:
        """The rows as they stand."""
        return Asked(np.arange(len(codes), dtype=row_type(len(codes))), codes, times)

    @staticmethod
    def room(rows: int) -> Asked:
        """Uninitialised arrays for so many rows."""
        return Asked(np.empty(rows, row_type(rows)), np.empty(rows, np.int32), np.empty(rows, np.int64))

    def part(self, start: int, stop: int) -> Asked:
        """Some of the rows."""
        return Asked(self.rows[start:stop], self.codes[start:stop], self.times[start:stop])

    def arranged(self) -> Asked:
        """The rows in order of key and time."""
        result = Asked.room(len(self))
        seek.arrange(self.codes, self.times, self.rows, result.codes, result.times, result.rows)
        return result

    def different(self) -> tuple[Asked, Int64s]:
        """Of rows in order of key and time one for each different key and time; a key that is not known is no other's.

        Returns:
            them, and [k + 1] where the rows of each begin.
        """
        new = np.ones(len(self), np.bool_)
        new[1:] = (self.codes[1:] != self.codes[:-1]) | (self.times[1:] != self.times[:-1]) | (self.codes[1:] < 0)
        starts = np.append(np.flatnonzero(new), len(self))
        if len(starts) > len(self):
            return self, starts
        return Asked(self.rows[new], self.codes[new], self.times[new]), starts


@final
@dataclass(frozen=True, slots=True)
class Block:
    """n of the asked rows, and what their windows cover.

    Attributes:
        asked: the rows.
        first: [ranges, n] the first row of the timeline in each range.
        stop: [n] the row after the last, the same for every range.
        pieces: for each range its rows without those in flight; None: all of them count.
    """

    asked: Asked
    first: Int64s
    stop: Int64s
    pieces: tuple[Pieces, ...] | None = None

    def part(self, rows: slice) -> Block:
        """Some of the rows, at least one; all of them: the block itself."""
        if rows.stop - rows.start == len(self.asked):
            return self
        asked = Asked(self.asked.rows[rows], self.asked.codes[rows], self.asked.times[rows])
        pieces = None if self.pieces is None else tuple(p.part(rows) for p in self.pieces)
        return Block(asked, np.ascontiguousarray(self.first[:, rows]), self.stop[rows], pieces)


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
    """Reads one bucket of a segment for a view.

    Args:
        view: the compiled view.
        timeline: the bucket, complete for the view.
        threads: how many threads a large lookup may use.
        most: how many values of lists one of them may hold at once.
    """

    __slots__ = ("_columns", "_files", "_most", "_table", "_threads", "timeline", "view")

    def __init__(self, view: CompiledView, timeline: Timeline, threads: int, most: int = MOST) -> None:
        self.view, self.timeline, self._threads, self._most = view, timeline, threads, most
        self._columns = column_ids(view)
        self._files = [timeline.column(c, t) for c, t in zip(self._columns, view.types, strict=True)]
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
        ranges = ranges_of(calls, ttl)
        limits = limits_of(ranges, ahead=ahead)
        known = None if ahead else self.timeline.known
        bounds = limits[:, 2].tolist()
        if known is not None:
            limits[:, 2] = -1  # rows in flight must not count for a bound

        def find(asked: Asked) -> Block:
            first, stop = np.empty((len(limits), len(asked)), np.int64), np.empty(len(asked), np.int64)
            self.find(asked, shift, limits, _ANY_TIME, first, stop)
            return Block(asked, first, stop) if known is None else self.known_block(asked, first, stop, bounds)

        self.expect(len(keys))
        block = find(Asked.of(self.positions(keys), times)) if len(keys) <= BLOCK else None
        if block is not None and len(runs([self.rooms(calls, ranges, ttl, block)], self._most)) == 1:
            columns = dict(self._columns_of(calls, ranges, ttl, block))
        else:
            columns = self._in_blocks(calls, ranges, ttl, keys, times, find)
        return {name: columns[name] for name in names}

    def expect(self, rows: int) -> None:
        """Prepares for the positions of so many keys."""
        if self._table is None and 8 * rows >= len(self.timeline.keys):
            self._table = _KeyTable.of(self.timeline.keys)

    def forget(self) -> None:
        """Lets go of the memory that lookups took: the pages of the index, and what was worked out from them."""
        self._table = None
        self.timeline.forget()

    def release(self) -> None:
        """Lets go of the pages of the index."""
        release(self.timeline.arrays())

    def find(
        self, asked: Asked, shift: int, limits: Int64s, span: tuple[int, int], first: Int64s, stop: Int64s
    ) -> None:
        """Fills the first rows [ranges, n] of each range, and the rows after the last [n]; see `seek.find_rows`."""
        times, offsets = self.timeline.times, self.timeline.offsets
        seek.find_rows(times, offsets, asked.codes, asked.times, shift, limits, span, first, stop)

    def known_block(self, asked: Asked, first: Int64s, stop: Int64s, bounds: Sequence[int]) -> Block:
        """What ranges cover without the rows that could not be known at the times asked for."""
        if self.timeline.known is None:
            return Block(asked, first, stop)
        first, pieces = split(self.timeline.known, asked.times, first, stop, bounds)
        return Block(asked, first, stop, pieces)

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
        answer = Answer(len(keys), dict(self._columns_of(calls, ranges, ttl, no_rows(len(ranges)))))
        # Rows in flight lie anywhere in a range: running sums alone do not give its totals.
        quick = [c for c in calls if in_place(c) and self.timeline.known is None]
        totals = [self.totals(w) for w in wanted_totals(self.view, quick, ranges, ttl, answer.places, self.is_whole)]
        others = [c for c in calls if c not in quick]
        timeline, direct = self.timeline, len(totals) == 1 and not others
        with ThreadPoolExecutor(self._threads) as pool:
            used = {self.view.reduction_index(r) for c in others for r in c.aggregation.reductions}
            read = [timeline.times, *(v for i in used for v in self._files[i].inputs)]
            read += [t.prefix for t in totals if t.prefix is not None]
            size, begins = sum(array.nbytes for array in read), range(0, len(keys), BLOCK)
            is_cached = size <= _CACHED
            asked = Asked.of(self.positions(keys), times) if is_cached else self.arrange(keys, times, pool)
            kept = max(1, _HELD * len(begins) // max(1, size))

            def work(start: int) -> None:
                every = asked.part(start, start + BLOCK)
                every = every if is_cached else every.arranged()
                different, starts = (every, None) if direct else every.different()
                found = find(different)
                for run in runs([self.rooms(others, ranges, ttl, found)], self._most):
                    block = found.part(run)
                    part = answer.direct(block.asked.rows) if direct else answer.part(block.asked.rows)
                    for group in totals:
                        group.fill(block.asked.codes, block.first, block.stop, part)
                    for name, column in self._columns_of(others, ranges, ttl, block):
                        answer.put(part, name, column)
                    if starts is not None:
                        same = starts[run.start : run.stop + 1]
                        answer.add(part.repeated(every.rows[same[0] : same[-1]], np.diff(same)))
                if start // BLOCK % kept == kept - 1:  # keys ascend: what was read is not read again
                    release(read)

            list(pool.map(work, begins))
            return answer.columns(pool)

    def rooms(
        self,
        calls: Sequence[Call],
        ranges: Mapping[Range, int],
        ttl: int | None,
        block: Block,
        listed: Collection[Reduce] = RAGGED,
    ) -> Int64s:
        """[n]: how many values the partials of each row of a block, those that are lists of values, have at most."""
        rooms = np.zeros(len(block.asked), np.int64)
        shortened = block.pieces is None and Reduce.DISTINCT not in listed
        leading = leading_of(self.view, calls, ranges, ttl) if shortened else {}
        for call in calls:
            for wanted in (r for r in call.aggregation.reductions if r.reduce in listed):
                index, over = self.view.reduction_index(wanted), ranges[range_of(call, wanted, ttl)]
                reduction = leading.get((index, wanted.reduce, over), wanted)
                arrays = self.timeline.reduction(self._columns[index], reduction.stored)
                first = block.first[over]
                a, b = _values_of(self._files[index], first, block.stop)
                if reduction.reduce is Reduce.DISTINCT:
                    counts = np.empty(len(a), np.int64)
                    kernels.range_distinct(arrays["previous"], arrays["blocks"], a, b, counts)
                    rooms += counts
                else:
                    codes = None if block.pieces is not None else block.asked.codes
                    rooms += room(reduction, arrays, codes, a, b)
        return rooms

    def is_whole(self, index: int) -> bool:
        """Whether every row counts for the selection at a position."""
        return self._files[index].rank is None

    def totals(self, wanted: Wanted) -> Totals:
        """What gives the counts, sums and means of a selection."""
        files, column = self._files[wanted.index], self._columns[wanted.index]
        arrays = self.timeline.reduction(column, Reduce.SUM.value) if wanted.summed else {}
        values = files.inputs[0] if wanted.summed else None
        return Totals.of(wanted, arrays, values, self.timeline.key_starts(column, files), files.rank)

    def positions(self, keys: Int64s) -> Array:
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

    def arrange(self, keys: Int64s, times: Int64s, pool: ThreadPoolExecutor) -> Asked:
        """The asked rows in buckets of neighbouring keys: what one thread reads is then near in memory."""
        size = min(_RUN, max(BLOCK, -(-len(keys) // self._threads)))
        runs = [slice(i, i + size) for i in range(0, len(keys), size)]
        codes = list(pool.map(self.positions, [keys[run] for run in runs]))
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
        leading = leading_of(self.view, calls, ranges, ttl) if block.pieces is None else {}

        def partial(reduction: Reduction, index: int, over: int) -> Partial:
            return self._partial(leading.get((index, reduction.reduce, over), reduction), index, over, block)

        return columns_of_calls(self.view, calls, ranges, ttl, block.asked.times, partial)

    def set_of(self, reduction: Reduction, index: int, over: int, block: Block) -> Piece:
        """The partial over the rows of a range; of a DISTINCT the different values, which can be merged."""
        if reduction.reduce is not Reduce.DISTINCT:
            return self._partial(reduction, index, over, block, is_merged=True)
        files, arrays = self._files[index], self.timeline.reduction(self._columns[index], Reduce.DISTINCT)
        if block.pieces is None:
            return _distinct_values(files, arrays, block.first[over], block.stop)
        pieces = block.pieces[over]
        return union(_distinct_values(files, arrays, pieces.first, pieces.stop), pieces.owners)

    def _partial(
        self, reduction: Reduction, index: int, over: int, block: Block, *, is_merged: bool = False
    ) -> Partial:
        asked = block.asked
        if block.pieces is None:
            return self._partial_of(reduction, index, asked.codes, block.first[over], block.stop, is_merged=is_merged)
        pieces = block.pieces[over]
        if reduction.reduce is not Reduce.DISTINCT:
            codes = pieces.spread(asked.codes)
            found = self._partial_of(reduction, index, codes, pieces.first, pieces.stop, is_merged=True)
            return merge(reduction, found, pieces.owners)
        # Numbers of different values do not add up over pieces: those that only rows in flight have are taken off.
        found = self._partial_of(reduction, index, asked.codes, pieces.start, block.stop, is_merged=False)
        arrays, known = self.timeline.reduction(self._columns[index], Reduce.DISTINCT), self.timeline.known
        if known is None or not isinstance(found, Scalar):
            raise StoreError("the as-of index does not say when rows could be known", where=self.view.place)
        files, links = self._files[index], (arrays["previous"], arrays["following"])
        late = known.count_late(asked.times, pieces.start, block.stop, files.rank, files.rows, *links)
        return Scalar(found.values - late)

    def _partial_of(
        self, reduction: Reduction, index: int, codes: Array, a: Int64s, b: Int64s, *, is_merged: bool
    ) -> Partial:
        """The partial over the rows `[a, b)` of keys."""
        files, reduce = self._files[index], reduction.reduce
        a, b = _values_of(files, a, b)
        if reduce is Reduce.LATEST:
            return _latest(files, self.timeline.times, reduction.depth, a, b)
        if reduce is Reduce.COUNT:
            return Scalar(b - a)
        if reduce is Reduce.EARLIEST:
            return _earliest(files, self.timeline.times, a, b)
        arrays = self.timeline.reduction(self._columns[index], reduction.stored)
        if reduce in RAGGED:
            return read_ragged(reduction, files, arrays, self.timeline.times, codes, a, b)
        if reduce in BLOCKED:
            return read_blocks(reduction, arrays, files, self.timeline.times, a, b)
        out = np.empty(len(a), self.view.output_type(reduction).dtype)
        if reduce is Reduce.SUM:
            starts = self.timeline.key_starts(self._columns[index], files)
            return _sums(arrays, files.inputs[0], starts, codes, a, b, out, is_merged=is_merged)
        if reduce is Reduce.DISTINCT:
            kernels.range_distinct(arrays["previous"], arrays["blocks"], a, b, out)
            return Scalar(out)
        present = np.empty(len(a), np.bool_)
        largest = reduce is Reduce.MAX
        kernels.range_extremes(files.inputs[0], arrays["first"], arrays["second"], largest, a, b, out, present)
        return Scalar(out, present)

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
                known=None if timeline.known is None else timeline.known.rows[start:stop],
                sequence=None if timeline.sequence is None else timeline.sequence[start:stop],
            )


def columns_of_calls(
    view: CompiledView,
    calls: Sequence[Call],
    ranges: Mapping[Range, int],
    ttl: int | None,
    times: Int64s,
    partial: Callable[[Reduction, int, int], Partial],
) -> Iterator[tuple[str, Column]]:
    """The values of some calls, each by its full name.

    Args:
        view: the compiled view.
        calls: the calls.
        ranges: the number of each range.
        ttl: of the view, where it applies.
        times: [n] the times asked for.
        partial: gives the partial of a reduction, by the position of its selection, over the range of a number.
    """
    partials: dict[tuple[int, Reduce, int, int], Partial] = {}
    for call in calls:
        values: list[Partial] = []
        for reduction in call.aggregation.reductions:
            over = ranges[range_of(call, reduction, ttl)]
            index = view.reduction_index(reduction)
            key = (index, reduction.reduce, reduction.depth, over)
            if key not in partials:
                partials[key] = partial(reduction, index, over)
            values.append(partials[key])
        for name, column in zip(call.names, call.aggregation.finalize(values, times), strict=True):
            yield f"{view.name}.{name}", column


def leading_of(
    view: CompiledView, calls: Sequence[Call], ranges: Mapping[Range, int], ttl: int | None
) -> dict[tuple[int, Reduce, int], Reduction]:
    """The COUNTS of which all calls want the most frequent values only, with a depth: how many; see `Aggregation`.

    Returns:
        them by the position of the selection, the kind and the number of the range.
    """
    found: dict[tuple[int, Reduce, int], Reduction] = {}
    for call in calls:
        for reduction in (r for r in call.aggregation.reductions if r.reduce is Reduce.COUNTS):
            place = view.reduction_index(reduction), reduction.reduce, ranges[range_of(call, reduction, ttl)]
            most, before = call.aggregation.leading, found.get(place)
            if before is not None:
                most = max(most, before.depth) if most and before.depth else 0
            found[place] = replace(reduction, depth=most)
    return found


def _distinct_values(files: ColumnFiles, arrays: Mapping[str, Array], a: Int64s, b: Int64s) -> Values:
    """The different values of a selection in the rows [a, b)."""
    a, b = _values_of(files, a, b)
    counts, offsets = np.empty(len(a), np.int64), np.zeros(len(a) + 1, np.int64)
    kernels.range_distinct(arrays["previous"], arrays["blocks"], a, b, counts)
    np.cumsum(counts, out=offsets[1:])
    values = np.empty(int(offsets[-1]), files.inputs[0].dtype)
    kernels.distinct_values(files.inputs[0], arrays["previous"], arrays["blocks"], a, b, offsets, values)
    return Values(offsets, values)


def _sums(
    arrays: Mapping[str, Array],
    values: Array,
    starts: Int64s,
    codes: Array,
    a: Int64s,
    b: Int64s,
    out: Array,
    *,
    is_merged: bool,
) -> Scalar:
    """The sums of the values `[a, b)` of keys, into `out`; of floats that are to be merged to twice their digits."""
    rests = arrays.get("rests")
    sums = arrays["prefix"], rests, None if rests is None else values, starts, codes, a, b, out
    if not is_merged or out.dtype.kind != "f":
        running.range_sums(*sums)
        return Scalar(out)
    low = np.empty(len(out), np.float64)
    running.exact_range_sums(*sums, low)
    return Scalar(out, rests=low)


def _values_of(files: ColumnFiles, a: Int64s, b: Int64s) -> tuple[Int64s, Int64s]:
    """Of the rows [a, b) the first value of a selection, and the one after the last."""
    return (a, b) if files.rank is None else (files.rank[a], files.rank[b])


def _latest(files: ColumnFiles, times: Int64s, depth: int, a: Int64s, b: Int64s) -> Latest | Newest:
    """The last `depth` events of rows [a, b)."""
    if depth == 1:
        present = b > a
        positions = np.where(present, b - 1, 0)
        rows = positions if files.rows is None else _gather(files.rows, positions)
        columns = tuple(_gather(v, positions) for v in files.inputs)
        return Newest(present, _gather(times, rows), columns, files.texts)
    offsets = np.zeros(len(a) + 1, np.int64)
    np.cumsum(np.minimum(b - a, depth), out=offsets[1:])
    positions = np.empty(int(offsets[-1]), np.int64)
    kernels.last_positions(b, offsets, positions)
    rows = positions if files.rows is None else files.rows[positions]
    return Latest(offsets, times[rows], tuple(v[positions] for v in files.inputs), files.texts)


def _earliest(files: ColumnFiles, times: Int64s, a: Int64s, b: Int64s) -> Oldest:
    """The first event of rows [a, b)."""
    present = b > a
    positions = np.where(present, a, 0)
    rows = positions if files.rows is None else _gather(files.rows, positions)
    return Oldest(present, _gather(times, rows), _gather(files.inputs[0], positions), files.texts[0])


def _gather(values: Array, rows: Int64s) -> Array:
    return values[rows] if len(values) else np.zeros((len(rows), *values.shape[1:]), values.dtype)


def no_rows(ranges: int) -> Block:
    """A block of no rows."""
    return Block(Asked.room(0), np.zeros((ranges, 0), np.int64), np.zeros(0, np.int64))


def values_at(files: ColumnFiles, rows: Array) -> SelectedValues:
    """A selection's values for rows of the timeline, which may not all count."""
    if files.rank is None:
        return SelectedValues(None, tuple(v[rows] for v in files.inputs), files.texts)
    places = files.rank[rows]
    valid = files.rank[rows + 1] > places
    inputs: list[Array] = []
    for values in files.inputs:
        full = np.zeros((len(rows), *values.shape[1:]), values.dtype)
        full[valid] = values[places[valid]]
        inputs.append(full)
    return SelectedValues(valid, tuple(inputs), files.texts)


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
        full = np.zeros((stop - start, *values.shape[1:]), values.dtype)
        full[rows] = values[low:high]
        inputs.append(full)
    return SelectedValues(valid, tuple(inputs), files.texts)
