"""A source: a table of events, when each happened, and when each could be known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, final

import polars as pl

from bedplate.canonical import digest_bytes
from bedplate.errors import BedplateError, DataError, DefinitionError, suggest
from bedplate.types import EARLIEST_TIME, LATEST_TIME, Type, format_duration, format_time, parse_duration, type_of

Prepare: TypeAlias = Callable[[pl.LazyFrame], pl.LazyFrame]
"""A cleaning step. It must give the same rows however the table is split by time, rows of equal time staying together:
history prepares the whole table, the stream worker one micro-batch at a time."""

TIME = "__time__"
"""The column of a prepared frame that holds event times, int64 microseconds."""


@final
@dataclass(frozen=True, slots=True)
class Snapshot:
    """One state of a table.

    Attributes:
        id: equal ids mean equal content; what is built from a table is named by it.
        rows: the number of rows.
        text: the state for a person to read, such as "1 file, 541,909 rows".
    """

    id: str
    rows: int
    text: str


class Table(ABC):
    """Where rows are: a contract of three methods, one file a kind of table."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What a message calls the table: its path or "memory"."""

    @abstractmethod
    def schema(self) -> Mapping[str, pl.DataType]:
        """The columns and their types.

        Raises:
            DataError: the table is missing or can't be read.
        """

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """The table's state now, from metadata only.

        Raises:
            DataError: the table is missing or can't be read.
        """

    @abstractmethod
    def scan(self) -> pl.LazyFrame:
        """The rows, in their order, lazily: what a query does not use is not read."""


