"""A project over a table of every kind: built, read, moved on, changed in its columns, and what its commands say."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import lance
import polars as pl
import pytest
from deltalake import write_deltalake
from lake import Warehouse, insert, postgres_table
from postgres import Server

from bedplate.cli.main import run

START = datetime(2026, 1, 1, tzinfo=UTC)
BIG = 2**53 + 1
ROWS = pl.DataFrame(
    {
        "user": [BIG, 2, BIG],
        "price": [1.0, 2.0, 4.0],
        "note": ["a", "b", "c"],
        "time": [START + timedelta(hours=i) for i in range(3)],
    }
)
LATER = ROWS[:1].with_columns(time=pl.lit(START + timedelta(days=1)).cast(pl.Datetime("us", "UTC")), price=pl.lit(8.0))
FEATURES = """\
from bedplate import *
orders = Source("orders", "{table}", time="time")
user = Entity("user", key="user")
spending = FeatureView("spending", user, orders, {{"sum": Sum("price"), "n": Count(windows="1d")}})
"""
Append = Callable[[pl.DataFrame], None]


def parquet(folder: Path) -> tuple[str, Append]:
    (folder / "rows").mkdir()

    def append(rows: pl.DataFrame) -> None:
        rows.write_parquet(folder / "rows" / f"{len(list((folder / 'rows').iterdir()))}.parquet")

    return "rows", append


def delta(folder: Path) -> tuple[str, Append]:
    def append(rows: pl.DataFrame) -> None:
        write_deltalake(folder / "rows", rows, mode="append", schema_mode="merge")

    return "delta:rows", append


def iceberg(folder: Path) -> tuple[str, Append]:
    def append(rows: pl.DataFrame) -> None:
        with Warehouse(folder) as warehouse:
            if not (folder / "shop" / "rows").exists():
                warehouse.create("rows", rows)
            with warehouse.table("rows").update_schema() as change:
                change.union_by_name(rows.to_arrow().schema)
            warehouse.append("rows", rows)

    return "iceberg:shop/rows", append


def lance_table(folder: Path) -> tuple[str, Append]:
    def append(rows: pl.DataFrame) -> None:
        exists = (folder / "rows").exists()
        if exists and "more" in rows.columns:
            lance.dataset(folder / "rows").add_columns(rows.select("more").to_arrow().schema)
        lance.write_dataset(rows.to_arrow(), folder / "rows", mode="append" if exists else "create")

    return "lance:rows", append


KINDS = {"parquet": parquet, "delta": delta, "iceberg": iceberg, "lance": lance_table}


@pytest.fixture(params=[*KINDS, "postgresql"])
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Append]:
    """A project over a table of three rows, and what appends to the table."""
    monkeypatch.chdir(tmp_path)
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("server")
        monkeypatch.setenv("BEDPLATE_TEST_SERVER", server.uri())
        name = postgres_table(server, tmp_path, ROWS).name.partition(":")[2]
        url = f"postgresql:?table={name}&env=BEDPLATE_TEST_SERVER"

        def append(rows: pl.DataFrame) -> None:
            # As the server does when nobody read for a while: an open project keeps others from altering the table.
            waiting = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'"
            server.execute(waiting)
            if "more" in rows.columns:
                server.execute(f"ALTER TABLE {name} ADD more text")
            insert(server, name, rows)
    else:
        url, append = KINDS[request.param](tmp_path)
        append(ROWS)
    (tmp_path / "bedplate.toml").write_text("")
    (tmp_path / "features.py").write_text(FEATURES.format(table=url))
    return tmp_path, append


def printed(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What a command prints, on either stream."""
    assert run(list(words)) == code
    said = capsys.readouterr()
    return said.out if code == 0 else said.err


