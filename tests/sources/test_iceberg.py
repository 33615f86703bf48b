"""Iceberg tables: snapshots that are pinned, files that are left out, columns that change, and what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
from lake import Warehouse
from pyiceberg.table import Table as Iceberg
from pyiceberg.types import LongType, StringType
from pyiceberg.utils.config import Config

from bedplate.errors import DataError, DefinitionError
from bedplate.sources.base import Source
from bedplate.sources.iceberg import IcebergTable

DAYS = [date(2026, 1, d) for d in (1, 2, 3)]
ROWS = pl.DataFrame({"n": [1, 2, 3], "day": DAYS, "time": DAYS, "x": [0.5, None, 2.5]}).with_columns(
    pl.col("time").cast(pl.Datetime("us", "UTC"))
)


@pytest.fixture
def shop(tmp_path: Path) -> Generator[Warehouse]:
    with Warehouse(tmp_path) as warehouse:
        yield warehouse


def table(folder: Path, **options) -> IcebergTable:
    return IcebergTable("shop/rows", root=folder, **options)


def numbers(rows: pl.LazyFrame) -> list[int]:
    return rows.select("n").collect()["n"].to_list()


def files(written: Iceberg) -> list[Path]:
    """The data files of a table, by path."""
    return sorted(Path(t.file.file_path.removeprefix("file://")) for t in written.scan().plan_files())


def test_rows_come_in_the_order_in_which_they_were_added(shop, tmp_path):
    shop.write("rows", ROWS)
    for i in range(1, 4):
        shop.append("rows", ROWS.with_columns(n=pl.col("n") + 10 * i))
    assert numbers(table(tmp_path).scan()) == [n + 10 * i for i in range(4) for n in (1, 2, 3)]


def test_a_snapshot_is_pinned_when_it_is_first_looked_at(shop, tmp_path):
    shop.write("rows", ROWS)
    pinned = table(tmp_path)
    before = pinned.snapshot()
    shop.append("rows", ROWS)
    assert (pinned.snapshot(), numbers(pinned.scan()), len(pinned.pieces())) == (before, [1, 2, 3], 1)
    newest = table(tmp_path)
    assert newest.snapshot().text.endswith(", 2 files, 6 rows")
    assert newest.pieces()[0].id == pinned.pieces()[0].id
    assert numbers(newest.pieces()[1].scan()) == [1, 2, 3]


def test_an_older_snapshot_is_named_by_id_or_time(shop, tmp_path):
    shop.write("rows", ROWS)
    first = shop.table("rows").current_snapshot()
    shop.append("rows", ROWS[:1])
    old = table(tmp_path, snapshot=first.snapshot_id)
    assert numbers(old.scan()) == [1, 2, 3]
    assert table(tmp_path, at=datetime.fromtimestamp(first.timestamp_ms / 1000, UTC)).snapshot() == old.snapshot()
    assert numbers(table(tmp_path, at="2199-01-01").scan()) == [1, 2, 3, 1]
    url = f"iceberg:shop/rows?snapshot={first.snapshot_id}"
    assert Source("s", url, time="time").table(tmp_path).snapshot() == old.snapshot()


def test_an_earlier_state_is_found_by_its_snapshot(shop, tmp_path):
    shop.write("rows", ROWS)
    states = [table(tmp_path).snapshot()]
    for i in range(2):
        shop.append("rows", ROWS.with_columns(n=pl.col("n") + i))
        states.append(table(tmp_path).snapshot())
    past = IcebergTable(f"{tmp_path.name}/shop/rows").rooted(tmp_path.parent, "source 's'").at(states[0].id)
    assert past is not None
    assert (past.snapshot(), numbers(past.scan())) == (states[0], [1, 2, 3])
    first = int(states[0].text.split(",")[0].removeprefix("snapshot "))
    assert table(tmp_path, snapshot=first).at(states[2].id) is None, "later than the one that was asked for"


def test_a_table_is_named_by_its_catalogue_its_folder_or_its_metadata_file(shop, tmp_path, monkeypatch):
    shop.write("rows", ROWS)
    monkeypatch.setenv("PYICEBERG_CATALOG__PROD__URI", shop.uri)
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # it looks at the environment when it is imported
    by_name = Source("s", "iceberg:shop.rows?catalog=prod", time="time").table()
    location = shop.table("rows").metadata_location.removeprefix("file://")
    tables = [by_name, table(tmp_path), IcebergTable(location), IcebergTable(f"file://{location}")]
    assert len({t.snapshot().id for t in tables}) == 1
    assert numbers(by_name.scan()) == [1, 2, 3]
    by_name._state.table.catalog.engine.dispose()


def test_a_file_that_no_row_is_wanted_of_is_not_opened(shop, tmp_path):
    with shop.create("rows", ROWS).update_spec() as change:
        change.add_identity("day")
    shop.append("rows", ROWS)
    next(p for p in files(shop.table("rows")) if "day=2026-01-02" in str(p)).unlink()
    rows = table(tmp_path).scan()
    assert numbers(rows.filter(pl.col("day") > date(2026, 1, 2))) == [3]
    assert numbers(rows.filter(pl.col("time") < datetime(2026, 1, 2, tzinfo=UTC))) == [1]
    assert numbers(rows.filter(pl.col("n") == 3)) == [3]
    for condition in (pl.col("day") >= date(2026, 1, 2), pl.lit(value=True)):
        with pytest.raises(DataError, match=r"^iceberg:shop/rows: can't read the table: .*day=2026-01-02"):
            numbers(rows.filter(condition))


def test_a_new_column_is_null_before_and_changes_nothing_else(shop, tmp_path):
    shop.write("rows", ROWS)
    before = table(tmp_path)
    assert before.snapshot().rows == 3
    with shop.table("rows").update_schema() as change:
        change.add_column("more", StringType())
    after = table(tmp_path)
    assert after.snapshot() == before.snapshot()
    assert [p.id for p in after.pieces()] == [p.id for p in before.pieces()]
    assert list(after.schema()) == [*ROWS.columns, "more"]
    assert after.scan().collect()["more"].to_list() == [None] * 3
    shop.append("rows", ROWS.with_columns(more=pl.lit("m")))
    assert table(tmp_path).scan().collect()["more"].to_list() == [None] * 3 + ["m"] * 3


def test_a_renamed_column_has_its_values_and_is_another_state(shop, tmp_path):
    shop.write("rows", ROWS)
    before = table(tmp_path).snapshot()
    with shop.table("rows").update_schema() as change:
        change.rename_column("n", "m")
    assert table(tmp_path).scan().collect()["m"].to_list() == [1, 2, 3]
    renamed = table(tmp_path).snapshot().id
    with shop.table("rows").update_schema() as change:
        change.add_column("n", LongType())
    refilled = table(tmp_path)
    assert numbers(refilled.scan().filter(pl.col("m") > 1)) == [None, None]
    assert numbers(refilled.scan().filter(pl.col("n").is_null())) == [None] * 3
    assert len({before.id, renamed, refilled.snapshot().id}) == 3
    old = table(tmp_path, snapshot=shop.table("rows").current_snapshot().snapshot_id)
    assert old.snapshot().id == before.id
    assert numbers(old.scan().filter(pl.col("n") > 1)) == [2, 3]


def test_a_widened_column_has_the_wider_type(shop, tmp_path):
    rows = ROWS.cast({"n": pl.Int32})
    shop.write("rows", rows)
    with shop.table("rows").update_schema() as change:
        change.update_column("n", LongType())
    shop.append("rows", ROWS.with_columns(n=pl.col("n") + 2**53))
    found = table(tmp_path)
    assert found.schema()["n"] == pl.Int64()
    assert numbers(found.scan()) == [1, 2, 3, *(n + 2**53 for n in (1, 2, 3))]


def test_deleted_rows_are_left_out(shop, tmp_path):
    shop.write("rows", ROWS)
    before = table(tmp_path).snapshot()
    shop.table("rows").delete("n = 2")
    after = table(tmp_path)
    assert (numbers(after.scan()), after.snapshot().rows) == ([1, 3], 2)
    assert after.snapshot().id != before.id
    assert sum(p.rows for p in after.pieces()) == 2


def test_a_table_that_was_never_written_is_empty(shop, tmp_path):
    shop.create("rows", ROWS)
    rows = table(tmp_path)
    assert (rows.snapshot().rows, rows.scan().collect().height, rows.pieces()) == (0, 0, [])
    assert dict(rows.schema()) == dict(ROWS.schema)


def test_a_row_is_named_by_its_file(shop, tmp_path):
    shop.write("rows", ROWS)
    first = files(shop.table("rows"))[0]
    rows = table(tmp_path)
    assert [rows.row_name(i) for i in (2, 3)] == [f"row 2 of {first.name}", "row 3"]


def test_states_that_are_not_there(shop, tmp_path):
    shop.write("rows", ROWS)
    number = shop.table("rows").current_snapshot().snapshot_id
    with pytest.raises(DataError, match=rf"no snapshot 7\n  snapshots: {number}"):
        table(tmp_path, snapshot=7).snapshot()
    with pytest.raises(DataError, match=r"no snapshot was current at 1999-01-01; the first is of 20"):
        table(tmp_path, at="1999-01-01").snapshot()
    with pytest.raises(DefinitionError, match="got at and snapshot, expected at most one"):
        table(tmp_path, snapshot=1, at="2026-01-01")


def test_two_newest_metadata_files_are_refused(shop, tmp_path):
    shop.write("rows", ROWS)
    newest = max((tmp_path / "shop" / "rows" / "metadata").glob("*.metadata.json"))
    shutil.copy(newest, newest.with_name(newest.name[:6] + "other.metadata.json"))
    with pytest.raises(DataError, match=r"2 metadata files of its folder are the newest, expected one\n  name the"):
        table(tmp_path).schema()


@pytest.mark.parametrize("damage", ["", "{not json", '{"format-version": 2}'])
def test_damaged_metadata_is_an_error(shop, tmp_path, damage):
    shop.write("rows", ROWS)
    max((tmp_path / "shop" / "rows" / "metadata").glob("*.metadata.json")).write_text(damage)
    rows = table(tmp_path)
    for call in (rows.schema, rows.snapshot, rows.scan):
        with pytest.raises(DataError, match=r"^iceberg:shop/rows: can't read the table: "):
            call()


def test_a_damaged_list_of_files_is_an_error(shop, tmp_path):
    shop.write("rows", ROWS)
    for path in (tmp_path / "shop" / "rows" / "metadata").glob("*.avro"):
        path.write_bytes(b"Obj\x01 and nothing else")
    with pytest.raises(DataError, match=r"^iceberg:shop/rows: can't read the table: "):
        table(tmp_path).snapshot()


def test_a_catalogue_that_nobody_described():
    with pytest.raises(
        DataError, match=r"^iceberg:shop.rows in the catalog 'other': can't read the table: .*\n  name a"
    ):
        IcebergTable("shop.rows", catalog="other").schema()
