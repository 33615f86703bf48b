"""Delta Lake: a folder of Parquet files and a log of the versions of the table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any, final
from urllib.parse import unquote

import deltalake
import polars as pl
from deltalake.exceptions import DeltaError

from bedplate.errors import BedplateError, DataError, reason
from bedplate.sources.base import UNREADABLE, Piece, Snapshot, Table, first_in, unreadable
from bedplate.sources.location import Location, moment, state_id, url_parts, whole
from bedplate.sources.pruning import Bounds, Term, may_match
from bedplate.sources.scan import scan_rows
from bedplate.types import format_time

_FEATURES = {
    "deletionVectors",
    "timestampNtz",
    "typeWidening",
    "typeWidening-preview",
    "v2Checkpoint",
    "vacuumProtocolCheck",
}
"""The features of the Delta protocol that the reading below respects."""

_AT_ONCE = 16
"""How many files are read side by side."""

_CASTS = pl.ScanCastOptions(
    integer_cast="upcast", float_cast="upcast", datetime_cast=["nanosecond-downcast", "convert-timezone"]
)
"""What a file's types may differ in from the table's: columns that were widened, times as other writers keep them."""


@final
@dataclass(frozen=True, slots=True)
class _File:
    """A data file of one version.

    Attributes:
        path: its path or URI.
        shown: its path within the table.
        rows: how many it holds, deleted ones included.
        modified: when it was written, milliseconds.
        partition: the values of the partition columns, which the file itself does not hold.
        bounds: what the log says of columns.
        deleted: the positions of deleted rows.
    """

    path: str
    shown: str
    rows: int
    modified: int
    partition: Mapping[str, Any]
    bounds: Mapping[str, Bounds]
    deleted: pl.Series | None

    @property
    def form(self) -> list[Any]:
        """What its rows are: a file is never changed."""
        return [self.shown, self.rows, None if self.deleted is None else self.deleted.to_list()]

    def bounds_of(self, column: str) -> Bounds | None:
        """The bounds of a column: writers cut those of times to milliseconds, a value may lie a little above."""
        known = self.bounds.get(column)
        if known is None or not isinstance(known.high, datetime):
            return known
        return replace(known, high=known.high + timedelta(microseconds=999))

    @property
    def kept(self) -> int:
        """How many rows it holds that are not deleted."""
        return self.rows - (0 if self.deleted is None else len(self.deleted))


@final
@dataclass(frozen=True, slots=True)
class _State:
    """One version of a table, `table`: its columns, and its files in the order in which they were written."""

    id: str
    table: str
    version: int
    schema: Mapping[str, pl.DataType]
    files: Sequence[_File]


@final
class DeltaTable(Table):
    """A Delta table. Its newest version is looked up once, and read from then on.

    Rows come in the order in which their files were written. The snapshot's id is that of the table's data files: a
    version that changes only settings or adds a column has the id of the one before.

    Args:
        path: the table's folder, or a URI such as `s3://bucket/orders` (credentials from the environment).
        version: a version to read in place of the newest.
        at: read the version that was the newest at this time.
        root: where a relative path starts; in a project its folder.

    Raises:
        DefinitionError: both a version and a time are given.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        version: int | None = None,
        at: str | date | datetime | None = None,
        root: Path = Path(),
    ) -> None:
        self._location = Location(str(path), root)
        self._version, self._at = version, at
        self._moment = moment(at, {"version": version}, self.name)

    @property
    def name(self) -> str:
        """The path as it was given, such as `delta:warehouse/orders`."""
        return f"delta:{self._location.text}"

    def rooted(self, root: Path, place: str) -> Table:
        """The table with its path within the project."""
        table = DeltaTable(self._location.text, version=self._version, at=self._at)
        table._location = Location(self._location.text, root / self._location.root, place)
        return table

    def at(self, snapshot: str) -> Table | None:
        """The last version in that state, of the one that is read and those before it that the log still has."""

        def versions() -> Iterator[Table]:
            yield self
            for version in range(self._state.version - 1, -1, -1):
                table = DeltaTable(self._location.text, version=version)
                table._location = self._location
                yield table

        return first_in(versions(), snapshot)

    def schema(self) -> Mapping[str, pl.DataType]:
        """The columns, partition columns included."""
        return self._state.schema

    def snapshot(self) -> Snapshot:
        """The version that is read; from the log only."""
        state = self._state
        rows, files = sum(f.kept for f in state.files), len(state.files)
        plural = "" if files == 1 else "s"
        return Snapshot(state.id, rows, f"version {state.version:,}, {files:,} file{plural}, {rows:,} rows")

    def scan(self) -> pl.LazyFrame:
        """The rows of the version, file by file."""
        return self._scan(self._state.files)

    def pieces(self) -> Sequence[Piece]:
        """The files of the version; those that later versions add come last."""
        state = self._state
        kept = [(f, state_id("delta", state.table, f.form)) for f in state.files]
        return [Piece(identity, f.kept, partial(self._scan, [f]), bounds=f.bounds_of) for f, identity in kept]

    def _scan(self, files: Sequence[_File]) -> pl.LazyFrame:
        schema = self._state.schema

        def read(columns: list[str], terms: Sequence[Term]) -> Iterator[pl.DataFrame]:
            wanted = iter([f for f in files if may_match(terms, f.bounds)])
            while group := list(itertools.islice(wanted, _AT_ONCE)):
                frames = [_rows_of(file, schema).select(columns) for file in group]
                yield from pl.concat(frames).collect_batches(maintain_order=True)

        return scan_rows(self._where, schema, read, [DeltaError])

    def row_name(self, row: int) -> str:
        """The row by its position in its file, and the file."""
        before = 0
        for file in self._state.files:
            if row < before + file.kept:
                place = row - before
                if file.deleted is not None:
                    left = pl.int_range(file.rows, eager=True)
                    place = int(left.filter(~left.is_in(file.deleted.implode()))[place])
                return f"row {place:,} of {file.shown}"
            before += file.kept
        return super().row_name(row)

    @property
    def _where(self) -> str:
        return self._location.where("delta")

    @cached_property
    def _state(self) -> _State:
        try:
            table = deltalake.DeltaTable(self._location.full, version=self._version)
            if self._moment is not None:
                self._go_back(table, self._moment)
            self._check_protocol(table)
            return _state_of(table, self._location.full)
        except BedplateError:
            raise
        except (DeltaError, ValueError, *UNREADABLE) as error:
            raise self._unreadable(error) from error

    def _go_back(self, table: deltalake.DeltaTable, moment: int) -> None:
        table.load_as_version(datetime.fromisoformat(format_time(moment)))
        written = 1000 * int(table.history(1)[0]["timestamp"])
        if written > moment:  # of a time before the first version the library gives the first
            raise ValueError(f"the first was written at {format_time(written)}")

    def _unreadable(self, error: BaseException) -> BedplateError:
        if self._version is not None or self._moment is not None:
            wanted = f"version {self._version}" if self._version is not None else f"version of {self._at}"
            return DataError(
                f"can't read the {wanted}: {reason(error)}",
                where=self._where,
                hint="name one that the table's log holds (deltalake: DeltaTable(path).history()), or none: the newest",
            )
        return unreadable(self._where, error)

    def _check_protocol(self, table: deltalake.DeltaTable) -> None:
        protocol, settings = table.protocol(), table.metadata().configuration
        needed = set(protocol.reader_features or ()) - _FEATURES
        mapped = settings.get("delta.columnMapping.mode", "none") != "none"
        if mapped or needed - {"columnMapping"}:
            raise DataError(
                f"the table needs the features {', '.join(sorted(needed | ({'columnMapping'} if mapped else set())))}, "
                "which can't be read",
                where=self._where,
                hint="write the table without them, or read a copy of it",
            )


