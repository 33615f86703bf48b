"""Building an as-of index: only the segments, columns and reductions that are missing, each whole or not there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import final

from bedplate.aggregations.base import Reduce
from bedplate.canonical import to_json
from bedplate.errors import StoreError
from bedplate.features.view import CompiledView
from bedplate.files import remove_leftovers, write_atomic
from bedplate.offline.buckets import BUILDING, BucketBuild
from bedplate.offline.build import PartBuild, Progress, column_ids, wanted_reductions
from bedplate.offline.cover import WHOLE, Slot, cover
from bedplate.offline.index import FORMAT, Timeline, timeline_id
from bedplate.offline.memory import Budget
from bedplate.offline.pieces import TableRows
from bedplate.offline.seal import Sealer
from bedplate.offline.segment import FOLDER, MANIFEST, Lock, Read, Segment, Span, bytes_of, segments_of
from bedplate.sources.base import Snapshot

_RATE = 4e6
"""Row-columns that are built in a second, as measured; for estimates."""


@final
@dataclass(frozen=True, slots=True)
class Missing:
    """A part that is to be built.

    Attributes:
        segment: the id of its segment.
        folder: where it will be; what several views miss has the same folder.
        kind: "timeline", "column" or "reduction".
        text: what it is, for a person.
        rows: about how many rows it is built from.
    """

    segment: str
    folder: Path
    kind: str
    text: str
    rows: int

    @property
    def seconds(self) -> float:
        """A rough estimate."""
        return self.rows * (3 if self.kind == "timeline" else 1) / _RATE


@final
class Build:
    """What one view needs in the offline store, and the building of it.

    Args:
        path: the offline store's folder.
        view: the compiled view.
        budget: the memory that it may use.
        threads: how many buckets are built at once.
        target: the range of event times that the index must hold.
    """

    __slots__ = (
        "_buckets",
        "_budget",
        "_columns",
        "_table",
        "_target",
        "_threads",
        "folder",
        "path",
        "slots",
        "snapshot",
        "view",
    )

    def __init__(
        self, path: Path, view: CompiledView, budget: Budget | None = None, threads: int = 2, target: Span = WHOLE
    ) -> None:
        self.path, self.view = path, view
        self._budget, self._threads = budget or Budget(), threads
        self._table = TableRows(view)
        self.snapshot: Snapshot = self._table.snapshot
        self.folder = path / timeline_id(view)
        self._columns = column_ids(view)
        self._buckets = BucketBuild(view, self._table, self.folder, self._budget, threads)
        self._target = target
        self.slots = self._cover()

    def _cover(self) -> list[Slot]:
        rows = self._table
        apart = rows.bounds if rows.together else None
        return cover(rows.pieces, segments_of(self.folder), self._target, self._cost, apart)

    def _cost(self, slot: Slot) -> float:
        return sum(missing.seconds for missing in self._missing_of(slot))

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing()

    @property
    def extends(self) -> bool:
        """Whether segments that are there are kept, and others added."""
        built = [slot.segment is not None for slot in self.slots]
        return any(built) and not all(built)

    @property
    def segments(self) -> list[Segment]:
        """The segments of the index, in order of arrival; of one that is not complete, those that are there."""
        return [slot.segment for slot in self.slots if slot.segment is not None]

    def missing(self) -> list[Missing]:
        """The parts that are to be built."""
        return [missing for slot in self.slots for missing in self._missing_of(slot)]

    def _missing_of(self, slot: Slot) -> list[Missing]:
        folder, rows, segment = self.segment_folder(slot), slot.rows, slot.segment
        inputs = [self._text(i) for i in range(len(self._columns))]
        found = [] if segment is not None else [Missing(slot.id, folder, "timeline", "timeline", rows)]
        for i, name in self._column_names():
            if segment is None or not segment.has(name):
                found.append(Missing(slot.id, folder / name, "column", inputs[i], rows))
        for i, reduce, name in self._reduction_names():
            if segment is None or not segment.has(name):
                found.append(Missing(slot.id, folder / name, "reduction", f"{reduce.value} of {inputs[i]}", rows))
        return found

    def missing_of(self, number: int) -> list[Missing]:
        """The parts that are to be built of one of the slots."""
        return self._missing_of(self.slots[number])

    def rows(self, number: int) -> int:
        """How many events one of the slots has; of one that is to be built, those of the table in its range of times.

        Raises:
            DataError: the table can't be read.
        """
        slot = self.slots[number]
        if slot.segment is not None:
            return slot.segment.manifest.rows
        return slot.rows if slot.span.is_whole else self._table.count(slot)

    def seconds_of(self, number: int) -> float:
        """A rough estimate of what building a slot takes."""
        share = self.rows(number) / max(1, self.slots[number].rows)
        return sum(m.seconds for m in self.missing_of(number)) * share

    def ranges(self) -> list[Slot]:
        """The segments of the ranges of times that are built, where the index of all times is not."""
        lacking = {slot.span for slot in self.slots if self._missing_of(slot)}
        return [slot for slot in self.slots if not slot.span.is_whole and slot.span not in lacking]

    def part_names(self) -> set[str]:
        """The columns and reductions that the view needs, by their paths in a bucket."""
        names = [*(n for _, n in self._column_names()), *(n for _, _, n in self._reduction_names())]
        return {name.as_posix() for name in names}

    def work_names(self) -> set[str]:
        """What interrupted builds of large segments go on from is called."""
        names = {slot.id for slot in self.slots if slot.segment is None}
        return names | {self._buckets.columns_name(segment) for segment in self.segments}

    def segment_folder(self, slot: Slot) -> Path:
        """Where a segment is, or will be."""
        return self.folder / FOLDER / slot.id

    def _column_names(self) -> Iterator[tuple[int, Path]]:
        return ((i, Path("columns") / c) for i, c in enumerate(self._columns))

    def _reduction_names(self) -> Iterator[tuple[int, Reduce, Path]]:
        wanted = wanted_reductions(self.view)
        return ((i, r, Path("reductions") / f"{self._columns[i]}-{r.value}") for i, r in wanted)

    @property
    def changed(self) -> str | None:
        """What to say where the source has an index of an earlier state and none of its present one, else None."""
        if all(slot.segment is not None for slot in self.slots):
            return None
        name = self.view.view.source.name
        new = sum(slot.rows for slot in self.slots if slot.segment is None)
        if self.extends:
            return (
                f"the source '{name}' has {new:,} rows that its index does not hold yet; {self.snapshot.rows - new:,} "
                f"of {self.snapshot.rows:,} are indexed"
            )
        entities = [e.name for e in self.view.view.entities]
        found = [s.manifest for folder in timelines_of(self.path) for s in segments_of(folder)]
        of_source = [m for m in found if m.source == name]
        before = [m for m in of_source if m.entities == entities]
        if not before or any(m.snapshot == self.snapshot.id for m in of_source):
            return None
        return (
            f"the source '{name}' changed since its index was built: {before[-1].rows:,} events were indexed, it is "
            f"{self.snapshot.text} now; another name, size or modification time of a file is a change too"
        )

    def seconds(self) -> float:
        """A rough estimate of the build, from rows and parts."""
        return sum(m.seconds for m in self.missing())

    def size(self) -> int:
        """How many bytes the view's segments take."""
        return sum(bytes_of(self.segment_folder(slot)) for slot in self.slots)

    def run(self, progress: Progress = lambda _: None) -> list[Segment]:
        """Builds what is missing; a part that another process built meanwhile is kept.

        Returns:
            the segments of the index, in order of arrival.

        Raises:
            DataError: the rows are not what the definition says.
            StoreError: the folder can't be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for folder in (
                self.path,
                self.folder / FOLDER,
                *(p for p in (self.folder / BUILDING).glob("*") if p.is_dir()),
            ):
                remove_leftovers(folder)
            with ExitStack() as held, Sealer(self.path) as sealer:
                self.slots = self._cover()
                for slot in self.slots:
                    _hold(slot, held)
                self.slots = [self._complete(slot, sealer, held, progress) for slot in self.slots]
        except OSError as error:
            raise StoreError(
                f"can't write the as-of index: {error}",
                where=str(self.path),
                hint="check free space and permissions; nothing half-written is left in place",
            ) from error
        return self.segments

    def _describe(self, held: ExitStack) -> None:
        """Makes the timeline's folder, says in it what it is, and keeps it from being collected."""
        while True:
            (self.folder / FOLDER).mkdir(parents=True, exist_ok=True)
            lock = Lock.shared(self.folder)
            if lock is not None:
                break
        held.callback(lock.release)
        path = self.folder / "timeline.json"
        if not path.exists():
            source, entities = self.view.view.source.name, [e.name for e in self.view.view.entities]
            write_atomic(path, to_json({"format": FORMAT, "source": source, "entities": entities}) + b"\n")

    def _complete(self, slot: Slot, sealer: Sealer, held: ExitStack, progress: Progress) -> Slot:
        segment = slot.segment
        if segment is None:
            buckets = self._budget.buckets(self.view, slot.rows, self._threads)
            if buckets == 1:
                segment = self._sort(slot, sealer, held, progress)
            else:
                self._describe(held)
                segment = self._buckets.sort(slot, self.segment_folder(slot), buckets, progress)
        elif len(segment.parts) == 1:
            self._add_columns(slot, segment, sealer, progress)
        else:
            self._buckets.add_columns(slot, segment, progress)
        for part in segment.parts:
            build = PartBuild(self.view, part)
            for position, reduce in build.missing_reductions():
                progress(f"{self.view.name}: {reduce.value} of {self.view.selections[position].inputs[0]}")
                with sealer.folder(part.reduction_folder(self._columns[position], reduce)) as folder:
                    build.write_reduction(folder, position, reduce)
        return Slot(slot.pieces, slot.span, segment)

    def _sort(self, slot: Slot, sealer: Sealer, held: ExitStack, progress: Progress) -> Segment:
        name, began = self.view.name, time.perf_counter()
        progress(f"{name}: read {slot.rows:,} rows")
        reads = [Read([p.id for p in slot.pieces], slot.span)]
        rows = self._table.rows(reads, None)
        self._table.check_unchanged()
        progress(f"{name}: sort {len(rows):,} events by key and time")
        self._describe(held)
        target = self.segment_folder(slot)
        part = Timeline(target / "0")
        build = PartBuild(self.view, part)
        with sealer.folder(target) as folder:
            (folder / "0").mkdir()
            manifest = self._table.manifest(slot, [build.write_timeline(folder / "0", rows)], reads, began)
            (folder / MANIFEST).write_bytes(to_json(manifest))
        selected = list(enumerate(rows.selections))
        del rows
        while selected:
            position, values = selected.pop()
            progress(f"{name}: column {self._text(position)}")
            with sealer.folder(part.column_folder(self._columns[position])) as folder:
                build.write_column(folder, position, values)
        segment = Segment(target, manifest)
        segment.parts = (part,)
        return segment

    def _add_columns(self, slot: Slot, segment: Segment, sealer: Sealer, progress: Progress) -> None:
        (part,) = segment.parts
        build = PartBuild(self.view, part)
        columns = build.missing_columns()
        if not columns:
            return
        progress(f"{self.view.name}: read {slot.rows:,} rows")
        rows = self._table.rows(segment.manifest.reads, columns)
        self._table.check_unchanged()
        build.check_rows(len(rows))
        selected = list(zip(columns, rows.selections, strict=True))
        del rows
        while selected:
            position, values = selected.pop()
            progress(f"{self.view.name}: column {self._text(position)}")
            with sealer.folder(part.column_folder(self._columns[position])) as folder:
                build.write_column(folder, position, values)

    def _text(self, position: int) -> str:
        return self.view.selections[position].text or "events"


def timelines_of(path: Path) -> list[Path]:
    """The folders of an offline store's timelines, the one that was changed last at the end."""
    found = [p.parent for p in path.glob("*/timeline.json")]
    return sorted(found, key=lambda p: (p / FOLDER).stat().st_mtime_ns if (p / FOLDER).exists() else 0)


def _hold(slot: Slot, held: ExitStack) -> None:
    """Keeps a segment from being deleted while it is used."""
    if slot.segment is not None:
        lock = Lock.shared(slot.segment.folder)
        if lock is None:
            raise StoreError(
                "a segment of the index was deleted just now", where=str(slot.segment.folder), hint="run it again"
            )
        held.callback(lock.release)
