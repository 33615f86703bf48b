"""Parquet: one file, a folder of files, or a glob."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import final

import polars as pl

from bedplate.canonical import digest
from bedplate.errors import DataError
from bedplate.sources.base import Snapshot, Table, unreadable


@final
class ParquetTable(Table):
    """Parquet files read in the order of their paths; all must have the same columns.

    Args:
        pattern: a file, a folder (every `*.parquet` below it) or a glob.
        root: where a relative pattern starts.
    """

    __slots__ = ("_pattern", "_root")

    def __init__(self, pattern: str, root: Path) -> None:
        self._pattern, self._root = pattern, root

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
            found = sorted(Path("/").glob(self._pattern.lstrip("/")))
        else:
            found = sorted(self._root.glob(self._pattern))
        if not found:
            raise DataError(
                "no Parquet file found",
                where=str(path),
                hint="the path is relative to the project's folder (bedplate.toml)",
            )
        return found

    def schema(self) -> Mapping[str, pl.DataType]:
        """The columns of the first file."""
        first = self.files()[0]
        try:
            return dict(pl.read_parquet_schema(first))
        except (OSError, pl.exceptions.PolarsError) as error:
            raise unreadable(str(first), error) from error

    def snapshot(self) -> Snapshot:
        """The files' names, sizes and modification times; row counts come from the footers."""
        files = self.files()
        states = [(str(f.relative_to(self._root) if f.is_relative_to(self._root) else f), f.stat()) for f in files]
        try:
            rows = int(pl.scan_parquet(files).select(pl.len()).collect().item())
        except (OSError, pl.exceptions.PolarsError) as error:
            raise unreadable(self._pattern, error) from error
        plural = "" if len(files) == 1 else "s"
        return Snapshot(
            digest([[name, state.st_size, state.st_mtime_ns] for name, state in states]),
            rows,
            f"{len(files):,} file{plural}, {rows:,} rows",
        )

    def scan(self) -> pl.LazyFrame:
        """The rows of all files, in the order of their paths."""
        return pl.scan_parquet(self.files())
