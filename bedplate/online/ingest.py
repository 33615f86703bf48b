"""Ingest: from a directory of appended Parquet files to the rows of an online store, each event once.

A stream is a directory. Files hold rows as the source's table does, and are taken in by the order of their names, in
micro-batches. What a micro-batch changes in rows and texts, and the new position, are one step of the store, so that a
kill at any moment loses nothing and counts nothing twice. A writer of files writes aside (a name that begins with "."
or ends with ".tmp") and renames, and gives each file a name after those before it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TypeAlias, final

import numpy as np
import polars as pl

from bedplate.clock import Clock, system_clock
from bedplate.errors import DataError, DefinitionError, reason
from bedplate.features.rows import Rows, prepare_rows
from bedplate.features.view import CompiledView
from bedplate.online import keys
from bedplate.online.base import Changes, OnlineStore
from bedplate.online.codec import Layout
from bedplate.online.expiry import expiries
from bedplate.online.state import MOST_TEXTS, REWIND, ViewState, group, merged_rows, read_state, texts_of
from bedplate.sources.base import AVAILABLE, TIME, UNREADABLE
from bedplate.sources.events import RowName, row_text
from bedplate.types import format_time

BATCH = 50_000
"""How many rows of a file are one micro-batch, by default."""

POLL = 1.0
"""How often the directory is looked at for new files when following, in seconds."""


_TABLES = {
    "a Delta": "_delta_log",
    "an Iceberg": "metadata/*.metadata.json",
    "a Lance": "_versions",
}
"""By what the folder of a table is known."""


@final
@dataclass(frozen=True, slots=True)
class Ingested:
    """What one run took in.

    Attributes:
        events: rows of the files.
        files: files taken in to their end.
        seconds: how long it took.
        watermark: the least of the views' watermarks, microseconds: reads from then on are exact.
        interrupted: whether a signal ended it.
    """

    events: int
    files: int
    seconds: float
    watermark: int
    interrupted: bool


Progress: TypeAlias = Callable[[Path, int], None]
"""Called after each micro-batch with the file and how many of its rows are in."""


@final
class Ingest:
    """The stream worker of a source: keeps its views in a store current.

    Args:
        store: the store; the views are completely loaded.
        views: compiled views of one source.
        directory: where the files appear.
        batch: rows of a micro-batch. Where the source has a cleaning step a whole file is one, as the step may look at
            several rows.
        rewind: reads may ask for a time so much before the watermark; microseconds.
        clock: an event ahead of this clock does not push the watermark beyond it.
        late: take in events from before the time that a view was loaded for. The load held every event of history that
            is so old, so these must be events that history did not hold; they count from now on. Without it they are an
            error.

    Raises:
        DefinitionError: the views are not of one source.
    """

    __slots__ = (
        "_batch",
        "_clock",
        "_directory",
        "_late",
        "_layouts",
        "_rewind",
        "_states",
        "_store",
        "_taken",
        "_texts",
        "_views",
    )

    def __init__(
        self,
        store: OnlineStore,
        views: Sequence[CompiledView],
        directory: Path,
        *,
        batch: int = BATCH,
        rewind: int = REWIND,
        clock: Clock = system_clock,
        late: bool = False,
    ) -> None:
        names = sorted({v.view.source.name for v in views})
        if len(names) != 1:
            raise DefinitionError(f"got views of the sources {names}, expected one source", where="ingest")
        self._store, self._views, self._directory = store, tuple(views), directory
        self._batch, self._rewind, self._clock, self._late = batch, rewind, clock, late
        self._layouts = {v.id: Layout(v) for v in views}
        self._states: dict[str, ViewState] = {}
        self._taken: dict[str, set[str]] = {}
        self._texts: set[int] = set()

    def run(
        self, until: int | None = None, *, follow: bool = False, progress: Progress | None = None, poll: float = POLL
    ) -> Ingested:
        """Takes in the files that are there, and with `follow` those that come.

        SIGINT (Ctrl-C) and SIGTERM end it after the micro-batch at work; a second one at once, which is safe too.

        Args:
            until: stop before the first file with an event at this time or later; microseconds.
            follow: wait for more files until a signal comes or `until` is reached.
            progress: called after each micro-batch.
            poll: seconds between two looks at the directory.

        Raises:
            StoreError: the store can't be written, a view is not loaded, or another writer is at work on it.
            DataError: a file can't be read or its columns are not those of the source's table, a file has a name before
                one that was taken in, or an event is from before the time that a view was loaded for (see `late`). What
                was taken in before stays, and the position is before the micro-batch.
        """
        begin, events, files = monotonic(), 0, 0
        self._check_directory()
        with self._store.writing([v.id for v in self._views]), _signals() as stop:
            self._texts = set()  # while nobody had claimed the views, texts may have been dropped
            self._states = {v.id: read_state(self._store, v) for v in self._views}
            self._taken = {v.id: self._names_taken(v) for v in self._views}
            is_over = False
            while not is_over:
                for path in self._new_files():
                    if stop.is_set() or (until is not None and self._newest(path) >= until):
                        is_over = True
                        break
                    rows, is_whole = self._take_file(path, stop, progress)
                    events, files = events + rows, files + is_whole
                is_over = is_over or not follow or stop.wait(poll)
        watermark = min(s.watermark for s in self._states.values())
        return Ingested(events, files, monotonic() - begin, watermark, stop.is_set())

    def _check_directory(self) -> None:
        """Refuses the folder of a table: its files have no names that say which came first, and some hold old rows."""
        for kind, sign in _TABLES.items():
            if any(self._directory.glob(sign)):
                raise DataError(
                    f"it is {kind} table, and a stream is a directory to which Parquet files are appended",
                    where=str(self._directory),
                    hint="write new rows to a directory of their own as well; or load the table's newest state: "
                    "bedplate apply, then bedplate materialize --replace",
                )

    def _names_taken(self, view: CompiledView) -> set[str]:
        prefix = keys.files_of(view)
        return {key[len(prefix) :].decode() for key, _ in self._store.scan(prefix)}

    def _new_files(self) -> list[Path]:
        """The files that some view has not wholly taken in, by name."""
        try:
            entries = sorted(self._directory.iterdir(), key=lambda p: p.name)
        except OSError as error:
            raise DataError(f"can't read the directory: {error}", where=str(self._directory)) from error
        paths = [p for p in entries if p.suffix == ".parquet" and not p.name.startswith(".") and p.is_file()]
        names = {p.name for p in paths}
        for view, state in self._states.items():
            if state.file and state.file not in names | self._taken[view]:
                raise DataError(
                    f"the file is gone, of which only {state.row:,} rows were taken in",
                    where=str(self._directory / state.file),
                    hint="put it back, then run again",
                )
            skipped = sorted(n for n in names - self._taken[view] if n < state.file)
            if skipped:
                raise DataError(
                    f"the file appeared after '{state.file}' was taken in, which comes after it by name",
                    where=str(self._directory / skipped[0]),
                    hint="give it a name after all others: files are taken in by the order of their names",
                )
        return [p for p in paths if any(p.name not in taken for taken in self._taken.values())]

    def _newest(self, path: Path) -> int:
        """The greatest time in a file at which an event could be known, apart from a delay; -1 if it has no event."""
        source = self._views[0].view.source
        with _naming(path):
            known = [pl.col(name).max() for name in (TIME, AVAILABLE) if name in source.order_columns()]
            newest = source.events(self._opened(path)).select(pl.max_horizontal(known)).collect().item()
        return -1 if newest is None else int(newest)

    def _opened(self, path: Path) -> pl.LazyFrame:
        """The rows of a file, with the columns of the source's table."""
        view = self._views[0]
        expected, found = view.view.source.table(view.root).schema(), pl.read_parquet_schema(path)
        for column, dtype in expected.items():
            if found.get(column) != dtype:
                raise DataError(
                    f"it is {found.get(column, 'missing')}, expected {dtype} as in the source's table",
                    where=f"column '{column}'",
                    hint="repair the file or move it away, then run again",
                )
        return pl.scan_parquet(path).select(list(expected))

    def _take_file(self, path: Path, stop: threading.Event, progress: Progress | None) -> tuple[int, bool]:
        """Takes in what is left of a file; how many rows that was, and whether it is wholly in."""
        rows = 0
        with _naming(path):
            raw = self._opened(path)
            total = int(raw.select(pl.len()).collect().item())
            while True:
                # A view that was loaded later than the others is at a position of its own.
                left = [v for v in self._views if path.name not in self._taken[v.id]]
                if not left or stop.is_set():
                    return rows, not left
                at = {v.id: self._states[v.id].row if self._states[v.id].file == path.name else 0 for v in left}
                begin = min(at.values())
                size = self._batch if left[0].view.source.prepare is None else total
                end = min([begin + size, total, *(a for a in at.values() if a > begin)])
                part = raw.slice(begin, end - begin).collect().lazy()
                self._take([v for v in left if at[v.id] == begin], part, path.name, begin, end, is_last=end == total)
                rows += end - begin
                if progress is not None:
                    progress(path, end)

    def _take(
        self, views: Sequence[CompiledView], raw: pl.LazyFrame, name: str, begin: int, end: int, *, is_last: bool
    ) -> None:
        """One micro-batch: the rows of a file from `begin` to `end`, in one step of the store."""
        changes, states = Changes(), dict[str, ViewState]()
        texts, self._texts = self._texts, set()  # of a step that fails nothing is known to be stored

        def shown(row: int) -> str:
            return f"row {begin + row:,}"

        for view in views:
            rows, layout, state = prepare_rows(view, raw, name=shown), self._layouts[view.id], self._states[view.id]
            if not self._late:
                _check_not_loaded(view, raw, rows, state.until, shown)
            newest = int(rows.times.max(initial=-1))
            watermark = max(state.watermark, min(int(rows.visible.max(initial=-1)), self._clock()))
            line = watermark - self._rewind
            puts = merged_rows(self._store, layout, group(layout, rows), line, state)
            changes.puts.extend(puts)
            changes.expires.extend(expiries(layout, puts, watermark, self._clock()))
            changes.puts.extend(texts_of(rows, texts))
            states[view.id] = ViewState(
                name=view.name,
                id=view.id,
                complete=True,
                until=state.until,
                watermark=watermark,
                newest=max(state.newest, newest),
                events=state.events + len(rows),
                file=name,
                row=end,
                generation=state.generation,
                adopted=state.adopted,
            )
            changes.puts.append(states[view.id].put(view))
            if is_last:
                changes.puts.append((keys.files_of(view) + name.encode(), b"1"))
        self._store.commit(changes)
        self._states.update(states)
        self._texts = texts if len(texts) < MOST_TEXTS else set()
        if is_last:
            for view in views:
                self._taken[view.id].add(name)


