"""The loop against slow, obvious NumPy: schedules, clipping, accumulation, Adagrad, AdamW, averages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from synthetic import Source
from torch import nn

from bedplate.features.encoding import Category, Number
from bedplate.features.fitting import fit
from bedplate.layers.embedding import FusedEmbedding
from bedplate.models.base import seeded
from bedplate.models.binary import BinaryModel
from bedplate.models.config import BinaryConfig
from bedplate.training.checkpoint import load_state
from bedplate.training.config import TrainerConfig
from bedplate.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

BATCHES, EPOCHS, WIDTH = 7, 2, 2
READ = np.array([1.0, -0.5])  # how the two numbers of an embedding enter the logit
USUAL = {"learning_rate": 0.02, "embedding_learning_rate": 0.1, "weight_decay": 0.3, "clip_norm": None}
CHOICES: dict[str, dict[str, Any]] = {
    "usual": {},
    "clipped": {"clip_norm": 0.05},
    "adagrad": {"embedding_optimizer": "adagrad"},
    "accumulated": {"accumulate": 3},
    "warmed up": {"warmup": 4},
    "linear": {"schedule": "linear"},
    "cosine": {"schedule": "cosine", "warmup": 3},
    "averaged": {"average": 0.9},
    "all": {"clip_norm": 0.1, "accumulate": 2, "warmup": 2, "schedule": "cosine", "average": 0.8},
}


class Plain(BinaryModel):
    """`x w + b` and the sum of the embeddings' numbers, as `READ` says."""

    class Config(BinaryConfig, frozen=True):
        rows: int = 0

    def __init__(self, config: Any, layout: Any) -> None:
        super().__init__(config, layout)
        with seeded(3):
            self.line = nn.Linear(layout_width(), 1)
            self.table = FusedEmbedding(config.rows, WIDTH, scale=0.5)

    def forward(self, batch: Any) -> dict[str, torch.Tensor]:
        vectors = self.table(batch["item_ids"]) * torch.tensor(READ, dtype=torch.float32)
        logit = self.line(batch["item_dense"]).squeeze(1) + vectors.sum(dim=(1, 2))
        return {"logit": logit, "score": torch.sigmoid(logit)}


ENCODER = fit({"product.style": Number(), "candidate": Category("product")}, Source(10, salt=7).epoch(0, 0))


