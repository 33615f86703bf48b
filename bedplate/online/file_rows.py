"""Rows of a stream's files, by the form of each file: as the source's table holds them, and as a dead letter does."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, final

import msgspec
import polars as pl

from bedplate.errors import DataError
from bedplate.features.view import CompiledView
from bedplate.online.parsers import parse_record, parser
from bedplate.online.payloads import Payloads
from bedplate.online.records import AvroFiles, JsonFiles, ProtobufFiles, RecordFiles
from bedplate.sources.base import AVAILABLE, TIME, UNREADABLE, Source
from bedplate.types import EARLIEST_TIME, LATEST_TIME

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".avro", ".pb", ".binpb")
"""Of the names of files that are read."""

_AT_ONCE = 100_000
"""Records that are decoded at once where a whole file is looked at."""

Form: TypeAlias = Literal["", "json"]
"""As `letters.Letter.form`."""


@final
@dataclass(frozen=True, slots=True)
class Piece:
    """Rows that follow each other in a file.

    Attributes:
        frame: those that could be decoded, as the source's table holds them.
        rows: their numbers in the file.
        wrong: by their numbers in the file why others could not be, with the payload of a letter.
        end: the number after them.
        is_end: whether the file ends there.
        lines: by their numbers in the file the rows that are JSON there, as they are.
    """

    frame: pl.DataFrame
    rows: Sequence[int]
    wrong: Mapping[int, tuple[str, bytes, Form]]
    end: int
    is_end: bool
    lines: Mapping[int, bytes]

    def as_json(self, numbers: Sequence[int]) -> list[bytes]:
        """Rows of the frame as JSON, by their numbers in it."""
        if self.lines:
            return [self.lines[self.rows[number]] for number in numbers]
        return rows_as_json(self.frame[list(numbers)]) if numbers else []


class FileRows(ABC):
    """How files of one form are read."""

    @abstractmethod
    def count(self, path: Path) -> int:
        """How many rows a file has.

        Raises:
            DataError, OSError: it can't be read.
        """

    @abstractmethod
    def read(self, path: Path, at: int, most: int | None, before: int | None) -> Piece:
        """Rows of a file.

        Args:
            path: the file.
            at: the first row.
            most: at most so many; None: all.
            before: none from this row on; None: without end.

        Raises:
            DataError, OSError: it can't be read, or its columns are not those of the source's table.
        """

    @abstractmethod
    def newest(self, path: Path) -> int:
        """The greatest time in a file at which an event could be known, apart from a delay; -1: it has none."""


@final
class ParquetRows(FileRows):
    """Parquet files, with the columns of the source's table."""

    def __init__(self, view: CompiledView) -> None:
        self._view = view

    def count(self, path: Path) -> int:
        """As its footer says."""
        return int(pl.scan_parquet(path).select(pl.len()).collect().item())

    def read(self, path: Path, at: int, most: int | None, before: int | None) -> Piece:
        """Rows of a file."""
        raw, total = self._opened(path), self.count(path)
        end = min(total, total if most is None else at + most, total if before is None else before)
        return Piece(raw.slice(at, end - at).collect(), range(at, end), {}, end, end == total, {})

    def newest(self, path: Path) -> int:
        """Of the columns of times alone."""
        return newest_time(self._view.view.source, self._opened(path))

    def _opened(self, path: Path) -> pl.LazyFrame:
        """The rows of a file, with the columns of the source's table."""
        expected = self._view.view.source.table(self._view.root).schema()
        found = pl.read_parquet_schema(path)
        for column, dtype in expected.items():
            if found.get(column) != dtype:
                raise DataError(
                    f"it is {found.get(column, 'missing')}, expected {dtype} as in the source's table",
                    where=f"column '{column}'",
                    hint="repair the file or move it away, then run again",
                )
        return pl.scan_parquet(path).select(list(expected))


@final
class RecordRows(FileRows):
    """Files of records, decoded as the payloads of a topic are.

    Args:
        source: whose rows they are.
        files: how they are read.
        payloads: what decodes a record.
        form: of a record that is bytes, for its letter; JSON is kept as it is.
    """

    def __init__(self, source: Source, files: RecordFiles, payloads: Payloads, form: Form) -> None:
        self._source, self._files, self._payloads = source, files, payloads
        self._form: Form = form

    def count(self, path: Path) -> int:
        """As many as there are, decoded or not."""
        return self._files.count(path)

    def read(self, path: Path, at: int, most: int | None, before: int | None) -> Piece:
        """Rows of a file."""
        records = self._files.read(path, at, most, before)
        frame, refused = self._payloads.decode([record.value for record in records.found])
        wrong: dict[int, tuple[str, bytes, Form]] = {}
        for number, why in refused.items():
            value = records.found[number].value
            row = records.found[number].row
            if isinstance(value, bytes):
                wrong[row] = why, value, self._form
            else:
                wrong[row] = why, as_json(value), "json"
        rows = [record.row for record in records.found if record.row not in wrong]
        lines = {r.row: r.value for r in records.found} if self._form == "json" else {}
        return Piece(frame, rows, wrong, records.end, records.is_end, lines)

    def newest(self, path: Path) -> int:
        """Of the rows that can be decoded."""
        at, newest, is_end = 0, -1, False
        while not is_end:
            piece = self.read(path, at, None if self._source.prepare is not None else _AT_ONCE, None)
            newest = max(newest, newest_time(self._source, piece.frame.lazy()))
            at, is_end = piece.end, piece.is_end
        return newest


