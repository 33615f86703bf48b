"""Resident views: what is hot is read from mapped files that every process shares, without asking the store.

`refresh` copies a view's rows out of the store, behind the backs of those who read. A read at time t gives what the
store gave at t when the version was made: windows and ages are of t, and only events that came since are missing. How
long ago that may be is bounded; an older version is not read, the store is. A read is of one version.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, final

import numpy as np

from bedplate.batch import Columns
from bedplate.clock import Clock, system_clock
from bedplate.config import CONFIG_FILE, Config
from bedplate.errors import NotFoundError, StoreError, suggest
from bedplate.features.reader import Read, Reader
from bedplate.features.view import CompiledView
from bedplate.online.base import OnlineStore
from bedplate.online.fetch import OnlineReader
from bedplate.online.memory import MemoryStore
from bedplate.online.resident_cells import Cells
from bedplate.online.resident_files import Mapped, read_current
from bedplate.online.resident_version import ResidentVersion
from bedplate.types import MINUTE, SECOND, Int64s

log = logging.getLogger("bedplate.online")

MOST_AGE = 5 * MINUTE
"""How long ago the store may have held a version that is read, by default."""
LOOK_SECONDS = 0.5
"""How often a new version is looked for."""


class _Held(NamedTuple):
    """What is read of a view.

    Attributes:
        version: the version.
        number: its number.
        checked: when the store held just this, microseconds.
    """

    version: ResidentVersion
    number: int
    checked: int


@final
class ResidentViews:
    """The resident versions of some views, the newest that there is of each. Any number of threads may read.

    Args:
        root: the folder of all resident views, see `refresh`.
        views: the compiled views.
        most_age: how long ago the store may have held a version that is read, microseconds.
        clock: gives the time now.

    Attributes:
        views: as given, by id.
    """

    __slots__ = ("_cells", "_clock", "_held", "_most_age", "_over", "_root", "_seen", "_thread", "_warm", "views")

    def __init__(
        self,
        root: Path,
        views: Sequence[CompiledView],
        most_age: int = MOST_AGE,
        clock: Clock = system_clock,
    ) -> None:
        self.views = {view.id: view for view in views}
        self._root, self._most_age, self._clock = root, most_age, clock
        self._cells = {view.id: Cells(view) for view in views}
        self._held: dict[str, _Held] = {}
        self._seen: dict[str, tuple[int, int]] = {}
        self._warm = OnlineReader(MemoryStore())
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.look()

    def look(self) -> None:
        """Maps new versions, reads them once, then switches to them. What can't be read is logged and left."""
        for view in self.views.values():
            try:
                self._look(view)
            except (OSError, StoreError) as error:
                log.warning("no newer resident version of %s: %s", view.place, error)

    def watch(self, seconds: float = LOOK_SECONDS) -> None:
        """Looks again and again, on a thread, until `close`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, args=(seconds,), name="resident", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Looks no more."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def read(self, read: Read, reader: OnlineReader, *, any_age: bool = False) -> Columns | None:
        """The values of n rows; None: the view is not resident, or its version is too old, also for its `freshness`.

        Args:
            read: what to read.
            reader: finalises packed rows, and has the texts.
            any_age: reads versions that are too old, too.

        Raises:
            AheadError: a row is ahead of a time asked for.
        """
        held = self._held.get(read.view.id)
        if held is None or not (any_age or self._is_recent(held, read)):
            return None
        return held.version.read(read, reader)

    def watermark(self, view: CompiledView) -> int:
        """Up to when the events of a view are in its version, microseconds; -1: it has none."""
        held = self._held.get(view.id)
        return -1 if held is None else held.version.mapped.manifest.watermark

    def ages(self) -> dict[str, float]:
        """How many seconds ago the store held what is there of each view, by the view's name; NaN: nothing is there."""
        now, nothing = self._clock(), float("nan")
        held = {view.name: self._held.get(view.id) for view in self.views.values()}
        return {name: nothing if h is None else (now - h.checked) / SECOND for name, h in held.items()}

    def _is_recent(self, held: _Held, read: Read) -> bool:
        if self._clock() - held.checked > self._most_age:
            return False
        bound = read.view.view.freshness
        return bound is None or int(read.times.max(initial=0)) - held.version.mapped.manifest.watermark <= bound

    def _look(self, view: CompiledView) -> None:
        folder = self._root / view.id
        try:
            found = (folder / "current.json").stat()
        except FileNotFoundError:
            return
        stamp = found.st_mtime_ns, found.st_ino
        if self._seen.get(view.id) == stamp:
            return
        current, held = read_current(folder), self._held.get(view.id)
        if current is None:
            return
        self._seen[view.id] = stamp
        if held is not None and held.number == current.version:
            self._held[view.id] = held._replace(checked=current.checked)
            return
        try:
            mapped = Mapped(folder / str(current.version), current.crc)
        except FileNotFoundError:
            del self._seen[view.id]  # two versions later already; the next look finds the new one
            return
        if not mapped.manifest.fits(view):
            raise StoreError("it is of another definition", where=str(folder), hint="run: bedplate online refresh")
        version = ResidentVersion(self._cells[view.id], mapped)
        # The compiled passes are loaded by a read that nobody waits for.
        keys: Int64s = np.zeros((1, len(view.view.entities)), np.int64)
        version.read(Read(view, list(view.features), keys, np.array([mapped.manifest.time])), self._warm)
        self._held[view.id] = _Held(version, current.version, current.checked)

    def _watch(self, seconds: float) -> None:
        while not self._over.wait(seconds):
            self.look()


@final
class ResidentReader(Reader):
    """Reads resident views from their versions, and all others, and versions that are too old, from the store.

    Args:
        store: the online store.
        resident: the resident views.
    """

    __slots__ = ("_reader", "_resident")

    def __init__(self, store: OnlineStore, resident: ResidentViews) -> None:
        self._reader, self._resident = OnlineReader(store), resident

    def read(self, view: CompiledView, names: Sequence[str], keys: Int64s, times: Int64s) -> Columns:
        """As `OnlineReader.read`."""
        return self.read_all([Read(view, names, keys, times)])[0]

    def read_all(self, reads: Sequence[Read]) -> list[Columns]:
        """As `OnlineReader.read_all`; a view is read as one version or one step of the store has it."""
        found = [self._resident.read(read, self._reader) for read in reads]
        return with_gaps_filled(found, reads, self._reader.read_all)


def open_resident(config: Config, views: Mapping[str, CompiledView]) -> ResidentViews | None:
    """The views that `online.resident` names, of which new versions are looked for; None: it names none.

    Args:
        config: of the project.
        views: its views by name.

    Raises:
        NotFoundError: no view has such a name.
    """
    for name in config.resident:
        if name not in views:
            where = f"{config.root / CONFIG_FILE}: online.resident"
            raise NotFoundError(f"no view is named '{name}'", where=where, hint=suggest(name, views))
    if not config.resident:
        return None
    found = ResidentViews(config.resident_path, [views[name] for name in config.resident], config.resident_age)
    found.watch()
    return found


def with_gaps_filled(
    found: Sequence[Columns | None], reads: Sequence[Read], read_all: Callable[[Sequence[Read]], list[Columns]]
) -> list[Columns]:
    """What was found of reads, and in the gaps what reading the others together gives."""
    left = [read for read, columns in zip(reads, found, strict=True) if columns is None]
    others = iter(read_all(left) if left else [])
    return [next(others) if columns is None else columns for columns in found]
