"""What is named when training meets a number that is not finite: the feature, the rows, the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from synthetic import Source, make_batch

from bedplate.batch import Batch, Dense, Ragged
from bedplate.errors import DataError
from bedplate.features.encoder import Encoder
from bedplate.layers.embedding import table_names
from bedplate.models.base import Model
from bedplate.models.config import DCNConfig
from bedplate.models.dcn import DCN
from bedplate.training.config import TrainerConfig
from bedplate.training.forensics import NotFiniteError, not_finite
from bedplate.training.halving import PASSES
from bedplate.training.tensors import to_tensors
from bedplate.training.trainer import Trainer
from bedplate.training.wrong_rows import FILE, written_rows

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = DCNConfig("label", layers=(8,), rank=4, cross_layers=1)


@pytest.fixture
def batch() -> Batch:
    return replace(make_batch(np.random.default_rng(1)), request_ids=np.arange(16) * 10 + 7)


@pytest.fixture
def model(encoder: Encoder) -> DCN:
    return DCN(MODEL, encoder.layout)


def found(batch: Batch, encoder: Encoder, model: Model, folder: Path) -> NotFiniteError:
    return not_finite("the loss is nan", 3, to_tensors(batch, encoder), model, encoder, folder)


def saved(folder: Path) -> list[tuple[Any, ...]]:
    return pl.read_parquet(folder / FILE).rows()


def with_ages(batch: Batch, change: dict[int, int]) -> Batch:
    """With an infinite age of some requests, at a place counted from the end of their list."""
    ages = batch.request["user.ages"]
    assert isinstance(ages, Ragged)
    assert isinstance(ages.values, Dense)
    values = ages.values.values.copy()
    for request, place in change.items():
        values[ages.offsets[request + 1] - place] = np.inf
    return replace(batch, request={**batch.request, "user.ages": Ragged(Dense(values), ages.offsets)})


def lengths(batch: Batch) -> np.ndarray:
    ages = batch.request["user.ages"]
    assert isinstance(ages, Ragged)
    return np.diff(ages.offsets)


def test_an_element_of_a_sequence_names_its_feature_and_its_requests(
    batch: Batch, encoder: Encoder, model: DCN, tmp_path: Path
) -> None:
    first, second = np.flatnonzero(lengths(batch) >= 2)[[0, 3]].tolist()
    error = found(with_ages(batch, {first: 1, second: 2}), encoder, model, tmp_path)
    assert "the loss is nan; not finite: sequence_numbers.history (user.ages) (2 rows:" in error.message
    assert error.where == "training, step 3"
    assert error.named
    assert "make such values null" in (error.hint or "")
    what = "sequence_numbers.history (user.ages)"
    assert saved(tmp_path) == [(first * 10 + 7, None, what), (second * 10 + 7, None, what)]


def test_an_element_that_is_not_read_is_not_named(batch: Batch, encoder: Encoder, model: DCN, tmp_path: Path) -> None:
    (long, *_) = np.flatnonzero(lengths(batch) > 6).tolist()  # the last six are read
    error = found(with_ages(batch, {long: 7}), encoder, model, tmp_path)
    assert "all inputs and labels are finite" in error.message
    assert not error.named
    assert not (tmp_path / FILE).exists()


def test_features_of_requests_and_of_candidates_and_a_label_are_told_apart(
    batch: Batch, encoder: Encoder, model: DCN, tmp_path: Path
) -> None:
    taste = batch.request["user.taste"].values.copy()
    style = batch.item["product.style"].values.copy()
    label = batch.labels["label"].copy()
    taste[4], style[[13, 100]], label[50] = np.nan, -np.inf, np.inf
    wrong = replace(
        batch,
        request={**batch.request, "user.taste": Dense(taste)},
        item={**batch.item, "product.style": Dense(style)},
        labels={"label": label},
    )
    error = found(wrong, encoder, model, tmp_path)
    assert "request_dense (user.taste), item_dense (product.style), label label (4 rows:" in error.message
    rows = saved(tmp_path)
    assert rows[0] == (47, None, "request_dense (user.taste)")
    assert rows[1:] == [
        (at // 12 * 10 + 7, int(batch.candidates[at]), what)
        for at, what in ((13, "item_dense (product.style)"), (100, "item_dense (product.style)"), (50, "label label"))
    ]


def test_a_row_of_an_embedding_names_the_weights_and_the_rows_that_read_it(
    batch: Batch, encoder: Encoder, model: DCN, tmp_path: Path
) -> None:
    encoded = encoder.encode(batch)
    (name,) = table_names(model)
    broken = int(encoded["item_ids"][17, 0])
    with torch.no_grad():
        dict(model.named_parameters())[name][broken] = float("nan")
    error = found(batch, encoder, model, tmp_path)
    assert f"all inputs and labels are finite, but not the weights {name}" in error.message
    assert "lower learning_rate or embedding_learning_rate" in (error.hint or "")
    in_history = (encoded["sequence_ids.history"] == broken).reshape(16, -1).any(axis=1)
    reads = (encoded["item_ids"] == broken).any(axis=1) | np.repeat(in_history, 12)
    assert 0 < reads.sum() < batch.items
    rows = [row for row in saved(tmp_path) if row[2] == "output logit"]
    requests = np.repeat(batch.request_ids, 12)
    assert [row[:2] for row in rows] == [(int(requests[i]), int(batch.candidates[i])) for i in np.flatnonzero(reads)]


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(encoder: Encoder, tmp_path: Path) -> None:
    class Root(DCN):
        """Its loss is 0 more than that of DCN, and has no gradient there."""

        def loss(self, outputs: Any, batch: Any) -> torch.Tensor:
            return super().loss(outputs, batch) + (outputs["logit"] * 0).sqrt().sum()

    root = Root(MODEL, encoder.layout)
    before = {name: w.clone() for name, w in root.state_dict().items()}
    with pytest.raises(
        DataError, match=r"step 1: the loss is 0\..*, but its gradient's norm is nan; all inputs"
    ) as got:
        Trainer(TrainerConfig(epochs=1)).fit(root, encoder, Source(3), Source(1, salt=1), tmp_path)
    assert "(" not in got.value.message.partition("finite")[2], "no row is to blame"
    assert all(torch.equal(w, before[name]) for name, w in root.state_dict().items())
    assert list(tmp_path.iterdir()) == []


class Steep(DCN):
    """Of the candidates that are marked the length of the vectors of their ids counts, whose gradient is NaN at 0."""

    marked: tuple[int, ...] = ()
    at: int = 1
    """The batch, from 1."""
    seen: int = 0

    def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        outputs = super().forward(batch)
        if self.training:
            self.seen += 1
        if self.seen < self.at or not self.training:
            return outputs
        marked = torch.tensor(self.marked)
        vectors = self.vectors.embedding(batch["item_ids"]).flatten(1)[marked]
        return {"logit": outputs["logit"].index_add(0, marked, (vectors * 0).square().sum(dim=1).sqrt())}


@pytest.mark.parametrize("optimizer", ["row_wise_adagrad", "adagrad"])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("at", [1, 3])
def test_a_gradient_of_embeddings_alone_is_noticed_in_its_step(
    optimizer: Any, sparse: bool, at: int, encoder: Encoder, tmp_path: Path
) -> None:
    model = Steep(MODEL, encoder.layout)
    model.marked, model.at, model.vectors.embedding.sparse = (5, 40), at, sparse
    trainer = Trainer(TrainerConfig(epochs=1, embedding_optimizer=optimizer))
    said = rf"step {at}: the loss is 0\..*, but the gradient of \d+ rows of embeddings is not; all inputs"
    with pytest.raises(DataError, match=said) as got:
        trainer.fit(model, encoder, Source(4), Source(1, salt=1), tmp_path)
    assert "a derivative that is not finite where its value is" in (got.value.hint or "")
    batch = list(Source(4).epoch(0, 0))[at - 1]
    requests = np.repeat(batch.request_ids, 12)
    rows = [row for row in saved(tmp_path) if row[2] == "gradient of vectors.embedding (candidates)"]
    assert [row[:2] for row in rows] == [(int(requests[i]), int(batch.candidates[i])) for i in (5, 40)]
    assert all(bool(torch.isfinite(weights).all()) for weights in model.state_dict().values())


class Rooted(DCN):
    """Adds the length of something to each logit, which is 0 for some candidates: where the gradient is NaN."""

    zero: frozenset[int] = frozenset({11, 14})
    """The categories of the candidates, in the encoder's numbers, whose length is 0."""
    calls: int = 0

    def __init__(self, config: DCNConfig, layout: Any) -> None:
        super().__init__(config, layout)
        self.own = torch.nn.Parameter(torch.ones(4))
        self.norm = torch.nn.BatchNorm1d(4)

    def vectors_of(self, batch: Any) -> torch.Tensor:
        return batch["item_dense"][:, :1] * self.own

    def forward(self, batch: Any) -> dict[str, torch.Tensor]:
        self.calls += 1
        vectors = self.vectors_of(batch) * ~torch.isin(batch["item_ids"][:, :1], torch.tensor(sorted(self.zero)))
        return {"logit": super().forward(batch)["logit"] + 0.01 * vectors.square().sum(dim=1).sqrt()}


