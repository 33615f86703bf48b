"""Delta tables: versions that are pinned, files that are left out, deleted rows, new columns, and what is wrong."""

from __future__ import annotations

import base64
import json
import os
import struct
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import deltalake
import polars as pl
import pytest
from deltalake import write_deltalake
from pyroaring import BitMap

from bedplate.errors import ConfigError, DataError, DefinitionError
from bedplate.sources.base import Source
from bedplate.sources.delta import DeltaTable

DAYS = [date(2026, 1, d) for d in (1, 2, 3)]
ROWS = pl.DataFrame({"n": [1, 2, 3], "day": DAYS, "time": DAYS, "x": [0.5, None, 2.5]}).with_columns(
    pl.col("time").cast(pl.Datetime("us", "UTC"))
)


def table(folder: Path, **options) -> DeltaTable:
    return DeltaTable("rows", root=folder, **options)


def numbers(rows: pl.LazyFrame) -> list[int]:
    return rows.select("n").collect()["n"].to_list()


def files(folder: Path) -> list[Path]:
    """The data files, oldest first."""
    return sorted((folder / "rows").rglob("*.parquet"), key=lambda p: p.stat().st_mtime_ns)


def test_rows_come_in_the_order_in_which_they_were_written(tmp_path):
    for _ in range(12):  # the log lists newest first, and a checkpoint in an order of its own
        write_deltalake(tmp_path / "rows", ROWS.with_columns(n=pl.col("n") + 10 * len(files(tmp_path))), mode="append")
    expected = [n + 10 * i for i in range(12) for n in (1, 2, 3)]
    before = table(tmp_path)
    assert numbers(before.scan()) == expected
    deltalake.DeltaTable(tmp_path / "rows").create_checkpoint()
    after = table(tmp_path)
    assert (numbers(after.scan()), after.snapshot()) == (expected, before.snapshot())


def test_a_version_is_pinned_when_it_is_first_looked_at(tmp_path):
    write_deltalake(tmp_path / "rows", ROWS)
    pinned = table(tmp_path)
    before = pinned.snapshot()
    write_deltalake(tmp_path / "rows", ROWS, mode="append")
    assert (pinned.snapshot(), numbers(pinned.scan()), len(pinned.pieces())) == (before, [1, 2, 3], 1)
    newest = table(tmp_path)
    assert newest.snapshot().text == "version 1, 2 files, 6 rows"
    assert newest.pieces()[0].id == pinned.pieces()[0].id
    assert newest.snapshot().id != before.id


def test_an_older_version_is_named_by_number_or_time(tmp_path):
    write_deltalake(tmp_path / "rows", ROWS)
    write_deltalake(tmp_path / "rows", ROWS[:1], mode="overwrite")
    old = table(tmp_path, version=0)
    assert numbers(old.scan()) == [1, 2, 3]
    written = deltalake.DeltaTable(tmp_path / "rows").history()
    assert [h["version"] for h in written] == [1, 0]
    milliseconds = written[1]["timestamp"], written[1]["timestamp"] + 3_600_000
    for version, moment in enumerate(milliseconds):  # the log's file says when a version was written
        log = tmp_path / "rows" / "_delta_log" / f"{version:020}.json"
        os.utime(log, ns=(moment * 1_000_000, moment * 1_000_000))
    second = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=milliseconds[1])
    assert numbers(table(tmp_path, at=second).scan()) == [1]
    assert numbers(table(tmp_path, at=second - timedelta(milliseconds=1)).scan()) == [1, 2, 3]
    assert numbers(table(tmp_path, at="2199-01-01").scan()) == [1]
    assert Source("s", "delta:rows?version=0", time="time").table(tmp_path).snapshot() == old.snapshot()


def test_an_earlier_state_is_found_by_its_snapshot(tmp_path):
    states = []
    for i in range(3):
        write_deltalake(tmp_path / "rows", ROWS.with_columns(n=pl.col("n") + i), mode="append")
        states.append(table(tmp_path).snapshot().id)
    past = DeltaTable(f"{tmp_path.name}/rows").rooted(tmp_path.parent, "source 's'").at(states[0])
    assert past is not None
    assert (past.snapshot().id, numbers(past.scan())) == (states[0], [1, 2, 3])
    assert table(tmp_path, version=1).at(states[2]) is None, "later than the one that was asked for"
    (tmp_path / "rows" / "_delta_log" / f"{0:020}.json").unlink()
    assert table(tmp_path, version=2).at(states[2]) is None, "the log is of no use without its beginning"


