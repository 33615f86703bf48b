"""`offline ls`, `offline gc`, `offline compact` and `backfill`, as a person and as a program calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from bedplate.cli.main import run
from bedplate.offline.extend import Build
from bedplate.offline.needs import needs_of_others
from bedplate.project import Project
from bedplate.testing.simulator import START
from bedplate.types import DAY, format_time

FEATURES = """
import polars as pl
from bedplate import Count, Entity, FeatureView, Source, Sum

events = Source("events", "data", time="time")
user = Entity("user", key="user")
view = FeatureView("visits", user, events, {"n": Count(windows="2d"), "s": Sum("x", windows="1d")})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "bedplate.toml").touch()
    (tmp_path / "features.py").write_text(FEATURES)
    add(tmp_path, 0)
    add(tmp_path, 1)
    return tmp_path


def add(folder: Path, day: int) -> None:
    times = [START + day * DAY + i for i in range(10)]
    frame = pl.DataFrame({"user": [i % 3 for i in range(10)], "time": times, "x": range(10)})
    frame.write_parquet(folder / "data" / f"{day:02}.parquet")


def test_a_source_that_changed_is_told_with_all_that_was_indexed(folder: Path, call: Any) -> None:
    """However many segments the index has, and whatever segments of earlier states still lie beside them."""
    assert call("apply")[0] == 0
    add(folder, 2)
    assert call("apply")[0] == 0
    for moment in (1, 2):
        for path in (folder / "data").glob("*.parquet"):
            os.utime(path, ns=(moment, moment))
        code, out, _ = call("plan")
        assert code == 0
        assert "changed since its index was built: 30 events were indexed, it is 3 files, 30 rows now" in out
        assert call("apply")[0] == 0
    # Without a record of what was read last there is no such number.
    for path in (folder / "data").glob("*.parquet"):
        os.utime(path, ns=(3, 3))
    for record in (folder / ".bedplate" / "offline" / "needs").glob("*.json"):
        record.write_text("{")
    assert "changed since its index was built: it is 3 files, 30 rows now" in call("plan")[1]


def another(folder: Path, shared: Path) -> Path:
    """A project without definitions that shares the other's store."""
    other = folder.parent / f"{folder.name}-other"
    other.mkdir()
    (other / "bedplate.toml").write_text(f'[offline]\npath = "{shared}"\n')
    return other


def test_what_a_backfill_built_or_began_is_kept_by_the_gc_of_others(
    folder: Path, call: Any, monkeypatch: Any, capsys: Any
) -> None:
    store = folder / ".bedplate" / "offline"
    other, words = another(folder, store), ("backfill", "visits", "--from", format_time(START), "--to")
    recorded: list[int] = []
    ran = Build.run

    def run_and_look(build: Build, *rest: Any) -> Any:
        recorded.append(len(needs_of_others(store, other)))  # it is on record before it is built
        return ran(build, *rest)

    monkeypatch.setattr(Build, "run", run_and_look)
    assert call(*words, format_time(START + DAY))[0] == 0
    assert call(*words, format_time(START + 2 * DAY))[0] == 0
    assert recorded == [1, 1]
    assert run(["offline", "gc", "--project", str(other)]) == 0
    assert capsys.readouterr().out.endswith("deleted nothing\n")
    assert json.loads(call(*words, format_time(START + 2 * DAY), "--json")[1])["built"] is False
    assert json.loads(call("offline", "gc", "--json")[1])["garbage"] == []


def test_an_apply_puts_on_record_what_it_is_about_to_build(folder: Path, call: Any, monkeypatch: Any) -> None:
    store = folder / ".bedplate" / "offline"

    def stop(*_: Any) -> None:
        assert len(needs_of_others(store, folder.parent)) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(Build, "run", stop)
    assert call("apply")[0] == 130
    (store / "needs").rename(store / "before")
    with pytest.raises(KeyboardInterrupt):
        Project(folder).apply()


