"""A process of a training by several: `run_parallel.py "JOB;JOB" FOLDER [TIMEOUT]`, its place as `Workers` gives it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from synthetic import Source, make_encoder
from torch import nn

from bedplate.batch import Dense
from bedplate.datasets.slices import slice_batch
from bedplate.errors import ConfigError, DataError
from bedplate.layers.inputs import InputVectors
from bedplate.models.base import Model, seeded
from bedplate.models.binary import BinaryModel
from bedplate.models.config import BinaryConfig, DCNConfig, TwoTowerConfig
from bedplate.models.dcn import DCN
from bedplate.models.two_tower import TwoTower
from bedplate.training import together
from bedplate.training.config import TrainerConfig
from bedplate.training.exchange import Exchange
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.processes import FOREVER, own_place
from bedplate.training.tables import Sharding
from bedplate.training.trainer import Trainer


class Own(BinaryModel):
    """Sums of the embeddings and a scale that only the loss reads; `wrong` says what no processes can share."""

    class Config(BinaryConfig, frozen=True):
        wrong: str = ""

    def __init__(self, config, layout):
        super().__init__(config, layout)
        self.wrong = config.wrong
        with seeded(config.seed):
            self.vectors = InputVectors(layout, 4)
            self.scale = nn.Parameter(torch.ones(()))
            self.unused = nn.Linear(2, 2)
            if self.wrong == "differing":
                place = own_place()
                self.more = nn.Linear(1 if place is None else 1 + place.rank, 2)
            if self.wrong == "norm":
                self.norm = nn.BatchNorm1d(4)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, batch):
        logit = self.vectors.rows(batch).sum(dim=1)
        if self.wrong == "state" and self.training:
            self.seen += logit.detach().sum()
        outputs = {"logit": logit}
        return outputs | ({"mean": logit.mean()} if self.wrong == "scalar" else {})

    def loss(self, outputs, batch):
        if self.wrong == "input":
            return batch["item_dense"].sum()
        return super().loss({"logit": outputs["logit"] * self.scale}, batch)


class Uneven(Source):
    """Batches of which one has a single request, some labels are not known, and weights differ."""

    def epoch(self, seed, epoch, start=0):
        for i, batch in enumerate(super().epoch(seed, epoch, start), start):
            rng = np.random.default_rng(i)
            label = np.where(rng.random(batch.items) < 0.2 * (i % 3), np.nan, batch.labels["label"])
            weights = rng.random(batch.items).astype(np.float32)
            changed = replace(batch, labels={"label": label.astype(np.float32)}, weights=weights)
            yield slice_batch(changed, 0, 1 if i == 2 else 16)


class Poisoned(Source):
    """A number of the last request of the second batch is not finite."""

    def epoch(self, seed, epoch, start=0):
        for i, batch in enumerate(super().epoch(seed, epoch, start), start):
            taste = batch.request["user.taste"].values.copy()
            taste[-1] = np.inf if i == 1 else taste[-1]
            yield replace(batch, request={**batch.request, "user.taste": Dense(taste)})


class Failing(Source):
    """A source that ends with an error at one batch of the second epoch, in every process."""

    def __init__(self, batches: int, at: int) -> None:
        super().__init__(batches)
        self.at = at

    def epoch(self, seed, epoch, start=0):
        for i, batch in enumerate(super().epoch(seed, epoch, start), start):
            if (epoch, i) == (1, self.at):
                raise DataError("the source is broken", where="test")
            yield batch


class Hung(Source):
    """A source that gives no fourth batch to the process of rank 1, and does not end."""

    def epoch(self, seed, epoch, start=0):
        for i, batch in enumerate(super().epoch(seed, epoch, start), start):
            place = own_place()
            if place is not None and place.rank and i == 3:
                threading.Event().wait()
            yield batch


Made = tuple[Callable[..., Model], Any, dict[str, Any], Source]
PLAIN = DCNConfig("label", layers=(8,), rank=4, cross_layers=1)
DROPPING = DCNConfig("label", layers=(8,), rank=4, dropout=0.4)
EVERYTHING = {"accumulate": 2, "average": 0.9, "evaluate_every": 2, "embedding_optimizer": "adagrad", "warmup": 3}
TOWERS = TwoTowerConfig("label", layers=(8,), width=4, frequency_slots=64)
WRONG = "norm", "state", "scalar", "input", "differing"
JOBS: dict[str, Made] = {
    "dcn": (DCN, PLAIN, {"weight_decay": 0.1}, Uneven(5)),
    "all": (DCN, PLAIN, EVERYTHING, Uneven(5)),
    "own": (Own, Own.Config("label"), {}, Uneven(5)),
    "two_tower": (TwoTower, TOWERS, {}, Source(4)),
    "dropped": (DCN, DROPPING, {}, Source(5)),
    "dropping, broken": (DCN, DROPPING, {}, Failing(5, 3)),
    "dropping, resumed": (DCN, DROPPING, {}, Source(5)),
    "changing, broken": (DCN, PLAIN, {}, Failing(5, 2)),
    "changing, resumed": (DCN, PLAIN, {}, Source(5)),
    "poisoned": (DCN, PLAIN, {}, Poisoned(4)),
    **{w: (Own, Own.Config("label", wrong=w), {}, Source(3)) for w in WRONG},
    "slow": (DCN, PLAIN, {}, Source(8, slow=0.1)),
    "hung": (DCN, PLAIN, {}, Hung(8)),
}
TOGETHER = [name for name in JOBS if name not in ("slow", "hung")]


def command(names: list[str], folder: Path, script: str = __file__) -> list[str]:
    """What another process runs to train these jobs."""
    return [sys.executable, script, ";".join(names), str(folder)]


def has_ended(pid: int) -> bool:
    """Whether a process is no longer at work."""
    path = Path(f"/proc/{pid}/stat")
    return not path.exists() or path.read_text().rpartition(")")[2].split()[0] == "Z"


def run(name: str, exchange: Exchange, folder: Path, *, source: Source | None = None, show: Any = None) -> Any:
    """Trains a job; those of one name before a comma have one folder."""
    kind, config, settings, own = JOBS[name]
    trainer = {"epochs": 2, "patience": 9, "seed": 5, "checkpoint_every": 1, "embedding_learning_rate": 0.01}
    encoder = make_encoder()
    return Trainer(TrainerConfig(**{**trainer, **settings}), exchange=exchange, show=show).fit(
        kind(config, encoder.layout), encoder, source or own, Source(3, salt=1), folder / name.partition(",")[0]
    )


def attempt(name: str, exchange: Exchange, folder: Path) -> str:
    """The history of a job, or what it is refused with."""
    try:
        return json.dumps(run(name, exchange, folder).history)
    except (ConfigError, DataError) as error:
        return str(error)


def main(names: str, folder: str, timeout: str = FOREVER, *, shard: Sharding | None = None) -> int:
    """Trains the jobs, with the other processes."""
    torch.set_num_threads(1)
    place = own_place()
    assert place is not None
    place.end_with_parent()
    with place.connect(shard, timeout) as exchange:
        for name in names.split(";"):
            try:
                attempt(name, exchange, Path(folder))
            except TrainingInterruptedError:
                continue
    return 0


if __name__ == "__main__":
    together._SPARSE_ROWS = 1  # every table's gradients are told row by row
    sys.exit(main(*sys.argv[1:]))
