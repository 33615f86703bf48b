"""Parquet files in folders whose names hold columns."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import polars as pl
import pytest

from bedplate.errors import DataError
from bedplate.sources.base import Source
from bedplate.sources.parquet import ParquetTable
from bedplate.sources.partition import partitions

A = pl.DataFrame({"x": [1, 2]})


def write(root: Path, *places: str, frame: pl.DataFrame = A) -> None:
    for place in places:
        (root / place).mkdir(parents=True, exist_ok=True)
        frame.write_parquet(root / place / "a.parquet")


def values(table: ParquetTable, column: str) -> list[object]:
    return table.scan().select(column).collect()[column].to_list()


@pytest.mark.parametrize(
    ("texts", "dtype", "expected"),
    [
        (["2026-01-01", "2026-01-31"], pl.Date(), [date(2026, 1, 1), date(2026, 1, 31)]),
        (["1", "-2", "030"], pl.Int64(), [1, -2, 30]),
        (["01", "x"], pl.String(), ["01", "x"]),
        (["2026-01-01", "2026-02-30"], pl.String(), ["2026-01-01", "2026-02-30"]),
        (["1", "1234567890123456789"], pl.String(), ["1", "1234567890123456789"]),
        (["1.5", ""], pl.String(), ["1.5", ""]),
        (["a%2Fb%20%C3%A4", "a+b=c"], pl.String(), ["a/b ä", "a+b=c"]),
        (["5", "__HIVE_DEFAULT_PARTITION__"], pl.Int64(), [5, None]),
        (["__HIVE_DEFAULT_PARTITION__"], pl.String(), [None]),
    ],
)
def test_values_have_the_type_that_all_of_them_have(texts, dtype, expected):
    files = [Path("t") / f"a%20b={text}" / "a.parquet" for text in texts]
    types, found = partitions(Path("t"), files)
    assert types == {"a b": dtype}
    assert [found[file] for file in files] == [{"a b": value} for value in expected]


@pytest.mark.parametrize("pattern", ["t", "t/*/*/*.parquet", "t/**/*.parquet", "t/year=*/**/a.parquet"])
def test_columns_are_read_after_those_of_the_files(tmp_path, pattern):
    root = tmp_path / "env=prod"
    write(root, "t/year=2026/day=2026-01-02", "t/year=2025/day=2025-01-02")
    table = ParquetTable(pattern, root)
    assert dict(table.schema()) == {"x": pl.Int64(), "year": pl.Int64(), "day": pl.Date()}
    expected = {"x": [1, 2, 1, 2], "year": [2025, 2025, 2026, 2026]}
    expected |= {"day": [date(2025, 1, 2)] * 2 + [date(2026, 1, 2)] * 2}
    assert table.scan().collect().to_dict(as_series=False) == expected
    assert pl.concat([p.scan() for p in table.pieces()]).collect().to_dict(as_series=False) == expected
    assert table.scan().select(pl.len()).collect().item() == 4
    assert values(table, "year") == expected["year"]
    assert [p.scan().slice(1, 1).collect()["x"].to_list() for p in table.pieces()] == [[2], [2]]


def test_folders_that_a_definition_names_hold_no_column(tmp_path):
    write(tmp_path, "t/year=2026/day=2026-01-02")
    assert dict(ParquetTable("t/year=2026", tmp_path).schema()) == {"x": pl.Int64(), "day": pl.Date()}
    assert dict(ParquetTable("t/year=2026/day=2026-01-02/a.parquet", tmp_path).schema()) == {"x": pl.Int64()}


def test_files_of_other_partitions_are_not_read(tmp_path):
    write(tmp_path, *(f"t/day=2026-01-0{d}/country={c}" for d in (1, 2) for c in ("nl", "be")))
    write(tmp_path, "t/day=__HIVE_DEFAULT_PARTITION__/country=nl", frame=A * 10)
    table = ParquetTable("t", tmp_path)
    rows, pieces = table.scan(), table.pieces()
    for file in (tmp_path / "t").glob("day=2026-01-0*/*/*"):
        if "day=2026-01-02/country=be" not in file.as_posix():
            file.unlink()
    asked = (pl.col("day") == date(2026, 1, 2)) & (pl.col("country") == "be")
    assert rows.filter(asked).select("x").collect()["x"].to_list() == [1, 2]
    assert rows.filter(asked & (pl.col("x") > 1)).collect()["x"].to_list() == [2]
    with pytest.raises(DataError, match="can't read the table"):
        rows.filter(pl.col("country") == "be").collect()
    assert [piece.bounds("day") is not None for piece in pieces] == [True] * 5
    assert [bool(b and b.is_null) for b in (p.bounds("day") for p in pieces)] == [False] * 4 + [True]


def test_a_null_is_a_null(tmp_path):
    write(tmp_path, "t/day=2026-01-01", "t/day=__HIVE_DEFAULT_PARTITION__")
    table = ParquetTable("t", tmp_path)
    assert values(table, "day") == [date(2026, 1, 1)] * 2 + [None] * 2
    assert table.scan().filter(pl.col("day").is_null()).select(pl.len()).collect().item() == 2


def test_a_column_that_a_file_holds_is_that_of_the_files(tmp_path):
    write(tmp_path, "t/x=7")
    write(tmp_path, "t/x=8", frame=A * 10)
    table = ParquetTable("t", tmp_path)
    assert dict(table.schema()) == {"x": pl.Int64()}
    assert values(table, "x") == [1, 2, 10, 20]
    write(tmp_path, "t/x=9", frame=A.rename({"x": "y"}))
    assert table.unreadable_columns() == {"x": "it is not there in t/x=9/a.parquet, in t/x=7/a.parquet it is Int64"}
    assert values(table, "y") == [None] * 4 + [1, 2]


def test_a_file_in_no_such_folder_lacks_the_column(tmp_path):
    write(tmp_path, "t/a", "t/day=2026-01-01")
    assert values(ParquetTable("t", tmp_path), "day") == [None, None, date(2026, 1, 1), date(2026, 1, 1)]
    write(tmp_path, "t/z")
    table = ParquetTable("t", tmp_path)
    assert list(table.unreadable_columns()) == ["day"]
    with pytest.raises(DataError, match=r"the column 'day' can't be read: it is not there in t/z/a\.parquet"):
        table.scan().select("day").collect()
    for rows in (table.scan(), pl.concat([p.scan() for p in table.pieces()])):
        assert rows.select("x").collect()["x"].to_list() == [1, 2] * 3


def test_another_value_is_another_state(tmp_path):
    write(tmp_path, "t/day=2026-01-01")
    before = ParquetTable("t", tmp_path)
    state, pieces = before.snapshot(), before.pieces()
    (tmp_path / "t/day=2026-01-01").rename(tmp_path / "t/day=2026-01-02")
    after = ParquetTable("t", tmp_path)
    assert after.snapshot().id != state.id
    assert after.pieces()[0].id != pieces[0].id


def test_a_source_takes_such_a_column_as_its_time(tmp_path):
    write(tmp_path, "t/day=2026-01-01", "t/day=2026-01-03")
    source = Source("s", "t", time="day")
    assert source.schema(tmp_path)["day"] == pl.Date()
    days = source.scan(tmp_path).collect()["__time__"].to_list()
    assert [(d - days[0]) // 86_400_000_000 for d in days] == [0, 0, 2, 2]
    assert source.table(tmp_path).row_name(3) == "row 1 of t/day=2026-01-03/a.parquet"
