"""PostgreSQL: a table or view of a server, read over ADBC.

A server keeps no old states. The first look at a table therefore opens a transaction that sees one state
(`REPEATABLE READ`), and every read joins it, so that all that a project builds is of one state however the table moves
on. The transaction ends with the object, or when nothing was read for ten minutes; while it is open nobody can alter or
truncate the table, and the server can't clean up rows that were deleted since. A read after it ended goes on where the
table is still the same, and is an error where it is not.

The state's id is a hash of the content: the server hashes every row twice with 64 bits and adds up the hashes, which
depends neither on the rows' order nor on where they lie. That reads the whole table, about a second for a million rows
of five columns; no cheaper number is right: counts, greatest values and the server's own counters miss updates.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, final

import polars as pl
from adbc_driver_manager import Error

from bedplate.errors import BedplateError, DataError, DefinitionError
from bedplate.sources.base import UNREADABLE, Snapshot, Table
from bedplate.sources.connection import Server, split_url
from bedplate.sources.location import chosen, state_id
from bedplate.sources.pruning import Term
from bedplate.sources.scan import scan_rows

_TYPES: Mapping[str, pl.DataType] = {
    "bool": pl.Boolean(),
    "bytea": pl.Binary(),
    "bpchar": pl.String(),
    "date": pl.Date(),
    "float4": pl.Float32(),
    "float8": pl.Float64(),
    "int2": pl.Int16(),
    "int4": pl.Int32(),
    "int8": pl.Int64(),
    "text": pl.String(),
    "time": pl.Time(),
    "timestamp": pl.Datetime("us"),
    "timestamptz": pl.Datetime("us", "UTC"),
    "varchar": pl.String(),
}
"""The types that come as they are; others are converted by the server, see `_column`."""

_COMPARABLE = {"bool", "date", "float8", "int2", "int4", "int8", "text", "timestamp", "timestamptz", "varchar"}
_DECIMALS = 38
"""The most digits of a decimal here; a number with more, or with no declared number of them, becomes a float."""

_KEPT = "10min"
"""How long the server keeps a state that nobody reads: while it is kept nobody can alter the table."""

_PINNED = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
_COLUMNS = """
SELECT a.attname::text, coalesce(base.typname, type.typname)::text,
       CASE WHEN base.oid IS NULL THEN a.atttypmod ELSE type.typtypmod END::int8, element.typname::text,
       coalesce(array_position(i.indkey::int2[], a.attnum) + 1, 0)::int8
FROM pg_attribute a
JOIN pg_type type ON type.oid = a.atttypid
LEFT JOIN pg_type base ON base.oid = type.typbasetype
LEFT JOIN pg_type element
    ON element.oid = coalesce(base.typelem, type.typelem) AND coalesce(base.typcategory, type.typcategory) = 'A'
LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
WHERE a.attrelid = {table}::regclass AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""
_ERRORS = (Error, ArithmeticError, *UNREADABLE)


