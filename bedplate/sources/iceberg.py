"""Apache Iceberg: a table of a catalog, or one whose metadata file is named."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, partial, reduce
from pathlib import Path
from typing import Any, final

import polars as pl
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError, ValidationError
from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    EqualTo,
    GreaterThan,
    GreaterThanOrEqual,
    IsNull,
    LessThan,
    LessThanOrEqual,
    Or,
)
from pyiceberg.io import pyarrow as files
from pyiceberg.manifest import DataFile, ManifestContent
from pyiceberg.schema import Schema
from pyiceberg.table import FileScanTask, StaticTable
from pyiceberg.table import Table as Iceberg
from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot
from pyiceberg.types import DateType, IcebergType, IntegerType, LongType, TimestampType, TimestamptzType

from bedplate.errors import BedplateError, DataError, reason, suggest
from bedplate.sources.base import UNREADABLE, Piece, Snapshot, Table, first_in, unreadable
from bedplate.sources.location import Location, moment, state_id, url_parts, whole
from bedplate.sources.pruning import Bounds, Operator, Term
from bedplate.sources.scan import scan_rows
from bedplate.types import format_time

_AT_ONCE = 4
"""How many files are read side by side; each is held whole."""

_CONDITIONS: Mapping[Operator, Any] = {
    "==": EqualTo,
    "<": LessThan,
    "<=": LessThanOrEqual,
    ">": GreaterThan,
    ">=": GreaterThanOrEqual,
}
_NUMBER = re.compile(r"^v?(\d+)(?:-.*)?\.metadata\.json$")
_DAMAGE = (ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, SystemError, TypeError, ValueError)
"""What the library may raise on metadata that is not whole."""

_ERRORS = (NoSuchTableError, NoSuchNamespaceError, ValidationError, struct.error, *_DAMAGE, *UNREADABLE)


@final
@dataclass(frozen=True, slots=True)
class _State:
    """One snapshot of a table; a table that was never written has none."""

    table: Iceberg
    snapshot: IcebergSnapshot | None
    iceberg: Schema
    schema: Mapping[str, pl.DataType]
    sequences: Mapping[str, int]

    def tasks(self, condition: BooleanExpression | None = None, columns: Sequence[str] = ("*",)) -> list[FileScanTask]:
        """The files that may hold rows that meet a condition, in the order in which they were added."""
        if self.snapshot is None:
            return []
        scan = self.table.scan(
            row_filter=AlwaysTrue() if condition is None else condition,
            selected_fields=tuple(columns),
            snapshot_id=self.snapshot.snapshot_id,
        )
        return sorted(scan.plan_files(), key=lambda t: (self.sequences.get(t.file.file_path, 0), t.file.file_path))


@final
class IcebergTable(Table):
    """An Iceberg table. Its current snapshot is looked up once, and read from then on.

    Rows come in the order in which their files were added. Renamed, added and widened columns and deleted rows are read
    as Iceberg means them.

    Args:
        location: with a catalog the table's name in it, such as `shop.orders`; else the table's folder, of which the
            newest metadata file is read, or a metadata file or its URI.
        catalog: the name of a catalog that PyIceberg's configuration (`.pyiceberg.yaml` or environment) describes.
        snapshot: the id of a snapshot to read in place of the current one.
        at: read the snapshot that was current at this time.
        root: where a relative path starts; in a project its folder.

    Raises:
        DefinitionError: both a snapshot and a time are given.
    """

    def __init__(
        self,
        location: str | Path,
        *,
        catalog: str | None = None,
        snapshot: int | None = None,
        at: str | date | datetime | None = None,
        root: Path = Path(),
    ) -> None:
        self._location = Location(str(location), root)
        self._catalog, self._snapshot, self._at = catalog, snapshot, at
        self._moment = moment(at, {"snapshot": snapshot}, self.name)

    @property
    def name(self) -> str:
        """The name or path as it was given, such as `iceberg:shop.orders`."""
        return f"iceberg:{self._location.text}"

    def rooted(self, root: Path, place: str) -> Table:
        """The table with its path within the project."""
        table = IcebergTable(self._location.text, catalog=self._catalog, snapshot=self._snapshot, at=self._at)
        table._location = Location(self._location.text, root / self._location.root, place)
        return table

    def at(self, snapshot: str) -> Table | None:
        """The table in that snapshot, of the one that is read and those before it that are kept."""

        def snapshots() -> Iterator[Table]:
            yield self
            current = self._state.snapshot
            kept = self._state.table.snapshots() if current is not None else []
            earlier = [s for s in kept if current is not None and s.timestamp_ms <= current.timestamp_ms]
            for one in sorted(earlier, key=lambda s: s.timestamp_ms, reverse=True):
                table = IcebergTable(self._location.text, catalog=self._catalog, snapshot=one.snapshot_id)
                table._location = self._location
                yield table

        return first_in(snapshots(), snapshot)

    def schema(self) -> Mapping[str, pl.DataType]:
        """The columns: of the table, or where an older snapshot is asked for those that it had."""
        return self._state.schema

    def snapshot(self) -> Snapshot:
        """The snapshot that is read; from metadata, unless rows were deleted: then they are counted."""
        state = self._state
        tasks = state.tasks()
        rows, files = sum(t.file.record_count for t in tasks), len(tasks)
        uuid = str(state.table.metadata.table_uuid)
        if state.snapshot is None:
            return Snapshot(state_id("iceberg", uuid), 0, "no snapshot, 0 rows")
        number = state.snapshot.snapshot_id
        if any(t.delete_files for t in tasks):
            rows = state.table.scan(snapshot_id=number).count()
        plural = "" if files == 1 else "s"
        return Snapshot(
            state_id("iceberg", uuid, number, _redefined(state)),
            rows,
            f"snapshot {number}, {files:,} file{plural}, {rows:,} rows",
        )

    def scan(self) -> pl.LazyFrame:
        """The rows of the snapshot, file by file."""
        return self._scan()

    def pieces(self) -> Sequence[Piece]:
        """The files of the snapshot, those that later snapshots add last; one piece where rows were deleted."""
        tasks = self._state.tasks()
        if any(t.delete_files for t in tasks):
            return super().pieces()
        table, names = str(self._state.table.metadata.table_uuid), _redefined(self._state)
        return [
            Piece(
                state_id("iceberg", table, names, t.file.file_path),
                t.file.record_count,
                partial(self._scan, t.file.file_path),
                bounds=partial(_bounds, t.file, self._state.iceberg),
            )
            for t in tasks
        ]

    def _scan(self, only: str | None = None) -> pl.LazyFrame:
        """The rows of all files, or of one by its path."""
        state = self._state

        def read(columns: list[str], terms: Sequence[Term]) -> Iterator[pl.DataFrame]:
            # Rows are left to Polars: the condition only chooses files.
            tasks = [t for t in state.tasks(_condition(terms, state)) if only in (None, t.file.file_path)]
            reader: Any = files.ArrowScan(
                state.table.metadata, state.table.io, state.iceberg.select(*columns), AlwaysTrue()
            )
            for start in range(0, len(tasks), _AT_ONCE):
                for batch in reader.to_record_batches(tasks[start : start + _AT_ONCE]):
                    yield pl.DataFrame(batch).select(columns)

        return scan_rows(self._where, state.schema, read, _ERRORS)

    def row_name(self, row: int) -> str:
        """The row by its position in its file, and the file, unless rows were deleted."""
        tasks, before = self._state.tasks(), 0
        if not any(t.delete_files for t in tasks):
            for task in tasks:
                if row < before + task.file.record_count:
                    return f"row {row - before:,} of {task.file.file_path.rpartition('/')[2]}"
                before += task.file.record_count
        return super().row_name(row)

    @property
    def _where(self) -> str:
        return self._location.where("iceberg")

    @cached_property
    def _state(self) -> _State:
        try:
            table = self._load()
            snapshot = self._chosen(table)
            is_current = self._snapshot is None and self._moment is None
            schema = table.schema() if is_current or snapshot is None else _schema_of(table, snapshot)
            arrow: Any = files
            columns = dict(pl.Schema(arrow.schema_to_pyarrow(schema)))
            return _State(table, snapshot, schema, columns, _sequences(table, snapshot))
        except BedplateError:
            raise
        except _ERRORS as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: BaseException) -> BedplateError:
        if self._catalog is None:
            return unreadable(self._where, error)
        return DataError(
            f"can't read the table: {reason(error)}",
            where=f"{self._where} in the catalog '{self._catalog}'",
            hint="name a table of the catalog, and describe the catalog in .pyiceberg.yaml or the environment: "
            f"PYICEBERG_CATALOG__{self._catalog.upper()}__URI",
        )

    def _load(self) -> Iceberg:
        if self._catalog is not None:
            return load_catalog(self._catalog).load_table(self._location.text)
        path = self._location.full
        return StaticTable.from_metadata(path if self._location.is_remote else str(self._newest(Path(path))))

    def _newest(self, path: Path) -> Path:
        """The metadata file itself, or the newest one of a table's folder."""
        if not path.is_dir():
            return path
        numbered = [(int(m[1]), p) for p in (path / "metadata").glob("*") if (m := _NUMBER.match(p.name))]
        newest = [p for n, p in numbered if n == max(n for n, _ in numbered)]
        if len(newest) != 1:
            raise DataError(
                f"{len(newest)} metadata files of its folder are the newest, expected one"
                if newest
                else "the folder holds no metadata file of an Iceberg table",
                where=self._where,
                hint="name the metadata file, or the table with its catalog",
            )
        return newest[0]

    def _chosen(self, table: Iceberg) -> IcebergSnapshot | None:
        if self._moment is not None:
            found = table.snapshot_as_of_timestamp(self._moment // 1000)
            if found is None:
                first = min((s.timestamp_ms for s in table.snapshots()), default=None)
                said = "it has none" if first is None else f"the first is of {format_time(first * 1000)}"
                raise DataError(f"no snapshot was current at {self._at}; {said}", where=self._where)
            return found
        if self._snapshot is None:
            return table.current_snapshot()
        found = table.snapshot_by_id(self._snapshot)
        if found is None:
            known = [str(s.snapshot_id) for s in table.snapshots()]
            raise DataError(
                f"no snapshot {self._snapshot}",
                where=self._where,
                hint=suggest(str(self._snapshot), known, "snapshots"),
            )
        return found


def open_table(url: str, root: Path, place: str) -> IcebergTable:
    """The table of a URL such as `iceberg:warehouse/orders?snapshot=51` or `iceberg:shop.orders?catalog=prod`.

    Raises:
        DefinitionError: an option is unknown or wrong.
    """
    location, options = url_parts(url, ["catalog", "snapshot", "at"], place)
    number = whole(options, "snapshot", place)
    table = IcebergTable(location, catalog=options.get("catalog"), snapshot=number, at=options.get("at"))
    return table.rooted(root, place)  # pyright: ignore[reportReturnType]


def _schema_of(table: Iceberg, snapshot: IcebergSnapshot) -> Schema:
    """The columns that a table had when a snapshot was made."""
    return table.schema() if snapshot.schema_id is None else table.schemas()[snapshot.schema_id]


def _sequences(table: Iceberg, snapshot: IcebergSnapshot | None) -> Mapping[str, int]:
    """The number of the commit that added each data file."""
    manifests = [] if snapshot is None else snapshot.manifests(table.io)
    return {
        entry.data_file.file_path: entry.sequence_number or 0
        for manifest in manifests
        if manifest.content == ManifestContent.DATA
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True)
    }


