"""Reading a view's index, which may be in several segments and buckets.

The asked rows are put into buckets by the hash of their key. In a bucket every segment gives partials of its own, which
are merged before they become values. Where there is one segment with one bucket, it is read as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import final

import numpy as np

from bedplate.aggregations.base import Partial, Reduce, Reduction
from bedplate.aggregations.merge import Piece, merge_sets
from bedplate.batch import Column
from bedplate.features.rows import GroupedRows
from bedplate.features.view import Call, CompiledView
from bedplate.offline import seek
from bedplate.offline.answer import Answer, Part
from bedplate.offline.cover import Slot
from bedplate.offline.coverage import Coverage
from bedplate.offline.grouping import events_of, merged_groups
from bedplate.offline.lookup import (
    BLOCK,
    Asked,
    Block,
    IndexReader,
    columns_of_calls,
    no_rows,
)
from bedplate.offline.memory import Budget
from bedplate.offline.merged_totals import MergedTotals
from bedplate.offline.ragged import MOST, RAGGED, runs
from bedplate.offline.ranges import Range, limits_of, ranges_of
from bedplate.offline.segment import Lock, Segment
from bedplate.offline.spill import bucket_numbers, bucket_rows
from bedplate.offline.totals import Wanted, in_place, wanted_totals
from bedplate.types import Array, Int64s

_LISTED = (*RAGGED, Reduce.DISTINCT)
"""Reductions whose partials are lists of values, where there are several segments."""
_EVER = -(2**63)
"""Before every time."""


@final
@dataclass(frozen=True, slots=True)
class Question:
    """What a lookup wants of each of its rows.

    Attributes:
        calls: the calls.
        quick: those whose values one loop over all segments fills in place.
        others: those that are not quick.
        ranges: the number of each different range.
        limits: [ranges, 4] as `seek.find_rows` takes them.
        shift: microseconds: minus the delay, or how far ahead to look.
        ttl: of the view, where it applies.
        ahead: whether it looks forward.
    """

    calls: Sequence[Call]
    quick: Sequence[Call]
    others: Sequence[Call]
    ranges: Mapping[Range, int]
    limits: Int64s
    shift: int
    ttl: int | None
    ahead: bool

    def reach(self, times: Int64s) -> tuple[int, int]:
        """The times of events that rows at some times may use: from the first to before the second."""
        lengths, hops = self.limits[:, 0], self.limits[:, 1]
        until = int(times.max()) + self.shift
        return _EVER if (lengths < 0).any() else int(times.min()) - int((lengths + hops).max()), until


@final
@dataclass(frozen=True, slots=True)
class Found:
    """What ranges cover in p segments, for n rows.

    Attributes:
        readers: p of them.
        places: [n] of the rows in the answer.
        times: [n] the times asked for.
        codes: [p, n] the position of each row's key in each segment; -1 where it has none.
        first: [p, ranges, n] the first row of each range.
        stop: [p, n] the row after the last.
    """

    readers: list[IndexReader]
    places: Array
    times: Int64s
    codes: Array
    first: Int64s
    stop: Int64s

    def part(self, rows: slice) -> Found:
        """Some of the rows, at least one; all of them: this itself."""
        if rows.stop - rows.start == len(self.times):
            return self
        codes, stop = (np.ascontiguousarray(a[:, rows]) for a in (self.codes, self.stop))
        first = np.ascontiguousarray(self.first[:, :, rows])
        return Found(self.readers, self.places[rows], self.times[rows], codes, first, stop)

    def blocks(self, *, known: bool) -> list[Block]:
        """What they cover in each segment; without the rows in flight, if only `known` ones count."""
        blocks: list[Block] = []
        for i, reader in enumerate(self.readers):
            asked, first, stop = Asked(self.places, self.codes[i], self.times), self.first[i], self.stop[i]
            every = [-1] * len(first)
            blocks.append(reader.known_block(asked, first, stop, every) if known else Block(asked, first, stop))
        return blocks


@final
class ViewReader:
    """Reads one view's index.

    Where the index holds ranges of times only, rows that need events outside of them are an error: nothing is left out
    silently.

    Args:
        view: the compiled view.
        snapshot: the id of the snapshot that the index is of.
        slots: its segments, in order of arrival, complete for the view.
        locks: what keeps the segments from being deleted.
        budget: the memory that lookups may use.
        threads: how many threads a large lookup may use.
    """

    def __init__(
        self,
        view: CompiledView,
        snapshot: str,
        slots: Sequence[Slot],
        locks: Sequence[Lock],
        budget: Budget,
        threads: int,
    ) -> None:
        self.view, self.snapshot = view, snapshot
        self._locks, self._budget, self._threads = tuple(locks), budget, threads
        self.segments: tuple[Segment, ...] = tuple(s.segment for s in slots if s.segment is not None)
        self.buckets = max(s.manifest.buckets for s in self.segments)
        self._coverage = None if slots[0].span.is_whole else Coverage.of(view, [s.manifest for s in self.segments])
        self._readers: dict[tuple[int, int], IndexReader] = {}
        self._most = min(budget.values(threads), MOST)
        self._empty: dict[tuple[tuple[tuple[str, ...], ...], bool], Mapping[str, Column]] = {}
        self._only = self._reader(0, 0) if sum(len(s.parts) for s in self.segments) == 1 else None

    @property
    def rows(self) -> int:
        """How many events there are."""
        return sum(s.manifest.rows for s in self.segments)

    @property
    def keys(self) -> int:
        """How many keys there are; one that is in several segments is counted in each."""
        return sum(s.manifest.keys for s in self.segments)

    @property
    def end(self) -> int:
        """The greatest event time, microseconds; -1 without events. What is later is not known."""
        end = max(s.manifest.end for s in self.segments)
        return end if self._coverage is None else self._coverage.end(end)

    @property
    def known(self) -> int:
        """When the last of the events could be known, apart from a delay; -1 without events."""
        return max(s.manifest.known for s in self.segments)

    def read(self, names: Sequence[str], keys: Int64s, times: Int64s) -> Mapping[str, Column]:
        """The values before each time; see `Reader`.

        Raises:
            StoreError: some need events at times of which the index was not built.
        """
        if self._only is not None and self._coverage is None:
            return self._only.read(names, keys, times)
        return self._lookup(names, keys, times, -self.view.view.source.delay, self.view.view.ttl)

    def ahead(self, names: Sequence[str], keys: Int64s, times: Int64s, within: int) -> Mapping[str, Column]:
        """The values over `time <= event < time + within`; see `History`.

        Raises:
            StoreError: as `read`.
        """
        if self._only is not None and self._coverage is None:
            return self._only.ahead(names, keys, times, within)
        return self._lookup(names, keys, times, within, None, ahead=True)

    def _lookup(
        self, names: Sequence[str], keys: Int64s, times: Int64s, shift: int, ttl: int | None, *, ahead: bool = False
    ) -> Mapping[str, Column]:
        wanted = {self.view.short(n) for n in names}
        calls = [c for c in self.view.calls if wanted.intersection(c.names)]
        ranges = ranges_of(calls, ttl)
        # Rows in flight lie anywhere in a range: running sums alone do not give its totals.
        in_flight = self.view.view.source.available is not None
        quick = [c for c in calls if in_place(c) and not in_flight]
        others = [c for c in calls if in_flight or not in_place(c)]
        question = Question(calls, quick, others, ranges, limits_of(ranges, ahead=ahead), shift, ttl, ahead)
        if self._coverage is not None:
            self._coverage.check(question.limits, times, shift, ahead=ahead)
        like = self._like(tuple(c.names for c in calls), question)
        if not len(keys):
            return {name: like[name] for name in names}
        answer = Answer(len(keys), like)
        offsets, order = bucket_rows(bucket_numbers(keys, self.buckets), self.buckets)
        with ExitStack() as stack:
            large = len(keys) > BLOCK
            pool = stack.enter_context(ThreadPoolExecutor(self._threads)) if large else None
            for bucket in np.flatnonzero(np.diff(offsets)).tolist():
                rows = order[offsets[bucket] : offsets[bucket + 1]]
                self._fill(question, bucket, keys, times, rows, answer, pool)
        columns = answer.columns()
        return {name: columns[name] for name in names}

    def _like(self, names: tuple[tuple[str, ...], ...], question: Question) -> Mapping[str, Column]:
        """The columns of no rows, with the texts of all segments and buckets."""
        key = names, question.ahead
        if key not in self._empty:
            every = self._every()
            self._empty[key] = dict(
                self._values(question, question.calls, every, [no_rows(len(question.ranges))] * len(every))
            )
        return self._empty[key]

    def _every(self) -> list[IndexReader]:
        """The readers of all buckets of all segments: together they have all texts."""
        return [self._reader(i, p) for i, s in enumerate(self.segments) for p in range(len(s.parts))]

    def _bucket(self, bucket: int) -> tuple[list[IndexReader], Int64s]:
        """The readers of a bucket of every segment, and the first and last times [n, 2] of the events of each.

        A segment with fewer buckets has the keys of several in one.
        """
        readers, times = list[IndexReader](), list[tuple[int, int]]()
        for i, segment in enumerate(self.segments):
            own = bucket * segment.manifest.buckets // self.buckets
            readers += [self._reader(i, part) for part in segment.parts_of(own)]
            times += segment.times_of(own)
        return readers, np.array(times, np.int64)

    def _reader(self, segment: int, part: int) -> IndexReader:
        if (segment, part) not in self._readers:
            timeline = self.segments[segment].parts[part]
            self._readers[segment, part] = IndexReader(self.view, timeline, self._threads, self._most)
        return self._readers[segment, part]

    def _fill(
        self,
        question: Question,
        bucket: int,
        keys: Int64s,
        times: Int64s,
        rows: Array,
        answer: Answer,
        pool: ThreadPoolExecutor | None,
    ) -> None:
        """Puts the values of the rows of a bucket into an answer."""
        readers, spans = self._bucket(bucket)
        for reader in readers:
            reader.expect(len(rows))
        largest = readers[max(range(len(readers)), key=lambda i: len(readers[i].timeline.times))]
        if pool is None:
            asked = Asked(np.arange(len(rows)), largest.positions(keys[rows]), times[rows])
        else:
            asked = largest.arrange(keys[rows], times[rows], pool)
        totals = [MergedTotals([r.totals(w) for r in readers]) for w in _wanted(self.view, question, readers, answer)]
        direct = len(totals) == 1 and not question.others
        known = largest.timeline.keys
        # The position of each key of the largest in each, where that is less work than to look for the asked ones.
        moved = [None if r is largest or 8 * len(rows) < len(known) else r.positions(known) for r in readers]

        def work(start: int) -> None:
            every = asked.part(start, start + size).arranged()
            part, starts = (every, None) if direct else every.different()
            places = rows[part.rows]
            low, until = question.reach(part.times)
            # The others have no event for any of these rows; one at least says what no event gives.
            near = np.flatnonzero((spans[:, 0] < until) & (spans[:, 1] >= low)).tolist() or [0]
            codes = np.empty((len(near), len(part)), np.int32)
            for own, number in zip(codes, near, strict=True):
                own[:] = part.codes
                if readers[number] is not largest:
                    _move(own, moved[number], readers[number], keys, places)
            found = self._find(question, [readers[i] for i in near], spans[near], places, part.times, codes)
            if starts is None:
                _fill_totals(self._budget, totals, near, found, answer.direct(places))
            else:
                self._put(question, totals, near, found, rows[every.rows], starts, answer)

        size = min(BLOCK, self._budget.block(len(question.ranges), len(readers), self._threads))
        most = max([r.timeline.times.nbytes for r in readers] + [t.nbytes for t in totals])
        if not self._budget.holds(most * self._threads):
            pool = None  # the pages that one thread reads at once are all that there is room for
        if not self._budget.holds(most):
            size = min(size, self._budget.rows_of_pages(len(question.ranges), len(readers)))
        starts = range(0, len(rows), size)
        list(map(work, starts) if pool is None else pool.map(work, starts))
        if (self.buckets > 1 and len(rows) > BLOCK) or self._budget.is_full:
            for reader in readers:
                reader.forget()

    def _find(
        self,
        question: Question,
        readers: list[IndexReader],
        spans: Int64s,
        places: Array,
        times: Int64s,
        codes: Array,
    ) -> Found:
        """What the ranges cover in some segments, for rows at some times; see `Found`.

        Args:
            question: the question.
            readers: p of them.
            spans: [p, 2] the first and last times of their events.
            places: [n] of the rows in the answer.
            times: [n].
            codes: [p, n].
        """
        limits, bounds = question.limits.copy(), question.limits[:, 2].tolist()
        limits[:, 2] = -1  # a bound is over all segments
        shape = len(readers), len(limits), len(times)
        first, stop = np.empty(shape, np.int64), np.empty((shape[0], shape[2]), np.int64)
        for i, (reader, (low, high)) in enumerate(zip(readers, spans.tolist(), strict=True)):
            own = Asked(places, codes[i], times)
            reader.find(own, question.shift, limits, (low, high), first[i], stop[i])
            self._budget.ease(reader)
        if any(bound >= 0 for bound in bounds):
            known = [None if question.ahead else r.timeline.known for r in readers]
            addresses = np.array([r.timeline.times.ctypes.data for r in readers], np.uint64)
            late = np.array([0 if k is None else k.rows.ctypes.data for k in known], np.uint64)
            for over, bound in enumerate(bounds):
                if bound >= 0:
                    of_range = np.ascontiguousarray(first[:, over])
                    seek.bound_rows(addresses, late, times, bound, of_range, stop)
                    first[:, over] = of_range
        return Found(readers, places, times, codes, first, stop)

    def _put(
        self,
        question: Question,
        totals: Sequence[MergedTotals],
        near: Sequence[int],
        found: Found,
        places: Array,
        starts: Int64s,
        answer: Answer,
    ) -> None:
        """Puts the values of a block of n rows into an answer, each at the places `[starts[i], starts[i + 1])`."""
        others, rooms = question.others, list[Int64s]()
        whole = found.blocks(known=not question.ahead) if others else []
        for reader, block in zip(found.readers, whole, strict=False):
            rooms.append(reader.rooms(others, question.ranges, question.ttl, block, _LISTED))
            self._budget.ease(reader)
        for run in runs(rooms or [np.zeros(len(found.times), np.int64)], self._most):
            blocks, some = [block.part(run) for block in whole], found.part(run)
            room = answer.part(some.places)
            _fill_totals(self._budget, totals, near, some, room)
            for name, column in self._values(question, others, found.readers, blocks) if others else ():
                answer.put(room, name, column)
            same = starts[run.start : run.stop + 1]
            answer.add(room.repeated(places[same[0] : same[-1]], np.diff(same)))

    def _values(
        self, question: Question, calls: Sequence[Call], readers: list[IndexReader], blocks: list[Block]
    ) -> Iterator[tuple[str, Column]]:
        """The values of some calls for a block of rows, each by its full name."""

        def partial(reduction: Reduction, index: int, over: int) -> Partial:
            sets: list[Piece] = []
            for reader, block in zip(readers, blocks, strict=True):
                sets.append(reader.set_of(reduction, index, over, block))
                self._budget.ease(reader)
            return merge_sets(reduction, sets)

        return columns_of_calls(self.view, calls, question.ranges, question.ttl, blocks[0].asked.times, partial)

    def all_keys(self) -> Int64s:
        """[k, entities] every key, ascending."""
        parts = [part.keys for segment in self.segments for part in segment.parts]
        return parts[0] if len(parts) == 1 else np.unique(np.concatenate(parts), axis=0)

    def events(self, keys: Int64s) -> GroupedRows:
        """All events of some keys [k, entities], different ones in ascending order.

        Raises:
            StoreError: the index holds ranges of times only.
        """
        if self._coverage is not None:
            self._coverage.check_whole()
        return events_of(self._every(), keys)

    def later(self, time: int) -> int:
        """How many events could be known at a time or later, apart from a delay; microseconds."""
        timelines = [reader.timeline for reader in self._every()]
        known = [t.times if t.known is None else t.known.rows for t in timelines]
        return sum(int(np.count_nonzero(k >= time)) for k in known)

    def grouped(self, keys_at_once: int) -> Iterator[GroupedRows]:
        """All events, a run of keys at a time.

        Raises:
            StoreError: the index holds ranges of times only.
        """
        if self._coverage is not None:
            self._coverage.check_whole()
        if self._only is not None:
            yield from self._only.grouped(keys_at_once)
            return
        for bucket in range(self.buckets):
            readers, _ = self._bucket(bucket)
            yield from merged_groups(readers, bucket, self.buckets, keys_at_once)
            for reader in readers:
                reader.forget()


def _wanted(view: CompiledView, question: Question, readers: list[IndexReader], answer: Answer) -> list[Wanted]:
    """What is wanted of the quick calls, by selection."""

    def is_whole(index: int) -> bool:
        return all(reader.is_whole(index) for reader in readers)

    return wanted_totals(view, question.quick, question.ranges, question.ttl, answer.places, is_whole)


def _fill_totals(budget: Budget, totals: Sequence[MergedTotals], near: Sequence[int], found: Found, part: Part) -> None:
    """Fills counts, sums and means of a part."""
    for group in totals:
        group.fill(near, found.codes, found.first, found.stop, part)
        if budget.is_full:
            for reader in found.readers:
                reader.release()


def _move(codes: Array, moved: Array | None, reader: IndexReader, keys: Int64s, places: Array) -> None:
    """Changes positions of keys in another segment, -1 for none, to those in a reader's.

    Args:
        codes: [n], changed.
        moved: [K] the position of each key of the other segment in the reader's; None: not known.
        reader: the reader.
        keys: all keys asked for.
        places: [n] where among them those of the rows are.
    """
    if moved is None or not len(moved):
        codes[:] = reader.positions(keys[places])
        return
    unknown = codes < 0
    codes[:] = moved[np.maximum(codes, 0)]
    if unknown.any():
        codes[unknown] = reader.positions(keys[places[unknown]])
