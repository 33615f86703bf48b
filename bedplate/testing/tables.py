"""The contract suite of tables: what an implementation of `Table` must do, as a test class to inherit.

class TestMyTable(TableContract):
    def make(self, folder: Path, frame: pl.DataFrame) -> Table:
        write_my_table(folder / "rows", frame)
        return MyTable("rows", root=folder)

    def missing(self, folder: Path) -> Table:
        return MyTable("not there", root=folder)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import polars as pl

from bedplate.errors import BedplateError, DataError
from bedplate.sources.base import UNREADABLE, Source, Table
from bedplate.types import DAY, to_micros

FRAME = pl.DataFrame(
    {
        "user": [3, 1, 3, 2],
        "time": [datetime(2026, 1, d, tzinfo=UTC) for d in (2, 1, 2, 3)],
        "day": [date(2026, 1, 1), None, date(2026, 1, 3), date(2026, 1, 4)],
        "price": [1.5, float("nan"), None, -2.0],
        "name": ["a", None, "", "ä"],
        "flag": [True, False, None, True],
        "tags": [["x"], [], None, ["y", "z"]],
    }
)
"""Rows of every kind of column, not sorted, with nulls."""


_SECOND = datetime(2026, 3, 29, 1, 59, 59, 999_999)

TYPES: dict[str, pl.Series] = {
    "int8": pl.Series([-128, None, 127], dtype=pl.Int8),
    "int16": pl.Series([-(2**15), None, 2**15 - 1], dtype=pl.Int16),
    "int32": pl.Series([-(2**31), None, 2**31 - 1], dtype=pl.Int32),
    "int64": pl.Series([-(2**63), None, 2**53 + 1], dtype=pl.Int64),
    "uint8": pl.Series([0, None, 255], dtype=pl.UInt8),
    "uint16": pl.Series([0, None, 2**16 - 1], dtype=pl.UInt16),
    "uint32": pl.Series([0, None, 2**32 - 1], dtype=pl.UInt32),
    "float32": pl.Series([1.5, None, float("inf")], dtype=pl.Float32),
    "float64": pl.Series([0.1, None, float("nan")], dtype=pl.Float64),
    "decimal": pl.Series([Decimal("12345678901234567.89"), None, Decimal("-0.01")], dtype=pl.Decimal(19, 2)),
    "string": pl.Series(["", None, "ä'\"\\ \n"], dtype=pl.String),
    "binary": pl.Series([b"", None, b"\0\xff"], dtype=pl.Binary),
    "bool": pl.Series([True, None, False], dtype=pl.Boolean),
    "date": pl.Series([date(1969, 12, 31), None, date(2199, 12, 31)], dtype=pl.Date),
    "naive": pl.Series([_SECOND, None, datetime(1970, 1, 1)], dtype=pl.Datetime("us")),
    "utc": pl.Series([_SECOND, None, datetime(1970, 1, 1)]).cast(pl.Datetime("us", "UTC")),
    "milliseconds": pl.Series([1_767_225_600_123, None, 0]).cast(pl.Datetime("ms", "UTC")),
    "nanoseconds": pl.Series([1_767_225_600_123_456_000, None, 0]).cast(pl.Datetime("ns", "UTC")),
    "berlin": pl.Series([_SECOND, None, datetime(1970, 1, 1)]).cast(pl.Datetime("us", "Europe/Berlin")),
    "texts": pl.Series([["a", None], None, []], dtype=pl.List(pl.String)),
}
"""A column of every type of which a table may hold values, each with a null; see `TableContract.read_as`."""

_CONDITIONS: dict[str, pl.Expr] = {
    "nothing": pl.lit(value=True),
    "an integer": pl.col("user") > 1,
    "integers": pl.col("user").is_in([1, 2]),
    "an equal integer": pl.col("user") == 3,
    "the other way round": pl.lit(2) >= pl.col("user"),
    "a time": pl.col("time") >= datetime(2026, 1, 2, tzinfo=UTC),
    "a time between": pl.col("time").is_between(
        datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC), closed="left"
    ),
    "a day": pl.col("day") < date(2026, 1, 3),
    "a number that NaN is above": pl.col("price") > 0,
    "a number": pl.col("price") <= 1.5,
    "a text": pl.col("name") == "ä",
    "a greater text": pl.col("name") > "B",
    "a text with a quote": pl.col("name") != "'",
    "a boolean": pl.col("flag") == pl.lit(value=True),
    "null": pl.col("day").is_null(),
    "either": (pl.col("user") == 2) | (pl.col("price") == 1.5),
    "both": (pl.col("user") == 3) & (pl.col("day") > date(2026, 1, 1)) & pl.col("price").is_null(),
    "an expression": pl.col("user") * 2 > 3,
    "no row": pl.col("user") > 2**53,
}
"""Conditions on `FRAME`, of which a table may leave to Polars what it can't use."""


_FIRST = to_micros("2026-01-01")


