"""What is said of columns that came, went or have another type, and whom it concerns."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from bedplate import Project
from bedplate.cli.main import run
from bedplate.errors import DefinitionError
from bedplate.features.applied import read_columns

START = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = pl.DataFrame(
    {
        "request": [1, 2, 3],
        "user": [1, 2, 1],
        "item": [7, 8, 9],
        "price": [1.0, 2.0, 4.0],
        "count": [1, 2, 3],
        "note": ["a", "b", "c"],
        "time": [START + timedelta(days=i) for i in range(3)],
    }
)
FEATURES = """\
import polars as pl
from bedplate import *
orders = Source("orders", "rows", time="time", prepare=lambda r: r.with_columns(paid=pl.col("price") * pl.col("count")))
user, item = Entity("user", key="user"), Entity("item", key="item")
spending = FeatureView("spending", user, orders, {"sum": Sum("paid")}, where=pl.col("count") > 0)
sales = FeatureView("sales", item, orders, {"n": Count(windows="1d", where=pl.col("price") > 1)})
bought = Label("bought", (user, item), orders, Count(), within="1d")
spine = Spine(orders, request="request", entities=user, item=item)
baskets = Dataset(
    "baskets", spine=spine, labels=bought, features=["spending.*"],
    split=TimeSplit("2026-01-02", "2026-01-08", gap="1d"),
)
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    (tmp_path / "bedplate.toml").write_text("")
    (tmp_path / "features.py").write_text(FEATURES)
    write(tmp_path, ROWS)
    return tmp_path


def write(folder: Path, rows: pl.DataFrame, name: str = "a") -> None:
    rows.write_parquet(folder / "rows" / f"{name}.parquet")


def plan(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    assert run(["plan", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["drift"]


def applied(folder: Path) -> Path:
    return Project(folder)._applied_path


def test_the_columns_of_the_last_apply_are_on_record(shop, capsys):
    assert plan(capsys) == []
    assert read_columns(applied(shop)) == {}
    Project(shop).apply()
    recorded = read_columns(applied(shop))
    assert list(recorded) == ["orders"]
    assert list(recorded["orders"]) == ROWS.columns
    assert (recorded["orders"]["price"], recorded["orders"]["note"]) == ("Float64", "String")
    assert plan(capsys) == []


def test_a_column_that_nobody_uses_concerns_nobody(shop, capsys):
    Project(shop).apply()
    write(shop, ROWS.drop("note").with_columns(extra=pl.lit(1)))
    assert [(d["column"], d["text"], d["users"], d["advice"]) for d in plan(capsys)] == [
        ("extra", "column 'extra' is new (Int32)", [], ""),
        ("note", "column 'note' was String, is gone", [], ""),
    ]
    Project(shop).apply()
    assert plan(capsys) == []


def test_a_type_that_changed_is_told_with_those_who_use_it(shop, capsys):
    Project(shop).apply()
    write(shop, ROWS.cast({"count": pl.Int32, "request": pl.Int32, "item": pl.Int32}))
    found = {d["column"]: d["users"] for d in plan(capsys)}
    spine = "dataset 'baskets' (spine)"
    label = "dataset 'baskets' (label 'bought')"
    assert found == {
        "count": ["view 'spending'"],
        "item": ["view 'sales'", spine, label],
        "request": [spine],
    }
    assert run(["plan"]) == 0
    assert (
        "source 'orders': column 'count' was Int64, is Int32 now; used by view 'spending': 'bedplate apply' builds "
        "anew what is computed from it\n"
    ) in capsys.readouterr().out


def test_the_column_of_a_context_concerns_the_spine(shop, capsys):
    more = """
from bedplate.features.context import Context
words = Context("words", str, column="note")
noted = Dataset(
    "noted", spine=spine, labels=bought, features=["spending.*", words],
    split=TimeSplit("2026-01-02", "2026-01-08", gap="1d"), batch_items=8,
)
"""
    (shop / "features.py").write_text(FEATURES + more)
    Project(shop).apply()
    assert run(["plan", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [c["name"] for c in shown["contexts"]] == ["request.words"]
    assert run(["plan"]) == 0
    assert "2 views, 2 features, 1 context, 2 datasets" in capsys.readouterr().out
    write(shop, ROWS.cast({"note": pl.Categorical}))
    assert [(d["column"], d["users"]) for d in plan(capsys)] == [("note", ["dataset 'noted' (spine)"])]


def test_a_column_that_is_gone_is_explained_where_it_is_missed(shop, capsys):
    write(shop, ROWS.drop("request"))
    with pytest.raises(DefinitionError, match="'request'") as caught:
        Project(shop)
    assert "last apply" not in str(caught.value)  # nothing is known of before
    write(shop, ROWS)
    Project(shop).apply()
    for column in ("request", "price", "item"):
        write(shop, ROWS.drop(column))
        assert run(["plan"]) == 2
        error = capsys.readouterr().err
        assert (
            f"in the source 'orders' the column '{column}' was {ROWS.schema[column]}, is gone since the last" in error
        )
        assert "read an earlier version of the table" in error
    write(shop, ROWS)
    (shop / "features.py").write_text(FEATURES.replace('Sum("paid")', 'Sum("piad")'))
    assert run(["plan"]) == 2
    assert "last apply" not in capsys.readouterr().err  # a misspelt name is none that was there


@pytest.mark.parametrize(
    ("column", "view"),
    [
        ("price", 'Sum("price")'),
        ("price", 'Sum(pl.col("price") * 2)'),
        ("count", 'Sum("price", where=pl.col("count") > 1)'),
    ],
)
def test_a_type_that_breaks_loading_is_explained(shop, capsys, column, view):
    direct = FEATURES.split(", prepare=", maxsplit=1)[0] + ")\n" + FEATURES.split("\n", 3)[3]
    (shop / "features.py").write_text(direct.replace('Sum("paid")', view))
    Project(shop).apply()
    write(shop, ROWS.cast({column: pl.String}))
    for words in (["plan"], ["apply"], ["lookup", "spending.sum", "--key", "user=1", "--time", "2026-01-03"]):
        assert run(words) == 2
        was = ROWS.schema[column]
        assert (
            f"in the source 'orders' the column '{column}' was {was}, is String now since the last apply: "
            f"write it as {was} again, change what uses it, or read an earlier version of the table"
        ) in capsys.readouterr().err


def test_files_that_disagree_are_told_with_those_who_use_the_column(shop, capsys):
    write(shop, ROWS.with_columns(time=pl.col("time") + timedelta(days=9)).cast({"price": pl.Float32}), "b")
    drift = plan(capsys)
    assert [(d["column"], d["users"]) for d in drift] == [("price", ["view 'spending'", "view 'sales'"])]
    assert drift[0]["text"] == (
        "column 'price' can't be read: it is Float32 in rows/b.parquet, in rows/a.parquet it is Float64"
    )
    assert run(["apply"]) == 3
    assert drift[0]["text"].partition(": ")[2] in capsys.readouterr().err
    write(shop, ROWS.with_columns(time=pl.col("time") + timedelta(days=9)).drop("note"), "b")
    assert [(d["column"], d["users"], d["advice"]) for d in plan(capsys)] == [("note", [], "")]
    Project(shop).apply()


def test_an_old_record_without_columns_says_nothing(shop, capsys):
    Project(shop).apply()
    record = json.loads(applied(shop).read_bytes())
    del record["sources"]
    applied(shop).write_text(json.dumps(record))
    write(shop, ROWS.with_columns(extra=pl.lit(1)))
    assert plan(capsys) == []
