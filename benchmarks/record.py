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