def test_gc_lists_what_it_keeps_for_whom_and_forgets_a_project_by_name(folder: Path, call: Any, capsys: Any) -> None:
    other = another(folder, folder / ".bedplate" / "offline")
    assert call("apply")[0] == 0
    (folder / "bedplate.toml").rename(folder / "away")
    gc = ["offline", "gc", "--project", str(other)]
    assert run([*gc, "--json"]) == 0
    (kept,) = json.loads(capsys.readouterr().out)["kept"]
    assert (kept["root"], kept["segments"]) == (str(folder), 1)
    assert kept["bytes"] > 0
    assert kept["unseen"] == "its folder can't be seen from here"
    assert run(gc) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"kept for {folder}: 1 segments, ")
    assert lines[0].endswith(" (its folder can't be seen from here)")
    assert lines[1:] == [
        "what can't be seen is kept until it is named: bedplate offline gc --forget DIR",
        "deleted nothing",
    ]
    assert run([*gc, "--forget", str(folder / "none")]) == 4
    assert "nothing is on record for the project" in capsys.readouterr().err
    assert run([*gc, "--forget", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("deleted 1 segment, ")


ENDED = """
import os, signal, sys
from bedplate.cli import main, progress

shown, name = progress.ProgressLine.__call__, sys.argv[1]


def show(line, text):
    shown(line, text)
    os.kill(os.getpid(), getattr(signal, name))


progress.ProgressLine.__call__ = show
sys.argv = ["bedplate", "apply", "--project", sys.argv[2]]
main.main()
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_what_ends_a_build_says_that_it_goes_on(folder: Path, call: Any, name: str) -> None:
    """An orchestrator's SIGTERM as a person's Ctrl-C."""
    words = [sys.executable, "-c", ENDED, name, str(folder)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 130
    assert ended.stderr.endswith("interrupted: the finished parts are kept; 'bedplate apply' goes on from them\n")
    assert call("apply")[0] == 0
    assert call("plan")[1].endswith("nothing to build\n")


def test_plan_says_how_many_bytes_there_are_and_will_be(folder: Path, call: Any) -> None:
    times = [START + i for i in range(20_000)]
    frame = pl.DataFrame({"user": [i % 300 for i in range(20_000)], "time": times, "x": range(20_000)})
    frame.write_parquet(folder / "data" / "00.parquet")
    before = json.loads(call("plan", "--json")[1])
    assert (before["bytes_built"], before["bytes"]) == (0, before["views"][0]["bytes"])
    assert call("apply")[0] == 0
    after = json.loads(call("plan", "--json")[1])
    assert after["bytes"] == 0
    assert after["bytes_built"] == sum(f.stat().st_size for f in folder.glob(".bedplate/offline/*/segments/**/*.*"))
    assert before["bytes"] == pytest.approx(after["bytes_built"], rel=0.35)
    assert call("plan")[1].splitlines()[0].endswith(" MB built") or " kB built" in call("plan")[1]


def test_what_is_missing_is_told_by_its_condition_and_counted_in_the_table(folder: Path, call: Any) -> None:
    text = FEATURES.replace('Sum("x", windows="1d")', 'Sum("x", windows="1d", where=pl.col("x") == 3)')
    (folder / "features.py").write_text(text)
    words = ("backfill", "visits", "--from", format_time(START), "--to", format_time(START + DAY), "--dry-run")
    assert "1 timeline, 2 columns, 1 reduction" in call(*words)[1]
    (part,) = json.loads(call(*words, "--json")[1])["parts"]
    assert 'col("x") where col("x") == 3' in part["missing"]


def test_new_data_is_planned_and_applied_as_an_extension(folder: Path, call: Any) -> None:
    assert call("apply")[0] == 0
    add(folder, 2)
    code, out, _ = call("plan")
    assert code == 0
    assert "10 new rows: 1 timeline, 2 columns, 1 reduction" in out
    assert "the source 'events' has 10 rows that its index does not hold yet; 20 of 30 are indexed" in out
    plan = json.loads(call("plan", "--json")[1])["views"][0]
    assert (plan["build"]["rows"], plan["build"]["extends"]) == (10, True)
    code, out, _ = call("lookup", "visits.n_2d", "--key", "user=1", "--time", format_time(START + 3 * DAY))
    assert code == 5
    code, out, err = call("apply")
    assert (code, "read 10 rows" in err, "sort 10 events" in err) == (0, True, True)
    assert json.loads(call("apply", "--json")[1])["built"] == []


def test_listing_merging_and_collecting(folder: Path, call: Any) -> None:
    assert call("offline", "ls") == (0, "the offline store is empty; run: bedplate apply\n", "")
    call("apply")
    add(folder, 2)
    call("apply")
    code, out, _ = call("offline", "ls")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split()[:4] == ["SOURCE", "ENTITIES", "SEGMENT", "TIMES"]
    assert [line.split()[-1] for line in lines[1:3]] == ["visits", "visits"]
    assert lines[-1].startswith("1 timelines, 2 segments, ")
    (timeline,) = json.loads(call("offline", "ls", "--json")[1])["timelines"]
    assert sorted(s["rows"] for s in timeline["segments"]) == [10, 20]
    assert timeline["views"] == ["visits"]

    assert call("offline", "gc") == (0, "deleted nothing\n", "")
    code, out, _ = call("offline", "compact")
    assert out == "merged into 1 segments, 30 events; 'bedplate offline gc' deletes the old ones\n"
    assert call("offline", "compact")[1] == "nothing to merge\n"
    code, out, _ = call("offline", "gc", "--dry-run")
    assert out.splitlines()[-1].startswith("would delete 2 segments, ")
    found = json.loads(call("offline", "gc", "--dry-run", "--json")[1])
    assert [g["kind"] for g in found["garbage"]] == ["segment", "segment"]
    assert found["bytes"] == sum(g["bytes"] for g in found["garbage"])
    assert call("offline", "gc")[1].splitlines()[-1].startswith("deleted 2 segments, ")
    assert call("plan")[1].splitlines()[-1] == "nothing to build"


def test_four_segments_of_a_size_become_one_when_they_are_applied(folder: Path, call: Any) -> None:
    for day in range(2, 8):
        assert call("apply")[0] == 0
        add(folder, day)
    call("apply")
    (timeline,) = json.loads(call("offline", "ls", "--json")[1])["timelines"]
    read = [s["rows"] for s in timeline["segments"] if s["views"]]
    assert sum(read) == 80
    assert len(read) < 5


def test_a_backfill_says_what_is_missing_builds_it_and_then_has_nothing_to_do(folder: Path, call: Any) -> None:
    window = ("--from", format_time(START), "--to", format_time(START + DAY))
    code, out, _ = call("backfill", "visits", *window, "--dry-run")
    assert code == 0
    assert "1 timeline, 2 columns, 1 reduction" in out
    (part,) = json.loads(call("backfill", "visits", *window, "--dry-run", "--json")[1])["parts"]
    assert part["missing"] == ["timeline", "events", 'col("x")', 'sum of col("x")']
    assert out.splitlines()[-1].startswith("to build: about ")
    assert not (folder / ".bedplate").exists()
    code, out, err = call("backfill", "visits", *window)
    assert (code, out.splitlines()[-1].split(";")[1]) == (0, " the index holds 10 events")
    assert "visits: sort 10 events by key and time" in err
    assert call("backfill", "visits", *window)[1].splitlines()[-1] == "nothing to build"
    wider = ("--from", format_time(START), "--to", format_time(START + 5 * DAY))
    found = json.loads(call("backfill", "visits", *wider, "--dry-run", "--json")[1])
    assert [(p["there"], p["rows"]) for p in found["parts"]] == [(True, 10), (False, 10)]

    at = ("--key", "user=1", "--time")
    assert call("lookup", "visits.s_1d", *at, format_time(START + DAY))[0] == 0
    code, _, err = call("lookup", "visits.s_1d", *at, format_time(START + 2 * DAY))
    assert code == 5
    assert "run: bedplate backfill visits --from " in err
    assert call("apply")[0] == 0
    assert call("lookup", "visits.s_1d", *at, format_time(START + 2 * DAY))[0] == 0


def test_a_backfill_outside_of_the_data_builds_nothing_until_there_are_rows(folder: Path, call: Any) -> None:
    day = ("--from", format_time(START + 2 * DAY), "--to", format_time(START + 3 * DAY))
    code, out, err = call("backfill", "visits", *day)
    assert (code, out) == (0, "")
    last = format_time(START + DAY + 9)
    assert f"source 'events' has events from {format_time(START)} to {last}, none in this range" in err
    assert not (folder / ".bedplate").exists()
    found = json.loads(call("backfill", "visits", *day, "--json")[1])
    assert (found["parts"], found["built"]) == ([], False)
    assert call("backfill", "visits", "--from", "1999-01-01", "--to", "2000-01-01")[0] == 0
    assert not (folder / ".bedplate").exists()
    add(folder, 2)
    assert "the index holds 10 events" in call("backfill", "visits", *day)[1]


def test_a_lookup_after_the_data_says_a_range_that_can_be_built(folder: Path, call: Any) -> None:
    call("backfill", "visits", "--to", format_time(START + DAY))
    late = ("lookup", "visits.s_1d", "--key", "user=1", "--time", format_time(START + 9 * DAY))
    code, _, err = call(*late)
    assert code == 5
    words = err.splitlines()[-1].strip().removeprefix("run: bedplate ").split()
    assert call(*words)[0] == 0
    assert call(*late)[0] == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("nothing",), 4, "no view is named 'nothing'"),
        (("visits", "--from", "soon"), 2, "--from"),
        (("visits", "--from", "2026-02-01", "--to", "2026-01-01"), 2, "expected the first to be earlier"),
    ],
)
def test_a_backfill_that_cannot_be(call: Any, words: tuple[str, ...], code: int, message: str) -> None:
    got, _, err = call("backfill", *words)
    assert (got, message in err) == (code, True)
