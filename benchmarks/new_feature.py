"""From one new feature to training rows with it: 5M events, 1M training rows, ten features that are there already.

    python benchmarks/new_feature.py [--events N] [--labels N] [--users N] [--repeat N] [--json FILE]

A project whose indexes are built gets one more feature, as on a branch. Measured from the edit, in a process of its own
with compiled kernels: loading the definitions, building what is missing, and joining all training rows with every
feature. Four edits: a window over a column that is there, a derived feature, a new column, and for comparison the same
project with nothing built. The values of the new column are compared with those of the whole build, bit by bit.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from record import machine, peak_bytes, save

from bedplate.types import DAY

START = 1_700_006_400_000_000

BASE = """
import polars as pl
from bedplate import Count, Dataset, DerivedFeature, Entity, FeatureView, Last, Mean, Source, Spine, Sum, TimeSplit

user, item = Entity("user", key="user"), Entity("item", key="item")
events = Source("events", "events.parquet", time="time")
rows = Source("rows", "rows.parquet", time="time")
users = FeatureView("users", user, events, {
    "n": Count(windows=["1d", "7d", "30d"]),
    "spent": Sum("price", windows=["1d", "7d", "30d"]),
    "price": Mean("price", windows=["7d", "30d"]),
    "last": Last("price"),
    "buys": Count(windows="7d", where=pl.col("kind") == 2),
    # NEW
})
# DERIVED
training = Dataset("training", spine=Spine(rows, request="row", entities=user, item=item), features=["users.*"],
                   split=TimeSplit("2030-01-01", "2030-02-01"), batch_items=65_536)
"""

EDITS = {
    "a window over a column that is there": ("# NEW", '"longer": Sum("price", windows="14d"),'),
    "a derived feature": (
        "# DERIVED",
        'share = DerivedFeature("share", pl.col("users.n_7d") / (pl.col("users.n_30d") + 1))',
    ),
    "a new column": ("# NEW", '"quantity": Sum("quantity", windows=["7d", "30d"]),'),
}

STEP = """
import json, sys, time
sys.path.insert(0, {here!r})
import numpy as np
from record import peak_bytes
from bedplate.batch import Dense
from bedplate.datasets.loader import Loader
from bedplate.project import Project
begin = time.perf_counter()
project = Project({folder!r})
loaded = time.perf_counter()
built = project.apply()
applied = time.perf_counter()
dataset = project.load("training")
opened = time.perf_counter()
rows, total = 0, 0.0
for batch in Loader(dataset, "train").epoch(0, 0):
    rows += batch.items
    found = batch.request.get("users.quantity_7d")
    if isinstance(found, Dense):
        total += float(found.values.astype(np.float64).sum())
read = time.perf_counter()
print(json.dumps({{"definitions": loaded - begin, "build": applied - loaded, "spine": opened - applied,
    "join": read - opened, "seconds": read - begin, "rows": rows, "sum": total, "peak_bytes": peak_bytes(),
    "features": len(project.graph.features)}}))
"""


def generate(folder: Path, events: int, labels: int, users: int) -> None:
    draw = np.random.default_rng(1)
    weights = draw.pareto(1.2, users) + 1
    weights /= weights.sum()
    pl.DataFrame(
        {
            "user": draw.choice(users, events, p=weights),
            "item": draw.integers(0, 50_000, events),
            "time": np.sort(START + draw.integers(0, 60 * DAY, events)),
            "price": np.round(draw.gamma(2.0, 20.0, events), 2),
            "quantity": draw.integers(1, 9, events),
            "kind": draw.integers(0, 3, events),
        }
    ).write_parquet(folder / "events.parquet")
    pl.DataFrame(
        {
            "row": np.arange(labels),
            "user": draw.choice(users, labels, p=weights),
            "item": draw.integers(0, 50_000, labels),
            "time": START + draw.integers(10 * DAY, 60 * DAY, labels),
        }
    ).write_parquet(folder / "rows.parquet")


def step(folder: Path) -> dict[str, Any]:
    """Loads, builds and joins in a process of its own."""
    program = STEP.format(folder=str(folder), here=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def edited(name: str) -> str:
    old, new = EDITS[name]
    text = BASE.replace(old, new)
    return text.replace('["users.*"]', '["users.*", share]') if name == "a derived feature" else text


def measure(folder: Path, repeat: int) -> dict[str, Any]:
    """The steps of each edit, the fastest of `repeat`; every repetition starts from the indexes of the base alone."""
    source, offline, kept = folder / "features.py", folder / ".bedplate" / "offline", folder / "kept"
    source.write_text(BASE)
    step(folder)  # compiles what is not cached, and builds the base
    shutil.copytree(offline, kept)
    found: dict[str, Any] = {}
    for name in ["nothing new", *EDITS]:
        source.write_text(BASE if name == "nothing new" else edited(name))
        runs: list[dict[str, Any]] = []
        for _ in range(repeat):
            shutil.rmtree(offline)
            shutil.copytree(kept, offline)
            runs.append(step(folder))
        found[name] = min(runs, key=lambda r: r["seconds"])
    source.write_text(edited("a new column"))
    runs = []
    for _ in range(repeat):
        shutil.rmtree(offline)
        runs.append(step(folder))
    found["everything, from nothing"] = min(runs, key=lambda r: r["seconds"])
    got, whole = found["a new column"], found["everything, from nothing"]
    if got["sum"] != whole["sum"] or got["rows"] != whole["rows"] or not got["sum"]:
        raise SystemExit(f"the new column differs from that of the whole build: {got} {whole}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "bedplate.toml").write_text('[project]\nname = "new-feature"\n')
        generate(folder, options.events, options.labels, options.users)
        began = time.perf_counter()
        found = measure(folder, options.repeat)
        took = time.perf_counter() - began
    print(f"{options.events:,} events, {options.labels:,} training rows, {found['nothing new']['features']} features")
    print(f"{'':40}{'definitions':>12}{'build':>8}{'spine':>8}{'join':>8}{'total':>8}")
    for name, run in found.items():
        numbers = "".join(f"{run[k]:8.2f}" for k in ("build", "spine", "join", "seconds"))
        print(f"{name:40}{run['definitions']:12.2f}{numbers}")
    settings = {k: getattr(options, k) for k in ("events", "labels", "users", "repeat")}
    result = {"machine": machine(), "settings": settings, "edits": found, "seconds": took, "peak_bytes": peak_bytes()}
    print(f"written to {save('new_feature', result, options.json)}")


if __name__ == "__main__":
    main()
