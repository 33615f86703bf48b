from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bedplate.layers import embedding as embedding_module
from bedplate.layers.embedding import FusedEmbedding
from bedplate.layers.linear import MLP
from bedplate.training.config import TrainerConfig
from bedplate.training.optimizer import Optimizer, RowWiseAdagrad


def trained(sparse: bool, monkeypatch) -> torch.Tensor:
    monkeypatch.setattr(embedding_module, "SPARSE_ROWS", 0 if sparse else 1000)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        table = FusedEmbedding(20, 4)
        target = torch.randn(20, 4)
    optimizer = RowWiseAdagrad([table.weight], 0.1)
    rng = np.random.default_rng(0)
    for _ in range(15):
        ids = torch.from_numpy(rng.integers(0, 12, (6, 2)))
        table.weight.grad = None
        ((table(ids) - target[ids]) ** 2).sum().backward()
        optimizer.step()
    return table.weight.detach()


def test_sparse_and_dense_gradients_give_the_same_weights(monkeypatch):
    torch.testing.assert_close(trained(True, monkeypatch), trained(False, monkeypatch), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sparse", [False, True])
def test_rows_without_gradient_stay(sparse, monkeypatch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = FusedEmbedding(20, 4).weight.detach().clone()
    weights = trained(sparse, monkeypatch)
    assert torch.equal(weights[12:], first[12:])
    assert (weights[0] == 0).all()
    assert not torch.equal(weights[1:12], first[1:12])


def test_step_is_the_formula():
    weight = torch.nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    optimizer = RowWiseAdagrad([weight], 0.5)
    for _ in range(2):
        weight.grad = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
        optimizer.step()
    # s = 12.5 after the first step and 25 after the second
    step = 0.5 / math.sqrt(12.5) + 0.5 / 5
    torch.testing.assert_close(weight.detach(), torch.tensor([[1 - 3 * step, 2 - 4 * step], [3.0, 4.0]]))


def test_gradients_of_two_lookups_in_a_step_are_one_gradient(monkeypatch):
    """Their sum is squared, not each: a sparse gradient that has a row twice steps as the dense one does."""
    weights: list[torch.Tensor] = []
    for least in (0, 1000):
        monkeypatch.setattr(embedding_module, "SPARSE_ROWS", least)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            table = FusedEmbedding(20, 4)
        optimizer = RowWiseAdagrad([table.weight], 0.1)
        (table(torch.tensor([3, 7, 3])).sum() + 2 * table(torch.tensor([9, 3])).sum()).backward()
        assert table.weight.grad.is_sparse == (least == 0)
        optimizer.step()
        weights.append(table.weight.detach())
        assert optimizer.sums[0][[3, 7, 9]].tolist() == [16.0, 1.0, 4.0]
    torch.testing.assert_close(*weights)


def test_clipping_bounds_the_gradient_of_what_is_no_embedding():
    model = torch.nn.Sequential(FusedEmbedding(5, 3), torch.nn.Flatten(), MLP(6, (4,)))
    optimizer = Optimizer(model, TrainerConfig(weight_decay=0.0, clip_norm=0.5))
    (model(torch.tensor([[1, 2]])) * 1000).sum().backward()
    assert optimizer.gradient_norm() > 0.5
    assert torch.stack([p.grad.norm() for p in optimizer.dense]).norm() <= 0.5 + 1e-4
    assert len(optimizer.adagrad.parameters) == 1
    optimizer.clear()
    assert all(p.grad is None for p in model.parameters())


def test_biases_are_not_decayed():
    model = MLP(3, (4,))
    groups = Optimizer(model, TrainerConfig(weight_decay=0.3, clip_norm=None)).adam.param_groups
    assert [(g["weight_decay"], [p.ndim for p in g["params"]]) for g in groups] == [(0.3, [2]), (0.0, [1])]