def _check_not_loaded(view: CompiledView, raw: pl.LazyFrame, rows: Rows, until: int, name: RowName) -> None:
    """Raises `DataError` where an event is from before the time that the view was loaded for."""
    before = rows.visible < until
    if not before.any():
        return
    source, at = view.view.source, int(before.argmax())
    shown = row_text(source, raw, pl.Series(rows.times), at, name=name, where=view.view.where)
    raise DataError(
        f"{shown} is of {format_time(int(rows.visible[at]))}, and events before {format_time(until)} were loaded from "
        f"history: it would count twice ({np.count_nonzero(before):,} of {len(rows):,} events)",
        where=f"{view.place}, source '{source.name}', column '{source.available or source.time}'",
        hint="load the view again with an earlier --until (bedplate materialize), or move the file away; --late takes "
        "such events in where history did not hold them",
    )


@contextlib.contextmanager
def _naming(path: Path) -> Generator[None]:
    """Says in errors about data which file they are about."""
    try:
        yield
    except DataError as error:
        where = f"{path}: {error.where}" if error.where else str(path)
        raise DataError(error.message, where=where, hint=error.hint) from error
    except UNREADABLE as error:
        raise DataError(
            f"can't read the file: {reason(error)}",
            where=str(path),
            hint="repair it or move it away, then run again; files are written aside and renamed when they are whole",
        ) from error


@contextlib.contextmanager
def _signals() -> Generator[threading.Event]:
    """An event that SIGINT and SIGTERM set, the first time; only the main thread of a process gets signals."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
