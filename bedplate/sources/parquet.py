"""Parquet: one file, a folder of files, or a glob."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

import polars as pl

from bedplate.canonical import digest
from bedplate.errors import DataError
from bedplate.sources.base import UNREADABLE, Piece, Snapshot, Table, unreadable
from bedplate.sources.footer import read_bounds
from bedplate.sources.partition import Value, folder_of, partitions
from bedplate.sources.pruning import Bounds, Term, may_match
from bedplate.sources.scan import scan_rows

_AT_ONCE = 16
"""How many files of a partitioned table are read side by side."""

_LOOKED_AT = 4_000_000
"""How many files are looked at, those of each state anew, to find an earlier one: all states of 2,000 files."""


@final
@dataclass(frozen=True, slots=True)
class _Layout:
    """The columns of files.

    Attributes:
        schema: every column, with the type that it has in the first file that has it.
        problems: the columns on which files disagree, each with what is wrong.
        is_same: whether all files have the same columns.
        partition: the columns that the names of folders hold.
        values: each file's values of them.
    """

    schema: Mapping[str, pl.DataType]
    problems: Mapping[str, str]
    is_same: bool
    partition: Sequence[str]
    values: Mapping[Path, Mapping[str, Value]]

    def bounds(self, file: Path) -> Mapping[str, Bounds]:
        """What the names of a file's folders say of columns; null where they do not name one."""
        known = {c: self.values[file].get(c) for c in self.partition}
        return {c: Bounds(v, v, is_null=v is None, has_null=v is None) for c, v in known.items()}


@final
class ParquetTable(Table):
    """Parquet files read in the order of their paths.

    A column that later files add is null in those before. One that later files lack, or have with another type, can't
    be used; it does no harm where nothing uses it. Folders named `column=value` below the folder, or from the first
    wildcard of a glob on, hold a column each (see `partition.partitions`); a column that a file holds is that of the
    files, whatever the folders are named.

    Args:
        pattern: a file, a folder (every `*.parquet` below it) or a glob.
        root: where a relative pattern starts.
        place: what a message says the table is for, in front of the path, such as "source 'orders'".
    """

    __slots__ = ("_bounds", "_footers", "_kept", "_pattern", "_place", "_root")

    def __init__(self, pattern: str, root: Path, place: str | None = None) -> None:
        self._pattern, self._root, self._place = pattern, root, place
        self._kept: Sequence[Path] | None = None  # the files of the state that is read, where that is not today's
        self._footers: dict[Path, tuple[int, int, Mapping[str, pl.DataType]]] = {}
        self._bounds: dict[Path, tuple[int, int, Mapping[str, Bounds]]] = {}

    @property
    def name(self) -> str:
        """The pattern as it was given."""
        return self._pattern

    def files(self) -> list[Path]:
        """The files, sorted by path; of a table as it was (`at`), those of then.

        Raises:
            DataError: there is none, or one of then is gone.
        """
        path = self._root / self._pattern
        if self._kept is not None:
            gone = next((file for file in self._kept if not file.is_file()), None)
            if gone is not None:
                raise DataError("the file is gone since the table was opened as it was", where=self._where(gone))
            return list(self._kept)
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

    def at(self, snapshot: str) -> ParquetTable | None:
        """The table as it was, where the files of then are still there, with their sizes and modification times.

        A state is the names, sizes and times of its files, and its id does not tell which they are. So those are tried
        that growing leaves behind: the files that were written up to some time, and those up to some path.
        """
        files = self.files()
        states = self._states(files)
        for chosen in _earlier([time for _, _, time in states]):
            if digest([states[i] for i in chosen]) == snapshot:
                past = copy(self)
                past._kept = [files[i] for i in chosen]
                return past
        return None

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
            Piece(
                self._state_id([file]),
                count,
                partial(self._rows_of, file, layout) if layout.partition else partial(self._scan, [file], layout),
                slices=True,
                bounds=partial(self._bounds_of, file, layout),
            )
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

    def _bounds_of(self, file: Path, layout: _Layout, column: str) -> Bounds | None:
        """What a file's footer, or the names of its folders, say of a column."""
        if column in layout.partition or column in layout.problems:
            return layout.bounds(file).get(column)
        try:
            state = file.stat()
            known = self._bounds.get(file)
            if known is None or known[:2] != (state.st_size, state.st_mtime_ns):
                known = state.st_size, state.st_mtime_ns, read_bounds(file)
                self._bounds[file] = known
        except (OSError, ValueError):  # who reads the file says what is wrong with it
            return None
        return known[2].get(column)

    def _layout(self, files: Sequence[Path]) -> _Layout:
        schema: dict[str, pl.DataType] = {}
        first: dict[str, Path] = {}
        problems: dict[str, str] = {}
        is_same = True
        held = {file: self._columns(file) for file in files}
        types, values = partitions(folder_of(self._root / self._pattern), files)
        partition = [c for c in types if not any(c in columns for columns in held.values())]
        for file in files:
            found = {**held[file], **{c: types[c] for c in partition if c in values[file]}}
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
        return _Layout(schema, problems, is_same, partition, values)

    def _state_id(self, files: list[Path]) -> str:
        """The hash of names, sizes and modification times."""
        return digest(self._states(files))

    def _states(self, files: list[Path]) -> list[tuple[str, int, int]]:
        """The name, size and modification time of each file."""
        states = [(self._shown(f), f.stat()) for f in files]
        return [(name, state.st_size, state.st_mtime_ns) for name, state in states]

    def _where(self, path: Path) -> str:
        return f"{self._place}: {path}" if self._place else str(path)

    def _shown(self, file: Path) -> str:
        return str(file.relative_to(self._root) if file.is_relative_to(self._root) else file)

    def _scan(self, files: Sequence[Path], layout: _Layout) -> pl.LazyFrame:
        # The files are found already: a name with a bracket in it is no pattern.
        if layout.is_same and not layout.partition:
            return pl.scan_parquet(list(files), glob=False)
        if not layout.problems and not layout.partition:
            return _selected(files, layout)
        where = self._where(self._root / self._pattern)

        def read(columns: list[str], terms: Sequence[Term]) -> Iterator[pl.DataFrame]:
            for column in columns:
                if column in layout.problems:
                    raise DataError(
                        f"the column '{column}' can't be read: {layout.problems[column]}",
                        where=where,
                        hint="write all files of the table with one type, or leave the column out",
                    )
            wanted = iter([f for f in files if may_match(terms, layout.bounds(f))])
            while group := list(itertools.islice(wanted, _AT_ONCE)):
                rows = pl.concat([_partitioned(file, layout, terms).select(columns) for file in group])
                yield from rows.collect_batches(maintain_order=True)

        return scan_rows(where, layout.schema, read)

    def _rows_of(self, file: Path, layout: _Layout) -> pl.LazyFrame:
        """The rows of one file of a partitioned table, of which a slice costs no more than its own rows."""
        return self._scan([file], layout) if layout.problems else _partitioned(file, layout)


