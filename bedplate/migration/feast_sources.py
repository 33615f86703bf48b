"""Feast's data sources: where their rows are, and which columns they have."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import polars as pl

from bedplate.errors import BedplateError
from bedplate.migration.definitions import Expression
from bedplate.migration.recording import Record
from bedplate.sources.parquet import ParquetTable
from bedplate.types import Type, type_of

STREAMS = ("PushSource", "KafkaSource", "KinesisSource")
"""Sources of new rows, each with a batch source that has its history."""

NO_TABLES = ("RequestSource",)


@final
@dataclass(frozen=True, slots=True)
class Located:
    """Where the rows of a source are.

    Attributes:
        table: what Bedplate's source reads.
        schema: the columns, where the rows are there and can be read.
        path: the files, where they are of this machine.
        problem: why they must be brought there by hand; None where they need not.
        todo: how.
    """

    table: Expression
    schema: Mapping[str, pl.DataType] | None = None
    path: Path | None = None
    problem: str | None = None
    todo: str = ""

    def has_nulls(self, column: str) -> bool:
        """Whether a column of the rows has nulls."""
        if self.path is None:
            return False
        rows = ParquetTable(str(self.path), Path("/")).scan()
        return bool(rows.select(pl.col(column).has_nulls()).collect().item())


def is_source(record: Record) -> bool:
    """Whether a record is of a source with a table: any kind, those that are not known too."""
    return record.kind.endswith("Source") and record.kind not in (*STREAMS, *NO_TABLES)


def source_name(record: Record) -> str:
    """A source's name; Feast's default is its path, table or query, of which the last part is taken."""
    if record.text("name"):
        return record.text("name")
    found = record.text("path") or record.text("uri") or record.text("table") or record.text("table_ref")
    return Path(found).stem.rpartition(".")[2] or record.kind


def mapping_of(record: Record) -> dict[str, str]:
    """The names that columns get, by the names that they have."""
    mapping = record.kwargs.get("field_mapping")
    return {k: v for k, v in mapping.items() if isinstance(v, str) and k != v} if isinstance(mapping, dict) else {}


def time_column(record: Record, schema: Mapping[str, pl.DataType] | None) -> str | None:
    """The column of event times after renaming: the one that is named, or else the only one that holds times."""
    named = record.text("timestamp_field") or record.text("event_timestamp_column")
    if named:
        return mapping_of(record).get(named, named)
    created = created_column(record)
    times = [c for c, dtype in (schema or {}).items() if type_of(dtype) is Type.TIME and c != created]
    return times[0] if len(times) == 1 else None


def created_column(record: Record) -> str | None:
    """The column of creation times after renaming, if the source has one."""
    named = record.text("created_timestamp_column")
    return mapping_of(record).get(named, named) or None


def locate(record: Record, variable: str, root: Path, target: Path) -> Located:
    """Where the rows of a source are.

    Args:
        record: the source.
        variable: its name in the program; rows to be exported go to a folder of this name.
        root: the Feast repository, where relative paths start.
        target: the project to be made, where Bedplate's start.
    """
    path = _parquet_path(record)
    if path is None:
        return _to_export(record, variable)
    if "://" in path:
        scheme = path.partition("://")[0]
        if scheme != "file":
            return _exported(variable, f"its files are at {scheme}://, and Bedplate reads files of this machine")
        path = path.removeprefix("file://")
    full = Path(os.path.normpath(root / Path(path).expanduser()))
    near = full.is_relative_to(root) or not Path(path).expanduser().is_absolute()
    shown = Path(os.path.relpath(full, target)).as_posix() if near else full.as_posix()
    return Located(shown, _schema(full), full)


def _schema(path: Path) -> Mapping[str, pl.DataType] | None:
    try:
        return ParquetTable(str(path), Path("/")).schema()
    except BedplateError:
        return None


def _parquet_path(record: Record) -> str | None:
    """The path of a source whose rows are Parquet files."""
    path = record.text("path")
    if not path:
        return None
    layout = record.kwargs.get("file_format")
    if isinstance(layout, Record):
        layout = layout.kind.removesuffix("Format").lower()
    layout = record.text("reader_type") or layout or "parquet"
    known = record.kind in ("FileSource", "SparkSource", "RaySource")
    return path if known and layout == "parquet" and not record.kwargs.get("table_format") else None


def _to_export(record: Record, variable: str) -> Located:
    what = record.text("query") or record.text("table") or record.text("table_ref") or record.text("path")
    found = f" ({what})" if what else ""
    return _exported(variable, f"Bedplate does not read a {record.kind}{found}")


def _exported(variable: str, problem: str) -> Located:
    folder = f"data/{variable}"
    todo = f"export its rows to Parquet files in {folder}/; the source in features.py reads them from there"
    return Located(f"{folder}/*.parquet", problem=problem, todo=todo)
