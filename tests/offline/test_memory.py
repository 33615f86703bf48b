"""A table five times the budget is built and looked up within it, by what the operating system counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bedplate.offline.memory import LEAST, Budget, bytes_per_row, resident
from bedplate.testing.simulator import simulate, simulated_view

PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
import polars as pl
from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.ordered import Last
from bedplate.features.entity import Entity
from bedplate.features.view import FeatureView
from bedplate.offline.history import IndexedHistory
from bedplate.offline.memory import resident
from bedplate.sources.base import Source


def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def run(name, folder, memory):
    values = [f"x{i}" for i in range(5)]
    features = {v: Sum(v, windows=["7d"]) for v in values} | {"n": Count(windows=["1d"]), "last": Last("x0")}
    source = Source("events", str(Path(folder) / name / "*.parquet"), time="time")
    view = FeatureView("v", Entity("user", key="user"), source, features).compile()
    history = IndexedHistory(Path(folder) / f"index {name}", threads=2, memory=memory)
    build = history.build(view)
    build.run()
    draw = np.random.default_rng(2)
    keys, times = draw.integers(0, 20_000, (200_000, 1)), draw.integers(10**15, 10**15 + 30 * 86_400_000_000, 200_000)
    total = 0.0
    for _ in range(2):
        got = history.read(view, list(view.features), keys, times)
        total = float(sum(np.nansum(got[f"v.{v}_7d"].values) for v in values))
    return [s.manifest.buckets for s in build.segments], total


folder, room = sys.argv[1], int(sys.argv[2])
run("tiny", folder, None)  # imports and compiles
before = peak()
buckets, total = run("large", folder, before + room)
print(json.dumps({"before": before, "after": peak(), "buckets": buckets, "total": total}))
"""


def write(folder: Path, rows: int, files: int) -> int:
    """Bytes of the events that are written."""
    folder.mkdir()
    draw = np.random.default_rng(1)
    for number in range(files):
        part = rows // files
        frame = pl.DataFrame(
            {"user": draw.integers(0, 20_000, part), "time": 10**15 + draw.integers(0, 30 * 86_400_000_000, part)}
            | {f"x{i}": draw.random(part) for i in range(5)}
        )
        frame.write_parquet(folder / f"{number:03}.parquet", row_group_size=100_000, compression="uncompressed")
    return rows * 7 * 8


def test_a_table_five_times_the_budget_is_built_and_looked_up_within_it(tmp_path):
    room = 60_000_000
    size = write(tmp_path / "large", 5_400_000, 9)
    assert size >= 5 * room
    write(tmp_path / "tiny", 1000, 1)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(room)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["buckets"][0] > 1
    assert found["total"] > 0
    assert found["after"] <= found["before"] + room


def test_a_budget_says_how_many_buckets_rows_need():
    view = simulated_view(simulate(1))
    budget = Budget(resident() + 4 * LEAST)
    rows = 10 * LEAST // bytes_per_row(view)
    assert budget.buckets(view, rows // 100, 2) == 1
    assert budget.buckets(view, rows, 2) >= 8
    assert budget.buckets(view, 2 * rows, 2) == 2 * budget.buckets(view, rows, 2)
    assert budget.buckets(view, rows, 1) < budget.buckets(view, rows, 2)


def test_a_budget_that_is_used_up_leaves_the_least():
    assert Budget(1).room() == LEAST
    assert Budget(resident() + 10 * LEAST).room() == pytest.approx(10 * LEAST, rel=0.2)
