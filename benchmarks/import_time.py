"""How long `import bedplate` and `bedplate --help` take: the best and the median of fresh processes.

    python benchmarks/import_time.py

The budgets are 0.15 s and 0.4 s. An empty interpreter is shown beside them: that much no program can avoid. What the
imports load is guarded by tests/test_budgets.py, since times depend on the machine.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 15
CASES = {
    "python -c pass": (["-c", "pass"], None),
    "import bedplate": (["-c", "import bedplate"], 0.15),
    "bedplate --help": (["-m", "bedplate", "--help"], 0.4),
    "from bedplate import Entity": (["-c", "from bedplate import Entity"], None),
}


def seconds(arguments: list[str]) -> float:
    """The wall time of one process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Measures and prints every case."""
    print(f"{'':28} {'best':>8} {'median':>8} {'budget':>8}")
    for name, (arguments, budget) in CASES.items():
        times = [seconds(arguments) for _ in range(RUNS)]
        limit = f"{budget:.2f} s" if budget else ""
        print(f"{name:28} {min(times):6.3f} s {statistics.median(times):6.3f} s {limit:>8}")


if __name__ == "__main__":
    main()
