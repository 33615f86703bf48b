"""Training with the last-mile join, against the same model fed from tensors that are in memory already.

    OMP_WAIT_POLICY=passive python benchmarks/train_end_to_end.py [--job retail_ranker] [--batches 60] [--json FILE]

The example's job on the example's data: the loader draws negatives, joins features and labels from the as-of indexes
and encodes, in threads beside the trainer. The same batches, encoded beforehand, give the limit. Both take turns three
times; the losses of the two must be equal, since they see the same tensors.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import click
import torch
from click.testing import CliRunner
from record import machine, save

from bedplate import Job, Project
from bedplate.cli.init import init
from bedplate.datasets.blocks import Stretch
from bedplate.datasets.loader import Loader
from bedplate.features.encoder import Encoder
from bedplate.features.fitting import fit
from bedplate.models.batch import TensorBatch
from bedplate.training.optimizer import Optimizer
from bedplate.training.prefetch import Ahead, Waiting, prefetched
from bedplate.training.source import Encoded
from bedplate.training.tensors import to_tensors


def steps(job: Job, encoder: Encoder, batches: Iterator[TensorBatch]) -> tuple[int, float, float]:
    """Rows, seconds and the last loss of forward, backward and optimiser over batches."""
    torch.manual_seed(0)
    model, c = job.model_class(job.model, encoder.layout), job.trainer
    optimizer = Optimizer(model, c)
    model.train()
    rows, last, began = 0, 0.0, time.perf_counter()
    for batch in batches:
        optimizer.clear()
        loss = model.loss(model(batch), batch)
        last = loss.item()
        loss.backward()
        optimizer.clip_gradients()
        optimizer.step()
        rows += batch.rows
    return rows, time.perf_counter() - began, last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--job", default="retail_ranker")
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "shop"
        made = CliRunner().invoke(init, ["--example", "online_retail", str(root)])
        if made.exit_code:
            raise click.ClickException(made.output)
        project = Project(root)
        project.apply()
        job = project.find(Job, options.job)
        loader = Loader(project.load(job.dataset), "train")
        encoder = fit(job.inputs, islice(loader.epoch(0, 0), job.fit_batches))
        ready = [to_tensors(b, encoder) for b in islice(loader.epoch(0, 0), options.batches)]
        limit, whole, waits = [], [], []
        for _ in range(3):
            rows, seconds, expected = steps(job, encoder, iter(ready))
            limit.append(rows / seconds)
            waiting = Waiting()
            blocks = partial(Encoded(loader, encoder).blocks, Stretch(0, 0, stop=min(options.batches, len(loader))))
            with prefetched(blocks, Ahead.of(job.trainer), waiting) as batches:
                rows, seconds, got = steps(job, encoder, batches)
            whole.append(rows / seconds)
            waits.append(waiting.seconds / seconds)
            if abs(got - expected) > 1e-4:
                raise SystemExit(f"the losses differ: {got} and {expected}")
    result = machine() | {
        "job": options.job,
        "threads": options.threads,
        "wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
        "rows": rows,
        "from_tensors_rows_per_second": round(statistics.median(limit)),
        "end_to_end_rows_per_second": round(statistics.median(whole)),
        "share": round(statistics.median(whole) / statistics.median(limit), 3),
        "waiting_share": round(statistics.median(waits), 3),
    }
    for name, value in result.items():
        print(f"{name:32} {value}")
    print(f"wrote {save(f'train_end_to_end-{options.job}', result, options.json)}")


if __name__ == "__main__":
    main()
