"""Parquet: one file, a folder of files, or a glob."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import final

import polars as pl

from bedplate.canonical import digest
from bedplate.errors import DataError
from bedplate.sources.base import UNREADABLE, Piece, Snapshot, Table, unreadable


@final
class ParquetTable(Table):
    """Parquet files read in the order of their paths; all must have the same columns.

    Args:
        pattern: a file, a folder (every `*.parquet` below it) or a glob.
        root: where a relative pattern starts.
        place: what a message says the table is for, in front of the path, such as "source 'orders'".
    """

    __slots__ = ("_pattern", "_place", "_root")

    def __init__(self, pattern: str, root: Path, place: str | None = None) -> None:
        self._pattern, self._root, self._place = pattern, root, place

    @property
    def name(self) -> str:
        """The pattern as it was given."""
        return self._pattern

    def files(self) -> list[Path]:
        """The files, sorted by path.

        Raises:
            DataError: there is none.
        """
        path = self._root / self._pattern
        if path.is_file():
            return [path]
        if path.is_dir():
            found = sorted(p for p in path.rglob("*.parquet") if p.is_file())
        elif Path(self._pattern).is_absolute():
            found = sorted(p for p in Path("/").glob(self._pattern.lstrip("/")) if p.is_file())
        else:
            found = sorted(p for p in self._root.glob(self._pattern) if p.is_file())
        if not found:
            raise DataError(
                "no Parquet file found",
                where=self._where(path),
                hint="the path is relative to the project's folder (bedplate.toml)",
            )
        return found

    def schema(self) -> Mapping[str, pl.DataType]:
        """The columns of the first file."""
        return self._columns(self.files()[0])

    def _columns(self, file: Path) -> Mapping[str, pl.DataType]:
        try:
            return dict(pl.read_parquet_schema(file))
        except UNREADABLE as error:
            raise unreadable(self._where(file), error) from error

    def _check_columns(self, files: list[Path]) -> None:
        """Raises `DataError` where a file has other columns than the first."""
        expected = self._columns(files[0])
        for file in files[1:]:
            got = self._columns(file)
            for column in {**expected, **got}:
                if got.get(column) != expected.get(column):
                    raise DataError(
                        f"the column '{column}' is {got.get(column) or 'not there'}, in {files[0].name} it is "
                        f"{expected.get(column) or 'not there'}",
                        where=self._where(file),
                        hint="write all files of a table with the same columns",
                    )

    def snapshot(self) -> Snapshot:
        """The files' names, sizes and modification times; columns and row counts come from the footers.

        Raises:
            DataError: there is no file, one can't be read, or one has other columns than the first.
        """
        files = self.files()
        self._check_columns(files)
        state = self._state_id(files)
        try:
            rows = int(self._scan(files).select(pl.len()).collect().item())
        except UNREADABLE as error:
            raise unreadable(self._where(self._root / self._pattern), error) from error
        plural = "" if len(files) == 1 else "s"
        return Snapshot(state, rows, f"{len(files):,} file{plural}, {rows:,} rows")

    def scan(self) -> pl.LazyFrame:
        """The rows of all files, in the order of their paths."""
        return self._scan(self.files())

    def pieces(self) -> Sequence[Piece]:
        """The files, in the order of their paths: new ones extend an index where their names are sorted last.

        Raises:
            DataError: as `snapshot`.
        """
        files = self.files()
        self._check_columns(files)
        try:
            counts = pl.collect_all([self._scan([f]).select(pl.len()) for f in files])
        except UNREADABLE as error:
            raise unreadable(self._where(self._root / self._pattern), error) from error
        return [
            Piece(self._state_id([file]), int(count.item()), partial(self._scan, [file]))
            for file, count in zip(files, counts, strict=True)
        ]

    def row_name(self, row: int) -> str:
        """The row by its position in its file, and the file."""
        files, before = self.files(), 0
        for file in files:
            rows = int(self._scan([file]).select(pl.len()).collect().item())
            if row < before + rows:
                return f"row {row - before:,} of {file.name if len(files) == 1 else self._shown(file)}"
            before += rows
        return f"row {row:,}"

    def _state_id(self, files: list[Path]) -> str:
        """The hash of names, sizes and modification times."""
        states = [(self._shown(f), f.stat()) for f in files]
        return digest([[name, state.st_size, state.st_mtime_ns] for name, state in states])

    def _where(self, path: Path) -> str:
        return f"{self._place}: {path}" if self._place else str(path)

    def _shown(self, file: Path) -> str:
        return str(file.relative_to(self._root) if file.is_relative_to(self._root) else file)

    @staticmethod
    def _scan(files: list[Path]) -> pl.LazyFrame:
        # The files are found already: a name with a bracket in it is no pattern.
        return pl.scan_parquet(files, glob=False)
