"""The rows of a source's table, read by the pieces that segments cover."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import polars as pl

from bedplate.errors import DataError
from bedplate.features.rows import (
    JoinedRows,
    Rows,
    join_batches,
    prepare_batches,
    prepare_rows,
    prepare_table,
)
from bedplate.features.view import CompiledView
from bedplate.offline import key_ranges
from bedplate.offline.build import Progress, Sorted
from bedplate.offline.cover import Slot
from bedplate.offline.cuts import Cut
from bedplate.offline.index import FORMAT
from bedplate.offline.key_ranges import KeyRanges, RangedRows
from bedplate.offline.memory import TextSize
from bedplate.offline.sampling import sampled_texts
from bedplate.offline.segment import Read, SegmentManifest, Span
from bedplate.offline.times import PieceTimes
from bedplate.sources.base import TIME, UNREADABLE, Piece, Snapshot, unreadable


@final
@dataclass(frozen=True, slots=True)
class _Part:
    """A piece, and how many rows of the table come before it."""

    piece: Piece
    before: int


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
        self._times = PieceTimes(view)
        self._counts: dict[str, int] = {}

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
            parts, raw = self._scan(read)
            count = sum(p.piece.rows for p in parts)

            def name(row: int, parts: Sequence[_Part] = parts) -> str:
                return self._row_name(parts, row)

            found.append(prepare_table(self.view, raw, count, only, name, (read.span.begin, read.span.until)))
        if len(found) == 1:
            return found[0]
        joined = JoinedRows(self.view, sum(map(len, found)), only)
        for rows in found:
            joined.add(rows)
        return joined.rows()

    def is_ranged(self, rows: int) -> bool:
        """Whether so many rows are put in order of key range while they are read."""
        return rows >= key_ranges.LEAST and not self.tied

    def ranged(self, read: Read) -> RangedRows | None:
        """All rows of a read, put in order of key range; None: read them by `rows`.

        They are too few to be worth it, something else than time and arrival orders them, or one of them is wrong.
        """
        count = sum(p.piece.rows for p in self._parts(read))
        if not self.is_ranged(count):
            return None
        ranges, span = KeyRanges(count), (read.span.begin, read.span.until)
        joined = join_batches(self.view, self._scan(read)[1], count, None, span, ranges.arrange)
        return ranges.rows(joined) if joined else None

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
        pieces = [part.piece for part in self._parts(Read([p.id for p in slot.pieces], slot.span))]
        return sampled_texts(self.view, pieces)

    def _queries(self, read: Read, at_once: int) -> Iterator[tuple[pl.LazyFrame, int | None]]:
        """The rows of a read, in order, and how many of the table come before, where the rows are not too many.

        A query runs ahead of who takes its batches, so it must not read all there is.
        """
        if self._source.prepare is not None:
            yield self._scan(read)[1], None
            return
        for part in self._parts(read):
            piece = part.piece
            step = at_once if piece.slices else max(piece.rows, 1)
            for start in range(0, piece.rows, step):
                raw = piece.scan() if step >= piece.rows else piece.scan().slice(start, step)
                yield raw, part.before + start if step <= at_once else None

    def _scan(self, read: Read) -> tuple[Sequence[_Part], pl.LazyFrame]:
        """The pieces that a read needs, and their rows."""
        parts = self._parts(read)
        if len(parts) == len(self.pieces):
            return parts, self._table.scan()
        if not parts:
            return parts, self._table.scan().clear()
        scans = [p.piece.scan() for p in parts]
        return parts, scans[0] if len(scans) == 1 else pl.concat(scans)

    def _parts(self, read: Read) -> Sequence[_Part]:
        """The pieces of a read, but those that are known to hold no row in its range of times."""
        start = next((i for i, p in enumerate(self.pieces) if p.id == read.pieces[0]), 0) if read.pieces else 0
        before = sum(p.rows for p in self.pieces[:start])
        found: list[_Part] = []
        for piece in self.pieces[start : start + len(read.pieces)]:
            if self._times.may_hold(piece, read.span):
                found.append(_Part(piece, before))
            before += piece.rows
        return found

    def _row_name(self, parts: Sequence[_Part], row: int) -> str:
        """What a message calls a row by its position among the rows of some pieces."""
        for part in parts:
            if row < part.piece.rows:
                return self._table.row_name(part.before + row)
            row -= part.piece.rows
        return f"row {row:,}"

    def count(self, slot: Slot) -> int:
        """How many of the table's rows are in a slot's range of times.

        Raises:
            DataError: the table can't be read.
        """
        if slot.id not in self._counts:
            _, raw = self._scan(Read([p.id for p in slot.pieces], slot.span))
            inside = self._source.during(raw, slot.span.begin, slot.span.until)
            try:
                rows = self._source.events(raw).filter(inside).select(pl.len()).collect()
            except UNREADABLE as error:
                raise unreadable(self._table.name, error) from error
            self._counts[slot.id] = int(rows.item())
        return self._counts[slot.id]

    def about(self, slot: Slot) -> int:
        """About how many of the table's rows are in a slot's range of times: never fewer than there are.

        They are counted where that is cheap, or was done already: of a cleaned table it would take the whole step.
        """
        if slot.span.is_whole or (self._source.prepare is not None and slot.id not in self._counts):
            return sum(p.piece.rows for p in self._parts(Read([p.id for p in slot.pieces], slot.span)))
        return self.count(slot)

    def bounds(self, slot: Slot) -> tuple[int, int] | None:
        """The smallest and the greatest time of a slot's rows, as the table has them where it can be told."""
        if slot.segment is not None:
            manifest = slot.segment.manifest
            return None if manifest.low is None or manifest.high is None else (manifest.low, manifest.high)
        found = [b for b in map(self._times.of, slot.pieces) if b is not None]
        return (min(b[0] for b in found), max(b[1] for b in found)) if found else None

    def event_bounds(self, pieces: Sequence[Piece]) -> tuple[int, int] | None:
        """The smallest and the greatest time of the events of pieces, as the cleaning step makes them."""
        if self._times.column is not None or self._source.prepare is None:
            return self.bounds(Slot(tuple(pieces), Span(), None))
        _, raw = self._scan(Read([p.id for p in pieces], Span()))
        return self._times.of_rows(self._source.events(raw), pl.col(TIME))

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
        whole = self.bounds(slot) if self.together and slot.span.is_whole else None
        bounds = whole if slot.span.is_whole else self.event_bounds(slot.pieces)
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