@final
class Source:
    """A table of events.

    Args:
        name: unique in the project.
        table: a path or glob of Parquet files (relative to the project's folder), a Polars frame, or a `Table`.
        time: the column that says when each event happened: a datetime (without a zone: UTC), a date, or integer
            microseconds since the epoch.
        delay: how much later than its time an event can be known. It then counts from `time + delay` on; windows are
            still measured on event time.
        prepare: a cleaning step, see `Prepare`.

    >>> frame = pl.DataFrame({"user": [1], "time": ["2026-01-01"]}).with_columns(pl.col("time").str.to_date())
    >>> Source("visits", frame, time="time", delay="5m").form()["delay"]
    '5m'
    """

    __slots__ = ("_table", "delay", "name", "prepare", "time")

    def __init__(
        self,
        name: str,
        table: str | pl.DataFrame | Table,
        *,
        time: str,
        delay: str | int | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        self.name = name
        self._table = table
        self.time = time
        self.delay = 0 if delay is None else parse_duration(delay, where=f"source '{name}': delay")
        self.prepare = prepare

    def table(self, root: Path | None = None) -> Table:
        """The table; relative paths start at `root`, the project's folder."""
        if isinstance(self._table, Table):
            return self._table
        if isinstance(self._table, pl.DataFrame):
            from bedplate.sources.memory import MemoryTable

            return MemoryTable(self._table)
        from bedplate.sources.parquet import ParquetTable

        return ParquetTable(self._table, root or Path())

    def schema(self, root: Path | None = None) -> Mapping[str, pl.DataType]:
        """The columns after `prepare`.

        Raises:
            DefinitionError: `prepare` fails on the table's columns, or the time column is missing or of a wrong type.
        """
        raw = self.table(root).schema()
        schema = self._prepared(pl.LazyFrame(schema=raw)).collect_schema()
        if self.time not in schema:
            raise DefinitionError(
                f"no time column '{self.time}'", where=self._place, hint=suggest(self.time, schema, "columns")
            )
        if type_of(schema[self.time]) not in (Type.TIME, Type.INT):
            raise DefinitionError(
                f"the time column '{self.time}' is {schema[self.time]}, expected a datetime or integer microseconds",
                where=self._place,
            )
        return dict(schema)

    def scan(self, root: Path | None = None) -> pl.LazyFrame:
        """The prepared rows of the whole table, with event times in the column `TIME`; see `events`."""
        return self.events(self.table(root).scan())

    def events(self, raw: pl.LazyFrame) -> pl.LazyFrame:
        """The prepared rows of a part of the table (all of it, or a micro-batch), event times in the column `TIME`."""
        time = pl.col(self.time)
        as_integer = time if self._time_is_integer(raw) else time.dt.epoch("us")
        return self._prepared(raw).with_columns(as_integer.cast(pl.Int64).alias(TIME))

    def _time_is_integer(self, raw: pl.LazyFrame) -> bool:
        return self._prepared(raw.clear()).collect_schema()[self.time].is_integer()

    def _prepared(self, raw: pl.LazyFrame) -> pl.LazyFrame:
        if self.prepare is None:
            return raw
        try:
            prepared = self.prepare(raw)
            prepared.collect_schema()
        except (pl.exceptions.PolarsError, TypeError, AttributeError) as error:
            raise DefinitionError(f"the step prepare fails: {error}", where=self._place) from error
        return prepared

    @property
    def _place(self) -> str:
        return f"source '{self.name}'"

    def form(self) -> dict[str, Any]:
        """The canonical form: what the rows are, but not where they lie (that is the snapshot's id)."""
        return {
            "name": self.name,
            "time": self.time,
            "delay": format_duration(self.delay) if self.delay else None,
            "prepare": None if self.prepare is None else self.prepare.__name__,
        }

    def prepare_id(self, root: Path | None = None) -> str:
        """The id of the cleaning step as the query it builds, so that a change in any function it calls changes it.

        Raises:
            DefinitionError: the step calls a Python function on values, which has no canonical form.
        """
        if self.prepare is None:
            return ""
        plan = self._prepared(pl.LazyFrame(schema=self.table(root).schema()))
        if "python" in plan.explain(optimized=False).lower():
            raise DefinitionError(
                "the step prepare calls a Python function on values, which has no canonical form",
                where=self._place,
                hint="write it with Polars expressions",
            )
        return digest_bytes([plan.serialize()])


def check_times(frame: pl.DataFrame, source: Source) -> None:
    """Raises `DataError` for a null time or one outside 1970 to 2200, naming the row.

    Args:
        frame: prepared rows with the column `TIME`.
        source: where they are from, for the message.
    """
    times = frame[TIME]
    place = f"source '{source.name}', column '{source.time}'"
    nulls = times.null_count()
    if nulls:
        raise DataError(
            f"{nulls:,} of {len(times):,} rows have no time, the first is row {times.is_null().arg_max():,}",
            where=place,
            hint="drop them in the source's prepare step",
        )
    low, high = times.min(), times.max()
    if isinstance(low, int) and isinstance(high, int) and not (low >= EARLIEST_TIME and high < LATEST_TIME):
        row = int(((times < EARLIEST_TIME) | (times >= LATEST_TIME)).arg_max() or 0)
        raise DataError(
            f"row {row:,} has time {times[row]}, expected microseconds between "
            f"{format_time(EARLIEST_TIME)} and {format_time(LATEST_TIME)}",
            where=place,
            hint="an integer time column holds microseconds since the epoch; convert others in the prepare step",
        )


def check_keys(frame: pl.DataFrame, columns: Sequence[str], source: Source, place: str) -> None:
    """Raises `DataError` for a null key, naming column, count and row."""
    for column in columns:
        nulls = frame[column].null_count()
        if nulls:
            row = frame[column].is_null().arg_max()
            raise DataError(
                f"{nulls:,} of {len(frame):,} rows have no key, the first is row {row:,}",
                where=f"{place}, source '{source.name}', column '{column}'",
                hint="drop them in the source's prepare step",
            )


def unreadable(name: str, error: Exception) -> BedplateError:
    """The error for a table that can't be read."""
    return DataError(f"can't read the table: {error}", where=name, hint="check that the path exists and is readable")
