"""Every kind of table does what the contract says; Parquet says what is wrong with its files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import lance
import polars as pl
import pytest
from deltalake import write_deltalake
from lake import Warehouse, postgres_table, schema_name
from postgres import Server

from bedplate.errors import DataError
from bedplate.sources.base import ALWAYS, Source, Table
from bedplate.sources.delta import DeltaTable
from bedplate.sources.iceberg import IcebergTable
from bedplate.sources.lance import LanceTable
from bedplate.sources.memory import MemoryTable
from bedplate.sources.parquet import ParquetTable
from bedplate.sources.postgresql import PostgreSQLTable
from bedplate.testing.tables import TableContract

A = pl.DataFrame({"x": [1, 2], "y": [1.0, 2.0]})
SIGNED = {pl.UInt8(): pl.Int16(), pl.UInt16(): pl.Int32(), pl.UInt32(): pl.Int64()}
UTC = pl.Datetime("us", "UTC")


class TestMemoryTable(TableContract):
    def make(self, folder: Path, frame: pl.DataFrame) -> Table:
        return MemoryTable(frame)

    def missing(self, folder: Path) -> Table | None:
        return None


def in_order_of_writing(found: Iterable[Path], count: int) -> Callable[[int], None]:
    """What takes away the file of a day, of files that were written one after the other."""
    files = sorted(found, key=lambda p: p.stat().st_mtime_ns)
    assert len(files) == count
    return lambda day: files[day].unlink()


class ParquetContract(TableContract):
    def missing(self, folder: Path) -> Table | None:
        return ParquetTable("missing.parquet", folder, "source 'orders'")


def damage_rows(file: Path) -> None:
    """Makes the rows of a Parquet file unreadable; what its footer says stays."""
    content = bytearray(file.read_bytes())
    length = int.from_bytes(content[-8:-4], "little")
    content[4 : -8 - length] = bytes(len(content) - 12 - length)
    file.write_bytes(content)


class TestParquetFile(ParquetContract):
    def make(self, folder: Path, frame: pl.DataFrame) -> Table:
        frame.write_parquet(folder / "rows.parquet")
        return ParquetTable("rows.parquet", folder)


class TestParquetFolder(ParquetContract):
    def make(self, folder: Path, frame: pl.DataFrame) -> Table:
        middle = len(frame) // 2
        (folder / "rows" / "later").mkdir(parents=True, exist_ok=True)
        frame[:middle].write_parquet(folder / "rows" / "a.parquet")
        frame[middle:].write_parquet(folder / "rows" / "later" / "a.parquet")
        return ParquetTable("rows", folder)

    def days(self, folder: Path, frames: Sequence[pl.DataFrame]) -> tuple[Table, Callable[[int], None]]:
        folder.mkdir()
        files = [folder / f"{day}.parquet" for day in range(len(frames))]
        for file, frame in zip(files, frames, strict=True):
            frame.write_parquet(file)
        return ParquetTable(".", folder), lambda day: damage_rows(files[day])


class TestPartitionedParquet(ParquetContract):
    def make(self, folder: Path, frame: pl.DataFrame) -> Table:
        """Part of a partition column is in the folder, and part in the files, which hold all: theirs is what counts."""
        for place, rows in (("user=7/day=2026-01-01", frame[:2]), ("user=8/day=x", frame[2:])):
            (folder / "rows" / place).mkdir(parents=True, exist_ok=True)
            rows.write_parquet(folder / "rows" / place / "a.parquet")
        return ParquetTable("rows" if {"day", "user"} <= set(frame.columns) else "rows/*/*/*.parquet", folder)

    def days(self, folder: Path, frames: Sequence[pl.DataFrame]) -> tuple[Table, Callable[[int], None]]:
        files = [folder / f"day={day}" / "a.parquet" for day in range(len(frames))]
        for file, frame in zip(files, frames, strict=True):
            file.parent.mkdir(parents=True)
            frame.write_parquet(file)
        return ParquetTable(".", folder), lambda day: damage_rows(files[day])


class TestParquetGlob(ParquetContract):
    def make(self, folder: Path, frame: pl.DataFrame) -> Table:
        for name, begin in (("part-1.parquet", 0), ("part-2.parquet", 1)):
            (frame[begin:] if begin else frame[:1]).write_parquet(folder / name)
        (folder / "part-3").mkdir(exist_ok=True)
        return ParquetTable(str(folder / "part-*"), folder)


class TestDeltaTable(TableContract):
    def make(self, folder: Path, frame: pl.DataFrame) -> Table:
        write_deltalake(folder / "rows", frame[:1], mode="overwrite", schema_mode="overwrite")
        write_deltalake(folder / "rows", frame[1:], mode="append")
        return DeltaTable("rows", root=folder)

    def missing(self, folder: Path) -> Table | None:
        return DeltaTable("missing")

    def days(self, folder: Path, frames: Sequence[pl.DataFrame]) -> tuple[Table, Callable[[int], None]]:
        for frame in frames:
            write_deltalake(folder, frame, mode="append")
        return DeltaTable(folder), in_order_of_writing(folder.glob("*.parquet"), len(frames))

    def read_as(self, dtype: pl.DataType) -> pl.DataType | None:
        if isinstance(dtype, pl.Datetime):
            return pl.Datetime("us") if dtype.time_zone is None else UTC
        return None if dtype.is_unsigned_integer() else dtype


class TestIcebergTable(TableContract):
    def make(self, folder: Path, frame: pl.DataFrame) -> Table:
        name = schema_name(frame)
        with Warehouse(folder) as warehouse:
            warehouse.write(name, frame[:1])
            warehouse.append(name, frame[1:])
        return IcebergTable(f"shop/{name}", root=folder)

    def missing(self, folder: Path) -> Table | None:
        return IcebergTable("missing")

    def read_as(self, dtype: pl.DataType) -> pl.DataType | None:
        if isinstance(dtype, pl.Datetime):
            has_form = dtype.time_unit != "ns" and dtype.time_zone in (None, "UTC")
            return pl.Datetime("us", dtype.time_zone) if has_form else None
        small = dtype in (pl.Int8, pl.Int16)
        return None if dtype.is_unsigned_integer() else pl.Int32() if small else dtype

    def days(self, folder: Path, frames: Sequence[pl.DataFrame]) -> tuple[Table, Callable[[int], None]]:
        folder.mkdir()
        with Warehouse(folder) as warehouse:
            warehouse.create("days", frames[0])
            for frame in frames:
                warehouse.append("days", frame)
        return IcebergTable("shop/days", root=folder), in_order_of_writing(folder.rglob("*.parquet"), len(frames))


class TestLanceTable(TableContract):
    def make(self, folder: Path, frame: pl.DataFrame) -> Table:
        lance.write_dataset(frame[:1].to_arrow(), folder / "rows", mode="overwrite")
        lance.write_dataset(frame[1:].to_arrow(), folder / "rows", mode="append")
        return LanceTable("rows", root=folder)

    def missing(self, folder: Path) -> Table | None:
        return LanceTable("missing")


class TestPostgreSQLTable(TableContract):
    @pytest.fixture(autouse=True)
    def _server(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server = server
        monkeypatch.setenv("BEDPLATE_TEST_SERVER", server.uri())

    def make(self, folder: Path, frame: pl.DataFrame) -> Table:
        return postgres_table(self.server, folder, frame)

    def missing(self, folder: Path) -> Table | None:
        return PostgreSQLTable("missing", env="BEDPLATE_TEST_SERVER")

    def read_as(self, dtype: pl.DataType) -> pl.DataType | None:
        if isinstance(dtype, pl.Datetime):
            return pl.Datetime("us") if dtype.time_zone is None else UTC
        return SIGNED.get(dtype, pl.Int16() if dtype == pl.Int8 else dtype)


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


@pytest.mark.parametrize(
    ("new", "modified"),
    [
        ({"c": A}, {}),
        ({"a0": A[:1]}, {}),  # between the others
        ({"a0": A, "z/b": A[1:]}, {}),
        ({"z": A}, {"z": 1}),  # an old file, such as one of a restored backup
        ({"c": A}, {"a": 5, "b": 5, "c": 5}),  # written at once, as far as the file system tells
    ],
)
def test_files_are_read_as_they_were_whatever_came_since(tmp_path, new, modified):
    (tmp_path / "z").mkdir()
    before = write(tmp_path, a=A, b=A.select(pl.all() * 10))
    for name in modified.keys() - new.keys():
        os.utime(tmp_path / f"{name}.parquet", ns=(0, modified[name]))
    then, rows, pieces = before.snapshot(), before.scan().collect(), [p.id for p in before.pieces()]
    late = [tmp_path / f"{name}.parquet" for name in new]
    table = write(tmp_path, **{name: frame.with_columns(more=1) for name, frame in new.items()})
    newest = max(p.stat().st_mtime_ns for p in tmp_path.glob("[ab].parquet"))
    for i, (file, name) in enumerate(zip(late, new, strict=True), 1):
        os.utime(file, ns=(0, modified.get(name, newest + i)))
    assert table.snapshot().id != then.id
    past = table.at(then.id)
    assert past is not None
    assert past.snapshot() == then
    assert past.scan().collect().equals(rows), "without the column that came later"
    assert [p.id for p in past.pieces()] == pieces
    assert past.row_name(3) == "row 1 of b.parquet"
    for file in late:
        file.unlink()
    assert table.snapshot() == then
    (tmp_path / "b.parquet").unlink()
    with pytest.raises(DataError, match=r"b\.parquet: the file is gone since the table was opened as it was"):
        past.scan()


def test_files_that_were_written_anew_are_not_what_they_were(tmp_path):
    then = write(tmp_path, a=A, b=A).snapshot().id
    os.utime(tmp_path / "a.parquet", (1, 1))
    assert write(tmp_path, c=A).at(then) is None


def test_a_source_is_pinned_to_a_state_or_says_that_it_is_gone(tmp_path):
    source = Source("rows", ".", time=ALWAYS)
    then = write(tmp_path, a=A).snapshot().id
    write(tmp_path, b=A)
    source.pin(then, tmp_path)
    assert source.scan(tmp_path).collect()["x"].to_list() == [1, 2]
    with pytest.raises(DataError, match=r"source 'rows' is in another state now and can't be read in that of snap"):
        source.pin("0123456789abcdef", tmp_path)


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
    ("second", "problem"),
    [
        (A.drop("y"), "it is not there in b.parquet, in a.parquet it is Float64"),
        (A.cast({"y": pl.Float32}), "it is Float32 in b.parquet, in a.parquet it is Float64"),
    ],
)
def test_a_column_on_which_files_disagree_can_not_be_used(tmp_path, second, problem):
    """It is named with both files where it is used, and does no harm where it is not."""
    table = write(tmp_path, a=A, b=second, c=A)
    assert table.unreadable_columns() == {"y": problem}
    assert table.snapshot().rows == 6
    assert [piece.rows for piece in table.pieces()] == [2, 2, 2]
    assert table.scan().select("x").collect()["x"].to_list() == [1, 2] * 3
    for rows in (table.scan(), *(piece.scan() for piece in table.pieces())):
        for query in (rows.select("y"), rows.filter(pl.col("y") > 1).select("x"), rows.select(pl.col("y").sum())):
            with pytest.raises(DataError) as caught:
                query.collect()
            assert caught.value.message == f"the column 'y' can't be read: {problem}"
            assert (caught.value.where, bool(caught.value.hint)) == (str(tmp_path), True)


def test_a_column_that_later_files_add_is_null_before(tmp_path):
    table = write(tmp_path, a=A, b=A.with_columns(z=pl.Series([7, 8])))
    assert dict(table.schema()) == {"x": pl.Int64(), "y": pl.Float64(), "z": pl.Int64()}
    assert table.unreadable_columns() == {}
    assert table.scan().collect()["z"].to_list() == [None, None, 7, 8]
    assert [piece.scan().collect()["z"].to_list() for piece in table.pieces()] == [[None, None], [7, 8]]


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
