"""The offline store: every view's index, read from the segments and buckets that it is in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import final

import polars as pl

from bedplate.batch import Column
from bedplate.errors import DefinitionError, StoreError
from bedplate.features.rows import GroupedRows
from bedplate.features.view import CompiledView
from bedplate.offline.base import History
from bedplate.offline.compact import compact
from bedplate.offline.extend import Build, Progress, needs_of
from bedplate.offline.memory import Budget
from bedplate.offline.needs import record_needs
from bedplate.offline.reading import ViewReader
from bedplate.offline.segment import Lock, Segment, Span
from bedplate.sources.base import AVAILABLE, TIME
from bedplate.types import Int64s


@final
class IndexedHistory(History):
    """The offline store: as-of indexes of many views. Satisfies `History`.

    Args:
        path: the store's folder.
        threads: how many threads a build or a large lookup may use.
        memory: how much memory a build or a lookup may use; bytes.
    """

    __slots__ = ("_budget", "_path", "_readers", "_threads")

    def __init__(self, path: Path, threads: int = 2, memory: int | None = None) -> None:
        self._path, self._threads = path, threads
        self._budget = Budget() if memory is None else Budget(memory)
        self._readers: dict[str, ViewReader] = {}

    def build(self, view: CompiledView, span: Span | None = None) -> Build:
        """What the view needs, and the building of it.

        Args:
            view: the compiled view.
            span: the range of event times that the index must hold; None: all.
        """
        return Build(self._path, view, self._budget, self._threads, span or Span())

    def reserve(self, root: Path, builds: Sequence[Build]) -> None:
        """Puts on record what some builds make, beside what the project needs already, so that no `gc` deletes it.

        Before a build, so that its finished parts are kept too, and after one that `finish` does not follow.

        Args:
            root: the project's folder.
            builds: the builds.

        Raises:
            StoreError: the store can't be written.
        """
        record_needs(self._path, root, needs_of(builds), more=True)

    def finish(self, root: Path, builds: Sequence[Build], progress: Progress = lambda _: None) -> None:
        """What follows the builds of a project's views: merges segments where there are many, records what is needed.

        Args:
            root: the project's folder.
            builds: the builds of all its views and labels.
            progress: told each step.

        Raises:
            StoreError: the store can't be written.
        """
        if compact(builds, self._budget, self._threads, progress=progress):
            builds = [self.build(build.view) for build in builds]
        record_needs(self._path, root, needs_of(builds))

    def compact(
        self, builds: Sequence[Build], *, whole: bool = False, progress: Progress = lambda _: None
    ) -> list[Segment]:
        """Merges segments; see `compact.compact`."""
        return compact(builds, self._budget, self._threads, whole=whole, progress=progress)

    def reader(self, view: CompiledView) -> ViewReader:
        """The reader of a view's index as of the source's snapshot at the first call.

        Where only ranges of times are built, it reads what they hold; see `ViewReader`.

        Raises:
            StoreError: the index is not (wholly) built.
        """
        if view.id not in self._readers:
            self._readers[view.id] = self._open(view)
        return self._readers[view.id]

    def _open(self, view: CompiledView) -> ViewReader:
        build = self.build(view)
        slots = build.slots if build.is_complete else build.ranges()
        if not slots:
            what = build.changed or "the as-of index is not built"
            raise StoreError(what, where=view.place, hint="run: bedplate apply")
        locks = [Lock.shared(slot.segment.folder) for slot in slots if slot.segment is not None]
        held = [lock for lock in locks if lock is not None]
        if len(held) < len(slots):
            raise StoreError("the as-of index was deleted just now", where=view.place, hint="run: bedplate apply")
        return ViewReader(view, build.snapshot.id, slots, held, self._budget, self._threads)

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
        return self.reader(view).end

    def known(self, view: CompiledView) -> int:
        """When the last of the view's events could be known, apart from a delay; microseconds."""
        reader = self.reader(view)
        return reader.end if view.view.source.available is None else reader.known

    def known_of_source(self, view: CompiledView) -> int:
        """When the last row of the view's source could be known, of this view or not, apart from a delay; -1 if none.

        Raises:
            StoreError: the source has other rows than the view's index.
        """
        source, times = view.view.source, (TIME, AVAILABLE)
        greatest = [pl.col(name).max() for name in times if name in source.order_columns()]
        known = source.scan(view.root).select(pl.max_horizontal(greatest)).collect().item()
        if self.build(view).snapshot.id != self.reader(view).snapshot:
            raise StoreError("the table has changed since its index was read", where=view.place, hint="run it again")
        return -1 if known is None else int(known)

    def grouped(self, view: CompiledView, keys_at_once: int = 4096) -> Iterator[GroupedRows]:
        """All events of a view by key, for an online store's bulk load."""
        return self.reader(view).grouped(keys_at_once)
