"""Bedplate's part of `train_peers.py`: FOLDER USERS ITEMS EPOCHS.

The project of `ctr_project`: batches are joined from the tables of users and items while the model trains, and encoded.
Where there are more users than rows the vocabulary is of all of them, so that the embedding table is as large as the
peers'. Building the indexes and fitting the encoder is not counted, as the peers' preparation isn't. The limit is the
same model in a bare loop over the same batches as tensors that are ready, which takes turns with further trainings.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
from ctr_data import BATCH, SECOND, START, splits
from record import peak_bytes

from bedplate import Job, Project
from bedplate.datasets.loader import Loader
from bedplate.datasets.split import SPLITS
from bedplate.features.encoder import Encoder
from bedplate.features.fitting import fit
from bedplate.features.vocabulary import Vocabulary
from bedplate.models.base import Model
from bedplate.models.batch import TensorBatch
from bedplate.training.evaluate import predict
from bedplate.training.optimizer import Optimizer
from bedplate.training.result import TrainResult
from bedplate.training.tensors import to_tensors
from bedplate.training.trainer import Trainer

ROUNDS = 6
"""How often the trainer and the loop over ready tensors take turns; the first turn is not counted."""


def project_in(folder: Path, rows: int) -> Project:
    for name in ("features.py", "train.py"):
        shutil.copy(Path(__file__).parent / "ctr_project" / name, folder / name)
    first = {name: START + 3600 * SECOND + bounds[0] * SECOND for name, bounds in splits(rows).items()}
    text = json.dumps({"validation": first["validation"], "test": first["test"], "batch": BATCH})
    (folder / "dataset.json").write_text(text)
    (folder / "bedplate.toml").touch()
    project = Project(folder)
    project.apply()
    return project


def with_everyone(encoder: Encoder, users: int) -> Encoder:
    """An encoder that knows every user."""
    known = dict(encoder.vocabularies.items())
    [name] = [f.vocabulary for f in encoder.fields if f.feature == "users.user"]
    known[str(name)] = Vocabulary(np.arange(users))
    return Encoder(encoder.fields, known)


def ready_epochs(job: Job, encoder: Encoder, train: Loader) -> list[list[TensorBatch]]:
    """The batches of the trainer's epochs, as tensors."""
    c = job.trainer
    return [[to_tensors(batch, encoder) for batch in train.epoch(c.seed, epoch)] for epoch in range(c.epochs)]


def from_memory(job: Job, encoder: Encoder, epochs: list[list[TensorBatch]]) -> float:
    """Rows a second of the same steps on tensors that are ready."""
    model = job.model_class(job.model, encoder.layout)
    optimizer = Optimizer(model, job.trainer)
    model.train()
    began = time.perf_counter()
    for batch in itertools.chain.from_iterable(epochs):
        optimizer.clear()
        loss = model.loss(model(batch), batch)
        loss.item()
        loss.backward()
        optimizer.clip_gradients()
        optimizer.step()
    return sum(batch.rows for epoch in epochs for batch in epoch) / (time.perf_counter() - began)


def trained(job: Job, encoder: Encoder, train: Loader, validation: Loader, folder: Path) -> TrainResult[Model]:
    model = job.model_class(job.model, encoder.layout)
    return Trainer(job.trainer).fit(model, encoder, train, validation, folder)


def shares(job: Job, encoder: Encoder, train: Loader, validation: Loader, folder: Path) -> list[float]:
    """The trainer's rows a second over those from memory, by turns in a process where both have run before."""
    epochs, found = ready_epochs(job, encoder, train), list[float]()
    for number in range(ROUNDS):
        ours = trained(job, encoder, train, validation, folder / str(number)).rows_per_second
        found.append(ours / from_memory(job, encoder, epochs))
    return found[1:]


def main(folder: Path, users: int, epochs: int) -> None:
    rows = json.loads((folder / "shape.json").read_text())["rows"]
    began = time.perf_counter()
    project = project_in(folder, rows)
    job, dataset = project.find(Job, "deepfm"), project.load("ctr")
    job = job.with_settings([f"trainer.epochs={epochs}"])
    train, validation, test = (Loader(dataset, split) for split in SPLITS)
    encoder = fit(job.inputs, islice(train.epoch(0, 0), job.fit_batches))
    if users > rows:
        encoder = with_everyone(encoder, users)
    prepared = time.perf_counter() - began
    result = trained(job, encoder, train, validation, folder / "checkpoints")
    metrics = result.model.metrics(predict(result.model, encoder, test))
    print(
        json.dumps(
            {
                "rows": (count := epochs * splits(rows)["train"][1]),
                "seconds": count / result.rows_per_second,
                "auc": metrics["auc"],
                "prepared": prepared,
                "waiting": result.wait_share,
                "shares": shares(job, encoder, train, validation, folder),
                "table_rows": encoder.layout.rows,
                "peak_bytes": peak_bytes(),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[4]))
