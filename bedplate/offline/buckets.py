"""Building a large segment bucket by bucket, so that no more than some buckets are in memory at once."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import final

import msgspec

from bedplate.canonical import digest, to_json
from bedplate.errors import DataError, StoreError
from bedplate.features.rows import Rows
from bedplate.features.view import CompiledView
from bedplate.files import new_folder, remove_leftovers, write_atomic
from bedplate.offline.build import PartBuild, Progress, Sorted, column_ids, wanted_reductions
from bedplate.offline.cover import Slot
from bedplate.offline.cuts import Cut, find_cuts, part_counts
from bedplate.offline.index import Timeline
from bedplate.offline.memory import Budget
from bedplate.offline.pieces import TableRows
from bedplate.offline.segment import MANIFEST, Lock, Read, Segment
from bedplate.offline.spill import Spill

BUILDING = "building"
"""The folder of what is being built, in a timeline's."""
_SORTED = "sorted.json"
_CUTS = "cuts.json"


@final
class BucketBuild:
    """Builds segments of several buckets for a view.

    Args:
        view: the compiled view.
        table: its table.
        folder: the timeline's.
        budget: the memory that it may use.
        threads: how many buckets are built at once.
    """

    __slots__ = ("_budget", "_columns", "_folder", "_table", "_threads", "_view")

    def __init__(self, view: CompiledView, table: TableRows, folder: Path, budget: Budget, threads: int) -> None:
        self._view, self._table, self._folder, self._budget, self._threads = view, table, folder, budget, threads
        self._columns = column_ids(view)

    def sort(self, slot: Slot, target: Path, buckets: int, progress: Progress) -> Segment:
        """Builds a segment; what an earlier call has finished is not built again.

        Args:
            slot: what it covers.
            target: where it goes.
            buckets: how many buckets it gets, a power of two.
            progress: told each step.
        """
        began, reads = time.perf_counter(), [Read([p.id for p in slot.pieces], slot.span)]
        with working_folder(self._folder, slot.id) as work:
            if not target.exists():
                progress(f"{self._view.name}: read {self._table.about(slot):,} rows into {buckets} buckets")
                spill = self._spill(work, reads, None, buckets, progress)
                cuts = self._cuts(work / _CUTS, spill)
                finished = work / "segment"
                finished.mkdir(exist_ok=True)

                def build(number: int, rows: Callable[[], Rows]) -> None:
                    if not (finished / str(number)).exists():
                        progress(f"{self._view.name}: sort bucket {number + 1} of {buckets + len(cuts)}")
                        with new_folder(finished / str(number)) as folder:
                            self._build(rows(), folder)

                self._each_part(spill, cuts, build, lambda number: (finished / str(number)).exists())
                found = [_read_sorted(finished / str(n)) for n in range(buckets + len(cuts))]
                write_atomic(finished / MANIFEST, to_json(self._table.manifest(slot, found, reads, began, cuts)))
                finished.rename(target)
        return Segment(target)

    def _cuts(self, path: Path, spill: Spill) -> list[Cut]:
        """Where to cut buckets that are too large, as an earlier call has said or found now."""
        if not path.exists():
            wanted = [self._budget.parts(self._view, rows, self._threads) for rows in spill.counts]
            found = [
                cut
                for bucket, (parts, rows) in enumerate(zip(wanted, spill.counts, strict=True))
                if parts > 1
                for cut in find_cuts(self._view, bucket, spill.batches(bucket), rows, parts)
            ]
            write_atomic(path, to_json(found))
        return msgspec.json.decode(path.read_bytes(), type=list[Cut])

    def _each_part(
        self,
        spill: Spill,
        cuts: Sequence[Cut],
        build: Callable[[int, Callable[[], Rows]], None],
        done: Callable[[int], bool],
    ) -> None:
        """Builds each part from its rows, some at once; what a part was built from is deleted.

        Args:
            spill: the rows by bucket.
            cuts: where buckets are cut.
            build: takes the number of a part, and what reads its rows.
            done: whether a part needs no rows any more.
        """
        first = [0, *accumulate(part_counts(spill.buckets, cuts))]

        def build_bucket(bucket: int) -> None:
            build(first[bucket], partial(spill.rows, bucket))
            spill.forget(bucket)

        whole = [bucket for bucket in range(spill.buckets) if first[bucket + 1] - first[bucket] == 1]
        in_threads(build_bucket, whole, self._threads)
        for bucket in sorted({cut.bucket for cut in cuts}):
            numbers = range(first[bucket], first[bucket + 1])
            if all(map(done, numbers)):
                continue
            parts = spill.split(bucket, [cut for cut in cuts if cut.bucket == bucket])

            def build_part(part: int, parts: Spill = parts, begin: int = numbers.start) -> None:
                build(begin + part, partial(parts.rows, part))
                parts.forget(part)

            in_threads(build_part, range(len(numbers)), self._threads)

    def _build(self, rows: Rows, folder: Path) -> None:
        """Sorts the rows of a bucket into an empty folder, and builds all that the view needs of it."""
        build = PartBuild(self._view, Timeline(folder))
        (folder / _SORTED).write_bytes(to_json(build.write_timeline(folder, rows)))
        selected = list(enumerate(rows.selections))
        del rows
        while selected:
            position, values = selected.pop()
            column = build.timeline.column_folder(self._columns[position])
            column.mkdir()
            build.write_column(column, position, values)
        for position, reduction in wanted_reductions(self._view):
            written = build.timeline.reduction_folder(self._columns[position], reduction.stored)
            written.mkdir()
            build.write_reduction(written, position, reduction)

    def add_columns(self, slot: Slot, segment: Segment, progress: Progress) -> None:
        """Builds the view's columns that a segment lacks."""
        builds = [PartBuild(self._view, part) for part in segment.parts]
        columns = sorted({i for build in builds for i in build.missing_columns()})
        if not columns:
            return
        with working_folder(self._folder, columns_name(self._view, segment)) as work:
            manifest = segment.manifest
            progress(f"{self._view.name}: read {self._table.about(slot):,} rows into {manifest.buckets} buckets")
            spill = self._spill(work, manifest.reads, columns, manifest.buckets, progress)

            def build(number: int, rows: Callable[[], Rows]) -> None:
                part = builds[number]
                missing = part.missing_columns()
                remove_leftovers(part.timeline.folder / "columns")
                if not missing:
                    return
                progress(f"{self._view.name}: columns of bucket {number + 1} of {len(builds)}")
                found = rows()
                part.check_rows(len(found))
                for position, values in zip(columns, found.selections, strict=True):
                    if position in missing:
                        with new_folder(part.timeline.column_folder(self._columns[position])) as folder:
                            part.write_column(folder, position, values)

            self._each_part(spill, manifest.cuts, build, lambda number: not builds[number].missing_columns())

    def _at_once(self) -> tuple[int, int]:
        return self._budget.batch(self._view), self._budget.piece(self._view)

    def _spill(
        self, work: Path, reads: Sequence[Read], only: Sequence[int] | None, buckets: int, progress: Progress
    ) -> Spill:
        """The table's rows by bucket, as an earlier call has left them or read now."""
        spill = Spill(work / "spill", self._view, only)
        if not (work / "spill").exists():
            spill.write(self._table.batches(reads, only, *self._at_once(), progress), buckets)
            try:
                self._table.check_unchanged()
            except DataError:
                shutil.rmtree(work, ignore_errors=True)
                raise
        return spill


def columns_name(view: CompiledView, segment: Segment) -> str:
    """What the work of building the columns of a view that a segment lacks is called."""
    lacking = [c for c in column_ids(view) if not segment.has(Path("columns") / c)]
    return digest([segment.folder.name, lacking])[:24]


@contextmanager
def working_folder(timeline: Path, name: str) -> Generator[Path]:
    """A folder for what is being built, which nobody else uses; it is deleted when all of it is done."""
    folder = timeline / BUILDING / name
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock.alone(folder, wait=True)
        if lock is not None:  # else the process that had it has finished, and deleted it
            break
    for place in (folder, *(p for p in folder.iterdir() if p.is_dir())):
        remove_leftovers(place)
    try:
        yield folder
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        lock.release()


def in_threads(work: Callable[[int], None], items: Iterable[int], threads: int) -> None:
    """Does the work for each item, some at once; the first error ends it."""
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _read_sorted(folder: Path) -> Sorted:
    path = folder / _SORTED
    try:
        return msgspec.json.decode(path.read_bytes(), type=Sorted)
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(
            f"can't read what a build has finished: {error}",
            where=str(path),
            hint=f"delete the folder {folder.parent.parent} and run: bedplate apply",
        ) from error
