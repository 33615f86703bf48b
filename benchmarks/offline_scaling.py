"""How the offline store scales: tables of 1x, 3x and 10x, built, extended by a day and looked up; a table and a plot.

    python benchmarks/offline_scaling.py [--events N] [--labels N] [--memory 2GB] [--repeats N] [--json FILE]

Keys, events and labels grow together. Each size runs in a process of its own, with one Parquet file a day for 30 days.
The target is that ten times the table takes at most 15 % more than ten times the time. The plot is an SVG beside the
result.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from record import RESULTS, judge, machine, save

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.extremes import Max
from bedplate.aggregations.ordered import Last
from bedplate.features.entity import Entity
from bedplate.features.view import CompiledView, FeatureView
from bedplate.offline.history import IndexedHistory
from bedplate.sources.base import Source
from bedplate.types import DAY

START = 1_700_006_400_000_000  # a whole day
DAYS, SCALES = 30, (1, 3, 10)
COLUMNS = {"build_s": "#1f77b4", "lookup_s": "#d62728", "extend_s": "#2ca02c"}


def generate(folder: Path, events: int, keys: int) -> None:
    """Thirty days, and one more that is not there yet."""
    draw = np.random.default_rng(1)
    (folder / "events").mkdir(parents=True)
    for day in range(DAYS + 1):
        count = events // DAYS
        times = START + day * DAY + np.sort(draw.integers(0, DAY, count))
        users = (draw.random(count) ** 2 * keys).astype(np.int64)
        frame = pl.DataFrame({"user": users, "time": times, "value": np.round(draw.gamma(2.0, 20.0, count), 2)})
        frame.write_parquet(folder / ("events" if day < DAYS else ".") / f"{day:03}.parquet")


def view(folder: Path) -> CompiledView:
    source = Source("events", str(folder / "events"), time="time")
    features = {
        "n": Count(windows=["1d", "7d"]),
        "total": Sum("value", windows=["1d", "7d"]),
        "mean": Mean("value", windows="30d"),
        "most": Max("value", windows="7d"),
        "last": Last("value"),
    }
    return FeatureView("events", Entity("user", key="user"), source, features).compile()


def measure(folder: Path, labels: int, keys: int, memory: int) -> dict[str, Any]:
    """Seconds of a build, of lookups, of a day more, and the peak memory; in this process."""
    shutil.rmtree(folder / "index", ignore_errors=True)
    (folder / "events" / f"{DAYS:03}.parquet").unlink(missing_ok=True)
    draw = np.random.default_rng(2)
    asked = draw.integers(0, keys, (labels, 1))
    times = START + draw.integers(DAY, DAYS * DAY, labels)
    began = time.perf_counter()
    history = IndexedHistory(folder / "index", memory=memory)
    history.build(view(folder)).run()
    built = time.perf_counter() - began
    began = time.perf_counter()
    reader, names = IndexedHistory(folder / "index", memory=memory), list(view(folder).features)
    reader.read(view(folder), names, asked, times)
    looked = time.perf_counter() - began
    shutil.copy(folder / f"{DAYS:03}.parquet", folder / "events")
    began = time.perf_counter()
    build = IndexedHistory(folder / "index", memory=memory).build(view(folder))
    build.run()
    extended = time.perf_counter() - began
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    buckets = max(s.manifest.buckets for s in build.segments)
    return {"build_s": built, "lookup_s": looked, "extend_s": extended, "peak_bytes": peak, "buckets": buckets}


def child(folder: str, labels: str, keys: str, memory: str) -> None:
    tiny = Path(folder) / "tiny"
    generate(tiny, 3000, 10)
    measure(tiny, 20_000, 10, int(memory))  # compiles the kernels, or loads them from the cache
    print(json.dumps(measure(Path(folder), int(labels), int(keys), int(memory))))
    shutil.rmtree(tiny)


def run(scale: int, options: argparse.Namespace) -> dict[str, Any]:
    events, labels, keys = options.events * scale, options.labels * scale, options.events * scale // 50
    code = "import sys; sys.path.insert(0, sys.argv[1]); import offline_scaling as b; b.child(*sys.argv[2:])"
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), events, keys)
        words = [str(Path(__file__).parent), folder, str(labels), str(keys), str(int(options.memory))]
        runs: list[dict[str, Any]] = []
        for _ in range(options.repeats):
            done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    result = {key: round(statistics.median(r[key] for r in runs), 3) for key in COLUMNS}
    most = {key: max(r[key] for r in runs) for key in ("peak_bytes", "buckets")}
    return {"scale": scale, "events": events, "labels": labels, "keys": keys} | result | most


def shown(rows: list[dict[str, Any]]) -> str:
    """Seconds, and in brackets how much more than linear they are."""
    lines = ["scale      events     labels" + "".join(f"{c:>20}" for c in COLUMNS) + "    peak  buckets"]
    for row in rows:
        cells = [f"{row[c]:.2f} ({row[c] / (rows[0][c] * row['scale']) - 1:+.0%})" for c in COLUMNS]
        line = f"{row['scale']:>4}x {row['events']:>12,} {row['labels']:>10,}" + "".join(f"{c:>20}" for c in cells)
        lines.append(f"{line} {row['peak_bytes'] / 1e6:>5.0f} MB {row['buckets']:>6}")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]]) -> str:
    """Seconds against size, both logarithmic, with the line that linear would be (dashed)."""
    every = [row[c] * f for row in rows for c in COLUMNS for f in (0.8, 1.25)]
    low, high = np.log10(min(every)), np.log10(max(every))
    right = np.log10(rows[-1]["scale"]) or 1.0

    def place(scale: float, seconds: float) -> str:
        x, y = 70 + 480 * np.log10(scale) / right, 330 - 290 * (np.log10(seconds) - low) / (high - low)
        return f"{x:.1f},{y:.1f}"

    parts = ['<rect width="640" height="380" fill="white"/>']
    for i, (column, color) in enumerate(COLUMNS.items()):
        points = " ".join(place(r["scale"], r[column]) for r in rows)
        ideal = " ".join(place(r["scale"], rows[0][column] * r["scale"]) for r in rows)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.append(f'<polyline points="{ideal}" fill="none" stroke="{color}" stroke-dasharray="4"/>')
        parts.append(f'<text x="80" y="{30 + 18 * i}" fill="{color}">{column.removesuffix("_s")}, seconds</text>')
        for r in rows:
            x, y = place(r["scale"], r[column]).split(",")
            parts.append(f'<text x="{x}" y="{float(y) - 6}" font-size="11">{r[column]:.2f}</text>')
    for r in rows:
        x = place(r["scale"], rows[0]["build_s"]).split(",")[0]
        parts.append(f'<text x="{x}" y="355" font-size="12">{r["scale"]}x: {r["events"]:,} events</text>')
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="380" font-family="sans-serif">\n{body}\n</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=3_000_000, help="of the smallest table")
    parser.add_argument("--labels", type=int, default=300_000, help="looked up in the smallest table")
    parser.add_argument("--memory", type=float, default=2e9, help="budget in bytes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [run(scale, options) for scale in SCALES]
    over = {c: round(rows[-1][c] / (rows[0][c] * SCALES[-1]) - 1, 3) for c in COLUMNS}
    result = {
        "machine": machine(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "memory": int(options.memory),
        "sizes": rows,
        "over_linear": over,
    }
    print(shown(rows))
    missed = judge(result, {f"{c} at {SCALES[-1]}x, over linear": (over[c], "<=", 0.15) for c in COLUMNS})
    path = save("offline_scaling", result, options.json)
    path.with_suffix(".svg").write_text(plot(rows))
    print(
        f"\n{path.relative_to(RESULTS.parent) if path.is_relative_to(RESULTS.parent) else path}, and a plot beside it"
    )
    raise SystemExit(missed)


if __name__ == "__main__":
    main()
