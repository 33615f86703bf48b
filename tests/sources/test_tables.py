"""Every table does what the contract says; Parquet says what is wrong with its files."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest

from bedplate.errors import DataError
from bedplate.sources.base import Table
from bedplate.sources.memory import MemoryTable
from bedplate.sources.parquet import ParquetTable
from bedplate.testing.tables import TableContract

A = pl.DataFrame({"x": [1, 2], "y": [1.0, 2.0]})


class TestMemoryTable(TableContract):
    def make(self, folder: Path, frame: pl.DataFrame) -> Table:
        return MemoryTable(frame)


class TestParquetFile(TableContract):
    def make(self, folder: Path, frame: pl.DataFrame) -> Table:
        frame.write_parquet(folder / "rows.parquet")
        return ParquetTable("rows.parquet", folder)


class TestParquetFolder(TableContract):
    def make(self, folder: Path, frame: pl.DataFrame) -> Table:
        middle = len(frame) // 2
        (folder / "rows" / "later").mkdir(parents=True, exist_ok=True)
        frame[:middle].write_parquet(folder / "rows" / "a.parquet")
        frame[middle:].write_parquet(folder / "rows" / "later" / "a.parquet")
        return ParquetTable("rows", folder)


class TestParquetGlob(TableContract):
    def make(self, folder: Path, frame: pl.DataFrame) -> Table:
        for name, begin in (("part-1.parquet", 0), ("part-2.parquet", 1)):
            (frame[begin:] if begin else frame[:1]).write_parquet(folder / name)
        (folder / "part-3").mkdir(exist_ok=True)
        return ParquetTable(str(folder / "part-*"), folder)


def write(folder: Path, **frames: pl.DataFrame) -> ParquetTable:
    for name, frame in frames.items():
        frame.write_parquet(folder / f"{name}.parquet")
    return ParquetTable(".", folder)


def test_files_are_read_in_the_order_of_their_paths(tmp_path):
    table = write(tmp_path, b=A, a=A.select(pl.all() * 10), c=A.select(pl.all() * 100))
    assert table.scan().collect()["x"].to_list() == [10, 20, 1, 2, 100, 200]
    assert [f.name for f in table.files()] == ["a.parquet", "b.parquet", "c.parquet"]


def test_a_file_is_a_piece_and_a_new_one_leaves_the_others_as_they_are(tmp_path):
    before = write(tmp_path, a=A, b=A[:1]).pieces()
    after = write(tmp_path, c=A).pieces()
    assert [p.rows for p in after] == [2, 1, 2]
    assert [p.id for p in after][:2] == [p.id for p in before]
    assert len({p.id for p in after}) == 3
    os.utime(tmp_path / "b.parquet", (1, 1))
    assert [p.id == q.id for p, q in zip(write(tmp_path).pieces(), after, strict=True)] == [True, False, True]


def test_a_name_with_brackets_is_a_name(tmp_path):
    A.write_parquet(tmp_path / "rows[1].parquet")
    A[:1].write_parquet(tmp_path / "rows1.parquet")
    table = ParquetTable("rows[1].parquet", tmp_path)
    assert (table.snapshot().rows, table.scan().collect()["x"].to_list()) == (2, [1, 2])


@pytest.mark.parametrize("pattern", ["gone.parquet", "*.parquet", ".", "/nowhere/at/all/*.parquet"])
def test_no_file_is_an_error(tmp_path, pattern):
    for call in ("schema", "snapshot", "scan"):
        with pytest.raises(DataError, match=r"no Parquet file found\n  the path is relative"):
            getattr(ParquetTable(pattern, tmp_path), call)()


@pytest.mark.parametrize("content", [b"", b"not a table at all", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_damaged_file_is_named(tmp_path, content):
    table = write(tmp_path, a=A)
    (tmp_path / "b.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"b\.parquet: can't read the table"):
        table.snapshot()
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet: can't read the table"):
        table.schema()


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (A.drop("y"), "the column 'y' is not there, in a.parquet it is Float64"),
        (A.with_columns(z=1), "the column 'z' is Int32, in a.parquet it is not there"),
        (A.cast({"x": pl.Int32}), "the column 'x' is Int32, in a.parquet it is Int64"),
        (A.rename({"y": "Y"}), "the column 'y' is not there, in a.parquet it is Float64"),
    ],
)
def test_files_of_other_columns_are_named(tmp_path, second, message):
    table = write(tmp_path, a=A, b=second)
    with pytest.raises(DataError) as caught:
        table.snapshot()
    assert caught.value.message == message
    assert caught.value.where == str(tmp_path / "b.parquet")
    assert caught.value.hint


def test_the_order_of_columns_may_differ(tmp_path):
    table = write(tmp_path, a=A, b=A.select("y", "x"))
    assert table.snapshot().rows == 4
    assert table.scan().collect()["x"].to_list() == [1, 2, 1, 2]


def test_a_snapshot_is_names_sizes_and_times(tmp_path):
    table = write(tmp_path, a=A)
    first, file = table.snapshot(), tmp_path / "a.parquet"
    state = file.stat()
    assert first.text == "1 file, 2 rows"
    A.write_parquet(file)
    os.utime(file, ns=(0, state.st_mtime_ns))
    assert table.snapshot() == first
    assert ParquetTable("a.parquet", tmp_path).snapshot() == first
    os.utime(file, ns=(0, state.st_mtime_ns + 1_000_000))
    touched = table.snapshot()
    assert touched.id != first.id
    write(tmp_path, b=A)
    grown = table.snapshot()
    assert (grown.rows, grown.text) == (4, "2 files, 4 rows")
    assert grown.id not in {first.id, touched.id}


def test_a_snapshot_does_not_depend_on_where_the_project_lies(tmp_path):
    ids = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        A.write_parquet(tmp_path / name / "a.parquet")
        os.utime(tmp_path / name / "a.parquet", ns=(0, 5_000_000_000))
        ids.add(ParquetTable("a.parquet", tmp_path / name).snapshot().id)
    assert len(ids) == 1
