"""Learning rates and averages, as their definitions say, for any length of a training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bedplate.training.average import Average
from bedplate.training.config import TrainerConfig
from bedplate.training.optimizer import Optimizer, RowWiseAdagrad
from bedplate.training.schedule import Schedule, factor


@given(kind=st.sampled_from(["constant", "linear", "cosine"]), warmup=st.integers(0, 40), after=st.integers(0, 200))
def test_rates_rise_to_the_full_one_and_never_rise_again(kind: Schedule, warmup: int, after: int) -> None:
    total = warmup + after
    rates = np.array([factor(kind, warmup, total, done) for done in range(total)])
    assert ((rates > 0) & (rates <= 1)).all(), "no update is lost, and none is larger than the config says"
    assert (np.diff(rates[:warmup]) > 0).all()
    if warmup:
        assert rates[warmup - 1] == 1.0
    if after:
        assert rates[warmup] == 1.0
    assert (np.diff(rates[warmup:]) <= 1e-12).all()
    if kind == "constant":
        assert (rates[warmup:] == 1.0).all()
    elif after > 1:
        assert factor(kind, warmup, total, total) == pytest.approx(0.0, abs=1e-12)
        halves = rates[warmup:] + np.array([factor(kind, warmup, total, total - i) for i in range(after)])
        np.testing.assert_allclose(halves, 1.0, atol=1e-9, err_msg="as much before the middle as after it")


def test_a_training_that_is_shorter_than_its_warm_up_only_rises() -> None:
    assert [factor("cosine", 10, 4, done) for done in range(4)] == [0.1, 0.2, 0.3, 0.4]


@given(values=st.lists(st.floats(-10, 10), min_size=1, max_size=40), decay=st.sampled_from([0.5, 0.9, 0.999]))
def test_an_average_is_of_the_weights_after_each_update(values: list[float], decay: float) -> None:
    weight = nn.Parameter(torch.full((2,), 7.0))
    average, expected = Average([weight], decay), 7.0
    for n, value in enumerate(values):
        weight.data.fill_(value)
        average.update()
        keep = min(decay, (1 + n) / (10 + n))
        expected = keep * expected + (1 - keep) * value
    with average.in_place():
        assert weight[0].item() == pytest.approx(expected, abs=1e-3)
    assert weight[0].item() == pytest.approx(values[-1])


def test_weights_come_back_after_an_error_and_an_average_goes_on_from_its_state() -> None:
    weight = nn.Parameter(torch.zeros(1))
    first = Average([weight], 0.9)
    weight.data.fill_(1.0)
    first.update()
    with pytest.raises(RuntimeError, match="validation"), first.in_place():
        raise RuntimeError("validation")
    assert weight.item() == 1.0
    second = Average([weight], 0.9)
    second.load_state_dict(first.state_dict())
    for average in (first, second):
        weight.data.fill_(3.0)
        average.update()
    with first.in_place():
        expected = weight.item()
    with second.in_place():
        assert weight.item() == expected


@settings(max_examples=30)
@given(rows=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=8), min_size=1, max_size=6))
def test_sparse_and_dense_gradients_give_the_same_table(rows: list[list[int]]) -> None:
    tables = [nn.Parameter(torch.arange(12.0).reshape(6, 2)) for _ in range(2)]
    optimizers = [RowWiseAdagrad([table], 0.3) for table in tables]
    rng = np.random.default_rng(0)
    for step in rows:
        values = torch.from_numpy(rng.normal(size=(len(step), 2)).astype(np.float32))
        sparse: Any = torch.sparse_coo_tensor([step], values, (6, 2), check_invariants=True)
        for table, gradient in zip(tables, (sparse, sparse.to_dense()), strict=True):
            table.grad = gradient
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(tables[0], tables[1])
    untouched = sorted(set(range(6)) - {row for step in rows for row in step})
    assert torch.equal(tables[0][untouched], torch.arange(12.0).reshape(6, 2)[untouched])


def test_a_gradient_that_is_small_enough_is_not_clipped_and_its_norm_is_told() -> None:
    model = nn.Linear(3, 1)
    for largest, kept in ((10.0, 1.0), (0.5, 0.1)):
        optimizer = Optimizer(model, TrainerConfig(clip_norm=largest))
        model.weight.grad, model.bias.grad = torch.tensor([[3.0, 0.0, 4.0]]), torch.zeros(1)
        assert optimizer.clip_gradients() == pytest.approx(5.0)
        torch.testing.assert_close(model.weight.grad, kept * torch.tensor([[3.0, 0.0, 4.0]]))
    optimizer.clear()
    assert model.weight.grad is None
