"""Lance: a columnar format whose versions are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, final

import lance
import polars as pl

from bedplate.errors import BedplateError, DataError, reason
from bedplate.sources.base import UNREADABLE, Piece, Snapshot, Table, first_in
from bedplate.sources.location import Location, chosen, moment, state_id, url_parts, whole
from bedplate.sources.pruning import Term
from bedplate.sources.scan import scan_rows
from bedplate.types import format_time, to_micros


@final
@dataclass(frozen=True, slots=True)
class _State:
    """One version of a table: its columns and its fragments, in order."""

    dataset: Any
    schema: Mapping[str, pl.DataType]
    fragments: Sequence[Any]


@final
class LanceTable(Table):
    """A Lance table. Its newest version is looked up once, and read from then on.

    The snapshot's id is that of the files that hold the columns: a version that changes only indexes, or columns that
    are not read, has the id of the one before.

    Args:
        path: the table's folder, or a URI such as `s3://bucket/orders.lance` (credentials from the environment).
        version: a version to read in place of the newest.
        at: read the version that was the newest at this time.
        columns: only these; what happens to the others then changes nothing. All without.
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
        columns: Sequence[str] | None = None,
        root: Path = Path(),
    ) -> None:
        self._location = Location(str(path), root)
        self._version, self._at, self._columns = version, at, columns
        self._moment = moment(at, {"version": version}, self.name)

    @property
    def name(self) -> str:
        """The path as it was given, such as `lance:warehouse/orders.lance`."""
        return f"lance:{self._location.text}"

    def rooted(self, root: Path, place: str) -> Table:
        """The table with its path within the project."""
        table = LanceTable(self._location.text, version=self._version, at=self._at, columns=self._columns)
        table._location = Location(self._location.text, root / self._location.root, place)
        return table

    def at(self, snapshot: str) -> Table | None:
        """The last version in that state, of the one that is read and those before it that are kept."""

        def versions() -> Iterator[Table]:
            yield self
            dataset = self._state.dataset
            earlier = [v["version"] for v in dataset.versions() if v["version"] < dataset.version]
            for version in sorted(earlier, reverse=True):
                table = LanceTable(self._location.text, version=version, columns=self._columns)
                table._location = self._location
                yield table

        return first_in(versions(), snapshot)

    def schema(self) -> Mapping[str, pl.DataType]:
        """The columns."""
        return self._state.schema

    def snapshot(self) -> Snapshot:
        """The version that is read; from metadata only."""
        fragments = self._state.fragments
        rows, parts = sum(_kept(f) for f in fragments), len(fragments)
        plural = "" if parts == 1 else "s"
        return Snapshot(
            self._id(fragments),
            rows,
            f"version {self._state.dataset.version:,}, {parts:,} fragment{plural}, {rows:,} rows",
        )

    def scan(self) -> pl.LazyFrame:
        """The rows of the version, fragment by fragment."""
        return self._scan()

    def pieces(self) -> Sequence[Piece]:
        """The fragments of the version; those that later versions add come last."""
        return [Piece(self._id([f]), _kept(f), partial(self._scan, f)) for f in self._state.fragments]

    def _scan(self, only: Any = None) -> pl.LazyFrame:
        """The rows of all fragments, or of one."""
        state = self._state

        def read(columns: list[str], terms: Sequence[Term]) -> Iterator[pl.DataFrame]:
            conditions = [c for t in terms if (c := _condition(t, state.schema[t.column])) is not None]
            condition, fragments = " AND ".join(conditions) or None, None if only is None else [only]
            scanner = state.dataset.scanner(columns, filter=condition, fragments=fragments, scan_in_order=True)
            for batch in scanner.to_batches():
                yield pl.DataFrame(batch).select(columns)

        return scan_rows(self._where, state.schema, read)

    def _id(self, fragments: Sequence[Any]) -> str:
        """What identifies the rows of fragments, as far as the columns that are read go."""
        fields = {f.to_arrow().name: _field_ids(f) for f in self._state.dataset.lance_schema.fields()}
        read = {name: ids for name, ids in fields.items() if name in self._state.schema}
        held = {i for ids in read.values() for i in ids}
        names = sorted((name, min(ids)) for name, ids in read.items())
        return state_id("lance", names, [_files(f.metadata, held) for f in fragments])

    def row_name(self, row: int) -> str:
        """The row by its position in its fragment, and the fragment, unless rows were deleted."""
        before = 0
        for fragment in self._state.fragments:
            if row < before + _kept(fragment):
                deleted = "" if fragment.metadata.deletion_file is None else " (deleted ones left out)"
                return f"row {row - before:,} of fragment {fragment.fragment_id}{deleted}"
            before += _kept(fragment)
        return super().row_name(row)

    @property
    def _where(self) -> str:
        return self._location.where("lance")

    @cached_property
    def _state(self) -> _State:
        try:
            library: Any = lance
            dataset = library.dataset(self._location.full, version=self._version)
            if self._moment is not None:
                dataset = library.dataset(self._location.full, version=self._version_of(dataset, self._moment))
            arrow: Any = dataset.schema
            schema = dict(pl.Schema(arrow))
            names = chosen(self._columns, schema, self._where)
            return _State(dataset, {c: schema[c] for c in names}, dataset.get_fragments())
        except BedplateError:
            raise
        except (ValueError, *UNREADABLE) as error:
            wanted = "table" if self._version is None else f"version {self._version}"
            raise DataError(
                # Behind the first comma are the places in the library's own code.
                f"can't read the {wanted}: {reason(error).split(', /')[0]}",
                where=self._where,
                hint="check that the path is a Lance table, is readable, and has this version",
            ) from error

    def _version_of(self, dataset: Any, moment: int) -> int:
        """The version that was the newest at a time."""
        # The library gives the times of this machine's zone, without saying so.
        written = {v["version"]: to_micros(v["timestamp"].astimezone(UTC)) for v in dataset.versions()}
        before = [version for version, time in written.items() if time <= moment]
        if not before:
            first = format_time(min(written.values()))
            raise DataError(f"no version was there at {self._at}; the first kept is of {first}", where=self._where)
        return max(before)


