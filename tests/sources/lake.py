"""Tables of every kind, made of frames for tests."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import postgres
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table as Iceberg

from bedplate.canonical import digest
from bedplate.sources.postgresql import PostgreSQLTable


class Warehouse:
    """A folder with an Iceberg catalogue."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = f"sqlite:///{folder}/catalog.db"
        self._catalog = SqlCatalog("prod", uri=self.uri, warehouse=f"file://{folder}")
        self._catalog.create_namespace_if_not_exists("shop")

    def __enter__(self) -> Warehouse:
        return self

    def __exit__(self, *_: object) -> None:
        self._catalog.engine.dispose()

    def table(self, name: str) -> Iceberg:
        return self._catalog.load_table(f"shop.{name}")

    def create(self, name: str, frame: pl.DataFrame) -> Iceberg:
        """A new table with the columns of a frame, and no rows."""
        return self._catalog.create_table(f"shop.{name}", schema=frame.to_arrow().schema)

    def write(self, name: str, frame: pl.DataFrame) -> None:
        """The table holds the frame from now on."""
        if self._catalog.table_exists(f"shop.{name}"):
            self.table(name).overwrite(frame.to_arrow())
        else:
            self.create(name, frame).append(frame.to_arrow())

    def append(self, name: str, frame: pl.DataFrame) -> None:
        self.table(name).append(frame.to_arrow())


def schema_name(frame: pl.DataFrame) -> str:
    """A name for tables that have the columns of a frame."""
    return f"t{digest([[name, str(dtype)] for name, dtype in frame.schema.items()])[:12]}"


SQL_TYPES = {
    "Int8": "int2",
    "Int16": "int2",
    "Int32": "int4",
    "Int64": "int8",
    "UInt8": "int2",
    "UInt16": "int4",
    "UInt32": "int8",
    "Float32": "float4",
    "Float64": "float8",
    "String": "text",
    "Binary": "bytea",
    "Boolean": "bool",
    "Date": "date",
    "Decimal": "numeric(19, 2)",
    "List": "text[]",
}


def sql_type(dtype: pl.DataType) -> str:
    if isinstance(dtype, pl.Datetime):
        return "timestamp" if dtype.time_zone is None else "timestamptz"
    return SQL_TYPES[str(dtype.base_type())]


def sql_value(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'"
    if isinstance(value, list | pl.Series):
        return f"ARRAY[{', '.join(map(sql_value, value))}]::text[]"
    return "'" + str(value).replace("'", "''") + "'"


def insert(server: postgres.Server, table: str, frame: pl.DataFrame) -> None:
    if len(frame):
        rows = ", ".join(f"({', '.join(map(sql_value, row))})" for row in frame.iter_rows())
        names = ", ".join(f'"{c}"' for c in frame.columns)
        server.execute(f"INSERT INTO {table} ({names}) VALUES {rows}")


def postgres_table(server: postgres.Server, folder: Path, frame: pl.DataFrame) -> PostgreSQLTable:
    """A table of the server that holds a frame; it orders rows by a column of its own, which is not read."""
    name = f"{schema_name(frame)}_{digest(str(folder))[:12]}"
    columns = ", ".join(f'"{c}" {sql_type(dtype)}' for c, dtype in frame.schema.items())
    server.execute(f"CREATE TABLE IF NOT EXISTS {name} (row serial PRIMARY KEY, {columns})", f"DELETE FROM {name}")
    insert(server, name, frame)
    return PostgreSQLTable(name, env="BEDPLATE_TEST_SERVER", columns=frame.columns)