class OfRequests(Rooted):
    """Of a feature of the request."""

    def vectors_of(self, batch: Any) -> torch.Tensor:
        return (batch["request_dense"][:, 1:2] * self.own)[batch["request_of_item"]]


class OfAllOfRequests(Rooted):
    """Of all features of the request alike."""

    def vectors_of(self, batch: Any) -> torch.Tensor:
        return (batch["request_dense"].sum(dim=1, keepdim=True) * self.own)[batch["request_of_item"]]


class OfNoInput(Rooted):
    """Of nothing that the batch has."""

    def vectors_of(self, batch: Any) -> torch.Tensor:
        return self.own.expand(len(batch["item_ids"]), 4)


class Normalised(Rooted):
    """Of what is normalised over the batch: a gradient that is NaN in one row is so in all that come before it."""

    def vectors_of(self, batch: Any) -> torch.Tensor:
        return self.norm(super().vectors_of(batch))


class Refusing(Rooted):
    """Takes no inputs that need a gradient."""

    def vectors_of(self, batch: Any) -> torch.Tensor:
        return torch.from_numpy(batch["item_dense"].numpy())[:, :1] * self.own


class LoggedLoss(Rooted):
    """Its loss is not finite, and all that it is made of is."""

    def forward(self, batch: Any) -> dict[str, torch.Tensor]:
        return DCN.forward(self, batch) | {"id": batch["item_ids"][:, 0].float()}

    def loss(self, outputs: Any, batch: Any) -> torch.Tensor:
        at_zero = torch.isin(outputs["id"], torch.tensor(sorted(self.zero)).float())
        return super().loss(outputs, batch) + (outputs["logit"].square() * ~at_zero).log().mean()


