"""A stream of files: a directory to which Parquet files are appended; its subdirectories are partitions.

Files hold rows as the source's table does, and are taken in by the order of their names. A writer of files writes aside
(a name that begins with "." or ends with ".tmp") and renames, and gives each file a name after those before it in its
directory. The partition of the directory itself has an empty name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Generator, Sequence
from pathlib import Path
from typing import final

import polars as pl

from bedplate.errors import DataError, reason
from bedplate.features.view import CompiledView
from bedplate.online.origins import of_directory
from bedplate.online.streams import MicroBatch, Origin, Position, Stream
from bedplate.sources.base import AVAILABLE, TIME, UNREADABLE

_TABLES = {
    "a Delta": "_delta_log",
    "an Iceberg": "metadata/*.metadata.json",
    "a Lance": "_versions",
}
"""By what the folder of a table is known."""


@final
class FileStream(Stream):
    """The files of a directory.

    Args:
        directory: where the files appear.
        view: a compiled view of the source whose rows they hold. Where the source has a cleaning step a whole file is
            one micro-batch, as the step may look at several rows.
    """

    __slots__ = ("_directory", "_facts", "_files", "_origin", "_view")

    def __init__(self, directory: Path, view: CompiledView) -> None:
        self._directory, self._view = directory, view
        self._files: dict[str, list[str]] = {}
        self._origin: Origin | None = None
        self._facts: dict[tuple[str, Path], tuple[int, int, int]] = {}

    @property
    def name(self) -> str:
        """The directory."""
        return str(self._directory)

    def partitions(self) -> Sequence[str]:
        """The directory and its subdirectories, the files in them listed anew.

        Raises:
            DataError: it can't be read, or is the folder of a table: its files have no names that say which came first,
                and some hold old rows.
        """
        for kind, sign in _TABLES.items():
            if any(self._directory.glob(sign)):
                raise DataError(
                    f"it is {kind} table, and a stream is a directory to which Parquet files are appended",
                    where=self.name,
                    hint="write new rows to a directory of their own as well; or load the table's newest state: "
                    "bedplate apply, then bedplate materialize --replace",
                )
        entries = _entries(self._directory)
        folders = [p for p in entries if not p.name.startswith(".") and not p.name.endswith(".tmp") and p.is_dir()]
        self._files = {"": _files(entries)} | {p.name: _files(_entries(p)) for p in folders}
        return list(self._files)

    @property
    def origin(self) -> Origin:
        """By the marker in the directory."""
        self._origin = self._origin or of_directory(self._directory)
        return self._origin

    def all_partitions(self) -> Sequence[str]:
        """As last listed."""
        return list(self._files)

    def check(self, partition: str, reached: Position, completed: Collection[str], until: int) -> None:
        """Raises `DataError` where a file that was taken in in part is gone, or one would be passed over."""
        names, folder = self._files.get(partition, []), self._directory / partition
        if reached.name and reached.name not in completed and reached.name not in names and folder.is_dir():
            # It may have come, and another worker begun with it, since the files were listed.
            names = self._files[partition] = _files(_entries(folder))
        if reached.name and reached.name not in completed and reached.name not in names:
            raise DataError(
                f"the file is gone, of which only {reached.at:,} rows were taken in",
                where=str(folder / reached.name),
                hint="put it back, then run again",
            )
        skipped = next((n for n in names if n < reached.name and n not in completed), None)
        if skipped is not None:
            raise DataError(
                f"the file appeared after '{reached.name}' was taken in, which comes after it by name",
                where=str(folder / skipped),
                hint="give it a name after all others: files are taken in by the order of their names",
            )

    def read(
        self, partition: str, after: Position, before: Position | None, rows: int, completed: Collection[str] = ()
    ) -> MicroBatch | None:
        """The rows that follow in the file at work, or the first ones of the next file."""
        path, at = self._next(partition, after, completed)
        if path is None:
            return None
        with naming(path):
            raw, total = self._opened(path), self._size(path)
            end = total if self._view.view.source.prepare is not None else min(at + rows, total)
            if before is not None and before.name == path.name:
                end = min(end, before.at)
            frame = raw.slice(at, end - at).collect()
        return MicroBatch(
            partition=partition,
            begin=after,
            end=Position(path.name, end),
            rows=frame,
            where=str(path),
            row=lambda row: f"row {at + row:,}",
            newest=lambda: self._newest_time(path),
            completes=(path.name,) if end == total else (),
        )

    def lag(self, partition: str, after: Position) -> int:
        """The rows of the files after a position."""
        left = [self._directory / partition / n for n in self._files.get(partition, []) if n >= after.name]
        total = 0
        for path in left:
            with naming(path):
                total += self._size(path) - (after.at if path.name == after.name else 0)
        return total

    def has(self, partition: str) -> bool:
        """Whether the subdirectory was there when they were listed last."""
        return partition in self._files

    def close(self) -> None:
        """Nothing is held open."""

    def _next(self, partition: str, after: Position, completed: Collection[str]) -> tuple[Path | None, int]:
        """The file to read from, and from which row."""
        folder = self._directory / partition
        for name in self._files.get(partition, []):
            if name < after.name or (name == after.name and name in completed):
                continue
            if name > after.name:
                return folder / name, 0
            with naming(folder / name):
                if after.at < self._size(folder / name):
                    return folder / name, after.at
        return None, 0

    def _size(self, path: Path) -> int:
        """How many rows a file has."""
        return self._fact("size", path, lambda: int(pl.scan_parquet(path).select(pl.len()).collect().item()))

    def _newest_time(self, path: Path) -> int:
        """The greatest time in a file at which an event could be known, apart from a delay; -1 if it has no event."""

        def find() -> int:
            source = self._view.view.source
            known = [pl.col(name).max() for name in (TIME, AVAILABLE) if name in source.order_columns()]
            newest = source.events(self._opened(path)).select(pl.max_horizontal(known)).collect().item()
            return -1 if newest is None else int(newest)

        with naming(path):
            return self._fact("newest", path, find)

    def _fact(self, name: str, path: Path, find: Callable[[], int]) -> int:
        """What is remembered about a file as it is now."""
        status = path.stat()
        known = self._facts.get((name, path))
        if known is None or known[1:] != (status.st_mtime_ns, status.st_size):
            known = self._facts[name, path] = find(), status.st_mtime_ns, status.st_size
        return known[0]

    def _opened(self, path: Path) -> pl.LazyFrame:
        """The rows of a file, with the columns of the source's table."""
        expected = self._view.view.source.table(self._view.root).schema()
        found = pl.read_parquet_schema(path)
        for column, dtype in expected.items():
            if found.get(column) != dtype:
                raise DataError(
                    f"it is {found.get(column, 'missing')}, expected {dtype} as in the source's table",
                    where=f"column '{column}'",
                    hint="repair the file or move it away, then run again",
                )
        return pl.scan_parquet(path).select(list(expected))


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir(), key=lambda p: p.name)
    except OSError as error:
        raise DataError(f"can't read the directory: {error}", where=str(directory)) from error


def _files(entries: Sequence[Path]) -> list[str]:
    return [p.name for p in entries if p.suffix == ".parquet" and not p.name.startswith(".") and p.is_file()]


@contextlib.contextmanager
def naming(place: Path | str) -> Generator[None]:
    """Says in errors about data which file or part of a stream they are about."""
    try:
        yield
    except DataError as error:
        where = f"{place}: {error.where}" if error.where else str(place)
        raise DataError(error.message, where=where, hint=error.hint) from error
    except UNREADABLE as error:
        raise DataError(
            f"can't read the file: {reason(error)}",
            where=str(place),
            hint="repair it or move it away, then run again; files are written aside and renamed when they are whole",
        ) from error
