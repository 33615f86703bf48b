"""`bedplate ingest` and `materialize` on several sources: what is chosen, refused, counted and left as it was."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from bedplate.cli.main import run
from bedplate.online.lmdb import LmdbStore
from bedplate.online.state import states

START = datetime(2026, 1, 1)
ROWS = pl.DataFrame(
    {
        "user": [1, 2, 1, 2],
        "kind": ["buy", "view", "view", "buy"],
        "time": [START + timedelta(hours=i) for i in range(4)],
    }
)
FEATURES = """\
import msgspec
import polars as pl
from bedplate import Count, Entity, FeatureView, Source
user = Entity("user", key="user")
buys = Source("buys", "data", time="time", prepare=lambda r: r.filter(pl.col("kind") == "buy"))
views = Source("views", "data", time="time", delay="30m", prepare=lambda r: r.filter(pl.col("kind") == "view"))
bought = FeatureView("bought", user, buys, {"n": Count()})
viewed = FeatureView("viewed", user, views, {"n": Count()})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    (folder / "stream").mkdir()
    (folder / "bedplate.toml").write_text("")
    (folder / "features.py").write_text(FEATURES)
    ROWS.write_parquet(folder / "data" / "0.parquet")
    assert run(["apply", "--project", str(folder)]) == 0
    return folder