def at_zero(batch: Batch, encoder: Encoder, zero: frozenset[int] = Rooted.zero) -> list[tuple[int, int]]:
    """Request and candidate of each row of the categories."""
    rows = np.flatnonzero(np.isin(encoder.encode(batch)["item_ids"][:, 0], sorted(zero)))
    assert 3 < len(rows) < batch.items
    return [(int(np.repeat(batch.request_ids, 12)[i]), int(batch.candidates[i])) for i in rows]


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (Rooted, "gradient of item_dense (product.style)"),
        (OfNoInput, "own gradient"),
        (Refusing, "own gradient"),
        (LoggedLoss, "own loss"),
    ],
)
def test_the_rows_whose_own_derivative_is_not_finite_are_saved(
    kind: type[Rooted], what: str, batch: Batch, encoder: Encoder, tmp_path: Path
) -> None:
    wanted = at_zero(batch, encoder)
    error = found(batch, encoder, kind(MODEL, encoder.layout).train(), tmp_path)
    assert f"all inputs and labels are finite; not finite: {what} ({len(wanted)} rows: " in error.message
    assert error.named
    assert (error.hint or "").startswith("at these rows the model")
    assert "learning_rate" not in (error.hint or "")
    assert saved(tmp_path) == [(*row, what) for row in wanted]


@pytest.mark.parametrize(("kind", "named"), [(OfRequests, " (user.taste)"), (OfAllOfRequests, "")])
def test_a_derivative_of_features_of_requests_names_them(
    kind: type[Rooted], named: str, batch: Batch, encoder: Encoder, tmp_path: Path
) -> None:
    assert encoder.columns_of("request_dense")[1] == "user.taste"
    model = kind(MODEL, encoder.layout).train()
    model.zero = frozenset({int(encoder.encode(batch)["item_ids"][0, 0])})
    found(batch, encoder, model, tmp_path)
    requests = sorted({request for request, _ in at_zero(batch, encoder, model.zero)})
    assert saved(tmp_path) == [(request, None, f"gradient of request_dense{named}") for request in requests]


