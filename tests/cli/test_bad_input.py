"""Input that is wrong: a message that names it, the exit code of its kind, and nothing left half-written."""

from __future__ import annotations

import json
import os
import re
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from bedplate.cli.main import run
from bedplate.online.lmdb import LmdbStore
from bedplate.online.state import states

FEATURES = """\
from bedplate import *

orders = Source("orders", "data", time="time")
user = Entity("user", key="user")
spending = FeatureView("spending", user, orders, {"sum": Sum("price"), "n": Count(windows="1d")})
"""
START = datetime(2026, 1, 1)
ROWS = pl.DataFrame(
    {"user": [1, 2, 1], "price": [1.0, 2.0, 4.0], "time": [START + timedelta(hours=i) for i in range(3)]}
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    (folder / "bedplate.toml").write_text("")
    (folder / "features.py").write_text(FEATURES)
    ROWS.write_parquet(folder / "data" / "0.parquet")
    return folder


def failing(folder: Path, capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str]:
    """Runs a command that must fail; its exit code and the message."""
    capsys.readouterr()
    code = run([*map(str, words), "--project", str(folder)])
    printed = capsys.readouterr()
    assert printed.out == ""
    found = re.search(r"^error: .*|^Error: .*", printed.err, re.MULTILINE | re.DOTALL)
    assert found, printed.err
    return code, found[0]


def built(folder: Path) -> list[str]:
    offline = folder / ".bedplate" / "offline"
    # What the project needs is on record before it is built, and of an apply that failed too.
    return [p.name for p in offline.iterdir() if p.name != "needs"] if offline.exists() else []


def test_a_missing_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "data" / "0.parquet").unlink()
    for command in ("plan", "apply"):
        code, message = failing(folder, capsys, command)
        assert code == 3
        assert message.startswith(f"error: features.py:3: source 'orders': {folder}/data: no Parquet file found\n")


def test_a_table_that_is_no_parquet(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "data" / "0.parquet").write_text("user,price\n1,2\n")
    code, message = failing(folder, capsys, "plan")
    assert code == 3
    assert "data/0.parquet: can't read the table: " in message


