from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from bedplate.layers import embedding as embedding_module
from bedplate.layers.embedding import FusedEmbedding
from bedplate.layers.linear import MLP
from bedplate.training.config import TrainerConfig
from bedplate.training.optimizer import Adagrad, Optimizer, RowWiseAdagrad


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


@pytest.mark.parametrize("kind", [RowWiseAdagrad, Adagrad])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["compiled", "by torch"])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_row_whose_gradient_is_not_finite_stays_and_is_counted(kind, sparse, dtype, wrong):
    rows = torch.tensor([1, 2, 4, 5])
    values = torch.arange(1, 9, dtype=dtype).reshape(4, 2)
    broken = values.clone()
    broken[1, 1], broken[3, 0] = wrong, wrong

    def stepped(rows, values):
        table = torch.nn.Parameter(torch.ones(6, 2, dtype=dtype))
        optimizer = kind([table], 0.1)
        optimizer.sums = [sums.to(dtype) for sums in optimizer.sums]
        gradient = torch.sparse_coo_tensor(rows.unsqueeze(0), values, (6, 2), is_coalesced=True, check_invariants=True)
        table.grad = gradient if sparse else gradient.to_dense()
        return optimizer.step(), table.detach(), optimizer.sums[0]

    good = torch.tensor([0, 2])
    left, expected, sums = stepped(rows[good], values[good])
    assert left == 0
    assert not torch.equal(expected[rows[good]], torch.ones(2, 2, dtype=dtype))
    assert stepped(rows, values)[0] == 0
    left, found, kept = stepped(rows, broken)
    assert left == 2
    assert torch.equal(found, expected)
    assert torch.equal(kept, sums)


def test_no_weight_changes_where_the_gradient_of_embeddings_is_not_finite():
    model = torch.nn.Sequential(FusedEmbedding(6, 2), torch.nn.Linear(2, 1))
    optimizer = Optimizer(model, TrainerConfig())
    model(torch.tensor([[1, 2]])).sum().backward()
    table, weights = model[0].weight, model[1].weight.detach().clone()
    table.grad = torch.full_like(table, math.nan)
    assert optimizer.step() == 6
    assert torch.equal(model[1].weight, weights)
    table.grad.zero_()
    assert optimizer.step() == 0
    assert not torch.equal(model[1].weight, weights)


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
    assert optimizer.clip_gradients() > 0.5
    assert torch.stack([p.grad.norm() for p in optimizer.dense]).norm() <= 0.5 + 1e-4
    assert len(optimizer.adagrad.parameters) == 1
    optimizer.clear()
    assert all(p.grad is None for p in model.parameters())


def test_biases_are_not_decayed():
    model = MLP(3, (4,))
    before = [weights.detach().clone() for weights in model.parameters()]
    optimizer = Optimizer(model, TrainerConfig(weight_decay=0.3, learning_rate=0.1, clip_norm=None))
    for weights in model.parameters():
        weights.grad = torch.zeros_like(weights)
    optimizer.step()
    for weights, first in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(weights.detach(), first * (1 - 0.3 * 0.1) if weights.ndim > 1 else first)


def drawn_gradients(model, seed, without=()):
    rng = np.random.default_rng(seed)
    for i, weights in enumerate(model.parameters()):
        drawn = torch.from_numpy(rng.normal(size=weights.shape).astype(np.float32))
        weights.grad = None if i in without else drawn


def of_torch(model, config):
    groups = [[w for w in model.parameters() if (w.ndim > 1) is decays] for decays in (True, False)]
    return torch.optim.AdamW(
        [{"params": groups[0], "weight_decay": config.weight_decay}, {"params": groups[1], "weight_decay": 0.0}],
        lr=config.learning_rate,
        fused=True,
    )


def equal(model, other):
    return all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_the_dense_weights_are_those_of_torchs_adamw_to_the_last_bit():
    config = TrainerConfig(weight_decay=0.02, learning_rate=0.01, clip_norm=2.0)
    own, other = MLP(33, (17, 5)), MLP(33, (17, 5))
    other.load_state_dict(own.state_dict())
    optimizer, reference = Optimizer(own, config), of_torch(other, config)
    for step in range(9):
        without = (0, 3) if step in (0, 1, 5) else ()  # of which no count of steps goes on
        drawn_gradients(own, step, without)
        drawn_gradients(other, step, without)
        optimizer.set_rates(factor := 1 / (1 + step))
        for group in reference.param_groups:
            group["lr"] = config.learning_rate * factor
        norm = torch.nn.utils.clip_grad_norm_(other.parameters(), config.clip_norm)
        assert optimizer.clip_gradients() == norm.item()
        optimizer.step()
        reference.step()
        assert equal(own, other), step


def test_a_checkpoint_of_torchs_adamw_is_gone_on_with():
    """As versions before this one wrote them."""
    config = TrainerConfig(weight_decay=0.02, learning_rate=0.01)
    own, other = MLP(3, (4, 2)), MLP(3, (4, 2))
    reference = of_torch(other, config)
    for step in range(3):
        drawn_gradients(other, step)
        reference.step()
    own.load_state_dict(other.state_dict())
    optimizer = Optimizer(own, config)
    optimizer.load_state_dict({"adam": reference.state_dict(), "adagrad": {"sums": []}})
    for step in range(3, 6):
        for model, one in ((own, optimizer), (other, reference)):
            drawn_gradients(model, step)
            one.step()
    assert equal(own, other)
    assert all(state["step"] == 6 for state in optimizer.adam.state.values())


@pytest.mark.parametrize("sparse", [False, True])
def test_adagrad_is_that_of_torch(sparse):
    rows = [[1, 3], [3, 4], [1, 5]]
    own, other = (torch.nn.Parameter(torch.arange(12.0).reshape(6, 2)) for _ in range(2))
    optimizer, reference = Adagrad([own], 0.3), torch.optim.Adagrad([other], lr=0.3)
    rng = np.random.default_rng(0)
    for step in rows:
        values = torch.from_numpy(rng.normal(size=(2, 2)).astype(np.float32))
        gradient = torch.sparse_coo_tensor([step], values, (6, 2), is_coalesced=True, check_invariants=True)
        own.grad = other.grad = gradient if sparse else gradient.to_dense()
        optimizer.step()
        with torch.sparse.check_sparse_tensor_invariants(enable=False):
            reference.step()
    torch.testing.assert_close(own, other, rtol=0, atol=0)
    again = Adagrad([own], 0.3)
    again.load_state_dict(reference.state_dict())
    torch.testing.assert_close(again.sums, optimizer.sums, rtol=0, atol=0)


def test_a_training_does_not_import_torchs_compiler():
    """Its import takes longer than the training of a small model."""
    code = """
import sys, torch
from bedplate.layers.embedding import FusedEmbedding
from bedplate.training.config import TrainerConfig
from bedplate.training.optimizer import Optimizer
for kind in ("row_wise_adagrad", "adagrad"):
    model = torch.nn.Sequential(FusedEmbedding(5, 3), torch.nn.Flatten(), torch.nn.Linear(6, 1))
    optimizer = Optimizer(model, TrainerConfig(embedding_optimizer=kind))
    for _ in range(2):
        optimizer.clear()
        model(torch.tensor([[1, 2]])).sum().backward()
        optimizer.clip_gradients()
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