def test_a_model_that_needs_two_rows_gets_them(batch: Batch, encoder: Encoder, tmp_path: Path) -> None:
    error = found(batch, encoder, Normalised(MODEL, encoder.layout).train(), tmp_path)
    rows, wanted = saved(tmp_path), at_zero(batch, encoder)
    assert {row[2] for row in rows} == {"own gradient"}
    assert {row[:2] for row in rows} > set(wanted)
    assert len(rows) <= 3 * len(wanted), "slices of two or three rows"
    assert "at these rows" in (error.hint or "")


def test_a_gradient_that_is_finite_in_every_row_is_left_to_smaller_steps(
    batch: Batch, encoder: Encoder, model: DCN, tmp_path: Path
) -> None:
    error = found(batch, encoder, model.train(), tmp_path)
    assert error.hint == "lower learning_rate or embedding_learning_rate, or set clip_norm"
    assert list(tmp_path.iterdir()) == []


def test_of_a_derivative_that_is_wrong_everywhere_no_row_is_to_blame(
    batch: Batch, encoder: Encoder, tmp_path: Path
) -> None:
    model = OfNoInput(MODEL, encoder.layout).train()
    model.zero = frozenset(range(100))
    error = found(batch, encoder, model, tmp_path)
    assert (error.hint or "").startswith("at all rows the model, or its loss, has a derivative")
    assert not error.named
    assert model.calls <= PASSES + 4


def test_so_many_slices_are_tried_at_most(encoder: Encoder, tmp_path: Path) -> None:
    many = make_batch(np.random.default_rng(5), requests=200)
    model = OfNoInput(MODEL, encoder.layout).train()
    model.zero = frozenset(range(28))
    found(many, encoder, model, tmp_path)
    assert PASSES < model.calls <= PASSES + 4
    rows, wanted = saved(tmp_path), at_zero(many, encoder, model.zero)
    assert PASSES / 8 < len(rows) < len(wanted)
    assert {row[:2] for row in rows} <= set(wanted)


def test_training_stops_at_such_rows_before_the_weights_change(encoder: Encoder, tmp_path: Path) -> None:
    model = Rooted(MODEL, encoder.layout)
    before = {name: w.clone() for name, w in model.named_parameters()}
    with pytest.raises(DataError, match=r"but its gradient's norm is nan; .*\(product.style\) \(\d+ rows") as got:
        Trainer(TrainerConfig(epochs=1)).fit(model, encoder, Source(3), Source(1, salt=1), tmp_path)
    assert "such as that of a square root at 0" in (got.value.hint or "")
    first = next(Source(3).epoch(0, 0))
    assert [row[:2] for row in saved(tmp_path)] == at_zero(first, encoder)
    assert all(torch.equal(weights, before[name]) for name, weights in model.named_parameters())


def test_of_gradients_of_several_batches_it_is_said_how_the_rows_are_found(encoder: Encoder, tmp_path: Path) -> None:
    class FirstAlone(OfNoInput):
        """Only the first batch has such rows."""

        def forward(self, batch: Any) -> dict[str, torch.Tensor]:
            self.zero = Rooted.zero if self.calls == 0 else frozenset({-1})
            return super().forward(batch)

    with pytest.raises(DataError, match="gradients are of 2 batches") as got:
        Trainer(TrainerConfig(epochs=1, accumulate=2)).fit(
            FirstAlone(MODEL, encoder.layout), encoder, Source(4), Source(1, salt=1), tmp_path
        )
    assert "trainer.accumulate=1 finds the rows" in (got.value.hint or "")


def test_so_many_rows_are_saved_at_most_and_none_make_no_file(tmp_path: Path) -> None:
    n = 25_000
    ids, candidates = np.arange(5), np.arange(n)
    none = {"a": np.zeros(n, bool), "b": np.zeros(5, bool)}
    assert written_rows(tmp_path / "none", none, ids, candidates // 5000, candidates) == ""
    assert not (tmp_path / "none").exists()
    every = {"a": np.ones(5, bool), "b": np.arange(n) % 2 == 1}
    assert written_rows(tmp_path / "all", every, ids, candidates // 5000, candidates).startswith(" (10,000 rows: ")
    frame = pl.read_parquet(tmp_path / "all" / FILE)
    assert frame["what"].to_list()[:6] == ["a"] * 5 + ["b"]
    assert frame["candidate"].to_list()[5:8] == [1, 3, 5]
    assert len(frame) == 10_000