def looked_up(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    command = ["lookup", "spending.*", "--key", f"user={BIG}", "--time", "2026-01-01T12:00:00", "--json"]
    return json.loads(printed(capsys, *command))[0]["values"]


def test_a_project_follows_its_table(shop, capsys):
    _, append = shop
    printed(capsys, "apply")
    first = looked_up(capsys)
    assert (first["spending.sum"], first["spending.n_1d"]) == (5.0, 2)
    assert printed(capsys, "plan").endswith("nothing to build\n")
    append(LATER)
    assert "4 rows" in printed(capsys, "plan")
    printed(capsys, "apply")
    assert looked_up(capsys) == first
    plan = json.loads(printed(capsys, "plan", "--json"))
    assert (plan["parts"], plan["drift"], plan["views"][0]["snapshot"]["rows"]) == (0, [], 4)


def test_a_column_that_nothing_uses_does_no_harm(shop, capsys):
    """Its coming is told until the next apply."""
    _, append = shop
    printed(capsys, "apply")
    append(LATER.with_columns(more=pl.lit("m")))
    plan = printed(capsys, "plan")
    assert "source 'orders': column 'more' is new (String); nothing uses it\n" in plan
    printed(capsys, "apply")
    assert looked_up(capsys)["spending.sum"] == 5.0
    assert "source 'orders'" not in printed(capsys, "plan")


def test_a_load_takes_any_table_and_a_stream_takes_directories(shop, capsys):
    folder, _ = shop
    printed(capsys, "apply")
    assert "3" in printed(capsys, "materialize")
    (folder / "stream").mkdir()
    LATER.with_columns(row=pl.lit(4, pl.Int32)).write_parquet(folder / "stream" / "1.parquet")  # as on the server
    printed(capsys, "ingest", "stream")
    error = printed(capsys, "ingest", "delta:rows", code=2)
    assert "got 'delta:rows', expected a directory to which files are appended" in error


@pytest.mark.parametrize("kind", ["delta", "iceberg", "lance"])
def test_the_folder_of_a_table_is_no_stream(tmp_path, capsys, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    url, append = KINDS[kind](tmp_path)
    append(ROWS)
    (tmp_path / "bedplate.toml").write_text("")
    (tmp_path / "features.py").write_text(FEATURES.format(table=url))
    printed(capsys, "apply")
    printed(capsys, "materialize")
    error = printed(capsys, "ingest", url.partition(":")[2], code=3)
    assert f"it is a{'n' if kind == 'iceberg' else ''} {kind.capitalize()} table, and a stream is a directory" in error


@pytest.mark.parametrize(
    ("table", "code", "message"),
    [
        ("delta:missing", 3, "features.py:2: source 'orders': delta:missing: can't read the table: "),
        ("iceberg:missing", 3, "features.py:2: source 'orders': iceberg:missing: can't read the table: "),
        ("lance:missing", 3, "features.py:2: source 'orders': lance:missing: can't read the table: "),
        ("postgresql:?table=missing&env=NO_SERVER", 3, "the environment variable NO_SERVER is not set"),
        ("postgresql://me@127.0.0.1:1/shop?table=t", 3, "source 'orders': postgresql:t: can't read the table: "),
        ("postgresql://me:word@127.0.0.1/shop?table=t", 2, "the URL holds a password"),
        ("delta:rows?verson=1", 2, "features.py:2: source 'orders': unknown option 'verson'"),
        ("dleta:rows", 2, "features.py:2: source 'orders': unknown kind of table 'dleta'"),
        ("delta:rows?at=yesterday", 2, "expected an ISO 8601 date or time"),
    ],
)
def test_a_table_that_is_wrong_is_an_error_of_its_kind(tmp_path, capsys, table, code, message):
    (tmp_path / "bedplate.toml").write_text("")
    (tmp_path / "features.py").write_text(FEATURES.format(table=table))
    for command in ("plan", "apply"):
        error = printed(capsys, command, "--project", str(tmp_path), code=code)
        assert error.startswith("error: ")
        assert message in error
        assert ":word" not in error
    assert not (tmp_path / ".bedplate").exists()
