"""What a step of the trainer costs beside the model: batches that are there, a model with almost no work.

    python benchmarks/train_overhead.py [--steps 4000] [--rounds 7] [--json FILE]

A logistic model of two numbers and one id is trained on batches of one request with two candidates, which are encoded
already: by `Trainer`, its loader threads, checks and progress included, and by a bare loop that does the same forward
pass, gradients and updates on tensors. The difference of a step is the loop's overhead; both end with the same weights.
One thread of torch, in turns; the median of the rounds' differences counts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from record import judge, machine, save

from bedplate.batch import Batch, Dense, Ids
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import Category, Number
from bedplate.features.fitting import fit
from bedplate.models.base import seeded
from bedplate.models.config import LogisticConfig
from bedplate.models.logistic import Logistic
from bedplate.training.config import TrainerConfig
from bedplate.training.optimizer import Optimizer
from bedplate.training.tensors import to_tensors
from bedplate.training.trainer import Trainer
from bedplate.types import Array

TARGET = 50.0
"""Microseconds of a step that the loop may cost."""


def make_batch(rng: np.random.Generator) -> Batch:
    return Batch(
        request={"user.spend": Dense(rng.normal(size=1)), "user.country": Ids(rng.integers(0, 9, 1))},
        item={"item.price": Dense(rng.normal(size=2))},
        offsets=np.array([0, 2]),
        times=np.array([10**15]),
        request_ids=np.zeros(1, np.int64),
        candidates=np.arange(2),
        labels={"label": np.array([0.0, 1.0], np.float32)},
    )


class Memory:
    """Batches in memory."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        yield from self.batches[start:]


class Prepared:
    """An encoder that has encoded its batches already."""

    def __init__(self, encoder: Encoder, batches: list[Batch]) -> None:
        self.layout, self.digest = encoder.layout, encoder.digest
        self.encoded = {id(batch): encoder.encode(batch) for batch in batches}

    def encode(self, batch: Batch) -> dict[str, Array]:
        return self.encoded[id(batch)]


def new_model(encoder: Prepared) -> Logistic:
    return Logistic(LogisticConfig("label"), encoder.layout)


def bare(encoder: Prepared, batches: list[Batch], config: TrainerConfig) -> tuple[float, Logistic]:
    """Seconds of the same steps without the trainer, and the model."""
    ready, model = [to_tensors(b, encoder) for b in batches], new_model(encoder)
    optimizer = Optimizer(model, config)
    model.train()
    with seeded(config.seed):
        began = time.perf_counter()
        for batch in ready:
            optimizer.clear()
            loss = model.loss(model(batch), batch)
            loss.backward()
            optimizer.clip_gradients()
            optimizer.step()
        return time.perf_counter() - began, model


def through_trainer(encoder: Prepared, batches: list[Batch], config: TrainerConfig) -> tuple[float, Logistic]:
    """Seconds of the training steps, all waiting included, and the model."""
    source = Memory(batches)
    with tempfile.TemporaryDirectory() as folder:
        result = Trainer(config, show=lambda _: None).fit(
            new_model(encoder), encoder, source, Memory(batches[:1]), Path(folder)
        )
    return sum(b.items for b in batches) / result.rows_per_second, result.model


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    batches = [make_batch(rng) for _ in range(args.steps)]
    encodings = {"user.spend": Number(), "user.country": Category(), "item.price": Number()}
    encoder = Prepared(fit(encodings, batches[:100]), batches)
    config = TrainerConfig(epochs=1, checkpoint_every=10**9)
    rounds: list[tuple[float, float]] = []
    for _ in range(args.rounds):
        (alone, first), (whole, second) = bare(encoder, batches, config), through_trainer(encoder, batches, config)
        same = all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
        if not same:
            raise SystemExit("the trainer's weights differ from those of the bare loop")
        rounds.append((alone, whole))
    medians = (statistics.median(column) for column in zip(*rounds, strict=True))
    alone, whole = (seconds / args.steps * 1e6 for seconds in medians)
    overhead = statistics.median(b - a for a, b in rounds) / args.steps * 1e6
    print(f"a step: {alone:.1f} us bare, {whole:.1f} us by the trainer")
    result = {"steps": args.steps, "rounds": rounds, "microseconds": {"bare": alone, "trainer": whole}}
    code = judge(result, {"microseconds a step": (overhead, "<=", TARGET)})
    save("train_overhead", machine() | result, args.json)
    return code


if __name__ == "__main__":
    sys.exit(main())
