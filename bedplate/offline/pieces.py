"""The rows of a source's table, read by the pieces that segments cover."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import final

import polars as pl

from bedplate.batch import TextLookup
from bedplate.errors import DataError
from bedplate.features.rows import JoinedRows, Rows, prepare_batches, prepare_rows, prepare_table
from bedplate.features.view import CompiledView
from bedplate.offline.build import Progress, Sorted
from bedplate.offline.cover import Slot
from bedplate.offline.cuts import Cut
from bedplate.offline.index import FORMAT
from bedplate.offline.memory import TextSize
from bedplate.offline.segment import Read, SegmentManifest
from bedplate.sources.base import TIME, UNREADABLE, Piece, Snapshot, epoch_micros, unreadable
from bedplate.types import Type

_FEW = 1 << 17
"""Rows of a table whose strings always fit into memory."""
_RUNS, _RUN = 8, 1000
"""How many runs of rows are looked at for the lengths of strings, and how many rows each has."""


@final
class TableRows:
    """A view's table at the snapshot that it has when this is made.

    Args:
        view: the compiled view.
    """

    def __init__(self, view: CompiledView) -> None:
        self.view = view
        self._source = view.view.source
        self._table = self._source.table(view.root)
        self.snapshot: Snapshot = self._table.snapshot()
        self._times: dict[str, tuple[int, int] | None] = {}

    @cached_property
    def pieces(self) -> Sequence[Piece]:
        """The table's pieces."""
        return list(self._table.pieces())

    @property
    def together(self) -> bool:
        """Whether rows of equal time must be in one segment: a cleaning step looks at all rows of a time together."""
        return self._source.prepare is not None

    @property
    def tied(self) -> bool:
        """Whether something else than arrival orders events of equal time; see `ties`."""
        return self._source.sequence is not None or self._source.available is not None

    def rows(self, reads: Sequence[Read], only: Sequence[int] | None) -> Rows:
        """All rows of a segment, in order of arrival.

        Args:
            reads: how its rows are read.
            only: the positions of the selections wanted; None: all.

        Raises:
            DataError: as `prepare_rows`.
        """
        found: list[Rows] = []
        for read in reads:
            pieces, raw, before = self._scan(read)
            count = sum(p.rows for p in pieces)

            def name(row: int, before: int = before) -> str:
                return self._table.row_name(before + row)

            found.append(prepare_table(self.view, raw, count, only, name, (read.span.begin, read.span.until)))
        if len(found) == 1:
            return found[0]
        joined = JoinedRows(self.view, sum(map(len, found)), only)
        for rows in found:
            joined.add(rows)
        return joined.rows()

    def batches(
        self, reads: Sequence[Read], only: Sequence[int] | None, at_once: int, piece: int, progress: Progress
    ) -> Iterator[Rows]:
        """As `rows`, a batch at a time.

        Args:
            reads: as for `rows`.
            only: as for `rows`.
            at_once: how many rows of the table one query reads. What a cleaning step needs is read by one query: it may
                look at all of it.
            piece: how many rows a batch has at most, about.
            progress: told how far it is.

        Raises:
            DataError: as `prepare_rows`; of a cleaned table a row is named by its place in its batch.
        """
        done = 0
        for read in reads:
            span = read.span.begin, read.span.until
            for raw, before in self._queries(read, at_once):
                try:
                    for batch in prepare_batches(self.view, raw, only, span, piece):
                        done += len(batch)
                        progress(f"{self.view.name}: {done:,} rows in buckets")
                        yield batch
                except (DataError, *UNREADABLE) as error:
                    if before is not None:  # a look at all rows of the query says which one it is in the table
                        prepare_rows(self.view, raw, only, lambda row, b=before: self._table.row_name(b + row), span)
                    if isinstance(error, DataError):
                        raise
                    raise unreadable(self._table.name, error) from error

    def texts(self, slot: Slot) -> TextSize:
        """About how much memory the strings of a slot's rows take; some are looked at where there are many rows."""
        kinds = [self.view.key_types, *self.view.types]
        if not any(kind is Type.STRING for of_column in kinds for kind in of_column) or slot.rows <= _FEW:
            return TextSize()
        looked_at, samples = 0, list[list[TextLookup]]()
        try:
            for raw in self._samples(slot):
                for rows in prepare_batches(self.view, raw):
                    texts = [*rows.key_texts, *(t for s in rows.selections for t in s.texts)]
                    samples.append([t for t in texts if t is not None])
                    looked_at += len(rows)
        except (DataError, *UNREADABLE):  # the build says what is wrong
            return TextSize()
        columns = zip(*samples, strict=True)
        return sum((TextSize.of(column, looked_at, slot.rows) for column in columns), start=TextSize())

    def _samples(self, slot: Slot) -> Iterator[pl.LazyFrame]:
        """Runs of rows from several places of a slot."""
        ends = list(accumulate(p.rows for p in slot.pieces))
        for row in range(0, slot.rows, slot.rows // _RUNS + 1):
            piece = slot.pieces[bisect_right(ends, row)]
            first = piece.rows - (ends[bisect_right(ends, row)] - row) if piece.slices else 0
            yield piece.scan().slice(first, _RUN)

    def _queries(self, read: Read, at_once: int) -> Iterator[tuple[pl.LazyFrame, int | None]]:
        """The rows of a read, in order, and how many of the table come before, where the rows are not too many.

        A query runs ahead of who takes its batches, so it must not read all there is.
        """
        if self._source.prepare is not None:
            yield self._scan(read)[1], None
            return
        pieces, _, before = self._scan(read)
        for piece in pieces:
            step = at_once if piece.slices else max(piece.rows, 1)
            for start in range(0, piece.rows, step):
                raw = piece.scan() if step >= piece.rows else piece.scan().slice(start, step)
                yield raw, before + start if step <= at_once else None
            before += piece.rows

    def _scan(self, read: Read) -> tuple[Sequence[Piece], pl.LazyFrame, int]:
        """The pieces of a read, their rows, and how many rows of the table come before."""
        if len(read.pieces) == len(self.pieces):
            return self.pieces, self._table.scan(), 0
        start = next(i for i, p in enumerate(self.pieces) if p.id == read.pieces[0])
        pieces = self.pieces[start : start + len(read.pieces)]
        scans = [p.scan() for p in pieces]
        return pieces, scans[0] if len(scans) == 1 else pl.concat(scans), sum(p.rows for p in self.pieces[:start])

    def count(self, slot: Slot) -> int:
        """How many of the table's rows are in a slot's range of times.

        Raises:
            DataError: the table can't be read.
        """
        _, raw, _ = self._scan(Read([p.id for p in slot.pieces], slot.span))
        times, begin, until = self._source.events(raw).select(pl.col(TIME)), slot.span.begin, slot.span.until
        inside = times if begin is None else times.filter(pl.col(TIME) >= begin)
        inside = inside if until is None else inside.filter(pl.col(TIME) < until)
        try:
            return int(inside.select(pl.len()).collect().item())
        except UNREADABLE as error:
            raise unreadable(self._table.name, error) from error

    def bounds(self, slot: Slot) -> tuple[int, int] | None:
        """The smallest and the greatest time of a slot's rows, as the table has them where it can be told."""
        if slot.segment is not None:
            manifest = slot.segment.manifest
            return None if manifest.low is None or manifest.high is None else (manifest.low, manifest.high)
        found = [b for b in map(self._piece_bounds, slot.pieces) if b is not None]
        return (min(b[0] for b in found), max(b[1] for b in found)) if found else None

    def _piece_bounds(self, piece: Piece) -> tuple[int, int] | None:
        if piece.id not in self._times:
            raw, name = piece.scan(), self._source.time
            try:
                dtype = raw.collect_schema().get(name)
                if dtype is not None and (dtype.is_integer() or dtype.base_type() in {pl.Datetime, pl.Date}):
                    times, time = raw, epoch_micros(pl.col(name), dtype)
                else:  # the cleaning step makes the column
                    times, time = self._source.events(raw), pl.col(TIME)
                frame = times.select(time.min().alias("low"), time.max().alias("high")).collect()
            except UNREADABLE as error:
                raise unreadable(self._table.name, error) from error
            low, high = frame.row(0)
            self._times[piece.id] = None if low is None else (low, high)
        return self._times[piece.id]

    def check_unchanged(self) -> None:
        """Raises `DataError` where the table has another state now."""
        now = self._source.table(self.view.root).snapshot()
        if now.id != self.snapshot.id:
            raise DataError(
                f"the table was changed since the build began: {self.snapshot.text}, now {now.text}",
                where=f"{self.view.place}, source '{self._source.name}'",
                hint="run it again; nothing was built under the old name",
            )

    def manifest(
        self, slot: Slot, found: Sequence[Sorted], reads: list[Read], began: float, cuts: Sequence[Cut] = ()
    ) -> SegmentManifest:
        """What a segment is whose buckets were just sorted.

        Args:
            slot: what it covers.
            found: what the sorting of each part found.
            reads: how its rows were read.
            began: when, by the performance counter.
            cuts: where its buckets are cut into parts.
        """
        there = [f for f in found if f.rows]
        first, end = min((f.first for f in there), default=-1), max((f.end for f in there), default=-1)
        bounds = self.bounds(slot) if self.together or not slot.span.is_whole else None
        return SegmentManifest(
            format=FORMAT,
            source=self._source.name,
            snapshot=self.snapshot.id,
            entities=[e.name for e in self.view.view.entities],
            pieces=[p.id for p in slot.pieces],
            span=slot.span,
            reads=reads,
            buckets=len(found) - len(cuts),
            rows=sum(f.rows for f in there),
            keys=sum(f.keys for f in there),
            first=first,
            end=end,
            known=max((f.known for f in there), default=-1),
            low=min(bounds[0], first) if bounds and there else bounds and bounds[0],
            high=max(bounds[1], end) if bounds and there else bounds and bounds[1],
            seconds=round(time.perf_counter() - began, 3),
            cuts=list(cuts),
        )
