"""How long `bedplate serve` takes from the start of its process to ready, and the memory that it then has.

    python benchmarks/serving_start.py [--runs N] [--python COMMAND] [--json FILE]

The project and the DCN are those of `ranking_project.py`; the medians count. Private memory is what the machine gets
back when the process ends while another service runs; resident memory has also the pages of libraries, which processes
share. Libraries load others where they are installed, as Numba does SciPy and PyYAML: `--python` names the Python of an
environment that has only `bedplate[serve]`, and may have options, as in "service/bin/python -OO". Memory without the
model is judged twice: the size of its file is taken off, and of a service of the same features whose model gives zeros.
Targets: under 1 s with the DCN, and under 80 MB without it; it ends with 1 where one is missed
(docs/decisions/0032-start.md).
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ranking_project import Bench
from record import judge, machine, save
from served import Served

SERVICES = ("full", "null")
"""With the DCN, and with a model of zeros."""


def start(root: Path, service: str, python: Sequence[str]) -> dict[str, float]:
    """Starts it once: seconds, CPU seconds, and megabytes resident, proportional and private."""
    begin = time.perf_counter()
    with Served(root, "serve", service, python=python) as served:
        seconds = time.perf_counter() - begin
        cpu = served.sample()["cpu"]
        text = Path(f"/proc/{served.process.pid}/smaps_rollup").read_text()
        # A kB of the kernel's is 1024 bytes.
        megabytes = {name: int(size) * 1024 / 1e6 for name, size in re.findall(r"(\w+): +(\d+) kB", text)}
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "resident_MB": megabytes["Rss"],
        "proportional_MB": megabytes["Pss"],
        "private_MB": megabytes["Private_Clean"] + megabytes["Private_Dirty"],
    }


def measure(root: Path, runs: int, python: Sequence[str] = ()) -> dict[str, Any]:
    """The medians of some starts of each service, and the size of the models."""
    Bench(root)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    start(root, SERVICES[0], python)
    with Served(root, "serve", SERVICES[1], python=python):
        found = {service: [start(root, service, python) for _ in range(runs)] for service in SERVICES}
    medians = {s: {n: statistics.median(one[n] for one in rows) for n in rows[0]} for s, rows in found.items()}
    models = sum(path.stat().st_size for path in (root / "registry").rglob("*.onnx")) / 1e6
    return {"median": medians, "models_MB": models, "runs": found}


def main() -> int:
    """Measures, and compares the medians with the targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--python", type=shlex.split, default=[], help="the command of the Python of the services")
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options.runs, options.python)
    full, null = (result["median"][service] for service in SERVICES)
    models = result["models_MB"]
    for service, median in result["median"].items():
        for name, value in median.items():
            print(f"{service:6} {name:16} {value:8.2f}")
    code = judge(
        result,
        {
            "seconds from start to ready": (full["seconds"], "<=", 1.0),
            "private MB without the model's file": (full["private_MB"] - models, "<=", 80.0),
            "resident MB without the model's file": (full["resident_MB"] - models, "<=", 80.0),
            "private MB of a model of zeros": (null["private_MB"], "<=", 80.0),
            "resident MB of a model of zeros": (null["resident_MB"], "<=", 80.0),
        },
    )
    save("serving_start", result | {"machine": machine()}, options.json)
    return code


if __name__ == "__main__":
    sys.exit(main())