@final
@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the table.

    Attributes:
        name: its name.
        kind: the name of its type in PostgreSQL's catalogue, that of a domain's base.
        dtype: what it is read as.
        expression: the SQL that gives it so.
        key: its place in the primary key, from 1 on; 0: not part of it.
    """

    name: str
    kind: str
    dtype: pl.DataType
    expression: str
    key: int


@final
@dataclass(frozen=True, slots=True)
class _State:
    """One state of the table, kept by the transaction of a connection; others join it by the name `exported`."""

    connection: Any
    exported: str
    snapshot: Snapshot


@final
class PostgreSQLTable(Table):
    """A table or view of a PostgreSQL server.

    Its state is looked up once, and read from then on. Rows come in the order of the primary key, or of `order`. A
    password never stands in a definition: it comes from the environment (`PGPASSWORD`, `~/.pgpass`, or `env`).

    Args:
        table: the name as SQL writes it, such as `shop.orders` or `"Orders"`.
        url: the server, such as `postgresql://reader@db.example:5432/shop`; what it leaves out comes from PostgreSQL's
            own environment variables (`PGHOST`, `PGUSER`, ...).
        env: the environment variable that holds the URL, in place of `url`.
        columns: only these; what happens to the others then changes nothing. All without.
        order: the columns by which rows are ordered; the primary key without. A view, or a table without a primary key,
            needs them: events of one time and key count in this order.

    Raises:
        DefinitionError: the URL holds a password, or two URLs are given.
    """

    def __init__(
        self,
        table: str,
        *,
        url: str = "",
        env: str | None = None,
        columns: Sequence[str] | None = None,
        order: Sequence[str] = (),
    ) -> None:
        self._table, self._place = table, ""
        self._names, self._order = columns, tuple(order)
        self._server = Server(url, env, self.name)
        self._state: _State | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The table's name, such as `postgresql:shop.orders`."""
        return f"postgresql:{self._table}"

    def rooted(self, root: Path, place: str) -> Table:
        """The table with what a message calls it; a server's table has no path."""
        table = PostgreSQLTable(self._table, columns=self._names, order=self._order)
        table._server, table._place = self._server, place
        return table

    def schema(self) -> Mapping[str, pl.DataType]:
        """The columns, in the types that they are read as."""
        columns = {c.name: c.dtype for c in self._columns}
        return columns if self._ordered else {}  # a table without an order is refused at once

    def snapshot(self) -> Snapshot:
        """The state that is read; the server reads the whole table to tell it."""
        return self._kept().snapshot if self._state is None else self._state.snapshot

    def scan(self) -> pl.LazyFrame:
        """The rows of the state, in their order."""
        columns = {c.name: c for c in self._columns}

        def read(names: list[str], terms: Sequence[Term]) -> Iterator[pl.DataFrame]:
            conditions = [c for t in terms if (c := _condition(t, columns[t.column].kind)) is not None]
            where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
            wanted = ", ".join(f"{columns[n].expression} AS {_quoted(n)}" for n in names)
            with self._reader() as cursor:
                cursor.execute(f"SELECT {wanted} FROM {self._table}{where} ORDER BY {self._ordering}")
                for batch in cursor.fetch_record_batch():
                    yield pl.DataFrame(batch)

        return scan_rows(self._where, self.schema(), read, _ERRORS)

    def row_name(self, row: int) -> str:
        """The row by the values by which rows are ordered."""
        shown = ", ".join(f"{_quoted(n)}::text" for n in self._ordered)
        try:
            with self._reader() as cursor:
                query = f"SELECT {shown} FROM {self._table} ORDER BY {self._ordering} LIMIT 1 OFFSET {row:d}"
                cursor.execute(query)
                values = cursor.fetchone()
        except (BedplateError, *_ERRORS):
            values = None
        if values is None:
            return super().row_name(row)
        return "the row with " + " and ".join(f"{n} = {v}" for n, v in zip(self._ordered, values, strict=True))

    @property
    def _where(self) -> str:
        return f"{self._place}: {self.name}" if self._place else self.name

    @cached_property
    def _found(self) -> Mapping[str, _Column]:
        """Every column that the table has."""
        with self._errors(), self._server.open(self._where) as connection, connection.cursor() as cursor:
            cursor.execute(_COLUMNS.format(table=_text(self._table)))
            return {str(row[0]): _column(*row) for row in cursor.fetchall()}

    @cached_property
    def _columns(self) -> list[_Column]:
        """The columns that are read."""
        return [self._found[n] for n in chosen(self._names, self._found, self._where)]

    @cached_property
    def _ordered(self) -> Sequence[str]:
        """The columns by which rows are ordered: those that were named, or the primary key."""
        key = [c.name for c in sorted(self._found.values(), key=lambda c: c.key) if c.key]
        chosen(self._order, self._found, self._where)
        if not (self._order or key):
            raise DefinitionError(
                "the table has no primary key, so its rows have no order",
                where=self._where,
                hint="name the columns that order them: order=['id']",
            )
        return self._order or key

    @cached_property
    def _ordering(self) -> str:
        """Rows that are the same in `order` are ordered by their hash: the order is that of the content alone."""
        text = [n for n in self._ordered if self._found[n].kind in ("text", "varchar")]
        names = [f'{_quoted(n)} COLLATE "C"' if n in text else _quoted(n) for n in self._ordered]
        return ", ".join([*names, *([f"hash_record_extended({self._row}, 0)"] if self._order else [])])

    @property
    def _row(self) -> str:
        """The SQL of a row as a record whose every column has a hash."""
        return f"ROW({', '.join(c.expression for c in self._columns)})"

    def _kept(self) -> _State:
        """The state, kept by the server: looked up again where the server gave it up, and an error if it is another."""
        with self._lock:
            before = self._state
            if before is not None and _is_alive(before.connection):
                return before
            if before is not None:
                before.connection.close()
            state = self._look()
            weakref.finalize(self, state.connection.close)
            if before is not None and before.snapshot.id != state.snapshot.id:
                state.connection.close()
                raise DataError(
                    f"the table moved on: {before.snapshot.text} when it was first looked at, "
                    f"now {state.snapshot.text}",
                    where=self._where,
                    hint=f"run it again; the server keeps a state for {_KEPT} after the last read of it",
                )
            self._state = state
            return state

    def _look(self) -> _State:
        """Opens a transaction and takes the hash of what it sees."""
        row, ordered = self._row, list(self._ordered)
        hashes = ", ".join(f"coalesce(sum(hash_record_extended({row}, {s})::numeric), 0)::text" for s in (0, 1))
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._errors())
            connection = stack.enter_context(self._server.open(self._where))
            with connection.cursor() as cursor:
                cursor.execute(_PINNED)
                cursor.execute(f"SET LOCAL idle_in_transaction_session_timeout = {_text(_KEPT)}")
                cursor.execute(f"SELECT pg_export_snapshot(), count(*), {hashes} FROM {self._table}")
                exported, rows, *sums = cursor.fetchone()
            stack.pop_all()  # the connection stays open
        columns = [[c.name, c.kind, str(c.dtype)] for c in self._columns]
        snapshot = Snapshot(state_id("postgresql", columns, ordered, rows, sums), rows, f"{rows:,} rows")
        return _State(connection, str(exported), snapshot)

    @contextlib.contextmanager
    def _reader(self) -> Generator[Any]:
        """A cursor that sees the state."""
        exported = self._kept().exported
        with self._errors(), self._server.open(self._where) as connection, connection.cursor() as cursor:
            cursor.execute(_PINNED)
            cursor.execute(f"SET TRANSACTION SNAPSHOT {_text(exported)}")
            yield cursor

    @contextlib.contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except Error as error:
            raise self._server.said(error, self._where) from None


