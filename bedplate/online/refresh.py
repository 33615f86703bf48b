"""Refreshing resident versions: a view's rows are copied from the store, with cells, into a new version that is read.

The store is read some keys at a time, so that memory does not grow with the view and its writers are not held up. Each
row is as one step left it; the rows together hold at least all events up to the watermark that the state had before.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import final

import msgspec
import numpy as np

from bedplate.clock import Clock, system_clock
from bedplate.errors import ConflictError, StoreError
from bedplate.features.view import CompiledView
from bedplate.files import new_folder, remove_leftovers
from bedplate.online import keys
from bedplate.online import resident_kernels as kernels
from bedplate.online.base import OnlineStore, Values
from bedplate.online.codec import FORMAT, Layout
from bedplate.online.resident_cells import ALWAYS, Cells
from bedplate.online.resident_files import (
    RESIDENT_FORMAT,
    Current,
    FileFacts,
    Manifest,
    SizedWriter,
    read_current,
    read_manifest,
    write_current,
)
from bedplate.online.rows import check_rows
from bedplate.online.state import ViewState, decode_state
from bedplate.types import Int64s

MOST_ROWS = 1 << 30
"""So many rows of a view can be resident."""

Progress = Callable[[int], None]


@final
class Refreshed(msgspec.Struct, frozen=True):
    """What a refresh did for a view.

    Attributes:
        view: the view's name.
        version: the number of the version that is read now.
        kept: whether that is the one before: the store held nothing else.
        rows: how many keys it has.
        bytes: of its files.
        watermark: of the view's state, microseconds.
    """

    view: str
    version: int
    kept: bool
    rows: int
    bytes: int
    watermark: int


def refresh(
    store: OnlineStore,
    view: CompiledView,
    root: Path,
    *,
    clock: Clock = system_clock,
    progress: Progress = lambda _: None,
) -> Refreshed:
    """Brings the resident version of a view to what the store holds; readers go on, and then read the new one.

    Where the store holds the same as before and no window has moved on, the version is kept.

    Args:
        store: the store.
        view: the compiled view.
        root: the folder of all resident views.
        clock: gives the time as of which cells are computed.
        progress: told how many rows are done.

    Raises:
        ConflictError: another refresh of the view is at work.
        StoreError: the store can't be read, does not hold the view, or the files can't be written; what was read before
            is still read.
    """
    folder = root / view.id
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder, view):
            remove_leftovers(folder)
            return _refresh(store, view, folder, clock, progress)
    except OSError as error:
        raise StoreError(
            f"can't write the resident version: {error.strerror or error}",
            where=str(folder),
            hint="check free space and permissions; the version before, if any, is still read",
        ) from error


def _refresh(store: OnlineStore, view: CompiledView, folder: Path, clock: Clock, progress: Progress) -> Refreshed:
    while True:
        now, found = clock(), store.read_many([keys.state_of(view)]).data
        state = _readable(found, view, store)
        current = read_current(folder)
        known = None if current is None else _known(folder, current, view)
        if current is not None and known is not None and known.state == found.decode() and now < known.until:
            write_current(folder, Current(current.version, now, current.crc))
            return _refreshed(known, current.version, kept=True)
        version = _free(folder, current)
        with (
            new_folder(folder / str(version)) as aside,
            contextlib.closing(_Build(Cells(view), aside, max(now, state.watermark))) as build,
        ):
            for page in store.pages(keys.rows_of(view, state.generation)):
                build.add(store, page)
                progress(build.rows)
            manifest = build.finish(found.decode(), state.fresh_until)
            after = _readable(store.read_many([keys.state_of(view)]).data, view, store)
            if after.generation != state.generation:
                continue  # the generation that was copied may be half deleted
        crc = zlib.crc32((folder / str(version) / "manifest.json").read_bytes())
        write_current(folder, Current(version, now, crc))
        return _refreshed(manifest, version, kept=False)


@final
class _Build:
    """A version that is being written.

    Args:
        cells: of the view.
        folder: where.
        time: as of when cells are computed.

    Attributes:
        rows: how many are written.
    """

    def __init__(self, cells: Cells, folder: Path, time: int) -> None:
        self.rows = 0
        self._cells, self._folder, self._time = cells, folder, time
        self._layout = Layout(cells.view)
        self._records, self._words = SizedWriter(folder / "records.bin"), SizedWriter(folder / "words.bin")
        self._offsets = SizedWriter(folder / "offsets.bin")

    def add(self, store: OnlineStore, page: list[tuple[bytes, bytes]]) -> None:
        """Adds rows of the store."""
        entities = keys.entities_in([name for name, _ in page], len(self._cells.view.view.entities))
        words, offsets = Values([row for _, row in page]).rows(len(page))
        check_rows(store, self._layout, words, offsets)
        records = self._cells.records(entities, words, offsets, self._time)
        self._offsets.add(offsets[:-1] + self._words.bytes // 8)
        self._records.add(records[:-1])
        self._words.add(words)
        self.rows += len(page)
        if self.rows > MOST_ROWS:
            view = self._cells.view
            raise StoreError(f"got more than {MOST_ROWS:,} rows", where=view.place, hint="read it from the store")

    def close(self) -> None:
        """Gives up the files."""
        for writer in (self._records, self._words, self._offsets):
            writer.close()

    def finish(self, state: str, watermark: int) -> Manifest:
        """Writes what is left, the manifest last."""
        view, end = self._cells.view, self._words.bytes // 8
        none = np.zeros(0, np.int64)
        missing = self._cells.records(none.reshape(0, len(view.view.entities)), none, np.zeros(1, np.int64), self._time)
        self._records.add(missing)
        self._offsets.add(np.array([end, end], np.int64))
        files = {"records": self._records.close(), "words": self._words.close(), "offsets": self._offsets.close()}
        files["slots"] = self._write_slots()
        lifetimes = self._cells.lifetimes(self._time)
        manifest = Manifest(
            format=(RESIDENT_FORMAT, FORMAT),
            view=view.name,
            view_id=view.id,
            features={name: view.features[name].id for name in lifetimes},
            state=state,
            watermark=watermark,
            time=self._time,
            until=min((until for _, until in lifetimes.values()), default=ALWAYS[1]),
            rows=self.rows,
            files=files,
        )
        (self._folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
        return manifest

    def _write_slots(self) -> FileFacts:
        records: Int64s = np.memmap(self._folder / "records.bin", np.int64, "r").reshape(self.rows + 1, -1)
        slots = np.full(1 << (2 * self.rows + 1).bit_length(), -1, np.int32)
        kernels.fill_slots(np.asarray(records), len(self._cells.view.view.entities), slots)
        writer = SizedWriter(self._folder / "slots.bin")
        writer.add(slots)
        return writer.close()


def _readable(found: bytes, view: CompiledView, store: OnlineStore) -> ViewState:
    state = decode_state(found, view, store)
    if state.adopted is not None:
        raise StoreError(
            "the view goes on with rows of its old version, which can't be resident",
            where=view.place,
            hint="run: bedplate online compact; until then it is read from the store",
        )
    return state


def _known(folder: Path, current: Current, view: CompiledView) -> Manifest | None:
    """What the version that is read is; None: it can't be kept."""
    try:
        manifest = read_manifest(folder / str(current.version), current.crc)
    except (FileNotFoundError, StoreError):
        return None
    return manifest if manifest.fits(view) else None


def _free(folder: Path, current: Current | None) -> int:
    """A number that no version has."""
    taken = [int(path.name) for path in folder.iterdir() if path.name.isdigit()]
    return max([*taken, 0 if current is None else current.version]) + 1


def _refreshed(manifest: Manifest, version: int, *, kept: bool) -> Refreshed:
    size = sum(f.bytes for f in manifest.files.values())
    return Refreshed(manifest.view, version, kept, manifest.rows, size, manifest.watermark)


@contextlib.contextmanager
def _alone(folder: Path, view: CompiledView) -> Generator[None]:
    """Claims a view's folder for writing; a killed process gives it up."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError("another refresh is at work", where=view.place, hint="wait for it to end") from None
        yield
    finally:
        os.close(descriptor)
