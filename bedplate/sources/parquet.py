"""Parquet: one file, a folder of files, or a glob."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

import polars as pl

from bedplate.canonical import digest
from bedplate.errors import DataError
from bedplate.sources.base import UNREADABLE, Piece, Snapshot, Table, unreadable
from bedplate.sources.pruning import Term
from bedplate.sources.scan import scan_rows


@final
@dataclass(frozen=True, slots=True)
class _Layout:
    """The columns of files.

    Attributes:
        schema: every column, with the type that it has in the first file that has it.
        problems: the columns on which files disagree, each with what is wrong.
        is_same: whether all files have the same columns.
    """

    schema: Mapping[str, pl.DataType]
    problems: Mapping[str, str]
    is_same: bool


@final
class ParquetTable(Table):
    """Parquet files read in the order of their paths.

    A column that later files add is null in those before. One that later files lack, or have with another type, can't
    be used; it does no harm where nothing uses it.

    Args:
        pattern: a file, a folder (every `*.parquet` below it) or a glob.
        root: where a relative pattern starts.
        place: what a message says the table is for, in front of the path, such as "source 'orders'".
    """

    __slots__ = ("_footers", "_pattern", "_place", "_root")

    def __init__(self, pattern: str, root: Path, place: str | None = None) -> None:
        self._pattern, self._root, self._place = pattern, root, place
        self._footers: dict[Path, tuple[int, int, Mapping[str, pl.DataType]]] = {}

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
        """The columns of all files; one that later files add is null in those before."""
        return self._layout(self.files()).schema

    def unreadable_columns(self) -> Mapping[str, str]:
        """The columns that a file has with another type than those before it, or lacks although they have it."""
        return self._layout(self.files()).problems

    def snapshot(self) -> Snapshot:
        """The files' names, sizes and modification times; columns and row counts come from the footers.

        Raises:
            DataError: there is no file, or one can't be read.
        """
        files = self.files()
        state, rows = self._state_id(files), sum(self._counts(files))
        plural = "" if len(files) == 1 else "s"
        return Snapshot(state, rows, f"{len(files):,} file{plural}, {rows:,} rows")

    def scan(self) -> pl.LazyFrame:
        """The rows of all files, in the order of their paths."""
        files = self.files()
        return self._scan(files, self._layout(files))

    def pieces(self) -> Sequence[Piece]:
        """The files, in the order of their paths: new ones extend an index where their names are sorted last.

        Raises:
            DataError: as `snapshot`.
        """
        files = self.files()
        layout = self._layout(files)
        return [
            Piece(self._state_id([file]), count, partial(self._scan, [file], layout), slices=True)
            for file, count in zip(files, self._counts(files), strict=True)
        ]

    def row_name(self, row: int) -> str:
        """The row by its position in its file, and the file."""
        files, before = self.files(), 0
        for file, rows in zip(files, self._counts(files), strict=True):
            if row < before + rows:
                return f"row {row - before:,} of {file.name if len(files) == 1 else self._shown(file)}"
            before += rows
        return f"row {row:,}"

    def _counts(self, files: Sequence[Path]) -> list[int]:
        """How many rows each file has."""
        self._layout(files)  # names a file that can't be read
        try:
            counts = pl.collect_all([pl.scan_parquet(f, glob=False).select(pl.len()) for f in files])
        except UNREADABLE as error:
            raise unreadable(self._where(self._root / self._pattern), error) from error
        return [int(count.item()) for count in counts]

    def _columns(self, file: Path) -> Mapping[str, pl.DataType]:
        try:
            state = file.stat()
            known = self._footers.get(file)
            if known is None or known[:2] != (state.st_size, state.st_mtime_ns):
                known = state.st_size, state.st_mtime_ns, dict(pl.read_parquet_schema(file))
                self._footers[file] = known
        except UNREADABLE as error:
            raise unreadable(self._where(file), error) from error
        return known[2]

    def _layout(self, files: Sequence[Path]) -> _Layout:
        schema: dict[str, pl.DataType] = {}
        first: dict[str, Path] = {}
        problems: dict[str, str] = {}
        is_same = True
        for file in files:
            found = self._columns(file)
            for column in {**schema, **found}:
                got, expected = found.get(column), schema.get(column)
                is_same = is_same and (got == expected or file is files[0])
                if expected is None and got is not None:
                    schema[column], first[column] = got, file
                elif got != expected:
                    problems.setdefault(
                        column,
                        f"it is {got or 'not there'} in {self._shown(file)}, in {self._shown(first[column])} it is "
                        f"{expected}",
                    )
        return _Layout(schema, problems, is_same)

    def _state_id(self, files: list[Path]) -> str:
        """The hash of names, sizes and modification times."""
        states = [(self._shown(f), f.stat()) for f in files]
        return digest([[name, state.st_size, state.st_mtime_ns] for name, state in states])

    def _where(self, path: Path) -> str:
        return f"{self._place}: {path}" if self._place else str(path)

    def _shown(self, file: Path) -> str:
        return str(file.relative_to(self._root) if file.is_relative_to(self._root) else file)

    def _scan(self, files: Sequence[Path], layout: _Layout) -> pl.LazyFrame:
        # The files are found already: a name with a bracket in it is no pattern.
        if layout.is_same:
            return pl.scan_parquet(list(files), glob=False)
        schema = {c: dtype for c, dtype in layout.schema.items() if c not in layout.problems}
        rows = pl.scan_parquet(list(files), glob=False, schema=schema, missing_columns="insert", extra_columns="ignore")
        if not layout.problems:
            return rows
        where = self._where(self._root / self._pattern)

        def read(columns: list[str], _: Sequence[Term]) -> Iterator[pl.DataFrame]:
            for column in columns:
                if column in layout.problems:
                    raise DataError(
                        f"the column '{column}' can't be read: {layout.problems[column]}",
                        where=where,
                        hint="write all files of the table with one type, or leave the column out",
                    )
            yield from rows.select(columns).collect_batches(maintain_order=True)

        return scan_rows(where, layout.schema, read)
