"""Bedplate's part of `new_feature_train.py`: FOLDER, in a process of its own.

What `bedplate apply` and `bedplate train` do, the exported and registered version included, and the interval of what
was predicted.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
from new_feature_data import NEW, SPLITS, THERE

from bedplate import Job
from bedplate.metrics.bootstrap import binary_sums, estimates
from bedplate.project import Project
from bedplate.training.predictions import read_predictions
from bedplate.training.run import train

STEPS = ("audit", "fit encodings", "train", "test")
"""What `train` tells of, by what ends when it tells."""


def check(project: Project, folder: Path) -> dict[str, Any]:
    """The sum of each feature over all rows, and how many rows the metric is of."""
    if "users.quantity_7d" not in project.graph.features:
        return {}
    rows = pl.read_parquet(folder / "rows.parquet")
    found = project.lookup([f"users.{name}" for name in THERE | NEW], rows["user"], rows["time"])
    sums = found.select(pl.col(f"users.{name}").cast(pl.Float64).sum() for name in THERE | NEW).row(0)
    return {"sums": sums, "rows": len(rows.filter(pl.col("time") >= SPLITS[1]))}


def main(folder: Path) -> None:
    laps = {"imported": time.perf_counter()}
    project = Project(folder)
    project.apply()
    laps["build"] = time.perf_counter()
    job, registry = project.find(Job, "ranker"), project.registry
    dataset = project.load(job.dataset)
    laps["spine"] = time.perf_counter()

    steps = iter(STEPS)

    def lap(_: str) -> None:
        """Told when a step begins: the one before has ended."""
        laps[next(steps)] = time.perf_counter()

    trained = train(job, dataset, project.graph.features, registry, project.root, progress=lap)
    laps["export"] = time.perf_counter()
    judged = binary_sums(*read_predictions(registry.run(trained.run_id).folder).of("label"))
    found = estimates({"auc": judged["auc"]})["auc"]
    laps["judge"] = time.perf_counter()
    parts = {after: laps[after] - laps[before] for before, after in itertools.pairwise(laps)}
    speed = trained.result.rows_per_second, trained.result.wait_share
    metric = {"parts": parts, "auc": (found.mean, found.low, found.high), "speed": speed}
    print(json.dumps(metric), flush=True)
    print(json.dumps(check(project, folder)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
