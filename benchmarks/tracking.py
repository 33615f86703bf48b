"""What it costs to record a run with 100 metrics: Bedplate's registry and MLflow with a SQLite store, on one disk.

    python benchmarks/tracking.py [--folder DIR] [--repeats N] [--json FILE]

Both start a run with a config, record 100 values and end it, in turns, and both are read back and compared. Twice: a
call a value, as a training loop does, and one call for all. MLflow is used as its documentation says (`start_run`,
`log_metric`, `log_metrics`, `end_run`), without its asynchronous logging, under which a killed process loses values.
MLflow's telemetry is off. Bedplate's time has the git state and the flushing of run.json to the disk in it. The target,
a thirtieth, is for a call a value.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import mlflow
from record import judge, machine, save

from bedplate.registry.registry import Registry

METRICS = 100
CONFIG = {"rate": 0.1, "layers": "[64, 32]", "epochs": 5}
VALUES = {f"metric_{i}": 1 / (i + 1) for i in range(METRICS)}

Record = Callable[[], str]


def by_value(registry: Registry, project: Path) -> str:
    with registry.start_run("cost", CONFIG, project=project) as run:
        for step in range(METRICS):
            run.log_metrics(step, {"loss": 1 / (step + 1)})
    return run.id


def at_once(registry: Registry, project: Path) -> str:
    with registry.start_run("cost", CONFIG, project=project) as run:
        run.log_metrics(1, VALUES)
    return run.id


def mlflow_by_value() -> str:
    with mlflow.start_run() as run:
        mlflow.log_params(CONFIG)
        for step in range(METRICS):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
    return run.info.run_id


def mlflow_at_once() -> str:
    with mlflow.start_run() as run:
        mlflow.log_params(CONFIG)
        mlflow.log_metrics(VALUES, step=1)
    return run.info.run_id


def check(registry: Registry, ours: str, theirs: str) -> None:
    """Both hold the same values."""
    client = mlflow.MlflowClient()
    for name, points in registry.run(ours).metrics().items():
        history = sorted(client.get_metric_history(theirs, name), key=lambda p: p.step)
        assert [(p.step, p.value) for p in points] == [(p.step, p.value) for p in history], name


def timed(record: Record) -> tuple[str, float]:
    began = time.perf_counter()
    run = record()
    return run, (time.perf_counter() - began) * 1000


def measure(folder: Path, repeats: int) -> dict[str, float]:
    registry = Registry(folder / "registry")
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.set_experiment("cost")
    kinds: dict[str, tuple[Record, Record]] = {
        "call_a_value": (lambda: by_value(registry, folder), mlflow_by_value),
        "one_call": (lambda: at_once(registry, folder), mlflow_at_once),
    }
    taken: dict[str, list[float]] = {}
    for repeat in range(repeats + 1):
        for kind, (ours, theirs) in kinds.items():
            run, own = timed(ours)
            other, peer = timed(theirs)
            check(registry, run, other)
            if repeat:  # the first run of each makes what later ones find made
                taken.setdefault(f"bedplate_{kind}_ms", []).append(own)
                taken.setdefault(f"mlflow_{kind}_ms", []).append(peer)
    return {name: round(statistics.median(values), 3) for name, values in taken.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description="What a run with 100 metrics costs.")
    parser.add_argument("--folder", type=Path, help="measure on this folder's disk")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(Path(folder), options.repeats)
    for name, value in found.items():
        print(f"{name:<26} {value:>10.3f}")
    result = {"machine": machine(), "mlflow": metadata.version("mlflow-skinny"), "metrics": METRICS, **found}
    targets = {
        f"MLflow's time over Bedplate's, {text}": (
            round(found[f"mlflow_{kind}_ms"] / found[f"bedplate_{kind}_ms"], 1),
            ">=",
            30.0,
        )
        for kind, text in (("call_a_value", "a call a value"),)
    }
    result["ratio_one_call"] = round(found["mlflow_one_call_ms"] / found["bedplate_one_call_ms"], 1)
    print(f"in one call: {result['ratio_one_call']} times")
    code = judge(result, targets)
    print(save("tracking", result, options.json))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