def call(folder: Path, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert run([*words, "--project", str(folder), "--json"]) == code
    printed = capsys.readouterr()
    return json.loads(printed.out) if code == 0 else printed.err


def counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[list[int]]:
    words = ["lookup", "bought.n", "viewed.n", "--key", "user=1", "--key", "user=2", "--online"]
    return [list(row["values"].values()) for row in call(folder, capsys, *words)]


def positions(folder: Path) -> dict[str, tuple[str, int, int]]:
    with LmdbStore(folder / ".bedplate" / "online") as store:
        return {s.name: (*msgspec.structs.astuple(s.position("")), s.events) for s in states(store)}


def after(hours: int) -> pl.DataFrame:
    return ROWS.with_columns(pl.col("time") + timedelta(hours=hours))


def test_sources_of_one_table_are_fed_by_one_stream(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(folder, capsys, "materialize", "--until", "2026-01-01T04:00")
    assert [(v["view"], v["events"], v["later"]) for v in done["views"]] == [("bought", 2, 0), ("viewed", 2, 0)]
    after(4).write_parquet(folder / "stream" / "1.parquet")
    found = call(folder, capsys, "ingest", str(folder / "stream"))
    assert [(s["source"], s["files"], s["rows"]) for s in found["sources"]] == [("buys", 1, 4), ("views", 1, 4)]
    assert counts(folder, capsys) == [[2, 2], [2, 2]]
    again = call(folder, capsys, "ingest", str(folder / "stream"))
    assert [s["rows"] for s in again["sources"]] == [0, 0]
    assert counts(folder, capsys) == [[2, 2], [2, 2]]


def test_one_source_may_be_fed_alone_and_the_other_later(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(folder, capsys, "materialize", "--until", "2026-01-01T04:00")
    after(4).write_parquet(folder / "stream" / "1.parquet")
    call(folder, capsys, "ingest", "--source", "buys", "--source", "buys", str(folder / "stream"))
    assert counts(folder, capsys) == [[2, 1], [2, 1]]
    call(folder, capsys, "ingest", str(folder / "stream"))
    assert counts(folder, capsys) == [[2, 2], [2, 2]]


def test_one_view_loaded_for_another_time_is_fed_from_its_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(folder, capsys, "materialize", "--until", "2026-01-01T02:00", "bought")
    call(folder, capsys, "materialize", "--until", "2026-01-01T04:00", "viewed")
    ROWS[2:].write_parquet(folder / "stream" / "1.parquet")
    error = call(folder, capsys, "ingest", str(folder / "stream"), code=3)
    # The row of a view is one of the file, also where the cleaning step left others out before it.
    assert "view 'viewed', source 'views', column 'time': row 0 is of 2026-01-01T02:00:00Z" in error
    assert positions(folder)["bought"] == ("1.parquet", 2, 2)
    assert positions(folder)["viewed"] == ("", 0, 2)
    assert counts(folder, capsys) == [[1, 1], [1, 1]]
    call(folder, capsys, "ingest", "--source", "views", "--late", str(folder / "stream"))
    assert counts(folder, capsys) == [[1, 2], [1, 1]]


def test_a_stream_is_taken_in_up_to_a_time(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(folder, capsys, "materialize", "--until", "2026-01-01T04:00")
    for day in (1, 2, 3):
        after(24 * day).write_parquet(folder / "stream" / f"{day}.parquet")
    steps = [
        ("2026-01-02", [1, 1]),
        ("2026-01-03", [2, 2]),
        ("2026-01-03T02:00:00.000001", [2, 3]),  # the last view of the file is an hour before its last purchase
        ("2026-01-03T03:00:00", [2, 3]),
        ("2026-01-03T03:00:00.000001", [3, 3]),
    ]
    for until, totals in steps:
        call(folder, capsys, "ingest", "--until", until, str(folder / "stream"))
        assert counts(folder, capsys) == [totals] * 2, until
    assert {file for file, _, _ in positions(folder).values()} == {"2.parquet"}


def test_nothing_is_taken_in_before_the_store_is_loaded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    after(4).write_parquet(folder / "stream" / "1.parquet")
    assert "run: bedplate materialize" in call(folder, capsys, "ingest", str(folder / "stream"), code=5)
    assert positions(folder) == {}
    call(folder, capsys, "materialize", "bought")
    call(folder, capsys, "ingest", str(folder / "stream"), "--source", "buys")
    assert positions(folder)["bought"] == ("1.parquet", 4, 4)


def test_a_store_loaded_anew_takes_the_stream_from_its_beginning(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(folder, capsys, "materialize", "--until", "2026-01-01T02:00")
    ROWS[2:].write_parquet(folder / "stream" / "1.parquet")
    call(folder, capsys, "ingest", str(folder / "stream"))
    assert counts(folder, capsys) == [[1, 1], [1, 1]]
    assert "is at work" in call(folder, capsys, "materialize", "--until", "2026-01-01T03:00", code=5)
    call(folder, capsys, "materialize", "--until", "2026-01-01T04:00", "--replace")
    assert counts(folder, capsys) == [[1, 1], [1, 1]]
    error = call(folder, capsys, "ingest", str(folder / "stream"), code=3)
    assert "would count twice" in error
    assert counts(folder, capsys) == [[1, 1], [1, 1]]
    call(folder, capsys, "materialize", "--until", "2026-01-01T02:00", "--replace")
    call(folder, capsys, "ingest", str(folder / "stream"))
    assert counts(folder, capsys) == [[1, 1], [1, 1]]


def test_what_is_printed_says_where_each_source_stands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(folder, capsys, "materialize", "--until", "2026-01-01T04:00")
    after(4).write_parquet(folder / "stream" / "1.parquet")
    capsys.readouterr()
    assert run(["ingest", str(folder / "stream"), "--project", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = ["SOURCE", "VIEWS", "FILES", "ROWS", "PASSED", "OVER", "ROWS/S", "LEFT", "FRESH", "ERRORS", "EXACT", "FROM"]
    assert lines[0].split() == heads
    shown = [line.split() for line in lines[1:3]]
    assert [line[:4] + line[6:7] + line[-2:] for line in shown] == [
        ["buys", "bought", "1", "4", "0", "0", "2026-01-01T07:00:00Z"],
        ["views", "viewed", "1", "4", "0", "0", "2026-01-01T06:00:00Z"],
    ]
    assert lines[3].startswith("done after ")