def test_a_project_looks_once(tmp_path):
    write_deltalake(tmp_path / "rows", ROWS)
    source = Source("s", "delta:rows", time="time")
    before = source.table(tmp_path).snapshot()
    write_deltalake(tmp_path / "rows", ROWS, mode="append")
    assert source.table(tmp_path).snapshot() == before
    assert source.scan(tmp_path).collect().height == 3
    assert Source("s", table(tmp_path), time="time").table(Path("elsewhere")).snapshot().rows == 6


def test_a_file_that_no_row_is_wanted_of_is_not_opened(tmp_path):
    write_deltalake(tmp_path / "rows", ROWS, partition_by=["day"])
    broken = next(p for p in files(tmp_path) if "day=2026-01-02" in str(p))
    broken.write_bytes(b"not a table at all")
    rows = table(tmp_path).scan()
    assert numbers(rows.filter(pl.col("day") > date(2026, 1, 2))) == [3]
    assert numbers(rows.filter(pl.col("time") < datetime(2026, 1, 2, tzinfo=UTC))) == [1]
    assert numbers(rows.filter(pl.col("n") == 3)) == [3]
    for condition in (pl.col("day") >= date(2026, 1, 2), pl.col("x") > 1, pl.lit(value=True)):
        with pytest.raises(DataError, match=r"^delta:rows: can't read the table: "):
            numbers(rows.filter(condition))


def test_partition_values_come_from_the_log(tmp_path):
    rows = ROWS.with_columns(day=pl.Series([DAYS[0], None, DAYS[2]]), text=pl.Series(["a/b", "c=d", None]))
    write_deltalake(tmp_path / "rows", rows, partition_by=["day", "text"])
    found = table(tmp_path).scan().collect().sort("n")
    assert found.equals(rows.select(found.columns))
    assert numbers(table(tmp_path).scan().filter(pl.col("text") == "a/b")) == [1]
    assert numbers(table(tmp_path).scan().filter(pl.col("day").is_null())) == [2]


def test_a_new_column_is_null_before_and_changes_nothing_else(tmp_path):
    write_deltalake(tmp_path / "rows", ROWS)
    before = table(tmp_path).snapshot()
    fields = deltalake.DeltaTable(tmp_path / "rows").alter
    fields.add_columns([deltalake.Field("more", deltalake.schema.PrimitiveType("string"), nullable=True)])
    widened = table(tmp_path)
    assert widened.snapshot().id == before.id
    assert widened.snapshot().text.startswith("version 1, ")
    assert widened.scan().collect()["more"].to_list() == [None] * 3
    write_deltalake(tmp_path / "rows", ROWS.with_columns(more=pl.lit("m")), mode="append")
    assert table(tmp_path).scan().collect()["more"].to_list() == [None] * 3 + ["m"] * 3


def test_a_row_is_named_by_its_file(tmp_path):
    write_deltalake(tmp_path / "rows", ROWS)
    write_deltalake(tmp_path / "rows", ROWS[:1], mode="append")
    first, second = files(tmp_path)
    rows = table(tmp_path)
    assert [rows.row_name(i) for i in (0, 2, 3)] == [
        f"row 0 of {first.name}",
        f"row 2 of {first.name}",
        f"row 0 of {second.name}",
    ]
    assert rows.row_name(4) == "row 4"