def open_table(url: str, root: Path, place: str) -> PostgreSQLTable:
    """The table of a URL such as `postgresql://reader@db.example/shop?table=public.orders&order=id`.

    Beside PostgreSQL's own options: `table`; `columns` and `order`, names with commas between; and `env`, as
    `PostgreSQLTable` has them.

    Raises:
        DefinitionError: the URL names no table, or holds a password.
    """
    server, options = split_url(url, ["table", "columns", "order", "env"], place)
    if "table" not in options:
        raise DefinitionError(
            "the URL names no table", where=place, hint="for example postgresql://reader@db.example/shop?table=orders"
        )
    columns = options["columns"].split(",") if "columns" in options else None
    order = options["order"].split(",") if "order" in options else ()
    env = options.get("env")
    table = PostgreSQLTable(options["table"], url=server, env=env, columns=columns, order=order)
    return table.rooted(root, place)  # pyright: ignore[reportReturnType]


def _is_alive(connection: Any) -> bool:
    """Whether the server still keeps the transaction of a connection; asking makes it keep it longer."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            return cursor.fetchone() is not None
    except Error:
        return False


def _column(name: str, kind: str, modifier: int, element: str | None, key: int) -> _Column:
    """How a column is read; `modifier` is PostgreSQL's, which holds the digits of a decimal."""
    quoted = _quoted(name)
    if kind in _TYPES:
        return _Column(name, kind, _TYPES[kind], quoted, key)
    if kind == "oid":
        return _Column(name, kind, pl.Int64(), f"{quoted}::int8", key)
    if kind == "numeric":
        digits, scale = (modifier - 4) >> 16, (modifier - 4) & 0x7FF
        if modifier >= 0 and digits <= _DECIMALS and scale <= digits:
            return _Column(name, kind, pl.Decimal(digits, scale), f"{quoted}::text", key)
        return _Column(name, kind, pl.Float64(), f"{quoted}::float8", key)
    if element == "numeric":
        return _Column(name, kind, pl.List(pl.Float64()), f"{quoted}::float8[]", key)
    if element is not None:
        inner = _TYPES.get(element)
        expression = f"{quoted}::text[]" if inner is None else quoted
        return _Column(name, kind, pl.List(inner or pl.String()), expression, key)
    return _Column(name, kind, pl.String(), f"{quoted}::text", key)


def _condition(term: Term, kind: str) -> str | None:
    """A term as SQL that holds for at least the rows for which it holds here, or None."""
    if kind not in _COMPARABLE:
        return None
    column, value = _quoted(term.column), term.value
    is_null = f" OR {column} IS NULL" if term.or_null else ""
    if isinstance(value, str):
        if "\0" in value:
            return None
        column, text = f'{column} COLLATE "C"', _text(value)
    elif isinstance(value, datetime):
        text = f"{_text(value.isoformat())}::{kind}"
    elif isinstance(value, date):
        text = f"{_text(value.isoformat())}::date"
    elif isinstance(value, float):
        text = f"{_text(repr(value))}::float8"
    else:
        text = str(value)
    return f"({column} {'=' if term.operator == '==' else term.operator} {text}{is_null})"


def _quoted(name: str) -> str:
    """A name as SQL."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _text(value: str) -> str:
    """A text as SQL."""
    doubled = value.replace("'", "''")
    return f"'{doubled}'"
