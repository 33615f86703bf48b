"""How long `import bedplate` and `bedplate --help` take in fresh processes, against their budgets.

    python benchmarks/import_time.py [--json benchmarks/results/import_time-DATE.json]

The budgets are 0.15 s and 0.4 s for the whole process, the interpreter's own start included; the median counts. An
empty interpreter is shown beside them: that much no program can avoid. The cases take turns, so that all of them meet
the same machine. It ends with code 1 if a budget is missed. Times depend on the machine, so no test is timed:
tests/test_budgets.py guards what decides them, the modules that the two load.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from record import machine, save

BUDGETS = {"import bedplate": 0.15, "bedplate --help": 0.4}
CASES = {
    "python -c pass": ["-c", "pass"],
    "import bedplate": ["-c", "import bedplate"],
    "bedplate --help": ["-m", "bedplate", "--help"],
    "from bedplate import Entity": ["-c", "from bedplate import Entity"],
}


def seconds(arguments: list[str]) -> float:
    """The wall time of one process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    """Measures every case and compares the medians with the budgets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=25, help="processes of each")
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    for arguments in CASES.values():
        seconds(arguments)  # the first one compiles to .pyc and reads from the disk
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(options.runs):
        for name, arguments in CASES.items():
            times[name].append(seconds(arguments))
    result = {
        name: {
            "best_seconds": min(found),
            "median_seconds": statistics.median(found),
            "budget_seconds": BUDGETS.get(name),
        }
        for name, found in times.items()
    }
    print(f"{'':28} {'best':>8} {'median':>8} {'budget':>8}")
    missed = False
    for name, one in result.items():
        budget, median = one["budget_seconds"], one["median_seconds"]
        said = "" if budget is None else f"{budget:6.2f} s  {'kept' if median <= budget else 'missed'}"
        missed |= budget is not None and median > budget
        print(f"{name:28} {one['best_seconds']:6.3f} s {median:6.3f} s {said}")
    if options.json:
        save("import_time", result | {"machine": machine()}, options.json)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
