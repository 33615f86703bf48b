"""Training speed: the model fed from ready tensors, against the whole trainer with encoding.

    OMP_WAIT_POLICY=passive python benchmarks/train_throughput.py [--threads 2] [--model dcn] [--json FILE]

Synthetic batches shaped like the example's: per request 20 positives and 20 negatives; 20 + 16 numbers, 3 + 3 ids, a
history of at most 50 (product, age, price) and a bag of at most 8 words a candidate. Model: embeddings of 16, two
low-rank crosses, deep layers 128 and 64, the history pooled on the candidate. The last-mile join is not part of this.

Without the passive policy, threads of OpenMP spin while they wait for each other; on a machine that is busy with other
work that costs a multiple of the time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from record import machine, save

from bedplate.batch import Batch, Column, Dense, Ids, Ragged
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import Bag, Category, Encoding, Number, Sequence
from bedplate.features.fitting import fit
from bedplate.models.base import Model
from bedplate.models.config import DCNConfig, LogisticConfig, TwoTowerConfig
from bedplate.models.dcn import DCN
from bedplate.models.logistic import Logistic
from bedplate.models.two_tower import TwoTower
from bedplate.training.config import TrainerConfig
from bedplate.training.optimizer import Optimizer
from bedplate.training.tensors import to_tensors
from bedplate.training.trainer import Trainer

REQUESTS, CANDIDATES, BATCHES = 100, 40, 40
PRODUCTS, WORDS, CUSTOMERS = 4000, 2000, 4000


def dense(rng: np.random.Generator, name: str, rows: int, count: int) -> dict[str, Column]:
    """Half long-tailed, half counts; a quarter has nulls."""
    return {
        f"{name}.{i}": Dense(
            rng.lognormal(size=rows) if i % 2 else rng.integers(0, 50, rows),
            rng.random(rows) < 0.9 if i % 4 == 0 else None,
        )
        for i in range(count)
    }


def make_batch(rng: np.random.Generator) -> Batch:
    rows = REQUESTS * CANDIDATES
    history = np.concatenate(([0], np.cumsum(rng.integers(0, 51, REQUESTS))))
    words = np.concatenate(([0], np.cumsum(rng.integers(1, 9, rows))))
    total = int(history[-1])
    request = dense(rng, "customer", REQUESTS, 20) | {
        "customer.id": Ids(rng.integers(0, CUSTOMERS, REQUESTS)),
        "customer.country": Ids(rng.integers(0, 40, REQUESTS)),
        "customer.day": Ids(rng.integers(0, 7, REQUESTS)),
        "customer.products": Ragged(Ids(rng.integers(0, PRODUCTS, total)), history),
        "customer.ages": Ragged(Dense(rng.lognormal(size=total)), history),
        "customer.prices": Ragged(Dense(rng.lognormal(size=total)), history),
    }
    item = dense(rng, "product", rows, 16) | {
        "product.class": Ids(rng.integers(0, 400, rows)),
        "product.colour": Ids(rng.integers(0, 20, rows)),
        "product.words": Ragged(Ids(rng.integers(0, WORDS, int(words[-1]))), words),
    }
    return Batch(
        request=request,
        item=item,
        offsets=np.arange(REQUESTS + 1) * CANDIDATES,
        times=np.full(REQUESTS, 10**15),
        request_ids=np.arange(REQUESTS),
        candidates=rng.integers(0, PRODUCTS, rows),
        labels={"bought": (rng.random(rows) < 0.5).astype(np.float32)},
    )


def encodings() -> dict[str, Encoding]:
    numbers = [("customer", 20), ("product", 16)]
    return {f"{name}.{i}": Number(log=bool(i % 2)) for name, count in numbers for i in range(count)} | {
        "customer.id": Category(),
        "customer.country": Category(),
        "customer.day": Category(),
        "product.class": Category(),
        "product.colour": Category(),
        "candidate": Category("product"),
        "customer.products": Sequence(Category("product"), "history", 50),
        "customer.ages": Sequence(Number(log=True), "history", 50),
        "customer.prices": Sequence(Number(log=True), "history", 50),
        "product.words": Bag(length=8),
    }


class Memory:
    """Batches in memory, as columns."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        yield from self.batches[start:]


def build(name: str, encoder: Encoder) -> Model:
    if name == "two_tower":
        return TwoTower(TwoTowerConfig("bought"), encoder.layout)
    if name == "logistic":
        return Logistic(LogisticConfig("bought"), encoder.layout)
    return DCN(DCNConfig("bought", layers=(128, 64), cross_layers=2, rank=32), encoder.layout)


def from_tensors(name: str, encoder: Encoder, batches: list[Batch], config: TrainerConfig) -> float:
    """Rows a second of forward, backward and optimiser on tensors that are there already."""
    model = build(name, encoder)
    c = config
    optimizer = Optimizer(model, c)
    ready = [to_tensors(b, encoder) for b in batches]
    model.train()
    began = time.perf_counter()
    for batch in ready:
        optimizer.clear()
        loss = model.loss(model(batch), batch)
        loss.item()
        loss.backward()
        optimizer.clip_gradients()
        optimizer.step()
    return sum(b.rows for b in ready) / (time.perf_counter() - began)


def through_trainer(name: str, encoder: Encoder, batches: list[Batch], config: TrainerConfig) -> tuple[float, float]:
    """Rows a second, and the share of time spent waiting, of an epoch through `Trainer`, encoding included."""
    with tempfile.TemporaryDirectory() as folder:
        result = Trainer(config).fit(build(name, encoder), encoder, Memory(batches), Memory(batches[:2]), Path(folder))
    return result.rows_per_second, result.wait_share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", choices=["dcn", "two_tower", "logistic"], default="dcn")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(0)
    batches = [make_batch(rng) for _ in range(BATCHES)]
    encoder = fit(encodings(), batches)
    config = TrainerConfig(epochs=1)
    began = time.perf_counter()
    for batch in batches:
        encoder.encode(batch)
    encoding = BATCHES * REQUESTS * CANDIDATES / (time.perf_counter() - began)
    from_tensors(args.model, encoder, batches[:10], config)
    pairs = [
        (from_tensors(args.model, encoder, batches, config), *through_trainer(args.model, encoder, batches, config))
        for _ in range(args.repeat)  # in turns, so that a busy machine slows both
    ]
    tensors, trainer, waiting = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b, _ in pairs)
    result = {
        **machine(),
        "wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
        "model": args.model,
        "threads": args.threads,
        "encoding_rows_per_second": round(encoding),
        "model_rows_per_second": round(tensors),
        "trainer_rows_per_second": round(trainer),
        "trainer_over_model": round(ratio, 3),
        "wait_share": round(waiting, 4),
    }
    sys.stdout.write("\n".join(f"{name:28} {value}" for name, value in result.items()) + "\n")
    sys.stdout.write(f"written to {save(f'train_throughput-{args.model}', result, args.json)}\n")


if __name__ == "__main__":
    main()