@final
class FileForms:
    """What reads the files of a stream, by their names.

    Args:
        view: a compiled view of the source whose rows they hold.
        form: as of a topic's payloads, see `Payloads`: messages of Protobuf need theirs, files of Avro are read by
            their own schema, or by this one where it is one; those of JSON need none.

    Raises:
        ConfigError: the form is not known, or its file can't be read.
    """

    __slots__ = ("_form", "_found", "_view")

    def __init__(self, view: CompiledView, form: str = "json") -> None:
        self._view, self._form = view, form
        self._found: dict[str, FileRows] = {}
        if form != "json":
            parser(form, view.root or Path())

    def of(self, path: Path) -> FileRows:
        """What reads a file with one of `SUFFIXES`.

        Raises:
            DataError: it needs a form.
            DefinitionError: a column of the source's table has a type that no record can hold.
        """
        kind = {".parquet": "parquet", ".avro": "avro", ".pb": "protobuf", ".binpb": "protobuf"}.get(
            path.suffix, "json"
        )
        if kind not in self._found:
            self._found[kind] = self._made(kind)
        return self._found[kind]

    def _made(self, kind: str) -> FileRows:
        if kind == "parquet":
            return ParquetRows(self._view)
        root, source = self._view.root or Path(), self._view.view.source
        schema = source.table(self._view.root).schema()
        if kind == "json":
            return RecordRows(source, JsonFiles(), Payloads("json", schema), "json")
        if kind == "avro":
            avro, colon, name = self._form.partition(":")
            given = (root / name).read_bytes() if avro == "avro" and colon else None
            return RecordRows(source, AvroFiles(given), Payloads(parse_record, schema), "")
        if not self._form.startswith("protobuf:"):
            raise DataError(
                "the file holds messages of Protobuf, of which nothing says what they are",
                hint="run again with --format protobuf:FILE:MESSAGE",
            )
        return RecordRows(source, ProtobufFiles(), Payloads(self._form, schema, root), "")


def newest_time(source: Source, raw: pl.LazyFrame) -> int:
    """The greatest time at which an event could be known, those left out that none can have; -1: there is none."""
    known = [
        pl.col(name).filter(pl.col(name).is_between(EARLIEST_TIME, LATEST_TIME, closed="left")).max()
        for name in (TIME, AVAILABLE)
        if name in source.order_columns()
    ]
    newest = source.events(raw).select(pl.max_horizontal(known)).collect().item()
    return -1 if newest is None else int(newest)


def rows_as_json(frame: pl.DataFrame) -> list[bytes]:
    """Rows as objects of JSON, as `Payloads` reads them: what JSON has no form for is a text, which it refuses.

    >>> rows_as_json(pl.DataFrame({"user": [None, 1], "price": [1.5, float("inf")]}))
    [b'{"user":null,"price":1.5}', b'{"user":1,"price":"inf"}']
    """
    columns = [_values(column) for column in frame.iter_columns()]
    return [as_json(dict(zip(frame.columns, row, strict=True))) for row in zip(*columns, strict=True)]


def as_json(record: Any) -> bytes:
    """A record as JSON; what has no form there is a text."""
    return msgspec.json.encode(_plain(record), enc_hook=str)


def _values(column: pl.Series) -> list[Any]:
    if isinstance(column.dtype, pl.Datetime):
        zone = UTC if column.dtype.time_zone else None
        ticks = {"ms": 1000, "us": 1, "ns": 1}[column.dtype.time_unit]
        parts = 1000 if column.dtype.time_unit == "ns" else 1
        return [None if t is None else _time(t * ticks // parts, zone is not None) for t in column.to_physical()]
    try:
        return column.cast(_in_utc(column.dtype)).to_list()
    except (OverflowError, ValueError, *UNREADABLE):  # such as a date after the year 9999
        return [None if value is None else str(value) for value in column.to_physical().to_list()]


def _in_utc(dtype: Any) -> pl.DataType:
    """The type with times in UTC: Python may know other offsets than Polars, and those of JSON are whole minutes."""
    match dtype:
        case pl.List():
            return pl.List(_in_utc(dtype.inner))
        case pl.Array():
            return pl.Array(_in_utc(dtype.inner), dtype.size)
        case pl.Struct():
            return pl.Struct({field.name: _in_utc(field.dtype) for field in dtype.fields})
        case pl.Datetime() if dtype.time_zone:
            return pl.Datetime(dtype.time_unit, "UTC")
        case _:
            return dtype


def _time(micros: int, in_zone: bool) -> str | int:
    """A time as text where there is one."""
    try:
        time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
    except OverflowError:
        return micros
    return (time if in_zone else time.replace(tzinfo=None)).isoformat()


def _plain(value: Any) -> Any:
    """The same with texts for numbers that JSON has no form for."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case int() if not -(1 << 63) <= value < 1 << 64:
            return str(value)
        case dict():
            return {str(k): _plain(v) for k, v in cast("dict[Any, Any]", value).items()}
        case list() | tuple():
            return [_plain(v) for v in cast("list[Any]", value)]
        case _:
            return value