def _earlier(times: Sequence[int]) -> Iterator[list[int]]:
    """Positions of the files that a table may have had before others came, those of now first.

    Args:
        times: of each file, in the order of their paths.

    >>> list(_earlier([5, 9, 7]))
    [[0, 1, 2], [0, 2], [0], [0, 1], [0]]
    """
    count = len(times)
    by_time = ([i for i in range(count) if times[i] <= last] for last in sorted({*times}, reverse=True))
    by_path = (list(range(stop)) for stop in range(count - 1, 0, -1))
    looked = 0
    for chosen in itertools.chain(by_time, by_path):
        yield chosen
        looked += len(chosen)
        if looked > _LOOKED_AT:
            return


def _selected(files: Sequence[Path], layout: _Layout) -> pl.LazyFrame:
    """The rows of files, with the columns that can be read of those that they hold."""
    schema = {c: t for c, t in layout.schema.items() if c not in layout.problems and c not in layout.partition}
    return pl.scan_parquet(list(files), glob=False, schema=schema, missing_columns="insert", extra_columns="ignore")


def _partitioned(file: Path, layout: _Layout, terms: Sequence[Term] = ()) -> pl.LazyFrame:
    """The rows of one file that may meet the terms, with all columns of the table that can be read."""
    rows = _selected([file], layout)
    for term in terms:
        condition = term.expression(layout.schema[term.column])
        if condition is not None and term.column not in layout.problems and term.column not in layout.partition:
            rows = rows.filter(condition)
    values = layout.values[file]
    added = [pl.lit(values.get(c), dtype=layout.schema[c]).alias(c) for c in layout.partition]
    return rows.with_columns(added).select([c for c in layout.schema if c not in layout.problems])