def _redefined(state: _State) -> list[tuple[str, int]]:
    """The columns whose names mean other fields than when the snapshot was made.

    A change of columns makes no snapshot. A new column changes nothing of what was read before; a renamed one does.
    """
    if state.snapshot is None:
        return []
    before = {f.name: f.field_id for f in _schema_of(state.table, state.snapshot).fields}
    known = set(before.values())
    now = [(f.name, f.field_id) for f in state.iceberg.fields]
    return sorted((n, i) for n, i in now if before.get(n) != i and (n in before or i in known))


def _condition(terms: Sequence[Term], state: _State) -> BooleanExpression | None:
    """The terms as Iceberg's condition, of the columns whose names are still those of the table."""
    current = {f.name: f.field_id for f in state.table.schema().fields}
    same = {f.name for f in state.iceberg.fields if current.get(f.name) == f.field_id}
    found = [_of_term(t) for t in terms if t.column in same]
    return reduce(And, found) if found else None


def _of_term(term: Term) -> BooleanExpression:
    found = _CONDITIONS[term.operator](term.column, _literal(term.value))
    either: Any = Or
    is_null: Any = IsNull
    return either(found, is_null(term.column)) if term.or_null else found


def _bounds(file: DataFile, schema: Schema, column: str) -> Bounds | None:
    """What the metadata of a file says of a column of integers, dates or times."""
    try:
        field = schema.find_field(column)
    except ValueError:
        return None
    low, high = (file.lower_bounds or {}).get(field.field_id), (file.upper_bounds or {}).get(field.field_id)
    nulls = (file.null_value_counts or {}).get(field.field_id)
    try:
        least, greatest = (_whole_value(form, field.field_type) for form in (low, high))
    except OverflowError:  # further away than dates here go
        return None
    return None if least is None or greatest is None else Bounds(least, greatest, has_null=nulls != 0)


def _whole_value(form: bytes | None, kind: IcebergType) -> int | date | datetime | None:
    """A bound of a column of integers, dates or times; None: there is none, or it is of another type."""
    if form is None:
        return None
    number = int.from_bytes(form, "little", signed=True)  # older files of a widened column have the shorter form
    if isinstance(kind, IntegerType | LongType):
        return number
    if isinstance(kind, DateType):
        return date(1970, 1, 1) + timedelta(days=number)
    if isinstance(kind, TimestampType | TimestamptzType):
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=number)
    return None


def _literal(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime | date) else value