def open_table(url: str, root: Path, place: str) -> DeltaTable:
    """The table of a URL such as `delta:warehouse/orders?version=12` or `delta:warehouse/orders?at=2026-01-31`.

    Raises:
        DefinitionError: an option is unknown or wrong.
    """
    path, options = url_parts(url, ["version", "at"], place)
    table = DeltaTable(path, version=whole(options, "version", place), at=options.get("at"))
    return table.rooted(root, place)  # pyright: ignore[reportReturnType]


def _state_of(table: deltalake.DeltaTable, root: str) -> _State:
    # Through Arrow's C interface, which Polars' stubs do not name here.
    arrow: Any = table.schema()
    schema = dict(pl.Schema(arrow))
    partitions = set(table.metadata().partition_columns)
    deleted = _deleted_rows(table)
    actions: Any = table.get_add_actions(flatten=True)
    files = [
        _file_of(action, root, schema, partitions, deleted) for action in pl.DataFrame(actions).iter_rows(named=True)
    ]
    files.sort(key=lambda f: (f.modified, f.shown))
    identity = str(table.metadata().id)
    state = state_id("delta", identity, sorted(f.form for f in files))
    return _State(state, identity, table.version(), schema, files)


def _deleted_rows(table: deltalake.DeltaTable) -> Mapping[str, pl.Series]:
    """The positions of deleted rows by the file's name: a table with deletion vectors keeps them beside the files."""
    if "deletionVectors" not in (table.protocol().reader_features or ()):
        return {}
    vectors: Any = table.deletion_vectors()
    found = pl.DataFrame(vectors)
    masks = zip(found["filepath"], found["selection_vector"], strict=True)
    return {path.rpartition("/")[2]: (~mask).arg_true() for path, mask in masks}


def _file_of(
    action: Mapping[str, Any],
    root: str,
    schema: Mapping[str, pl.DataType],
    partitions: set[str],
    deleted: Mapping[str, pl.Series],
) -> _File:
    shown = unquote(action["path"])
    partition = {c: action.get(f"partition.{c}") for c in schema if c in partitions}
    rows = action["num_records"]
    bounds = {c: Bounds(value, value, value is None, value is None) for c, value in partition.items()}
    for column in schema.keys() - partitions:
        nulls = action.get(f"null_count.{column}")
        is_null = rows is not None and nulls == rows
        bounds[column] = Bounds(action.get(f"min.{column}"), action.get(f"max.{column}"), is_null, nulls != 0)
    path = shown if "://" in shown or shown.startswith("/") else f"{root}/{shown}"
    if rows is None:  # a writer may leave it out
        rows = int(pl.scan_parquet(path, glob=False).select(pl.len()).collect().item())
    return _File(
        path, shown, rows, action["modification_time"], partition, bounds, deleted.get(path.rpartition("/")[2])
    )


def _rows_of(file: _File, schema: Mapping[str, pl.DataType]) -> pl.LazyFrame:
    """The rows of one file, with all columns of the table."""
    held = {c: dtype for c, dtype in schema.items() if c not in file.partition}
    rows = pl.scan_parquet(
        file.path,
        glob=False,
        hive_partitioning=False,
        schema=held,
        missing_columns="insert",
        extra_columns="ignore",
        cast_options=_CASTS,
        row_index_name=None if file.deleted is None else "__row__",
    )
    if file.deleted is not None:
        rows = rows.filter(~pl.col("__row__").is_in(file.deleted.implode()))
    partition = [pl.lit(value, dtype=schema[c]).alias(c) for c, value in file.partition.items()]
    return rows.with_columns(partition).select(list(schema))
