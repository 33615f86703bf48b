"""Builds by buckets, extensions, compactions and collections killed at any moment: all goes on from what is finished.

BEDPLATE_KILLS sets how many times each is killed; a few by default, hundreds for a campaign.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.distinct import CountDistinct
from bedplate.aggregations.ordered import Last
from bedplate.features.entity import Entity
from bedplate.features.view import CompiledView, FeatureView
from bedplate.files import leftovers
from bedplate.offline import memory
from bedplate.offline.collect import collect
from bedplate.offline.compact import compact
from bedplate.offline.history import IndexedHistory
from bedplate.offline.memory import Budget
from bedplate.offline.reference import Reference
from bedplate.offline.segment import Span, segments_of
from bedplate.sources.base import Source
from bedplate.testing.simulator import START
from bedplate.types import DAY

KILLS = int(os.environ.get("BEDPLATE_KILLS", "2"))
BUCKETS = 8
ROWS = 3000

RANGE = Span(START, START + DAY)

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import test_crash_segments as t
t.work(*sys.argv[2:])
"""


def view_of(folder: Path) -> CompiledView:
    source = Source("events", str(folder / "*.parquet"), time="time")
    features = {"n": Count(windows="2d"), "s": Sum("x"), "d": CountDistinct("name"), "last": Last("name")}
    return FeatureView("v", Entity("user", key="user"), source, features).compile()


def write(folder: Path, number: int) -> None:
    draw = np.random.default_rng(number)
    folder.mkdir(exist_ok=True)
    pl.DataFrame(
        {
            "user": draw.integers(0, 50, ROWS),
            "time": START + number * DAY + draw.integers(0, 2 * DAY, ROWS),
            "x": draw.integers(-9, 9, ROWS),
            "name": [f"name {n}" for n in draw.integers(0, 30, ROWS)],
        }
    ).write_parquet(folder / f"{number}.parquet")


def work(what: str, table: str, store: str) -> None:
    """Runs one operation, a line on stderr for each step: what the tests kill."""
    memory.Budget.buckets = lambda self, view, rows, threads: BUCKETS

    def show(step: str) -> None:
        sys.stderr.write(f"{step}\n")
        sys.stderr.flush()

    view, path = view_of(Path(table)), Path(store)
    if what == "build":
        IndexedHistory(path).build(view).run(show)
    elif what == "backfill":
        IndexedHistory(path).build(view, RANGE).run(show)
    elif what == "compact":
        compact([IndexedHistory(path).build(view)], Budget(), 2, whole=True, progress=show)
    else:
        builds = [IndexedHistory(path).build(view)]
        show("collect")
        collect(path, Path("/none"), builds, dry_run=False)


def killed(what: str, table: Path, store: Path, chance: random.Random, lines: int) -> tuple[bool, list[str]]:
    """Runs an operation and kills it after some steps; whether it was killed, and its steps."""
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), what, str(table), str(store)]
    with subprocess.Popen(command, text=True, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = [process.stderr.readline() for _ in range(chance.randrange(1, lines))]
        time.sleep(chance.uniform(0, 0.01))
        process.kill()
        said += process.stderr.read().splitlines()
    assert process.returncode in (0, -signal.SIGKILL), said
    return process.returncode != 0, [s for s in said if s.strip()]


def check(table: Path, store: Path) -> None:
    view, history = view_of(table), IndexedHistory(store)
    keys = np.arange(0, 52, 3).reshape(-1, 1)
    times = np.full(len(keys), START + 3 * DAY)
    got = history.read(view, ["v.n_2d", "v.s", "v.d"], keys, times)
    reference = Reference(view)
    for i, key in enumerate(keys[:, 0].tolist()):
        expected = reference.values((key,), START + 3 * DAY)
        assert [got[n].values[i] for n in got] == [expected[n] for n in got]


@pytest.fixture
def buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.Budget, "buckets", lambda self, view, rows, threads: BUCKETS)


@pytest.mark.usefixtures("buckets")
def test_a_killed_build_goes_on_from_the_buckets_that_are_finished(tmp_path: Path) -> None:
    table, store, chance = tmp_path / "table", tmp_path / "store", random.Random(KILLS)
    for number in range(2):  # a build, then an extension
        write(table, number)
        sorts = kills = 0
        for _ in range(KILLS):
            was_killed, said = killed("build", table, store, chance, 2 + BUCKETS)
            kills += was_killed
            sorts += sum("sort bucket" in s for s in said)
            for segment in segments_of(store / IndexedHistory(store).build(view_of(table)).folder.name):
                assert all((part.folder / "keys.npy").exists() for part in segment.parts)
        steps: list[str] = []
        build = IndexedHistory(store).build(view_of(table))
        assert len(build.slots) == number + 1
        build.run(steps.append)
        sorts += sum("sort bucket" in s for s in steps)
        assert kills > 0, "each build ended before the signal came"
        assert sorts <= BUCKETS + 2 * kills, "a bucket that was finished was built again"
        check(table, store)
    assert leftovers(store) == []
    assert [p for p in store.rglob("*") if p.name.startswith(".") or p.name == "spill"] == []


@pytest.mark.usefixtures("buckets")
def test_a_killed_backfill_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    table, store, chance = tmp_path / "table", tmp_path / "store", random.Random(KILLS)
    write(table, 0)
    sorts = kills = 0
    for _ in range(KILLS):
        was_killed, said = killed("backfill", table, store, chance, 2 + BUCKETS)
        kills += was_killed
        sorts += sum("sort bucket" in s for s in said)
    steps: list[str] = []
    build = IndexedHistory(store).build(view_of(table), RANGE)
    build.run(steps.append)
    assert kills > 0, "each build ended before the signal came"
    assert sorts + sum("sort bucket" in s for s in steps) <= BUCKETS + 2 * kills
    events = pl.read_parquet(table / "0.parquet").filter(pl.col("time") < START + DAY)
    assert [s.manifest.rows for s in build.segments] == [events.height]
    assert IndexedHistory(store).build(view_of(table), RANGE).is_complete


@pytest.mark.usefixtures("buckets")
def test_a_killed_compaction_or_collection_loses_nothing(tmp_path: Path) -> None:
    table, store, chance = tmp_path / "table", tmp_path / "store", random.Random(KILLS)
    for number in range(3):
        write(table, number)
        IndexedHistory(store).build(view_of(table)).run()
    whole = tmp_path / "whole"
    shutil.copytree(store, whole)
    kills = 0
    for _ in range(KILLS):
        kills += killed("compact", table, store, chance, 2)[0]
        assert IndexedHistory(store).build(view_of(table)).is_complete
        check(table, store)
    build = IndexedHistory(store).build(view_of(table))
    compact([build], Budget(), 2, whole=True)
    assert len(IndexedHistory(store).build(view_of(table)).slots) == 1
    for _ in range(KILLS):
        kills += killed("gc", table, store, chance, 2)[0]
        assert IndexedHistory(store).build(view_of(table)).is_complete
        check(table, store)
    assert kills > 0, "everything ended before the signals came"
    collect(store, Path("/none"), [IndexedHistory(store).build(view_of(table))], dry_run=False)
    assert [s.manifest.rows for s in segments_of(build.folder)] == [3 * ROWS]
    assert list(store.rglob(".*")) == []
    check(table, store)
    check(table, whole)