def test_a_missing_column(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ROWS.rename({"price": "prices"}).write_parquet(folder / "data" / "0.parquet")
    code, message = failing(folder, capsys, "apply")
    assert code == 2
    expected = "features.py:5: view 'spending', feature 'sum': unknown column 'price' in an aggregation"
    assert message == f"error: {expected}\n  did you mean 'prices'?\n"
    assert built(folder) == []


def test_a_second_file_of_another_schema(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ROWS.with_columns(pl.col("price").cast(pl.String)).write_parquet(folder / "data" / "1.parquet")
    code, message = failing(folder, capsys, "apply")
    assert code == 3
    problem = "the column 'price' can't be read: it is String in data/1.parquet, in data/0.parquet it is Float64"
    assert message.startswith(f"error: features.py:3: source 'orders': {folder / 'data'}: {problem}\n")
    assert built(folder) == []


def test_a_damaged_second_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pl.concat([ROWS] * 1000).write_parquet(folder / "data" / "1.parquet", compression="uncompressed")
    whole = (folder / "data" / "1.parquet").read_bytes()
    (folder / "data" / "1.parquet").write_bytes(whole[:8] + bytes(1000) + whole[1008:])
    code, message = failing(folder, capsys, "apply")
    assert code == 3
    assert "source 'orders': can't read the rows: " in message
    assert built(folder) == []


BAD_ROWS = [
    (ROWS.with_columns(user=pl.Series([1, None, 2])), "1 of 3 rows have no key, the first is row 1 of 0.parquet"),
    (
        ROWS.with_columns(time=pl.Series([START, START, None])),
        "1 of 3 rows have no time, the first is row 2 of 0.parquet",
    ),
    (ROWS.with_columns(time=pl.Series([START, START.replace(year=1969), START])), "row 1 of 0.parquet has time -"),
    (ROWS.with_columns(time=pl.Series([START, START, START.replace(year=2300)])), "row 2 of 0.parquet has time"),
    (
        ROWS.with_columns(price=pl.Series([1.0, float("inf"), 2.0])),
        "1 infinite values, the first in row 1 of 0.parquet",
    ),
]


@pytest.mark.parametrize(("rows", "text"), BAD_ROWS)
def test_bad_rows(folder: Path, capsys: pytest.CaptureFixture[str], rows: pl.DataFrame, text: str) -> None:
    rows.write_parquet(folder / "data" / "0.parquet")
    code, message = failing(folder, capsys, "apply")
    assert code == 3
    assert text in message
    place = "features.py:5: view 'spending', " if "key" in text or "infinite" in text else "features.py:3: "
    assert message.startswith(f"error: {place}source 'orders', ")
    assert built(folder) == []
    ROWS.write_parquet(folder / "data" / "0.parquet")
    assert run(["apply", "--project", str(folder)]) == 0


def test_an_offline_store_that_cannot_be_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "file").write_text("mine")
    (folder / "bedplate.toml").write_text('[offline]\npath = "file/offline"')
    assert run(["plan", "--project", str(folder)]) == 0
    code, message = failing(folder, capsys, "apply")
    assert code == 5
    assert message.startswith(f"error: {folder}/file/offline/needs/")
    assert "can't record what the project needs: Not a directory\n" in message
    assert (folder / "file").read_text() == "mine"


def test_an_online_store_that_cannot_be_used(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["apply", "--project", str(folder)]) == 0
    (folder / "file").write_text("mine")
    (folder / "bedplate.toml").write_text('[online]\nurl = "lmdb:file/online"')
    for words in (["materialize"], ["lookup", "spending.sum", "--key", "user=1", "--online"], ["ingest", "data"]):
        code, message = failing(folder, capsys, *words)
        assert code == 5
        assert f"lmdb:{folder}/file/online: can't open the online store: " in message
    (folder / "bedplate.toml").write_text('[online]\nurl = "memory:"')
    code, message = failing(folder, capsys, "materialize")
    assert code == 2
    assert "the online store 'memory:' is gone when the process ends" in message


def test_commands_before_their_turn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["lookup", "spending.sum", "--key", "user=1"], ["materialize"]):
        code, message = failing(folder, capsys, *words)
        assert code == 5
        assert message.endswith("view 'spending': the as-of index is not built\n  run: bedplate apply\n")
    with LmdbStore(folder / ".bedplate" / "online") as store:
        assert states(store) == []
    for words in (["lookup", "spending.sum", "--key", "user=1", "--online"], ["ingest", str(folder / "data")]):
        code, message = failing(folder, capsys, *words)
        assert code == 5
        assert "run: bedplate materialize" in message


def test_a_source_that_changed_is_said_to_have(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["apply", "--project", str(folder)]) == 0
    capsys.readouterr()
    for path in (folder / "data").rglob("*.parquet"):
        os.utime(path, ns=(1, 1))
    said = "the source 'orders' changed since its index was built: "
    code, message = failing(folder, capsys, "lookup", "spending.sum", "--key", "user=1")
    assert code == 5
    assert said in message
    assert message.endswith("run: bedplate apply\n")
    assert run(["plan", "--project", str(folder)]) == 0
    assert capsys.readouterr().out.count(said) == 1
    assert run(["apply", "--project", str(folder)]) == 0
    assert run(["plan", "--project", str(folder)]) == 0
    assert said not in capsys.readouterr().out


