"""What every benchmark writes down: the machine, the commit, the versions, and the result in a dated file."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=RESULTS.parent
    ).stdout.strip()
    with Path("/proc/cpuinfo").open() as info:
        model = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())
    versions = {}
    for name in ("numpy", "polars", "numba", "duckdb", "torch", "onnxruntime", "lmdb"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {"cpu": model, "cores": os.cpu_count(), "commit": commit, "versions": versions}


def peak_bytes() -> int:
    """The most memory that this process has held, as the operating system counts it."""
    # Not ru_maxrss, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def save(name: str, result: dict[str, Any], path: Path | None = None) -> Path:
    """Writes the result to `results/NAME-DATE.json`, or to the given file."""
    if path is None:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{name}-{datetime.now(UTC):%Y-%m-%d}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


def judge(result: dict[str, Any], targets: dict[str, tuple[float, str, float]]) -> int:
    """Writes the targets into a result and prints them; the exit code of a benchmark: 1 where one is missed.

    Args:
        result: gets `targets`.
        targets: by what is measured the figure, `>=` or `<=`, and the target.
    """
    judged = {
        what: {"got": got, "target": f"{sign} {target:g}", "met": got >= target if sign == ">=" else got <= target}
        for what, (got, sign, target) in targets.items()
    }
    result["targets"] = judged
    for what, found in judged.items():
        print(f"{what}: {found['got']:g}, target {found['target']}: {'met' if found['met'] else 'MISSED'}")
    return 0 if all(found["met"] for found in judged.values()) else 1
