"""A table five times the budget of memory, built and looked up within it, as the operating system counts it.

    python benchmarks/offline_memory.py [--memory BYTES] [--times 5] [--hot 0.9] [--json FILE]

The whole process is counted, libraries included (VmHWM). The table has six columns of 8 bytes; it is written first. As
it stands it has 10 GB of events for `memory = "2GB"`, and takes that of the disk several times over for a while; so it
is not one of the tests, which take a table of five times the room above the libraries. With `--hot` one key has that
share of the events, and a tenth of the rows that are looked up.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from record import machine, save

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.features.entity import Entity
from bedplate.features.view import FeatureView
from bedplate.offline.history import IndexedHistory
from bedplate.sources.base import Source
from bedplate.types import DAY

START = 1_700_006_400_000_000
VALUES = tuple(f"x{i}" for i in range(4))
FILE_ROWS = 2_000_000
LABELS = 1_000_000
HOT = 7


def generate(folder: Path, rows: int, hot: float) -> int:
    draw = np.random.default_rng(1)
    for number in range(-(-rows // FILE_ROWS)):
        count = min(FILE_ROWS, rows - number * FILE_ROWS)
        user = draw.integers(0, rows // 100, count)
        if hot:
            user = np.where(draw.random(count) < hot, HOT, user)
        frame = {"user": user, "time": START + draw.integers(0, 60 * DAY, count)}
        pl.DataFrame(frame | {v: draw.random(count) for v in VALUES}).write_parquet(folder / f"{number:04}.parquet")
    return rows // 100


def measure(folder: str, memory: str, keys: str, hot: str) -> None:
    """Builds, looks up a million rows, and says what it took."""
    source = Source("events", folder, time="time")
    features = {v: Sum(v, windows=["7d", "30d"]) for v in VALUES} | {"n": Count(windows="1d"), "m": Mean(VALUES[0])}
    view = FeatureView("v", Entity("user", key="user"), source, features).compile()
    history = IndexedHistory(Path(folder) / "index", memory=int(memory))
    began = time.perf_counter()
    build = history.build(view)
    build.run()
    built = time.perf_counter() - began
    draw = np.random.default_rng(2)
    asked = draw.integers(0, int(keys), (LABELS, 1))
    if float(hot):
        asked[: LABELS // 10] = HOT
    began = time.perf_counter()
    history.read(view, list(view.features), asked, START + draw.integers(DAY, 60 * DAY, LABELS))
    looked = time.perf_counter() - began
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    facts = {
        "build_s": round(built, 2),
        "lookup_s": round(looked, 2),
        "peak_bytes": peak,
        "buckets": [s.manifest.buckets for s in build.segments],
        "parts": [len(s.parts) for s in build.segments],
    }
    print(json.dumps(facts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", type=float, default=2e9, help="budget in bytes")
    parser.add_argument("--times", type=float, default=5.0, help="how many times the budget the table is")
    parser.add_argument("--hot", type=float, default=0.0, help="the share of the events that one key has")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    width = 8 * (2 + len(VALUES))
    rows = int(options.memory * options.times) // width
    with tempfile.TemporaryDirectory() as folder:
        keys = generate(Path(folder), rows, options.hot)
        code = "import sys; sys.path.insert(0, sys.argv[1]); import offline_memory as b; b.measure(*sys.argv[2:])"
        words = [str(Path(__file__).parent), folder, str(int(options.memory)), str(keys), str(options.hot)]
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    result = {
        "machine": machine(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": rows,
        "table_bytes": rows * width,
        "memory": int(options.memory),
        "labels": LABELS,
        "hot": options.hot,
        **found,
        "peak_to_memory": round(found["peak_bytes"] / options.memory, 3),
    }
    print(json.dumps(result, indent=2))
    save("offline_memory_hot" if options.hot else "offline_memory", result, options.json)
    if found["peak_bytes"] > options.memory:
        raise SystemExit("the peak is above the budget")


if __name__ == "__main__":
    main()
