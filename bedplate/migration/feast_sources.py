"""Feast's data sources: where their rows are, and which columns they have."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, final
from urllib.parse import urlencode

import polars as pl

from bedplate.errors import BedplateError
from bedplate.migration.definitions import Expression
from bedplate.migration.feast_config import FeastConfig
from bedplate.migration.recording import Record
from bedplate.sources.location import open_table
from bedplate.sources.parquet import ParquetTable
from bedplate.types import Type, type_of

STREAMS = ("PushSource", "KafkaSource", "KinesisSource")
"""Sources of new rows, each with a batch source that has its history."""

NO_TABLES = ("RequestSource",)

_SCHEMES = {"parquet": "", "delta": "delta:", "iceberg": "iceberg:", "lance": "lance:"}
_WHOLE_TABLE = re.compile(r"^\s*select\s+\*\s+from\s+([\w.\"]+)\s*;?\s*$", re.IGNORECASE)


@final
@dataclass(frozen=True, slots=True)
class Located:
    """Where the rows of a source are.

    Attributes:
        table: what Bedplate's source reads.
        schema: the columns, where the rows are there and can be read.
        path: the files, where they are of this machine.
        is_server: whether they are on a server, whose password the environment has to give.
        problem: why they must be brought there by hand; None where they need not.
        todo: how.
    """

    table: Expression
    schema: Mapping[str, pl.DataType] | None = None
    path: Path | None = None
    is_server: bool = False
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


def locate(record: Record, variable: str, config: FeastConfig, target: Path) -> Located:
    """Where the rows of a source are.

    Args:
        record: the source.
        variable: its name in the program; rows to be exported go to a folder of this name.
        config: the Feast repository, where relative paths start.
        target: the project to be made, where Bedplate's start.
    """
    if record.kind == "PostgreSQLSource":
        return _postgresql(record, config) or _to_export(record, variable)
    if record.kind == "IcebergSource":
        table = ".".join(part for part in (record.text("namespace"), record.text("table")) if part)
        return Located(f"iceberg:{table}?catalog={record.text('catalog_name') or 'feast_iceberg'}")
    found = _files(record)
    if found is None:
        return _to_export(record, variable)
    scheme, path = found
    path = path.removeprefix("file://")
    if "://" in path:
        if scheme:
            return Located(f"{scheme}{path}")
        return _exported(
            variable, f"its files are at {path.partition('://')[0]}://, and Parquet is read of this machine"
        )
    full = Path(os.path.normpath(config.root / Path(path).expanduser()))
    near = full.is_relative_to(config.root) or not Path(path).expanduser().is_absolute()
    shown = Path(os.path.relpath(full, target)).as_posix() if near else full.as_posix()
    return Located(f"{scheme}{shown}", _schema(f"{scheme}{full}"), None if scheme else full)


def _schema(text: str) -> Mapping[str, pl.DataType] | None:
    try:
        return open_table(text, Path("/"), "").schema()
    except BedplateError:
        return None


def _files(record: Record) -> tuple[str, str] | None:
    """The scheme and the path of a source of files of a kind that Bedplate reads; Parquet has an empty scheme."""
    if record.kind == "LanceSource":
        return ("lance:", record.text("uri")) if record.text("uri") else None
    path = record.text("path")
    if not path or record.kind not in ("FileSource", "SparkSource", "RaySource"):
        return None
    layout = record.kwargs.get("table_format") or record.kwargs.get("file_format")
    if isinstance(layout, Record):
        layout = layout.kind.removesuffix("Format").lower()
    layout = record.text("reader_type") or layout or "parquet"
    return (_SCHEMES[layout], path) if isinstance(layout, str) and layout in _SCHEMES else None


def _postgresql(record: Record, config: FeastConfig) -> Located | None:
    """A table of the server of Feast's offline store; rows of one key and time in the order of their times there."""
    query = _WHOLE_TABLE.match(record.text("query"))
    table = record.text("table") or (query[1] if query else "")
    server = config.settings.get("offline_store")
    if not table or not isinstance(server, Mapping):
        return None
    settings = {str(k): str(v) for k, v in cast("Mapping[str, Any]", server).items()}
    if "." not in table and settings.get("db_schema"):
        table = f"{settings['db_schema']}.{table}"
    user, port = settings.get("user", ""), settings.get("port", "")
    host = f"{user + '@' if user else ''}{settings.get('host', '')}{':' + port if port else ''}"
    order = ",".join(c for c in (record.text("timestamp_field"), record.text("created_timestamp_column")) if c)
    options = urlencode({"table": table} | ({"order": order} if order else {}), safe=",")
    return Located(f"postgresql://{host}/{settings.get('database', '')}?{options}", is_server=True)


def _to_export(record: Record, variable: str) -> Located:
    what = record.text("query") or record.text("table") or record.text("table_ref") or record.text("path")
    found = f" ({what})" if what else ""
    return _exported(variable, f"Bedplate does not read a {record.kind}{found}")


def _exported(variable: str, problem: str) -> Located:
    folder = f"data/{variable}"
    todo = f"export its rows to Parquet files in {folder}/; the source in features.py reads them from there"
    return Located(f"{folder}/*.parquet", problem=problem, todo=todo)
