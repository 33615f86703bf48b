"""What a run costs: a run with 100 metrics, the file system's own cost beside it, and registering a version.

    python benchmarks/registry_cost.py [--folder DIR] [--repeats N] [--json FILE]

The budget is 0.3 ms a metric. Starting and finishing a run wait for the disk (run.json is flushed), a metric does not:
it is one write to the system, which a killed process can't lose. The floor is the same number of bytes written with the
same number of bare `os.write` calls.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from bedplate.registry.manifest import gather
from bedplate.registry.registry import Registry

METRICS = 100


def bare_writes(path: Path, line: bytes) -> float:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    begin = time.perf_counter()
    for _ in range(METRICS):
        os.write(file, line)
    seconds = time.perf_counter() - begin
    os.close(file)
    return seconds


def measure(folder: Path, repeats: int) -> dict[str, float]:
    registry = Registry(folder / "registry")
    taken: dict[str, list[float]] = {}

    def note(name: str, begin: float) -> None:
        taken.setdefault(name, []).append((time.perf_counter() - begin) * 1000)

    for i in range(repeats):
        whole = begin = time.perf_counter()
        run = registry.start_run("cost", {"repeat": i})
        note("start_ms", begin)
        begin = time.perf_counter()
        for step in range(METRICS):
            run.log_metrics(step, {"loss": 1 / (step + 1)})
        note("metrics_100_ms", begin)
        begin = time.perf_counter()
        run.finish()
        note("finish_ms", begin)
        note("run_with_100_metrics_ms", whole)
        found = registry.run(run.id).metrics()["loss"]
        assert [p.value for p in found] == [1 / (step + 1) for step in range(METRICS)]
        line = (run.folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)[-1]
        taken.setdefault("bare_writes_100_ms", []).append(bare_writes(folder / f"bare{i}", line) * 1000)
        (run.artifact / "model").write_bytes(os.urandom(10_000_000))
        facts = gather(folder, definitions={}, sources={}, config={}, seeds={}, metrics={})
        begin = time.perf_counter()
        version = registry.register("cost", run.artifact, manifest=facts, run_id=run.id)
        note("register_10_mb_ms", begin)
        begin = time.perf_counter()
        registry.promote("cost", version.version)
        note("promote_ms", begin)
        begin = time.perf_counter()
        registry.get("cost@champion")
        note("get_ms", begin)
    return {name: round(statistics.median(values), 4) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="What a run with 100 metrics costs.")
    parser.add_argument("--folder", type=Path, help="measure on this folder's disk")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(Path(folder), options.repeats)
    found["metric_ms"] = round(found["metrics_100_ms"] / METRICS, 5)
    found["ratio_to_bare_writes"] = round(found["metrics_100_ms"] / found["bare_writes_100_ms"], 2)
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:<{width}}  {value:>10.4f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if found["metric_ms"] > 0.3:
        raise SystemExit(f"a metric takes {found['metric_ms']} ms, the budget is 0.3 ms")


if __name__ == "__main__":
    main()