WORDS = [
    (
        ["lookup", "spending.smu", "--key", "user=1"],
        4,
        "unknown feature 'spending.smu'\n  did you mean 'spending.sum'?",
    ),
    (["lookup", "spendin.*", "--key", "user=1"], 4, "unknown view 'spendin'\n  did you mean 'spending'?"),
    (["lookup", "spending.sum", "--key", "usr=1"], 2, "--key usr=1: unknown entity 'usr'\n  did you mean 'user'?"),
    (["lookup", "spending.sum", "--key", "1"], 2, "--key 1: got '1', expected ENTITY=KEY"),
    (["lookup", "spending.sum", "--key", "user=one"], 2, "--key user=one: got 'one', expected a 64-bit integer"),
    (["lookup", "spending.sum", "--key", f"user={1 << 63}"], 2, "expected a 64-bit integer"),
    (["lookup", "spending.sum", "--key", "user=1", "--time", "noon"], 2, "got 'noon', expected an ISO 8601"),
    (
        ["lookup", "spending.sum", "--key", "user=1", "--time", "1960-01-01"],
        2,
        "--time: got '1960-01-01', expected a time from 1970 to 2199",
    ),
    (
        ["lookup", "spending.sum", "--key", "user=1", "--time", "2300-01-01"],
        2,
        "--time: got '2300-01-01', expected a time from 1970 to 2199",
    ),
    (["lookup", "spending.sum"], 2, "Missing option '--key'"),
    (
        ["lookup", "spending.sum", "--key", "user=1", "--key", "user=2", *(["--time", "2026-01-01"] * 3)],
        3,
        "2 of 'user'; and 3 times",
    ),
    (["materialize", "spendings"], 4, "no view is named 'spendings'\n  did you mean 'spending'?"),
    (["materialize", "--until", "soon"], 2, "got 'soon', expected an ISO 8601"),
    (["ingest", "--source", "order", "data"], 4, "no view has a source named 'order'\n  did you mean 'orders'?"),
    (["ingest", "--until", "soon", "data"], 2, "got 'soon', expected an ISO 8601"),
    (["ingest", "--follow", "--until", "2026-01-01", "data"], 2, "give one of them"),
]


@pytest.mark.parametrize(("words", "expected", "text"), WORDS)
def test_words_that_are_wrong(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: int, text: str
) -> None:
    assert run(["apply", "--project", str(folder)]) == 0
    code, message = failing(folder, capsys, *words)
    assert code == expected, message
    assert text in message


def test_a_stream_that_is_wrong_changes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["apply"], ["materialize", "--until", "2026-01-01"]):
        assert run([*words, "--project", str(folder)]) == 0
    code, message = failing(folder, capsys, "ingest", folder / "nowhere")
    assert code == 3
    assert f"{folder}/nowhere: can't read the directory" in message
    stream = folder / "stream"
    stream.mkdir()
    for bad, text in [
        (ROWS.drop("price"), "column 'price': it is missing, expected Float64"),
        (ROWS.with_columns(user=pl.lit("x")), "column 'user': it is String, expected Int64"),
    ]:
        ROWS.write_parquet(stream / "1.parquet")
        bad.write_parquet(stream / "2.parquet")
        code, message = failing(folder, capsys, "ingest", stream)
        assert code == 3
        assert f"{stream}/2.parquet: " in message
        assert text in message
        with LmdbStore(folder / ".bedplate" / "online") as store:
            assert [(s.position("").name, s.events) for s in states(store)] == [("1.parquet", 3)]
    ROWS.write_parquet(stream / "2.parquet")
    assert run(["ingest", str(stream), "--project", str(folder)]) == 0
    with LmdbStore(folder / ".bedplate" / "online") as store:
        assert [(s.position("").name, s.events) for s in states(store)] == [("2.parquet", 6)]


def test_sources_of_two_tables_must_be_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = 'visits = Source("visits", "visits.parquet", time="time")\n'
    more += 'seen = FeatureView("seen", user, visits, {"n": Count(windows="1d")})\n'
    (folder / "features.py").write_text(FEATURES + more)
    ROWS.write_parquet(folder / "visits.parquet")
    code, message = failing(folder, capsys, "ingest", "data")
    assert code == 2
    assert "sources from 2 tables, expected --source" in message
    assert "orders (from data), visits (from visits.parquet)" in message