def _day(number: int) -> pl.DataFrame:
    """Two events of a day, at its begin and, but for the date, at its last microsecond."""
    whole = pl.Series("whole", [_FIRST + number * DAY, _FIRST + (number + 1) * DAY - 1])
    times = pl.DataFrame({"user": [2 * number, 2 * number + 1], "whole": whole})
    return times.with_columns(
        date=whole.cast(pl.Datetime("us")).dt.date(),
        naive=whole.cast(pl.Datetime("us")),
        utc=whole.cast(pl.Datetime("us", "UTC")),
    )


_DAYS = [_day(number) for number in range(3)]


class TableContract:
    """Inherit, say how a table is made, and run with pytest."""

    def make(self, folder: Path, frame: pl.DataFrame) -> Table:
        """A table that holds the frame; made in the same folder again, it holds the new frame, whatever its columns."""
        raise BedplateError("a contract suite says how its table is made", where=type(self).__name__)

    def missing(self, folder: Path) -> Table | None:
        """A table that is not there; None: there is always one."""
        raise BedplateError("a contract suite says what a missing table is", where=type(self).__name__)

    def days(self, folder: Path, frames: Sequence[pl.DataFrame]) -> tuple[Table, Callable[[int], None]] | None:
        """A table to which the frames were written one by one, and what makes the rows of one of them unreadable.

        None: the kind keeps no rows apart, so that nothing of it can be left unread.
        """
        return None

    def read_as(self, dtype: pl.DataType) -> pl.DataType | None:
        """The type that a column comes back as: the same unless the format has another for it; None: it has none."""
        return dtype

    def test_the_pieces_are_the_table(self, tmp_path: Path) -> None:
        """One after the other they hold the rows of the table, and a state that stays has the same pieces."""
        table = self.make(tmp_path, FRAME)
        pieces = table.pieces()
        assert pl.concat([piece.scan().collect() for piece in pieces]).equals(table.scan().collect())
        assert [piece.rows for piece in pieces] == [len(piece.scan().collect()) for piece in pieces]
        assert [piece.id for piece in pieces] == [piece.id for piece in table.pieces()]

    def test_the_schema_is_that_of_the_rows(self, tmp_path: Path) -> None:
        """The schema is known without the rows, in the order of the columns."""
        table = self.make(tmp_path, FRAME)
        assert list(table.schema().items()) == list(FRAME.schema.items())
        assert table.scan().collect_schema() == FRAME.schema
        assert table.name

    def test_rows_keep_their_order_and_values(self, tmp_path: Path) -> None:
        """Every row comes back as it was, nulls and NaN included, however often it is read."""
        table = self.make(tmp_path, FRAME)
        assert table.scan().collect().equals(FRAME)
        assert table.scan().collect().equals(FRAME)

    def test_a_query_reads_what_it_asks_for(self, tmp_path: Path) -> None:
        """A scan takes part in a query."""
        table = self.make(tmp_path, FRAME)
        assert table.scan().filter(pl.col("user") == 3).select("price").collect()["price"].to_list() == [1.5, None]

    def test_a_table_may_be_empty(self, tmp_path: Path) -> None:
        """No rows are a table like any other."""
        table = self.make(tmp_path, FRAME.clear())
        assert dict(table.schema()) == dict(FRAME.schema)
        assert table.snapshot().rows == 0
        assert table.scan().collect().height == 0

    def test_a_snapshot_is_the_state(self, tmp_path: Path) -> None:
        """Rows are counted; ids are equal for an unchanged table, and others for other values, rows or columns."""
        table = self.make(tmp_path, FRAME)
        first = table.snapshot()
        table.scan().collect()
        assert table.snapshot() == first
        assert first.rows == 4
        assert first.text
        others = [
            FRAME.with_columns(price=pl.Series([1.5, 2.0, 3.0, 4.0])),
            pl.concat([FRAME, FRAME]),
            FRAME.drop("flag"),
        ]
        ids = {first.id, *(self.make(tmp_path, other).snapshot().id for other in others)}
        assert len(ids) == 4

    def test_a_state_is_read_or_said_to_be_gone(self, tmp_path: Path) -> None:
        """By the id of its snapshot; a table that is asked for another state than it can read gives none."""
        table = self.make(tmp_path, FRAME)
        same = table.at(table.snapshot().id)
        assert same is not None
        assert same.snapshot() == table.snapshot()
        assert same.scan().collect().equals(FRAME)
        assert table.at("of another table") is None

    def test_a_source_takes_it(self, tmp_path: Path) -> None:
        """A source is made of the table, and gives its rows with the times in microseconds."""
        source = Source("rows", self.make(tmp_path, FRAME), time="time")
        assert dict(source.schema()) == dict(FRAME.schema)
        rows = source.scan().collect()
        assert rows["user"].to_list() == [3, 1, 3, 2]
        assert rows["__time__"].to_list() == [t.timestamp() * 1_000_000 for t in FRAME["time"]]

    def test_a_query_gives_what_a_frame_gives(self, tmp_path: Path) -> None:
        """Whatever is left out by columns, files and rows, the answer is that of the same query on the frame."""
        table = self.make(tmp_path, FRAME)
        for name, condition in _CONDITIONS.items():
            for columns in (FRAME.columns, ["tags", "user"]):
                expected = FRAME.filter(condition).select(columns)
                found = table.scan().filter(condition).select(columns).collect()
                assert found.equals(expected), (name, columns)
        assert table.scan().select(pl.len()).collect().item() == 4
        assert table.scan().filter(pl.col("user") == 3).select(pl.len()).collect().item() == 2
        assert table.scan().slice(1, 2).collect().equals(FRAME[1:3])
        assert table.scan().with_row_index("row").select("row").collect()["row"].to_list() == [0, 1, 2, 3]

    def test_values_of_every_type_are_exact(self, tmp_path: Path) -> None:
        """Integers beyond 2^53, decimals, times of every unit and zone: each value is what it was, and null is null."""
        for name, values in TYPES.items():
            dtype = self.read_as(values.dtype)
            if dtype is None:
                continue
            frame = pl.DataFrame({"user": [1, 2, 3], name: values})
            table = self.make(tmp_path, frame)
            assert dict(table.schema())[name] == dtype, name
            assert table.scan().collect()[name].equals(values.cast(dtype).alias(name), check_dtypes=True), name

    def test_what_is_read_is_the_snapshot(self, tmp_path: Path) -> None:
        """A table that moves on is read as it was, or says that it is another."""
        table = self.make(tmp_path, FRAME)
        before = table.snapshot()
        rows = table.scan()
        self.make(tmp_path, pl.concat([FRAME, FRAME]))
        if table.snapshot() == before:
            assert rows.collect().equals(FRAME)
            assert table.scan().collect().equals(FRAME)
            assert pl.concat([piece.scan().collect() for piece in table.pieces()]).equals(FRAME)
        else:
            assert table.snapshot().id != before.id
            assert table.snapshot().rows == 8

    def test_what_holds_no_row_of_a_range_of_times_is_not_read(self, tmp_path: Path) -> None:
        """A query of one day reads neither the day before nor the one after, whatever type the times have.

        Metadata says of each piece which times are in it, to the millisecond.
        """
        for name in _DAYS[0].columns[1:]:
            made = self.days(tmp_path / name, [frame.select("user", name) for frame in _DAYS])
            if made is None:
                return
            table, damage = made
            pieces = table.pieces()
            for day in (0, 2):
                damage(day)
            source = Source("rows", table, time=name)
            inside = source.during(table.scan(), _FIRST + DAY, _FIRST + 2 * DAY)
            assert source.scan().filter(inside).select("user").collect()["user"].to_list() == [2, 3], name
            assert _is_unreadable(source.scan()), name
            bounds = [piece.bounds(name) for piece in pieces]
            for day, known in enumerate(bounds):
                assert known is not None, name
                assert not known.has_null, name
                assert to_micros(known.low) == _FIRST + day * DAY, name
                assert 0 <= to_micros(known.high) - to_micros(_DAYS[day][name].to_list()[1]) < 1000, name

    def test_a_range_of_times_holds_the_rows_without_a_time(self, tmp_path: Path) -> None:
        """They are of no range and of all of them: whoever reads a range finds them."""
        for name in ("date", "whole", "naive", "utc"):
            frame = pl.concat(_DAYS)
            frame = frame.select("user", pl.when(pl.col("user") != 4).then(pl.col(name)).alias("time"))
            source = Source("rows", self.make(tmp_path, frame), time="time")
            for begin, until, users in (
                (_FIRST + DAY, _FIRST + 2 * DAY, [2, 3, 4]),
                (None, _FIRST + 1, [0, 4] if name != "date" else [0, 1, 4]),
                (_FIRST + 2 * DAY, None, [4, 5]),
            ):
                inside = source.during(source.table().scan(), begin, until)
                found = source.scan().filter(inside).select("user").collect()["user"]
                assert found.to_list() == users, (name, begin, until)

    def test_a_missing_table_is_an_error(self, tmp_path: Path) -> None:
        """It names the table, and says what to do."""
        table = self.missing(tmp_path)
        if table is None:
            return
        table = table.rooted(tmp_path, "source 'orders'")
        calls: list[Callable[[], object]] = [table.schema, table.snapshot, lambda: table.scan().collect()]
        for call in calls:
            error = _data_error(call)
            assert error is not None
            assert (error.where or "").startswith("source 'orders': ")
            assert error.hint

    def test_a_row_has_a_name(self, tmp_path: Path) -> None:
        """Different rows have different names."""
        table = self.make(tmp_path, FRAME)
        names = [table.row_name(row) for row in range(4)]
        assert len(set(names)) == 4
        assert all(names)


def _is_unreadable(rows: pl.LazyFrame) -> bool:
    try:
        rows.select("user").collect()
    except (DataError, *UNREADABLE):
        return True
    return False


def _data_error(call: Callable[[], object]) -> DataError | None:
    try:
        call()
    except DataError as error:
        return error
    return None
