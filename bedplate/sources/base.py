"""A source: a table of events, when each happened, and when each could be known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, final

import polars as pl

from bedplate.arguments import checks_arguments
from bedplate.canonical import calls_python, digest_bytes, expression_form
from bedplate.errors import BedplateError, DataError, DefinitionError, reason, suggest
from bedplate.sources.pruning import Bounds, is_narrow
from bedplate.types import DAY, EARLIEST_TIME, LATEST_TIME, Type, format_duration, parse_duration, type_of

Prepare: TypeAlias = Callable[[pl.LazyFrame], pl.LazyFrame]
"""A cleaning step. It must give the same rows however the table is split by time, rows of equal time staying together:
history prepares the whole table, the stream worker one micro-batch at a time."""

TIME = "__time__"
"""The column of a prepared frame that holds event times, int64 microseconds."""

AVAILABLE = "__available__"
"""The column that holds when each row could be known, int64 microseconds, where the source declares it."""

SEQUENCE = "__sequence__"
"""The column that orders rows of equal time, int64, where the source declares it."""

ALWAYS = "always"
"""In place of a time column: the rows hold at all times. See `Source`."""

_NO_FILE = "the rows of a table that nobody reads"
"""A file that is not there: a step that reads rows from it fails."""

UNREADABLE = (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What reading a table may raise: Polars panics on some damaged files, which is no `Exception`."""

_FAILURES = (pl.exceptions.PolarsError, ArithmeticError, AttributeError, LookupError, NameError, TypeError, ValueError)
"""What a cleaning step that is wrong may raise."""


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


def unknown_bounds(_: str) -> Bounds | None:
    """The bounds of a column of which nothing is known before it is read."""
    return None


