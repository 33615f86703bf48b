"""plan, apply, lookup, materialize and ingest: what they print, write and exit with."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from small_retail import is_same, make_project, small_rows

from bedplate.cli.main import run
from bedplate.cli.progress import ProgressLine
from bedplate.online.lmdb import LmdbStore
from bedplate.online.state import states

CUT = datetime(2011, 10, 1)
VIEWS = ["customer_lines", "product_lines", "customer_product", "product_returns", "customer_returns"]

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command line; its exit code, output and messages."""

    def call(*words: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(word) for word in words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose offline store is built."""
    folder = make_project(tmp_path_factory.mktemp("built") / "project")
    assert run(["apply", "--project", str(folder)]) == 0
    return folder


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Path:
    """The built project with an online store of its own and a stream of files from the cut on."""
    folder = tmp_path / "project"
    shutil.copytree(built, folder, ignore=shutil.ignore_patterns(".bedplate", "__pycache__"))
    (folder / "bedplate.toml").write_text(f'[offline]\npath = "{built}/.bedplate/offline"\n')
    rows = small_rows().filter(pl.col("InvoiceDate") >= CUT).with_columns(month=pl.col("InvoiceDate").dt.month())
    (folder / "stream").mkdir()
    for month, part in rows.sort("InvoiceDate", maintain_order=True).group_by("month", maintain_order=True):
        part.drop("month").write_parquet(folder / "stream" / f"2011-{month[0]:02}.parquet")
    return folder


def document(outcome: tuple[int, str, str]) -> Any:
    code, out, err = outcome
    assert code == 0, err
    return json.loads(out)


def test_plan_and_apply_from_nothing_to_nothing_to_build(tmp_path: Path, call: Call) -> None:
    folder = make_project(tmp_path / "new")
    code, out, err = call("plan", "--project", folder)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"project small in {folder}"
    assert [line.split()[0] for line in lines[3:9]] == [*VIEWS, "label.bought"]
    assert lines[3].split("  ")[-1].strip() != "-"
    assert "1 timeline, 8 columns, 6 reductions" in lines[3]
    assert lines[-2] == "5 views, 43 features, 6 derived features, 1 dataset"
    assert lines[-1].startswith("to build: 5 timelines, 21 columns, 15 reductions, about 0.")
    assert lines[-1].endswith(" MB; run: bedplate apply")
    assert not (folder / ".bedplate").exists()

    plan = document(call("plan", "--project", folder, "--json"))
    assert plan["parts"] == 5 + 21 + 15
    assert plan["datasets"] == ["baskets"]
    assert [len(v["features"]) for v in plan["views"]] == [19, 15, 4, 3, 2, 0]
    assert plan["views"][5]["kind"] == "label"
    nothing = {"timeline": False, "columns": [], "reductions": [], "rows": 0, "extends": False}
    assert plan["views"][5]["build"] == nothing
    assert plan["views"][3]["build"]["columns"] == ["events", 'col("quantity")']

    code, out, err = call("apply", "--project", folder)
    steps = err.splitlines()
    assert code == 0
    assert [s.partition(" ")[0] for s in steps] == [f"[{n}/46]" for n in range(1, 47)]
    assert [line.split()[0] for line in out.splitlines()[1:6]] == VIEWS
    assert out.splitlines()[-1].startswith("built 41 parts, ")
    assert call("apply", "--project", folder) == (0, "nothing to build\n", "")
    assert document(call("apply", "--project", folder, "--json"))["built"] == []
    assert call("plan", "--project", folder)[1].splitlines()[-1] == "nothing to build"
    again = document(call("plan", "--project", folder, "--json"))
    assert (again["parts"], again["seconds"]) == (0, 0)


def test_a_new_feature_plans_only_its_own_parts(project: Path, call: Call) -> None:
    text = (project / "features.py").read_text()
    (project / "features.py").write_text(
        text.replace('"dearest": Max', '"cheapest": Min("price"),\n        "dearest": Max')
    )
    plan = document(call("plan", "--project", project, "--json"))
    assert plan["parts"] == 1
    only = {"timeline": False, "columns": [], "reductions": ['min of col("price")'], "rows": 0, "extends": False}
    assert plan["views"][0]["build"] == only


def test_plan_lists_features_with_window_hop_and_definition(built: Path, call: Call) -> None:
    code, out, _ = call("plan", "--features", "--project", built)
    assert code == 0
    found = {words[0]: " ".join(words[1:]) for words in map(str.split, out.splitlines()) if words}
    assert found["customer_lines.lines_28d"] == "int64 Count() over 28d (hop 1d)"
    assert found["product_lines.sold_7d"] == 'int64 Sum(col("quantity")) over 7d (hop 1h)'
    assert found["customer_lines.recent_product_id"].startswith("list of string LastN(")
    assert found["spend_trend"].startswith('float64 col("customer_lines.spend_28d") / ')


def test_lookup_prints_a_line_a_feature(built: Path, call: Call) -> None:
    rows = small_rows().filter(pl.col("InvoiceNo").str.contains("^[0-9]"), pl.col("UnitPrice") > 0)
    customer = rows["CustomerID"].drop_nulls()[0]
    key = f"customer={customer}"
    words = ("lookup", "customer_lines.*", "--key", key, "--project", built, "--time")
    code, out, _ = call(*words, "2011-11-01")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["FEATURE", str(customer), "2011-11-01T00:00:00Z"]
    assert len(lines) == 20
    assert lines[-4].startswith("customer_lines.recent_product_id  [")
    (row,) = document(call(*words, "2011-11-01", "--json"))
    assert row["keys"] == {"customer": customer}
    assert row["time"] == 1320105600000000
    assert len(row["values"]) == 19
    assert all(isinstance(code, str) for code in row["values"]["customer_lines.recent_product_id"])
    (before,) = document(call(*words, "2009-01-01", "--json"))
    assert before["values"]["customer_lines.spend_28d"] == 0
    assert before["values"]["customer_lines.country"] is None


def test_lookup_of_many_rows_repeats_what_is_one(built: Path, call: Call) -> None:
    words = ["lookup", "customer_product.since", "price_ratio", "--key", "customer=12350", "--project", built]
    words += ["--key", "product=22386", "--key", "product=85123A", "--key", "product=nothing"]
    rows = document(call(*words, "--time", "2011-11-01", "--json"))
    assert [r["keys"]["product"] for r in rows] == ["22386", "85123A", "nothing"]
    assert {r["keys"]["customer"] for r in rows} == {12350}
    assert rows[2]["values"] == {"customer_product.since": None, "price_ratio": None}
    code, out, _ = call(*words, "--time", "2011-11-01", "--time", "2011-11-02", "--time", "2011-11-03")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["CUSTOMER", "PRODUCT", "TIME", "CUSTOMER_PRODUCT.SINCE", "PRICE_RATIO"]
    assert [line[2][:10] for line in lines[1:]] == ["2011-11-01", "2011-11-02", "2011-11-03"]


def sample(rows: pl.DataFrame) -> list[str]:
    """Options for the keys of some pairs that were bought together."""
    of_customers = rows.drop_nulls("CustomerID").filter(pl.col("StockCode").str.contains(r"^\d{5}[A-Z]?$"))[::60]
    pairs = of_customers.select("CustomerID", "StockCode").rows()
    return [word for c, p in pairs for word in ("--key", f"customer={c}", "--key", f"product={p}")]


FEATURES = [*(f"{view}.*" for view in VIEWS), "price_ratio", "spend_trend", "words"]


def test_bulk_load_and_stream_end_in_the_values_of_history(project: Path, call: Call) -> None:
    at = ("--project", project)
    done = document(call("materialize", "--until", CUT.isoformat(), *at, "--json"))
    assert [v["view"] for v in done["views"]] == VIEWS
    assert all(v["events"] > 0 and v["later"] > 0 and not v["kept"] for v in done["views"])
    first = document(call("ingest", project / "stream", "--until", "2011-11-01", *at, "--json"))
    assert [(s["source"], s["files"]) for s in first["sources"]] == [("lines", 1), ("returns", 1)]
    rest = document(call("ingest", project / "stream", *at, "--json"))
    assert [s["files"] for s in rest["sources"]] == [2, 2]
    assert sum(s["rows"] for s in (first["sources"][0], rest["sources"][0])) == len(
        small_rows().filter(pl.col("InvoiceDate") >= CUT)
    )
    code, out, _ = call("ingest", project / "stream", *at)
    assert code == 0
    assert [line.split()[-6] for line in out.splitlines()[1:3]] == ["0", "0"]

    keys = sample(small_rows())
    assert len(keys) > 400
    words = ["lookup", *FEATURES, *keys, "--time", "2011-12-10", *at, "--json"]
    expected, got = document(call(*words)), document(call(*words, "--online"))
    assert len(expected) == len(keys) // 4
    for row, same in zip(expected, got, strict=True):
        assert (row["keys"], row["time"]) == (same["keys"], same["time"])
        for name, value in row["values"].items():
            assert is_same(same["values"][name], value), (row["keys"], name)
    assert sum(row["values"]["customer_lines.lines_90d"] > 0 for row in expected) > 20

    code, out, err = call("materialize", *at)
    assert (code, err) == (0, "")
    assert out.count("kept: its stream goes on") == 5
    assert document(call(*words, "--online")) == got
    code, _, err = call("materialize", "--until", "2011-11-01", *at)
    assert code == 5
    assert "the stream of the view began at 2011-10-01T00:00:00Z and is at work, got until 2011-11-01" in err
    anew = document(call("materialize", "--until", CUT.isoformat(), "--replace", *at, "--json"))
    assert [v["events"] for v in anew["views"]] == [v["events"] for v in done["views"]]
    assert document(call("ingest", project / "stream", *at, "--json"))["sources"][0]["files"] == 3
    assert document(call(*words, "--online")) == got


LATE = """
late = FeatureView("late", customer, lines, {"lines": Count(windows="28d")})
"""


def test_a_view_that_is_new_catches_up_with_the_stream(project: Path, call: Call) -> None:
    at = ("--project", project, "--json")
    document(call("materialize", "--until", CUT.isoformat(), *at))
    document(call("ingest", project / "stream", *at))
    with (project / "features.py").open("a") as file:
        file.write(LATE)
    document(call("apply", *at))
    code, _, err = call("ingest", project / "stream", "--project", project)
    assert code == 5
    assert "view 'late'" in err
    assert "run: bedplate materialize" in err
    views = {v["view"]: v for v in document(call("materialize", *at))["views"]}
    assert [name for name, v in views.items() if not v["kept"]] == ["late"]
    assert views["late"]["until"] == 1317427200000000
    sources = {s["source"]: s["files"] for s in document(call("ingest", project / "stream", *at))["sources"]}
    assert sources == {"lines": 3, "returns": 0}
    keys = sample(small_rows())
    words = ["lookup", "late.lines_28d", "customer_lines.lines_28d", *keys, "--time", "2011-12-10", "--online"]
    values = [row["values"] for row in document(call(*words, *at))]
    assert [v["late.lines_28d"] for v in values] == [v["customer_lines.lines_28d"] for v in values]
    assert sum(v["late.lines_28d"] for v in values) > 0


def test_following_takes_in_new_files_until_it_is_stopped(project: Path, call: Call) -> None:
    document(call("materialize", "--until", CUT.isoformat(), "--project", project, "--json"))
    stream = project / "arriving"
    stream.mkdir()
    command = [sys.executable, "-m", "bedplate", "ingest", str(stream), "--follow", "--json", "--project", str(project)]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"following {stream}; Ctrl-C ends it\n"
        file = min((project / "stream").iterdir())
        shutil.copy(file, stream / "1.tmp")
        (stream / "1.tmp").rename(stream / file.name)
        with LmdbStore(project / ".bedplate" / "online") as store:
            deadline = time.monotonic() + 60
            while {state.position("").name for state in states(store)} != {file.name} and time.monotonic() < deadline:
                time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    found = json.loads(out)
    assert found["interrupted"] is True
    assert [s["files"] for s in found["sources"]] == [1, 1]
    assert call("ingest", stream, "--follow", "--until", "2011-11-01", "--project", project)[0] == 2


def test_progress_on_a_terminal_is_one_line() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with ProgressLine(stream=(terminal := Terminal())) as progress:
        progress("x" * 500)
        progress("too soon to be shown")
    drawn = terminal.getvalue()
    assert "\n" not in drawn
    assert drawn.startswith("\r\x1b[Kxxx")
    assert drawn.endswith("xxx...\r\x1b[K")
    with ProgressLine(stream=(plain := io.StringIO())) as progress:
        progress("a")
        progress("b")
    assert plain.getvalue() == "a\nb\n"