def encoded(epoch: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The numbers [N, width], ids [N, fields] and labels [N] of each batch."""
    found = []
    for batch in Source(BATCHES).epoch(5, epoch):
        arrays = ENCODER.encode(batch)
        found.append((arrays["item_dense"].astype(float), arrays["item_ids"], batch.labels["label"].astype(float)))
    return found


def layout_width() -> int:
    return encoded(0)[0][0].shape[1]


def trained(folder: Any, **choices: Any) -> dict[str, Any]:
    """The first weights, the last ones, and the averages of the trainer."""
    config = TrainerConfig(**{"epochs": EPOCHS, "patience": 9, "seed": 5, **USUAL, **choices})
    rows = 1 + max(int(ids.max()) for epoch in range(EPOCHS) for _, ids, _ in encoded(epoch)) + 50
    model = Plain(Plain.Config("label", rows=rows), ENCODER.layout)
    first = {name: w.detach().numpy().astype(float) for name, w in model.state_dict().items()}
    Trainer(config).fit(model, ENCODER, Source(BATCHES), Source(1, salt=1), folder)
    state = load_state(folder / "checkpoint.pt")
    last = {name: w.numpy() for name, w in state["model"].items()}
    average = None if state["average"] is None else [a.numpy() for a in state["average"]["averages"]]
    return {
        "first": first,
        "last": last,
        "average": average,
        "updates": state["average"] and state["average"]["updates"],
    }


class Reference:
    """The same training, number by number."""

    def __init__(self, first: dict[str, np.ndarray], choices: dict[str, Any]) -> None:
        c = TrainerConfig(**{**USUAL, **choices})
        self.config = c
        self.w, self.b, self.table = first["line.weight"][0].copy(), float(first["line.bias"][0]), first["table.weight"]
        self.table = self.table.copy()
        self.moments = {"w": [np.zeros_like(self.w)] * 2, "b": [np.zeros(1)] * 2}
        self.sums = np.zeros_like(self.table)
        self.done = 0
        self.average = (self.w.copy(), self.b)

    def gradient(self, x: np.ndarray, ids: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
        """Of the mean log loss of a batch."""
        of_w, of_b, of_table = np.zeros_like(self.w), 0.0, np.zeros_like(self.table)
        for row in range(len(y)):
            logit = float(x[row] @ self.w) + self.b
            for one in ids[row]:
                logit += float(self.table[one] @ READ) if one else 0.0  # row 0 is padding, and zero
            wrong = 1 / (1 + np.exp(-logit)) - y[row]
            of_w += wrong * x[row] / len(y)
            of_b += wrong / len(y)
            for one in ids[row]:
                if one:
                    of_table[one] += wrong * READ / len(y)
        return of_w, of_b, of_table

    def rate(self, total: int) -> float:
        """By what the learning rates are multiplied: up to 1 in `warmup` updates, then by the schedule down to 0."""
        c, update = self.config, self.done + 1
        if update <= c.warmup:
            return update / c.warmup
        share = (self.done - c.warmup) / (total - c.warmup)
        return {"constant": 1.0, "linear": 1 - share, "cosine": (1 + np.cos(np.pi * share)) / 2}[c.schedule]

    def adam(self, name: str, weight: Any, gradient: Any, rate: float, decay: float) -> Any:
        first, second = self.moments[name]
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        self.moments[name] = [first, second]
        n = self.done + 1
        step = (first / (1 - 0.9**n)) / (np.sqrt(second / (1 - 0.999**n)) + 1e-8)
        return weight - rate * decay * weight - rate * step

    def update(self, of_w: np.ndarray, of_b: float, of_table: np.ndarray, total: int) -> None:
        c, factor = self.config, self.rate(total)
        norm = np.sqrt((of_w**2).sum() + of_b**2)  # embeddings are not clipped
        if c.clip_norm is not None and norm > c.clip_norm:
            of_w, of_b = of_w * c.clip_norm / norm, of_b * c.clip_norm / norm
        rate = c.learning_rate * factor
        self.w = self.adam("w", self.w, of_w, rate, c.weight_decay)
        self.b = float(self.adam("b", np.array([self.b]), np.array([of_b]), rate, 0.0)[0])
        squares = of_table**2
        if c.embedding_optimizer == "row_wise_adagrad":
            squares = np.repeat(squares.mean(axis=1, keepdims=True), WIDTH, axis=1)
        self.sums += squares
        moved = squares > 0
        change = np.zeros_like(self.table)
        change[moved] = of_table[moved] / np.sqrt(self.sums[moved])
        self.table = self.table - c.embedding_learning_rate * factor * change
        keep = min(c.average, (1 + self.done) / (10 + self.done))
        self.average = (keep * self.average[0] + (1 - keep) * self.w, keep * self.average[1] + (1 - keep) * self.b)
        self.done += 1

    def run(self) -> None:
        every = self.config.accumulate
        total = EPOCHS * int(np.ceil(BATCHES / every))
        for epoch in range(EPOCHS):
            batches = encoded(epoch)
            for start in range(0, BATCHES, every):
                group = batches[start : start + every]
                parts = [self.gradient(*batch) for batch in group]
                rows = [len(y) for _, _, y in group]
                mean = [sum(part[i] * n for part, n in zip(parts, rows, strict=True)) / sum(rows) for i in range(3)]
                self.update(*mean, total)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", CHOICES)
def test_the_weights_are_those_of_the_formulas(name: str, tmp_path: Any) -> None:
    got = trained(tmp_path, **CHOICES[name])
    reference = Reference(got["first"], CHOICES[name])
    reference.run()
    np.testing.assert_allclose(got["last"]["line.weight"][0], reference.w, rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(got["last"]["line.bias"], [reference.b], rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(got["last"]["table.weight"], reference.table, rtol=1e-3, atol=2e-5)
    if CHOICES[name].get("average"):
        np.testing.assert_allclose(got["average"][0][0], reference.average[0], rtol=1e-3, atol=2e-5)
        np.testing.assert_allclose(got["average"][1], [reference.average[1]], rtol=1e-3, atol=2e-5)
        assert got["updates"] == reference.done
        assert not np.allclose(got["average"][0], got["last"]["line.weight"], atol=1e-3), "it lags behind"
    else:
        assert got["average"] is None
    # Each choice moves some weight by more than the comparison above overlooks.
    usual = Reference(got["first"], {})
    usual.run()
    if name not in ("usual", "averaged"):
        moved = max(np.abs(usual.w - reference.w).max(), np.abs(usual.table - reference.table).max())
        assert moved > 1e-3
