"""From one changed feature to a metric with an interval, 1M rows over 5M events: Bedplate beside wide tables.

    python benchmarks/new_feature_train.py [--ways duckdb,polars,one] [--loops loader,slices] [--rounds 3] [--json FILE]

A project with nine windowed features and a model, all built and trained once, gets two windows over one more column.
Measured is each process from its start to the line with the AUC on the test split and its 95 % interval over the
requests. Bedplate loads the edited definitions, builds what is missing, joins while it trains, and exports and
registers the version. A modeler with a wide table builds the table of all eleven features (DuckDB or Polars, the faster
way counts), reads it, and trains the same model on the same rows and split, an epoch too. Two loops are his: a
DataLoader, which the target is about, and slices of shuffled tensors, which are what a loop can be. `one` is what he
does if he joins the new column to the table of before instead of building it anew; that has no target.

The values of the features are compared by their sums, the metrics by their intervals.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import new_feature_data as data
from record import judge, machine, save

HERE = Path(__file__).parent
TARGET = 5.0
"""How many times as long the faster wide table with a DataLoader takes."""


def timed(script: str, *arguments: object) -> dict[str, Any]:
    """What a part prints, and the seconds from the start of its process to its first line, which has the metric."""
    command = [sys.executable, str(HERE / f"{script}.py"), *map(str, arguments)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        seconds = time.perf_counter() - began
        rest, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{script} failed:\n{first}{rest[-2000:]}\n{errors[-4000:]}")
    found = json.loads(first) | json.loads(rest or "{}")
    return found | {"seconds": seconds, "parts": {"start": seconds - sum(found["parts"].values())} | found["parts"]}


def edit(folder: Path, *, is_new: bool) -> None:
    for name, text in data.files(is_new=is_new).items():
        (folder / name).write_text(text)


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """The files, the project built and trained before the edit, and what is kept of it."""
    data.write(folder, options.events, options.labels, options.users)
    (folder / "bedplate.toml").touch()
    edit(folder, is_new=False)
    timed("new_feature_ours", folder)
    shutil.copytree(folder / ".bedplate", folder / "kept")
    if "one" in options.ways:
        timed("new_feature_wide", folder, "there", "none")
        (folder / "wide.parquet").rename(folder / "there.parquet")


def ours(folder: Path) -> dict[str, Any]:
    shutil.rmtree(folder / ".bedplate")
    shutil.copytree(folder / "kept", folder / ".bedplate")
    edit(folder, is_new=True)
    return timed("new_feature_ours", folder)


def check(found: dict[str, Any], other: dict[str, Any], name: str) -> None:
    """Ends the benchmark where two runs did not do the same work equally well."""
    same = all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(found["sums"], other["sums"], strict=True))
    if not same or found["rows"] != other["rows"]:
        raise SystemExit(f"the rows or the features of {name} differ: {found} {other}")
    if found["auc"][2] < other["auc"][1] or other["auc"][2] < found["auc"][1]:
        raise SystemExit(f"the intervals of {name} do not meet: {found['auc']} {other['auc']}")


def show(name: str, run: dict[str, Any]) -> None:
    value, low, high = run["auc"]
    parts = ", ".join(f"{part} {seconds:.2f}" for part, seconds in run["parts"].items())
    print(f"  {name:18} {run['seconds']:6.2f} s  AUC {value:.4f} [{low:.4f}, {high:.4f}]  {parts}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--ways", default="duckdb,polars,one")
    parser.add_argument("--loops", default="loader,slices")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ways, loops = options.ways.split(","), options.loops.split(",")
    runs: dict[str, list[dict[str, Any]]] = {"bedplate": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, options)
        for number in range(options.rounds):
            print(f"round {number + 1}: {options.labels:,} rows, {options.events:,} events")
            runs["bedplate"].append(own := ours(folder))
            show("bedplate", own)
            for name, way, loop in [(f"{way}, {loop}", way, loop) for way in ways for loop in loops]:
                other = timed("new_feature_wide", folder, way, loop)
                show(name, other)
                check(own, other, name)
                runs.setdefault(name, []).append(other)
    seconds = {name: statistics.median(r["seconds"] for r in each) for name, each in runs.items()}
    ratios = {name: taken / seconds["bedplate"] for name, taken in seconds.items() if name != "bedplate"}
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f} times as long as Bedplate")
    built = [ratio for name, ratio in ratios.items() if name.endswith("loader") and not name.startswith("one")]
    settings = {k: getattr(options, k) for k in ("events", "labels", "users", "rounds")}
    result = {"settings": settings, "runs": runs, "seconds": seconds, "ratios": ratios}
    wanted = (
        {"times as long takes the faster wide table, with a DataLoader": (min(built), ">=", TARGET)} if built else {}
    )
    code = judge(result, wanted)
    save("new_feature_train", machine() | result, options.json)
    return code


if __name__ == "__main__":
    sys.exit(main())