def totals(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[float]:
    capsys.readouterr()
    words = ["lookup", "spending.sum", "--key", "user=1", "--key", "user=2", "--online", "--json"]
    assert run([*words, "--project", str(folder)]) == 0
    return [row["values"]["spending.sum"] for row in json.loads(capsys.readouterr().out)]


def test_rows_that_history_held_are_not_counted_twice(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["apply"], ["materialize"]):
        assert run([*words, "--project", str(folder)]) == 0
    stream = folder / "stream"
    stream.mkdir()
    ROWS.write_parquet(stream / "1.parquet")
    code, message = failing(folder, capsys, "ingest", stream)
    assert code == 3
    assert message.startswith(
        f"error: {stream}/1.parquet: view 'spending', source 'orders', column 'time': row 0 is of "
        "2026-01-01T00:00:00Z, and events before 2026-01-01T02:00:00.000001Z were loaded from history: it would count "
        "twice (3 of 3 events)\n"
    )
    assert totals(folder, capsys) == [5.0, 2.0]
    ROWS[1:2].with_columns(price=pl.lit(10.0)).write_parquet(stream / "1.parquet")
    assert run(["ingest", str(stream), "--project", str(folder), "--late"]) == 0
    assert totals(folder, capsys) == [5.0, 12.0]


def test_a_store_is_not_loaded_for_a_time_to_come(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["apply", "--project", str(folder)]) == 0
    code, message = failing(folder, capsys, "materialize", "--until", "2199-12-31")
    assert code == 2
    assert re.match(r"error: until: got 2199-12-31T00:00:00Z, which is later than now, 20\d\d-", message), message
    for until in ("2300-01-01", "1969-12-31"):
        code, message = failing(folder, capsys, "materialize", "--until", until)
        assert (code, message) == (2, f"error: until: got '{until}', expected a time from 1970 to 2199\n")
    code, message = failing(folder, capsys, "ingest", "--until", "2300-01-01", "data")
    assert (code, message) == (2, "error: --until: got '2300-01-01', expected a time from 1970 to 2199\n")
    with LmdbStore(folder / ".bedplate" / "online") as store:
        assert states(store) == []


def test_seconds_and_milliseconds_are_not_taken_for_microseconds(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for factor, unit in ((1_000_000, "s"), (1000, "ms")):
        ROWS.with_columns(pl.col("time").cast(pl.Int64) // factor).write_parquet(folder / "data" / "0.parquet")
        code, message = failing(folder, capsys, "apply")
        assert code == 3
        assert "source 'orders', column 'time': the greatest time is " in message
        assert message.endswith(f"pl.from_epoch('time', time_unit='{unit}')\n")
        assert built(folder) == []


SOURCES = """\
from bedplate import Source
import polars as pl
orders = Source("orders", "data", time="time")
"""


def test_a_source_of_another_file_is_named_with_its_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "sources.py").write_text(SOURCES)
    text = FEATURES.replace('orders = Source("orders", "data", time="time")', "import sources")
    (folder / "features.py").write_text(text.replace("user, orders,", "user, sources.orders,"))
    bad = ROWS.with_columns(time=pl.Series([START, None, START]))
    bad.write_parquet(folder / "data" / "1.parquet")
    code, message = failing(folder, capsys, "apply")
    assert code == 3
    expected = (
        "sources.py:3: source 'orders', column 'time': 1 of 6 rows have no time, the first is row 1 of data/1.parquet"
    )
    assert message.startswith(f"error: {expected}\n")
    ROWS.with_columns(user=pl.Series([1, None, 2])).write_parquet(folder / "data" / "1.parquet")
    code, message = failing(folder, capsys, "apply")
    assert code == 3
    assert message.startswith(
        "error: features.py:5: view 'spending', source 'orders', column 'user': 1 of 6 rows have no key"
    )
    assert "the first is row 1 of data/1.parquet\n" in message
    for path in (folder / "data").iterdir():
        path.unlink()
    code, message = failing(folder, capsys, "lookup", "spending.sum", "--key", "user=1")
    assert code == 3
    assert message.startswith(f"error: sources.py:3: source 'orders': {folder}/data: no Parquet file found\n")


def test_the_table_of_a_spine_is_named_with_the_dataset(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "datasets.py").write_text(
        "from features import *\n"
        "item = Entity('item', key='itm')\n\n"
        "d = Dataset('orders', spine=Spine(orders, request='time', entities=user, item=item), features=[spending],\n"
        "    split=TimeSplit('2026-02-01', '2026-03-01'))\n"
    )
    code, message = failing(folder, capsys, "plan")
    assert code == 2
    assert message.startswith("error: datasets.py:4: dataset 'orders': spine of source 'orders': ")
