"""The contract suite of tables: what an implementation of `Table` must do, as a test class to inherit.

class TestMyTable(TableContract):
    def make(self, folder: Path, frame: pl.DataFrame) -> Table:
        return MyTable(folder, frame)
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl

from bedplate.errors import BedplateError
from bedplate.sources.base import Source, Table

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


class TableContract:
    """Inherit, say how a table is made, and run with pytest."""

    def make(self, folder: Path, frame: pl.DataFrame) -> Table:
        """A table that holds the frame; made in the same folder again, it holds the new frame."""
        raise BedplateError("a contract suite says how its table is made", where=type(self).__name__)

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

    def test_a_source_takes_it(self, tmp_path: Path) -> None:
        """A source is made of the table, and gives its rows with the times in microseconds."""
        source = Source("rows", self.make(tmp_path, FRAME), time="time")
        assert dict(source.schema()) == dict(FRAME.schema)
        rows = source.scan().collect()
        assert rows["user"].to_list() == [3, 1, 3, 2]
        assert rows["__time__"].to_list() == [t.timestamp() * 1_000_000 for t in FRAME["time"]]
