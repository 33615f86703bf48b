"""Lance tables: versions that are pinned, columns that are not read, deleted rows, and what is wrong."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import lance
import polars as pl
import pytest

from bedplate.errors import DataError, DefinitionError
from bedplate.sources.base import Source
from bedplate.sources.lance import LanceTable

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = pl.DataFrame({"n": [1, 2, 3], "time": [NEW_YEAR + timedelta(days=i) for i in range(3)], "x": [0.5, None, 2.5]})


def write(folder: Path, rows: pl.DataFrame, mode: str = "append") -> None:
    lance.write_dataset(rows.to_arrow(), folder / "rows", mode=mode if (folder / "rows").exists() else "create")


def table(folder: Path, **options) -> LanceTable:
    return LanceTable("rows", root=folder, **options)


def numbers(rows: pl.LazyFrame) -> list[int]:
    return rows.select("n").collect()["n"].to_list()


def test_a_version_is_pinned_when_it_is_first_looked_at(tmp_path):
    write(tmp_path, ROWS)
    pinned = table(tmp_path)
    before = pinned.snapshot()
    write(tmp_path, ROWS.with_columns(n=pl.col("n") + 10))
    assert (pinned.snapshot(), numbers(pinned.scan()), len(pinned.pieces())) == (before, [1, 2, 3], 1)
    newest = table(tmp_path)
    assert newest.snapshot().text == "version 2, 2 fragments, 6 rows"
    assert numbers(newest.scan()) == [1, 2, 3, 11, 12, 13]
    assert newest.pieces()[0].id == pinned.pieces()[0].id
    assert numbers(newest.pieces()[1].scan()) == [11, 12, 13]


def test_an_older_version_is_named_by_number_or_time(tmp_path):
    write(tmp_path, ROWS)
    between = datetime.now(UTC)
    time.sleep(0.002)
    write(tmp_path, ROWS[:1], "overwrite")
    old = table(tmp_path, version=1)
    assert numbers(old.scan()) == [1, 2, 3]
    assert table(tmp_path, at=between).snapshot() == old.snapshot()
    assert numbers(table(tmp_path, at="2199-01-01").scan()) == [1]
    assert Source("s", "lance:rows?version=1", time="time").table(tmp_path).snapshot() == old.snapshot()


def test_an_earlier_state_is_found_by_its_snapshot(tmp_path):
    write(tmp_path, ROWS)
    then = table(tmp_path, columns=["n"]).snapshot().id
    for i in range(2):
        write(tmp_path, ROWS.with_columns(n=pl.col("n") + i))
    past = LanceTable(f"{tmp_path.name}/rows", columns=["n"]).rooted(tmp_path.parent, "source 's'").at(then)
    assert past is not None
    assert (past.snapshot().id, numbers(past.scan())) == (then, [1, 2, 3])
    write(tmp_path, ROWS, "overwrite")
    assert table(tmp_path, version=1, columns=["n"]).at(table(tmp_path, columns=["n"]).snapshot().id) is None, "later"


def test_a_column_that_is_not_needed_is_not_read(tmp_path):
    write(tmp_path, ROWS)
    before = table(tmp_path, columns=["time", "n"]), table(tmp_path)
    ids = [t.snapshot().id for t in before]
    lance.dataset(tmp_path / "rows").add_columns({"double": "n * 2"})
    assert [p.name for p in (tmp_path / "rows" / "data").iterdir()] != []
    newest = max((tmp_path / "rows" / "data").iterdir(), key=lambda p: p.stat().st_mtime_ns)
    newest.write_bytes(b"not a column at all")
    assert numbers(table(tmp_path).scan().filter(pl.col("n") > 1)) == [2, 3]
    with pytest.raises(DataError, match=r"^lance:rows: can't read the table: "):
        table(tmp_path).scan().select("double").collect()
    narrow, wide = table(tmp_path, columns=["time", "n"]), table(tmp_path)
    assert list(narrow.schema()) == ["n", "time"]
    assert [narrow.snapshot().id == ids[0], wide.snapshot().id == ids[1]] == [True, False]
    assert Source("s", "lance:rows?columns=n,time", time="time").table(tmp_path).snapshot() == narrow.snapshot()


def test_a_condition_is_answered_by_the_format(tmp_path, monkeypatch):
    """The rows that are read are those that the condition leaves: the others never reach Polars."""
    write(tmp_path, ROWS)
    rows, read = table(tmp_path), list[int]()
    frame = pl.DataFrame

    def counted(*args: object, **options: object) -> pl.DataFrame:
        made = frame(*args, **options)
        read.append(made.height)
        return made

    monkeypatch.setattr("bedplate.sources.lance.pl.DataFrame", counted)
    assert rows.scan().filter(pl.col("time") >= NEW_YEAR + timedelta(days=2)).collect().height == 1
    assert max(read) == 1


def test_deleted_and_changed_rows_are_another_state(tmp_path):
    write(tmp_path, ROWS)
    before = table(tmp_path)
    assert before.snapshot().rows == 3
    lance.dataset(tmp_path / "rows").delete("n = 2")
    after = table(tmp_path)
    assert (numbers(after.scan()), after.snapshot().rows) == ([1, 3], 2)
    lance.dataset(tmp_path / "rows").update({"x": "7.0"}, where="n = 3")
    updated = table(tmp_path)
    assert sorted(updated.scan().collect()["x"].to_list()) == [0.5, 7.0]
    assert len({t.snapshot().id for t in (before, after, updated)}) == 3
    assert [p.rows for p in updated.pieces()] == [len(p.scan().collect()) for p in updated.pieces()]


def test_an_index_changes_nothing(tmp_path):
    write(tmp_path, pl.concat([ROWS] * 100))
    before = table(tmp_path).snapshot()
    lance.dataset(tmp_path / "rows").create_scalar_index("n", "BTREE")
    assert lance.dataset(tmp_path / "rows").version == 2
    after = table(tmp_path)
    assert after.snapshot().id == before.id
    assert numbers(after.scan().filter(pl.col("n") == 2)) == [2] * 100


def test_a_row_is_named_by_its_fragment(tmp_path):
    write(tmp_path, ROWS)
    write(tmp_path, ROWS)
    rows = table(tmp_path)
    assert [rows.row_name(i) for i in (2, 3, 6)] == ["row 2 of fragment 0", "row 0 of fragment 1", "row 6"]


def test_versions_and_columns_that_are_not_there(tmp_path):
    write(tmp_path, ROWS)
    with pytest.raises(DataError, match=r"^lance:rows: can't read the version 7: .*7\.manifest"):
        table(tmp_path, version=7).snapshot()
    with pytest.raises(DataError, match=r"no version was there at 1999-01-01; the first kept is of 20"):
        table(tmp_path, at="1999-01-01").snapshot()
    with pytest.raises(DefinitionError, match=r"no column 'm'\n  columns: n, time, x"):
        table(tmp_path, columns=["m"]).schema()
    with pytest.raises(DefinitionError, match="got at and version, expected at most one"):
        table(tmp_path, version=1, at="2026-01-01")


@pytest.mark.parametrize("damage", [b"", b"not a manifest at all, whatever it says"])
def test_a_damaged_manifest_is_an_error(tmp_path, damage):
    write(tmp_path, ROWS)
    for path in (tmp_path / "rows" / "_versions").iterdir():
        path.write_bytes(damage)
    rows = table(tmp_path)
    for call in (rows.schema, rows.snapshot, rows.scan):
        with pytest.raises(DataError, match=r"^lance:rows: can't read the table: "):
            call()