def open_table(url: str, root: Path, place: str) -> LanceTable:
    """The table of a URL such as `lance:warehouse/orders.lance?version=3`; `columns=a,b` names the columns to read.

    Raises:
        DefinitionError: an option is unknown or wrong.
    """
    path, options = url_parts(url, ["version", "at", "columns"], place)
    columns = options["columns"].split(",") if "columns" in options else None
    table = LanceTable(path, version=whole(options, "version", place), at=options.get("at"), columns=columns)
    return table.rooted(root, place)  # pyright: ignore[reportReturnType]


def _condition(term: Term, dtype: pl.DataType) -> str | None:
    """A term in Lance's SQL, or None where it has no exact form there."""
    value: Any = term.value
    if "`" in term.column or (isinstance(dtype, pl.Datetime) and dtype.time_unit == "ms"):
        return None
    if isinstance(value, datetime):
        text = f"timestamp '{value.isoformat()}'"
    elif isinstance(value, date):
        text = f"date '{value.isoformat()}'"
    elif isinstance(value, str):
        quoted = value.replace("'", "''")
        text = f"'{quoted}'"
    else:
        text = repr(value).lower()
    condition = f"`{term.column}` {'=' if term.operator == '==' else term.operator} {text}"
    return f"({condition} OR `{term.column}` IS NULL)" if term.or_null else condition


def _kept(fragment: Any) -> int:
    """How many rows of a fragment are not deleted; from metadata where nothing was deleted."""
    return int(fragment.metadata.physical_rows if fragment.metadata.deletion_file is None else fragment.count_rows())


def _field_ids(field: Any) -> list[int]:
    """The numbers of a field and of those within it."""
    return [int(field.id()), *(i for child in field.children() for i in _field_ids(child))]


def _files(fragment: Any, fields: set[int]) -> list[Any]:
    """What identifies the rows of a fragment as far as some fields go: their files, and that of the deleted rows."""
    held = sorted(f"{f.path}" for f in fragment.files if fields & set(f.fields))
    deleted = fragment.deletion_file
    return [
        fragment.id,
        fragment.physical_rows,
        held,
        None if deleted is None else str(deleted),
        str(fragment.overlays),
    ]