def deletion_vector(*positions: int) -> dict[str, object]:
    """Deleted rows as the protocol writes them into the log itself."""
    bits = BitMap(positions).serialize()
    content = struct.pack("<I", 1681511377) + struct.pack("<QI", 1, 0) + bits
    content += bytes(-len(content) % 4)
    ours = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
    theirs = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    text = base64.b85encode(content).decode().translate(str.maketrans(ours, theirs))
    size = len(content)
    return {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": size, "cardinality": len(positions)}


def delete_rows(folder: Path, *positions: int) -> None:
    """Deletes rows of the newest file, as writers do that keep the file and note the rows."""
    log = folder / "rows" / "_delta_log"
    written = sorted(log.glob("*.json"))
    add = next(json.loads(line)["add"] for line in written[-1].read_text().splitlines() if '"add"' in line)
    features, versions = ["deletionVectors"], {"minReaderVersion": 3, "minWriterVersion": 7}
    actions = [
        {"protocol": versions | {"readerFeatures": features, "writerFeatures": features}},
        {"remove": {"path": add["path"], "dataChange": True, "deletionTimestamp": 1}},
        {"add": add | {"deletionVector": deletion_vector(*positions)}},
    ]
    content = "".join(json.dumps(a) + "\n" for a in actions)
    (log / f"{len(written):020}.json").write_text(content)


def test_rows_that_were_deleted_beside_their_file_are_left_out(tmp_path):
    write_deltalake(tmp_path / "rows", ROWS)
    write_deltalake(tmp_path / "rows", ROWS.with_columns(n=pl.col("n") + 10), mode="append")
    before = table(tmp_path)
    assert before.snapshot().rows == 6
    delete_rows(tmp_path, 0, 2)
    after = table(tmp_path)
    assert after.snapshot().rows == 4
    assert after.snapshot().id != before.snapshot().id
    assert numbers(after.scan()) == [1, 2, 3, 12]
    assert after.scan().select(pl.len()).collect().item() == 4
    assert [p.rows for p in after.pieces()] == [3, 1]
    assert [a.id == b.id for a, b in zip(before.pieces(), after.pieces(), strict=True)] == [True, False]
    assert after.row_name(3) == f"row 1 of {files(tmp_path)[1].name}"


def edit_log(folder: Path, **configuration: str) -> None:
    path = folder / "rows" / "_delta_log" / f"{0:020}.json"
    actions = [json.loads(line) for line in path.read_text().splitlines()]
    for action in actions:
        if "metaData" in action:
            action["metaData"]["configuration"] = configuration
    path.write_text("".join(json.dumps(a) + "\n" for a in actions))


def test_a_table_whose_columns_have_other_names_in_its_files_is_refused(tmp_path):
    write_deltalake(tmp_path / "rows", ROWS)
    edit_log(tmp_path, **{"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "4"})
    with pytest.raises(DataError, match=r"^delta:rows: .*columnMapping.*can't be read\n  write the table without"):
        table(tmp_path).schema()


@pytest.mark.parametrize("damage", ["empty", "text", "gone"])
def test_a_damaged_log_is_an_error(tmp_path, damage):
    write_deltalake(tmp_path / "rows", ROWS)
    log = tmp_path / "rows" / "_delta_log" / f"{0:020}.json"
    log.unlink() if damage == "gone" else log.write_text("" if damage == "empty" else "{not json")
    rows = table(tmp_path)
    for call in (rows.schema, rows.snapshot, rows.scan):
        with pytest.raises(DataError, match=r"^delta:rows: can't read the table: "):
            call()


def test_a_data_file_that_is_gone_is_named(tmp_path):
    write_deltalake(tmp_path / "rows", ROWS)
    rows = table(tmp_path)
    gone = files(tmp_path)[0]
    gone.unlink()
    with pytest.raises(DataError, match=gone.name):
        rows.scan().collect()


def test_versions_that_are_not_there(tmp_path):
    write_deltalake(tmp_path / "rows", ROWS)
    with pytest.raises(DataError, match=r"can't read the version 7: .*\n  name one that the table's log holds"):
        table(tmp_path, version=7).snapshot()
    with pytest.raises(DataError, match=r"can't read the version of 1999-01-01: the first was written at 20"):
        table(tmp_path, at="1999-01-01").snapshot()
    with pytest.raises(DefinitionError, match="got at and version, expected at most one"):
        table(tmp_path, version=1, at="2026-01-01")
    with pytest.raises(ConfigError, match="expected an ISO 8601"):
        table(tmp_path, at="yesterday")
