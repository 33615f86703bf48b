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

import numpy as np
import polars as pl
from new_feature_data import SPLITS

from bedplate import Job
from bedplate.project import Project
from bedplate.registry.registry import Registry
from bedplate.training.comparison import measure
from bedplate.training.predictions import read_predictions
from bedplate.training.run import train

STEPS = ("audit", "fit encodings", "train", "test")
"""What `train` tells of, by what ends when it tells."""


def check(project: Project, folder: Path) -> dict[str, float]:
    """The sum of the new feature over all rows, and how many rows the metric is of."""
    if "users.quantity_7d" not in project.graph.features:
        return {}
    rows = pl.read_parquet(folder / "rows.parquet")
    found = project.lookup("users.quantity_7d", rows["user"], rows["time"])["users.quantity_7d"]
    return {"sum": float(np.asarray(found, np.float64).sum()), "rows": len(rows.filter(pl.col("time") >= SPLITS[1]))}


def main(folder: Path) -> None:
    laps = {"imported": time.perf_counter()}
    project = Project(folder)
    project.apply()
    laps["build"] = time.perf_counter()
    job, registry = project.find(Job, "ranker"), Registry(project.config.registry_path)
    dataset = project.load(job.dataset)
    laps["spine"] = time.perf_counter()

    steps = iter(STEPS)

    def lap(_: str) -> None:
        """Told when a step begins: the one before has ended."""
        laps[next(steps)] = time.perf_counter()

    trained = train(job, dataset, project.graph.features, registry, project.root, progress=lap)
    laps["export"] = time.perf_counter()
    found = measure(read_predictions(registry.run(trained.run_id).folder), "label")["auc"]
    laps["judge"] = time.perf_counter()
    parts = {after: laps[after] - laps[before] for before, after in itertools.pairwise(laps)}
    speed = trained.result.rows_per_second, trained.result.wait_share
    began = time.perf_counter()
    checked = check(project, folder)
    aside = {"aside": time.perf_counter() - began}
    print(json.dumps({"parts": parts, "auc": (found.mean, found.low, found.high), "speed": speed} | checked | aside))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
