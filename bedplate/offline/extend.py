"""Building an as-of index: only the segments, columns and reductions that are missing, each whole or not there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import final

from bedplate.errors import StoreError
from bedplate.features.view import CompiledView
from bedplate.files import remove_leftovers
from bedplate.offline.buckets import BUILDING, columns_name
from bedplate.offline.build import Progress
from bedplate.offline.builder import Builder
from bedplate.offline.cover import WHOLE, Slot, cover
from bedplate.offline.index import timeline_id
from bedplate.offline.memory import Budget
from bedplate.offline.needs import Needs, recorded_needs
from bedplate.offline.parts import Missing, ViewParts
from bedplate.offline.pieces import TableRows
from bedplate.offline.segment import FOLDER, Segment, Span, bytes_of, segments_of
from bedplate.sources.base import Snapshot


@final
class Build:
    """What one view needs in the offline store, and the building of it.

    Args:
        path: the offline store's folder.
        view: the compiled view.
        budget: the memory that it may use.
        threads: how many buckets are built at once.
        target: the range of event times that the index must hold; of what is before the table's first event or after
            its last one nothing is built.
    """

    __slots__ = (
        "_budget", "_parts", "_table", "_target", "_threads", "folder", "path", "slots", "snapshot", "view",
    )  # fmt: skip

    def __init__(
        self, path: Path, view: CompiledView, budget: Budget | None = None, threads: int = 2, target: Span = WHOLE
    ) -> None:
        self.path, self.view = path, view
        self._budget, self._threads = budget or Budget(), threads
        self._table = TableRows(view)
        self.snapshot: Snapshot = self._table.snapshot
        self.folder = path / timeline_id(view)
        self._parts = ViewParts(view)
        self._target = target
        self.slots = self._cover()

    def _cover(self) -> list[Slot]:
        rows = self._table
        apart = rows.bounds if rows.together else None
        slots = cover(rows.pieces, segments_of(self.folder), self._target, self._cost, apart)
        if self._target.is_whole:
            return slots
        # Nothing is built of a range without events: what it would hold is known, and rows may still come for it.
        bounds = self.bounds
        within = None if bounds is None else Span(bounds[0], bounds[1] + 1)
        return [s for s in slots if s.segment is not None or (within is not None and s.span.meets(within))]

    @property
    def bounds(self) -> tuple[int, int] | None:
        """The times of the table's first and last event, as the table has them where it can be told; None: no event.

        Raises:
            DataError: the table can't be read.
        """
        return self._table.event_bounds(self._table.pieces)

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
        return self._parts.missing(slot, self.segment_folder(slot))

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
        return self._parts.names()

    def work_names(self) -> set[str]:
        """What interrupted builds of large segments go on from is called."""
        names = {slot.id for slot in self.slots if slot.segment is None}
        return names | {columns_name(self.view, segment) for segment in self.segments}

    def segment_folder(self, slot: Slot) -> Path:
        """Where a segment is, or will be."""
        return self.folder / FOLDER / slot.id

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
        found = [s for folder in timelines_of(self.path) for s in segments_of(folder) if s.manifest.source == name]
        before = [s for s in found if s.manifest.entities == entities]
        if not before or any(s.manifest.snapshot == self.snapshot.id for s in found):
            return None
        rows = _indexed(self.path, self.view.root or Path(), before)
        counted = "" if rows is None else f"{rows:,} events were indexed, "
        return (
            f"the source '{name}' changed since its index was built: {counted}it is {self.snapshot.text} now; another "
            "name, size or modification time of a file is a change too"
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
            self.slots = self._cover()
            builder = Builder(self.view, self._table, self.folder, self.slots, self._budget, self._threads)
            self.slots = builder.run(self.path, progress)
        except OSError as error:
            raise StoreError(
                f"can't write the as-of index: {error}",
                where=str(self.path),
                hint="check free space and permissions; nothing half-written is left in place",
            ) from error
        return self.segments


def needs_of(builds: Iterable[Build]) -> dict[str, Needs]:
    """What views need, by timeline; of one that is not built, what the build will use."""
    found: dict[str, Needs] = {}
    for build in builds:
        found.setdefault(build.folder.name, Needs()).add(
            Needs({slot.id for slot in build.slots}, build.part_names(), build.work_names())
        )
    return found


def timelines_of(path: Path) -> list[Path]:
    """The folders of an offline store's timelines, the one that was changed last at the end."""
    found = [p.parent for p in path.glob("*/timeline.json")]
    return sorted(found, key=lambda p: (p / FOLDER).stat().st_mtime_ns if (p / FOLDER).exists() else 0)


def _indexed(path: Path, root: Path, segments: Sequence[Segment]) -> int | None:
    """How many events the last apply's index of some segments' source and entities has; None: not on record."""
    needs = recorded_needs(path, root)
    timelines: dict[Path, int] = {}
    for segment in segments:
        timeline = segment.folder.parent.parent
        if timeline.name in needs and segment.folder.name in needs[timeline.name].segments:
            timelines[timeline] = timelines.get(timeline, 0) + segment.manifest.rows
    return next(reversed(timelines.values()), None)
