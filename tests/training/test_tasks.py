"""Several labels in one batch, each with the rows that it is known in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from synthetic import Source
from torch import Tensor, nn

from bedplate.batch import Batch
from bedplate.features.encoding import Layout
from bedplate.layers.inputs import InputVectors
from bedplate.metrics.directions import Direction
from bedplate.metrics.report import binary_report
from bedplate.models.base import Model, seeded
from bedplate.models.batch import TensorBatch
from bedplate.models.binary import binary_loss
from bedplate.models.config import DCNConfig, LogisticConfig, ModelConfig, TwoTowerConfig
from bedplate.models.dcn import DCN
from bedplate.models.logistic import Logistic
from bedplate.models.prediction import Prediction
from bedplate.models.two_tower import TwoTower
from bedplate.training.config import TrainerConfig
from bedplate.training.evaluate import predict
from bedplate.training.tensors import to_tensors
from bedplate.training.trainer import Trainer

TASKS = ("label", "late")
CONFIG = TrainerConfig(epochs=2, metric="label_auc")


class Censored:
    """Batches of two labels that follow one number, one the opposite of the other, and not known in later requests."""

    def __init__(self, batches: int, salt: int = 0) -> None:
        self.source = Source(batches, salt)

    def __len__(self) -> int:
        return len(self.source)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        for batch in self.source.epoch(seed, epoch, start):
            label = (batch.item["product.style"].values > 0).astype(np.float32)
            late = np.where(batch.request_of_item() >= 8, np.float32(np.nan), 1 - label)
            yield replace(batch, labels={"label": label, "late": late})


class TwoTasks(Model):
    """A linear model with an output for each of two labels."""

    class Config(ModelConfig, frozen=True):
        metrics: ClassVar[tuple[str, ...]] = ("label_auc", "late_auc", "label_rows", "late_rows")
        directions: ClassVar[dict[str, Direction]] = {"label_auc": "higher", "late_auc": "higher"}

    def __init__(self, config: ModelConfig, layout: Layout) -> None:
        super().__init__(config, layout)
        with seeded(config.seed):
            self.vectors = InputVectors(layout, 4)
            self.heads = nn.Linear(self.vectors.item_width + self.vectors.request_width, 2)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        request = self.vectors.request(batch).index_select(0, batch["request_of_item"])
        both = self.heads(torch.cat([self.vectors.item(batch), request], dim=1))
        return {"label": both[:, 0], "late": both[:, 1], "score": both[:, 0]}

    def loss(self, outputs: Mapping[str, Tensor], batch: TensorBatch) -> Tensor:
        losses = [binary_loss(outputs[t], batch.label(t), batch.weights_of(t)) for t in TASKS]
        return torch.stack(losses).sum()

    def metrics(self, prediction: Prediction) -> dict[str, float]:
        found: dict[str, float] = {}
        for task in TASKS:
            scores, labels, weights, requests = prediction.of(task)
            report = binary_report(1 / (1 + np.exp(-scores)), labels, weights, requests)
            found |= {f"{task}_{name}": value for name, value in report.items()} | {f"{task}_rows": float(len(labels))}
        return found


def test_a_model_learns_two_tasks_of_which_one_is_censored(tmp_path, encoder):
    model = TwoTasks(TwoTasks.Config(label="label"), encoder.layout)
    result = Trainer(CONFIG).fit(model, encoder, Censored(60), Censored(6, salt=1), tmp_path)
    assert result.metrics["label_auc"] > 0.9
    assert (result.metrics["label_rows"], result.metrics["late_rows"]) == (6 * 16 * 12, 6 * 8 * 12)
    prediction = predict(result.model, encoder, Censored(6, salt=1))
    assert np.isnan(prediction.labels["late"]).sum() == 6 * 8 * 12
    scores, late, _, _ = prediction.of("late")
    assert np.corrcoef(scores, late)[0, 1] < -0.5
    ready = to_tensors(next(Censored(1, salt=2).epoch(0, 0)), encoder)
    outputs = result.model(ready)
    assert np.corrcoef(outputs["late"].detach().numpy(), ready.labels["label"].numpy())[0, 1] < -0.5


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (Logistic, LogisticConfig(label="late")),
        (DCN, DCNConfig(label="late")),
        (TwoTower, TwoTowerConfig(label="late")),
    ],
)
def test_rows_whose_label_is_not_known_have_no_weight(encoder, kind, config):
    (batch,) = Censored(1).epoch(0, 0)
    known = ~np.isnan(batch.labels["late"])
    ready = to_tensors(batch, encoder)
    assert ready.known.keys() == {"late"}
    assert ready.known["late"].tolist() == known.tolist()
    plain = replace(batch, labels={"late": np.nan_to_num(batch.labels["late"])}, weights=known.astype(np.float32))
    other = to_tensors(plain, encoder)
    assert other.known == {}
    model = kind(config, encoder.layout).eval()
    outputs = model(ready)
    assert model.loss(outputs, ready).item() == model.loss(outputs, other).item()
    whole, half = predict(model, encoder, Censored(1)), predict(model, encoder, Known())
    assert model.metrics(whole) == pytest.approx(model.metrics(half))


class Known(Censored):
    """The requests of one batch in which both labels are known."""

    def __init__(self) -> None:
        super().__init__(1)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        from bedplate.datasets.slices import slice_batch

        for batch in super().epoch(seed, epoch, start):
            yield slice_batch(batch, 0, 8)
