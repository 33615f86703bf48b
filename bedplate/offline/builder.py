"""Building the segments of a view's index, one after the other, and what the view lacks of those that are there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import final

from bedplate.allocator import give_back
from bedplate.canonical import to_json
from bedplate.errors import StoreError
from bedplate.features.view import CompiledView
from bedplate.files import write_atomic
from bedplate.offline.buckets import BucketBuild
from bedplate.offline.build import PartBuild, Progress
from bedplate.offline.cover import Slot
from bedplate.offline.index import FORMAT, Timeline
from bedplate.offline.memory import Budget, bytes_of_whole
from bedplate.offline.parts import ViewParts
from bedplate.offline.pieces import TableRows
from bedplate.offline.seal import Sealer
from bedplate.offline.segment import FOLDER, MANIFEST, Lock, Read, Segment
from bedplate.offline.ties import follows


class _TiedError(Exception):
    """Events of equal time in another segment, by its number, are not in order with those that are being built."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@final
class Builder:
    """Builds what is missing of a view's index.

    Args:
        view: the compiled view.
        table: its table.
        folder: the timeline's.
        slots: the segments of the index.
        budget: the memory that it may use.
        threads: how many buckets are built at once.
    """

    __slots__ = ("_budget", "_folder", "_parts", "_slots", "_table", "_threads", "_view")

    def __init__(
        self, view: CompiledView, table: TableRows, folder: Path, slots: Sequence[Slot], budget: Budget, threads: int
    ) -> None:
        self._view, self._table, self._folder = view, table, folder
        self._slots, self._parts = list(slots), ViewParts(view)
        self._budget, self._threads = budget, threads

    def run(self, store: Path, progress: Progress) -> list[Slot]:
        """The segments of the index, all of them built; some may have been put together.

        Args:
            store: where folders are filled before they are put in place.
            progress: told each step.

        Raises:
            DataError: the rows are not what the definition says.
            StoreError: a segment was deleted meanwhile.
            OSError: a folder can't be written.
        """
        with ExitStack() as held, Sealer(store) as sealer:
            for slot in self._slots:
                _hold(slot, held)
            number = 0
            while number < len(self._slots):
                try:
                    self._slots[number] = self._complete(self._slots[number], sealer, held, progress)
                    number += 1
                except _TiedError as tied:
                    first, last = min(number, tied.number), max(number, tied.number)
                    pieces = tuple(p for slot in self._slots[first : last + 1] for p in slot.pieces)
                    self._slots[first : last + 1] = [Slot(pieces, self._slots[number].span, None)]
                    number = first
        give_back()
        return self._slots

    def _check_ties(self, slot: Slot, part: Timeline | None) -> None:
        """Raises `_TiedError` where events of equal time in another segment are not in order with a slot's.

        Args:
            slot: one of the slots.
            part: its events, sorted; None: only their range of times is known, and must not meet that of another.
        """
        own = self._slots.index(slot)
        for number, other in enumerate(self._slots if self._table.tied else []):
            segment = other.segment
            if segment is None or number == own or other.span != slot.span:
                continue
            if part is None:
                low, high = self._table.bounds(slot) or (0, -1)
                is_right = high < segment.manifest.first or segment.manifest.end < low
            else:
                is_right = follows(segment, part) if number < own else follows(part, segment)
            if not is_right:
                raise _TiedError(number)

    def _describe(self, held: ExitStack) -> None:
        """Makes the timeline's folder, says in it what it is, and keeps it from being collected."""
        while True:
            (self._folder / FOLDER).mkdir(parents=True, exist_ok=True)
            lock = Lock.shared(self._folder)
            if lock is not None:
                break
        held.callback(lock.release)
        path = self._folder / "timeline.json"
        if not path.exists():
            source, entities = self._view.view.source.name, [e.name for e in self._view.view.entities]
            write_atomic(path, to_json({"format": FORMAT, "source": source, "entities": entities}) + b"\n")

    def _complete(self, slot: Slot, sealer: Sealer, held: ExitStack, progress: Progress) -> Slot:
        segment = slot.segment
        if segment is None:
            rows = self._table.about(slot)
            whole = bytes_of_whole(self._view) if self._table.is_ranged(rows) else 0
            budget = replace(self._budget, texts=self._table.texts(slot), whole=whole)
            buckets = budget.buckets(self._view, rows, self._threads)
            if buckets == 1:
                segment = self._sort(slot, sealer, held, progress)
            else:
                self._check_ties(slot, None)
                self._describe(held)
                segment = self._bucket_build(budget).sort(slot, self._folder / FOLDER / slot.id, buckets, progress)
        elif len(segment.parts) == 1:
            self._add_columns(slot, segment, sealer, progress)
        elif any(PartBuild(self._view, part).missing_columns() for part in segment.parts):
            budget = replace(self._budget, texts=self._table.texts(slot))
            self._bucket_build(budget).add_columns(slot, segment, progress)
        for part in segment.parts:
            build = PartBuild(self._view, part, self._threads)
            for position, reduction in build.missing_reductions():
                progress(f"{self._view.name}: {reduction.stored} of {self._parts.text(position)}")
                with sealer.folder(part.reduction_folder(self._parts.columns[position], reduction.stored)) as folder:
                    build.write_reduction(folder, position, reduction)
        return Slot(slot.pieces, slot.span, segment)

    def _bucket_build(self, budget: Budget) -> BucketBuild:
        return BucketBuild(self._view, self._table, self._folder, budget, self._threads)

    def _sort(self, slot: Slot, sealer: Sealer, held: ExitStack, progress: Progress) -> Segment:
        name, began = self._view.name, time.perf_counter()
        progress(f"{name}: read {self._table.about(slot):,} rows")
        reads = [Read([p.id for p in slot.pieces], slot.span)]
        ranged = self._table.ranged(reads[0])
        rows = self._table.rows(reads, None) if ranged is None else ranged.rows
        self._table.check_unchanged()
        progress(f"{name}: sort {len(rows):,} events by key and time")
        self._describe(held)
        target = self._folder / FOLDER / slot.id
        part = Timeline(target / "0")
        build = PartBuild(self._view, part, self._threads)
        with sealer.folder(target) as folder:
            (folder / "0").mkdir()
            found = build.write_timeline(folder / "0", rows, ranged)
            if self._table.tied:
                self._check_ties(slot, Timeline(folder / "0"))
            manifest = self._table.manifest(slot, [found], reads, began)
            (folder / MANIFEST).write_bytes(to_json(manifest))
        selected = list(enumerate(rows.selections))
        del rows
        while selected:
            position, values = selected.pop()
            progress(f"{name}: column {self._parts.text(position)}")
            with sealer.folder(part.column_folder(self._parts.columns[position])) as folder:
                build.write_column(folder, position, values)
        segment = Segment(target, manifest)
        segment.parts = (part,)
        return segment

    def _add_columns(self, slot: Slot, segment: Segment, sealer: Sealer, progress: Progress) -> None:
        (part,) = segment.parts
        build = PartBuild(self._view, part, self._threads)
        columns = build.missing_columns()
        if not columns:
            return
        progress(f"{self._view.name}: read {self._table.about(slot):,} rows")
        rows = self._table.rows(segment.manifest.reads, columns)
        self._table.check_unchanged()
        build.check_rows(len(rows))
        selected = list(zip(columns, rows.selections, strict=True))
        del rows
        while selected:
            position, values = selected.pop()
            progress(f"{self._view.name}: column {self._parts.text(position)}")
            with sealer.folder(part.column_folder(self._parts.columns[position])) as folder:
                build.write_column(folder, position, values)


def _hold(slot: Slot, held: ExitStack) -> None:
    """Keeps a segment from being deleted while it is used."""
    if slot.segment is not None:
        lock = Lock.shared(slot.segment.folder)
        if lock is None:
            raise StoreError(
                "a segment of the index was deleted just now", where=str(slot.segment.folder), hint="run it again"
            )
        held.callback(lock.release)