@final
@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a table that stay together, such as those of a file.

    Attributes:
        id: equal ids mean equal rows, in whatever snapshot.
        rows: the number of rows.
        scan: reads the rows, in their order, lazily.
        slices: whether a slice of them (`scan().slice(...)`) costs no more than its own rows.
        bounds: what metadata says of a column of integers, datetimes or dates, without a look at the rows; None: it
            does not say. Naive datetimes are of UTC.
    """

    id: str
    rows: int
    scan: Callable[[], pl.LazyFrame]
    slices: bool = False
    bounds: Callable[[str], Bounds | None] = unknown_bounds


class Table(ABC):
    """Where rows are: a contract of four methods, one file a kind of table; the others have defaults.

    A table whose format keeps its states looks at the newest one once, when it is first asked, and reads that one from
    then on, whatever is written meanwhile. A table that can't do so has another snapshot id as soon as it was written.
    """

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
        """The state that `scan` reads.

        Raises:
            DataError: the table is missing or can't be read.
        """

    @abstractmethod
    def scan(self) -> pl.LazyFrame:
        """The rows, lazily, in an order that depends on nothing but the snapshot.

        Columns that a query does not use are not read, nor, where the format tells, files that hold no row it asks for.
        """

    def pieces(self) -> Sequence[Piece]:
        """The table's rows now as pieces, one after the other in the order of `scan`.

        An index is extended by the pieces that are new: a table that grows by files, or by versions, gives one for
        each, the new ones last. The whole table is one piece by default, and then built anew when it changes.

        Raises:
            DataError: as `snapshot`.
        """
        snapshot = self.snapshot()
        return [Piece(snapshot.id, snapshot.rows, self.scan)]

    def at(self, snapshot: str) -> Table | None:
        """The table in a state that it had, where that can still be read; None where it can't.

        Args:
            snapshot: the id of the state's snapshot.
        """
        return self if self.snapshot().id == snapshot else None

    def row_name(self, row: int) -> str:
        """What a message calls a row by its position in `scan`: its place in a file, where the table has several."""
        return f"row {row:,}"

    def unreadable_columns(self) -> Mapping[str, str]:
        """The columns that a query must not use, each with what is wrong: such as files that disagree on its type."""
        return {}

    def rooted(self, root: Path, place: str) -> Table:
        """The same table for one project.

        Args:
            root: the project's folder, where relative paths start.
            place: what a message says the table is for, such as "source 'orders'".
        """
        return self


def first_in(tables: Iterable[Table], snapshot: str) -> Table | None:
    """The first of some tables that is in the state of a snapshot; None: none is, as far as they can be read."""
    try:
        return next((table for table in tables if table.snapshot().id == snapshot), None)
    except DataError:  # formats drop old states, the oldest first
        return None


_TABLES = (str, pl.DataFrame, Table)


@checks_arguments
@final
class Source:
    """A table of events, or of the states of entities: an entity table has a row each time that an attribute changes.

    Args:
        name: unique in the project.
        table: a path or glob of Parquet files (relative to the project's folder); a URL such as
            `delta:warehouse/orders?version=12`; a Polars frame; or a `Table`.
        time: the column that says when each event happened: a datetime (without a zone: UTC), a date, or integer
            microseconds since the epoch. In an entity table it says from when the row holds. `ALWAYS` for a table that
            only has how things are now: its rows are taken to have held since ever, so that a label of last year sees
            what was known much later. That is not time-true, and nothing is taken for it that is not said.
        delay: how much later than its time an event can be known. It then counts from `time + delay` on; windows are
            still measured on event time.
        available: the column that says when each row could be known, of the same types as the time column and never
            null. The row counts from the later of the two times on, a late row from then only; windows are still
            measured on event time. A source has this or a delay.
        sequence: a column of integers or times, never null, that orders the rows of one key with equal times. Else
            they are in the order in which they could be known, then in that of the rows in the table.
        prepare: a cleaning step, see `Prepare`.
        valid_to: of an entity table, the column that says when a row stops to hold (exclusive), null where it holds
            until the next one; see `Attribute`. Like windows it is of event time: a delay does not move it.
        deleted: of an entity table, a boolean row expression or column: a row for which it is true says that from its
            time on there is no such entity.

    >>> frame = pl.DataFrame({"user": [1], "time": ["2026-01-01"]}).with_columns(pl.col("time").str.to_date())
    >>> Source("visits", frame, time="time", delay="5m").form()["delay"]
    '5m'
    """

    __slots__ = (
        "_opened", "_table", "available", "delay", "deleted", "name", "prepare", "sequence", "time", "valid_to",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        table: str | pl.DataFrame | Table,
        *,
        time: str,
        delay: str | None = None,
        available: str | None = None,
        sequence: str | None = None,
        prepare: Prepare | None = None,
        valid_to: str | None = None,
        deleted: str | pl.Expr | None = None,
    ) -> None:
        self.name = name
        place = self._place
        parts: list[tuple[str, object, Any]] = [("name", name, str), ("time", time, str), ("table", table, _TABLES)]
        named = (("available", available), ("sequence", sequence), ("valid_to", valid_to))
        parts += [(p, c, str) for p, c in named if c is not None]
        parts += [("deleted", deleted, (str, pl.Expr))] if deleted is not None else []
        _check_time(time, place, of_time=any(c is not None for c in (delay, available, valid_to)))
        for part, value, expected in parts:
            if not isinstance(value, expected) or (isinstance(value, str) and not value):
                wanted = {
                    "table": "a path, a Polars frame or a Table",
                    "deleted": "a column or a Polars expression",
                }.get(part, "a text")
                raise DefinitionError(f"got the {part} {value!r}, expected {wanted}", where=place)
        self._table = table
        self._opened: dict[Path, Table] = {}
        self.time = time
        self.delay = 0 if delay is None else parse_duration(delay, where=f"{place}: delay", error=DefinitionError)
        if delay is not None and available is not None:
            raise DefinitionError(
                f"got delay='{delay}' and available='{available}', expected one of them",
                where=place,
                hint="add the delay to the column in the prepare step",
            )
        self.available, self.sequence = available, sequence
        self.prepare = prepare
        self.valid_to = valid_to
        self.deleted = pl.col(deleted) if isinstance(deleted, str) else deleted

    def table(self, root: Path | None = None) -> Table:
        """The table, the same object each time, so that all that one project builds is built of one state.

        Args:
            root: the project's folder, where relative paths start.

        Raises:
            DefinitionError: the text that names it is wrong.
            MissingExtraError: the library that reads it is not installed.
        """
        root = root or Path()
        if root not in self._opened:
            self._opened[root] = self._open(root)
        return self._opened[root]

    def pin(self, snapshot: str, root: Path | None = None) -> None:
        """Has the table read in a state that it had; call it before anything else reads the source.

        Args:
            snapshot: the id of the state's snapshot.
            root: the project's folder, where relative paths start.

        Raises:
            DataError: the table can no longer be read in that state.
        """
        table = self.table(root)
        past = table.at(snapshot)
        if past is None:
            raise DataError(
                f"{self._place} is in another state now and can't be read in that of snapshot {snapshot[:12]}",
                where=table.name,
                hint="Parquet is read as it was while its files of then are there unchanged; Delta, Iceberg and Lance "
                "while they keep that state",
            )
        self._opened[root or Path()] = past

    def _open(self, root: Path) -> Table:
        if isinstance(self._table, Table):
            return self._table.rooted(root, self._place)
        if isinstance(self._table, pl.DataFrame):
            from bedplate.sources.memory import MemoryTable

            return MemoryTable(self._table)
        from bedplate.sources.location import open_table

        return open_table(self._table, root, self._place)

    def schema(self, root: Path | None = None) -> Mapping[str, pl.DataType]:
        """The columns after `prepare`, as row expressions see them: integers are int64, see `events`.

        Raises:
            DefinitionError: `prepare` fails on the table's columns, or the column of times, of availability or of the
                sequence is missing or of a wrong type.
        """
        raw = self.table(root).schema()
        schema = self._widened(pl.LazyFrame(schema=raw)).collect_schema()
        for part, column in self._columns().items():
            if column not in schema:
                raise DefinitionError(
                    f"no {part} column '{column}'", where=self._place, hint=suggest(column, schema, "columns")
                )
            if type_of(schema[column]) not in (Type.TIME, Type.INT):
                wanted = "a datetime or integers" if part == "sequence" else "a datetime or integer microseconds"
                raise DefinitionError(
                    f"the {part} column '{column}' is {schema[column]}, expected {wanted}",
                    where=self._place,
                    hint="convert it in the prepare step",
                )
        return dict(schema)

    def _columns(self) -> dict[str, str]:
        """The columns that hold times or order the rows, by what they say."""
        time = None if self.time == ALWAYS else self.time
        parts = {"time": time, "available": self.available, "sequence": self.sequence, "valid_to": self.valid_to}
        return {part: column for part, column in parts.items() if column is not None}

    def order_columns(self) -> dict[str, str]:
        """The columns that `events` adds, each with the name that the source gives it."""
        names = {TIME: self.time, AVAILABLE: self.available, SEQUENCE: self.sequence}
        return {name: column for name, column in names.items() if column is not None}

    def scan(self, root: Path | None = None) -> pl.LazyFrame:
        """The prepared rows of the whole table, with event times in the column `TIME`; see `events`."""
        return self.events(self.table(root).scan())

    def events(self, raw: pl.LazyFrame) -> pl.LazyFrame:
        """The prepared rows of a part of the table (all of it, or a micro-batch), event times in the column `TIME`.

        Where the source declares them, there are the columns `AVAILABLE` and `SEQUENCE` too. Integers of up to 32 bits
        are int64, so that no row expression over them wraps round at the width that a table happens to store; floats
        and 64-bit integers are as the cleaning step gives them.
        """
        schema = self._widened(raw.clear()).collect_schema()
        columns = [
            pl.lit(EARLIEST_TIME, pl.Int64).alias(name)
            if name == TIME and self.time == ALWAYS
            else epoch_micros(pl.col(column), schema[column]).alias(name)
            for name, column in self.order_columns().items()
        ]
        return self._widened(raw).with_columns(columns)

    def during(self, raw: pl.LazyFrame, begin: int | None, until: int | None) -> pl.Expr:
        """The condition on `events(raw)` that an event is in a range of times; a row without a time meets it too.

        Where the time column has a type that files and servers can compare, the condition is on that column, so that
        what holds no row of the range need not be read.

        Args:
            raw: rows as the table holds them.
            begin: the first time, microseconds; None: without begin.
            until: the time after the last; None: without end.
        """
        name, dtype = TIME, pl.Int64()
        if self.time != ALWAYS:
            found = self._widened(raw.clear()).collect_schema()[self.time]
            name, dtype = (self.time, found) if is_time(found) else (name, dtype)
        time, inside = pl.col(name), pl.lit(value=True)
        if begin is not None:
            inside = (time >= _at(begin, dtype)) | time.is_null()
        if until is not None:
            before = (time < _at(until, dtype)) | time.is_null()
            inside = before if begin is None else inside & before
        return inside

    def time_column(self, root: Path | None = None) -> str | None:
        """The column of the table that holds the event times; None: the cleaning step makes them.

        A step that gives the column another name, or leaves out rows one by one, does not make the times. Polars knows:
        it hands a condition on the times down to the table just where both mean the same.
        """
        if self.prepare is None or self.time == ALWAYS:
            return None if self.time == ALWAYS else self.time
        from bedplate.sources.scan import terms_asked

        schema = self.table(root).schema()

        def query(rows: pl.LazyFrame) -> pl.LazyFrame:
            return self.events(rows).filter(self.during(rows, EARLIEST_TIME, LATEST_TIME))

        own = terms_asked(schema, self.events)  # what the step itself asks for
        asked = [t for t in terms_asked(schema, query) if t.or_null and t not in own]
        columns = {t.column for t in asked if is_time(schema[t.column])}
        return columns.pop() if len(columns) == 1 else None

    def has_integers(self, raw: pl.LazyFrame, column: str) -> bool:
        """Whether a column of these rows, cleaned, holds integers and not datetimes or dates."""
        return column != ALWAYS and self._prepared(raw.clear()).collect_schema()[column].is_integer()

    def _widened(self, raw: pl.LazyFrame) -> pl.LazyFrame:
        """The prepared rows, narrow integers as int64."""
        rows = self._prepared(raw)
        schema = self._prepared(raw.clear()).collect_schema()
        narrow = [column for column, dtype in schema.items() if is_narrow(dtype)]
        return rows.with_columns(pl.col(narrow).cast(pl.Int64)) if narrow else rows

    def _prepared(self, raw: pl.LazyFrame) -> pl.LazyFrame:
        if self.prepare is None:
            return raw
        try:
            prepared = self.prepare(raw)
            if isinstance(prepared, pl.LazyFrame):  # pyright: ignore[reportUnnecessaryIsInstance]
                prepared.collect_schema()
                return prepared
        except _FAILURES as error:
            said = str(error).split("\n\n")
            raise DefinitionError(
                f"the step prepare fails: {type(error).__name__}: {said[0]}",
                where=self._place,
                hint=next((s for s in said if s.startswith("Did you mean")), None),
            ) from error
        raise DefinitionError(
            f"the step prepare gives a {type(prepared).__name__}, expected a LazyFrame", where=self._place
        )

    @property
    def _place(self) -> str:
        return f"source '{self.name}'"

    def form(self) -> dict[str, Any]:
        """The canonical form: what the rows are, but not where they lie (that is the snapshot's id)."""
        form: dict[str, Any] = {
            "name": self.name,
            "time": self.time,
            "delay": format_duration(self.delay) if self.delay else None,
            "prepare": None if self.prepare is None else self.prepare.__name__,
        }
        # Named only where they are declared: what other sources have built keeps its name.
        form |= {part: column for part, column in self._columns().items() if part != "time"}
        return form if self.deleted is None else form | {"deleted": expression_form(self.deleted, self._place)}

    def prepare_id(self, root: Path | None = None) -> str:
        """The id of the cleaning step as the query it builds, so that a change in any function it calls changes it.

        Raises:
            DefinitionError: the step calls a Python function on values, which has no canonical form; or it reads rows
                while it builds the query, which then depends on them; or it fails on no rows.
        """
        if self.prepare is None:
            return ""
        schema = self.table(root).schema()
        plan = self._prepared(pl.LazyFrame(schema=schema))
        if calls_python(plan.explain(optimized=False)):
            raise DefinitionError(
                "the step prepare calls a Python function on values, which has no canonical form",
                where=self._place,
                hint="write it with Polars expressions",
            )
        try:
            plan.collect()
        except pl.exceptions.PolarsError as error:
            raise DefinitionError(f"the step prepare fails on no rows: {reason(error)}", where=self._place) from error
        try:
            self._prepared(pl.scan_parquet(_NO_FILE, schema=schema))
        except FileNotFoundError:
            raise DefinitionError(
                "the step prepare reads rows while it builds the query (it calls collect)",
                where=self._place,
                hint="keep the frame lazy; what the step does must not depend on the rows that are there",
            ) from None
        return digest_bytes([plan.serialize()])


def _check_time(time: object, place: str, *, of_time: bool) -> None:
    """Raises `DefinitionError` where no time is given, or what is of time beside `ALWAYS`."""
    if time is None:
        raise DefinitionError(
            "got the time None, expected the column that says when each event happened, or from when each row holds",
            where=place,
            hint="a table of how things are now has none: time=ALWAYS (in bedplate.sources.base) says that its rows "
            "may be used at all times, also those at which they were not known yet",
        )
    if isinstance(time, str) and time == ALWAYS and of_time:
        raise DefinitionError(
            "got time=ALWAYS with a delay, available or valid_to, which are of time",
            where=place,
            hint="leave them out, or name the column that says from when each row holds",
        )


def is_time(dtype: pl.DataType | None) -> bool:
    """Whether a column of this type holds times in whole units that can be compared where they are."""
    return dtype is not None and (dtype == pl.Int64 or dtype.base_type() in {pl.Datetime, pl.Date})


def _at(micros: int, dtype: pl.DataType) -> pl.Expr:
    """The first value of a type that is no earlier than a time, as a literal."""
    if isinstance(dtype, pl.Date):
        return pl.lit(-(-micros // DAY), pl.Int32).cast(dtype)
    ticks = micros
    if isinstance(dtype, pl.Datetime):
        ticks = {"ms": -(-micros // 1000), "us": micros, "ns": micros * 1000}[dtype.time_unit]
    return pl.lit(ticks, pl.Int64).cast(dtype)


def epoch_micros(time: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Microseconds since the epoch of a column of datetimes, dates or integers, as int64.

    What is finer than a microsecond is cut off. Times too far from 1970 for 64 bits of microseconds are moved nearer,
    but stay outside what is accepted; Polars' own conversion wraps round.
    """
    if isinstance(dtype, pl.Date):
        return time.to_physical().cast(pl.Int64).clip(-(10**8), 10**8) * DAY
    if isinstance(dtype, pl.Datetime):
        ticks = time.to_physical()
        if dtype.time_unit == "ms":
            return ticks.clip(-(9 * 10**15), 9 * 10**15) * 1000
        return ticks // 1000 if dtype.time_unit == "ns" else ticks
    return time.cast(pl.Int64)


def unreadable(name: str, error: BaseException) -> BedplateError:
    """The error for a table that can't be read."""
    return DataError(
        f"can't read the table: {reason(error)}", where=name, hint="check that the path exists and is readable"
    )
