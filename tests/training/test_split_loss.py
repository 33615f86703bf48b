"""The loss of a split and accumulated gradients: the same however rows are cut into batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import Source, make_batch, make_encoder

from bedplate.batch import Batch
from bedplate.datasets.slices import slice_batch
from bedplate.errors import DefinitionError
from bedplate.features.encoder import Encoder
from bedplate.models.config import LogisticConfig, TwoTowerConfig
from bedplate.models.logistic import Logistic
from bedplate.models.two_tower import TwoTower
from bedplate.training.config import TrainerConfig
from bedplate.training.evaluate import predict
from bedplate.training.trainer import Trainer

REQUESTS = 24


def rows() -> Batch:
    """Requests some of whose labels are not known, most of them in the first ones, with weights."""
    rng = np.random.default_rng(5)
    whole = make_batch(rng, requests=REQUESTS)
    n = whole.items
    label = np.where(rng.random(n) < np.linspace(0.9, 0.1, n), np.nan, whole.labels["label"]).astype(np.float32)
    return replace(whole, labels={"label": label}, weights=rng.random(n).astype(np.float32) * np.linspace(3, 1, n))


class Cut:
    """The same rows in batches of so many requests."""

    def __init__(self, requests: int) -> None:
        whole = rows()
        self.batches = [slice_batch(whole, i, min(i + requests, REQUESTS)) for i in range(0, REQUESTS, requests)]

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        yield from self.batches[start:]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return make_encoder()


def test_the_loss_of_a_split_is_that_of_its_rows(encoder: Encoder) -> None:
    model = Logistic(LogisticConfig("label"), encoder.layout)
    found = [predict(model, encoder, Cut(size)) for size in (1, 5, 7, REQUESTS)]
    for one in found:
        assert one.loss == pytest.approx(model.metrics(one)["log_loss"], rel=1e-6)
        assert one.loss == pytest.approx(found[0].loss, rel=1e-6)


def test_a_batch_of_a_retrieval_model_counts_by_its_positives(encoder: Encoder) -> None:
    model = TwoTower(TwoTowerConfig("label"), encoder.layout).eval()
    one, two = (predict(model, encoder, source) for source in (Cut(9), Cut(REQUESTS)))
    parts = [predict(model, encoder, part) for part in map(Single, Cut(9).batches)]
    counts = [float(np.nansum(b.weights[b.labels["label"] > 0])) for b in Cut(9).batches]
    assert one.loss == pytest.approx(np.average([p.loss for p in parts], weights=counts), rel=1e-6)
    assert two.loss != pytest.approx(one.loss, rel=1e-3)  # other negatives


class Single(Cut):
    """One batch."""

    def __init__(self, batch: Batch) -> None:
        self.batches = [batch]


def test_accumulated_gradients_are_those_of_the_rows(encoder: Encoder, tmp_path: Path) -> None:
    def trained(requests: int, accumulate: int) -> list[torch.Tensor]:
        config = TrainerConfig(epochs=1, accumulate=accumulate)
        model = Logistic(LogisticConfig("label"), encoder.layout)
        folder = tmp_path / f"{requests}"
        return list(Trainer(config).fit(model, encoder, Cut(requests), Source(1), folder).model.parameters())

    for a, b in zip(trained(REQUESTS, 1), trained(6, 4), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_the_loss_while_training_is_that_of_the_rows(encoder: Encoder, tmp_path: Path) -> None:
    """Rates are so low that the weights stay as they are."""

    def seen(requests: int) -> float:
        config = TrainerConfig(epochs=1, learning_rate=1e-12, embedding_learning_rate=1e-12)
        model = Logistic(LogisticConfig("label"), encoder.layout)
        return (
            Trainer(config)
            .fit(model, encoder, Cut(requests), Source(1), tmp_path / f"{requests}")
            .metrics["train_loss"]
        )

    whole = predict(Logistic(LogisticConfig("label"), encoder.layout), encoder, Cut(REQUESTS)).loss
    assert [seen(size) for size in (1, 5, REQUESTS)] == pytest.approx([whole] * 3, rel=1e-5)


def test_an_update_of_rows_none_of_which_has_a_label_is_no_error(encoder: Encoder, tmp_path: Path) -> None:
    source = Cut(6)
    for i in (0, 1):
        source.batches[i] = replace(
            source.batches[i], labels={"label": np.full(source.batches[i].items, np.nan, np.float32)}
        )
    model = Logistic(LogisticConfig("label"), encoder.layout)
    before = [weight.detach().clone() for weight in model.parameters()]
    config = TrainerConfig(epochs=1, accumulate=2)
    result = Trainer(config).fit(model, encoder, source, Source(1), tmp_path)
    after = list(result.model.parameters())
    assert result.steps == 4
    assert all(bool(weight.isfinite().all()) for weight in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)), "of the others it learns"


class Negative(Logistic):
    def loss_weight(self, batch):
        return -torch.ones(())


def test_a_weight_that_can_not_be_one_is_refused(encoder: Encoder) -> None:
    with pytest.raises(DefinitionError, match="model 'Negative': loss_weight gives -1, expected a number"):
        predict(Negative(LogisticConfig("label"), encoder.layout), encoder, Cut(5))
