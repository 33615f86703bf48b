from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch

from bedplate.layers import embedding as embedding_module
from bedplate.layers.attention import CandidateAttention, SequencePooling
from bedplate.layers.cross import CrossNetwork
from bedplate.layers.embedding import FusedEmbedding, masked_mean
from bedplate.layers.factorization import pair_sum
from bedplate.layers.linear import SplitLinear, SplitMLP

OF_ITEM = torch.tensor([0, 0, 1, 2, 2, 2, 2])


@pytest.fixture(autouse=True)
def seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        yield


def test_split_linear_equals_linear_on_expanded_rows():
    layer = SplitLinear(4, 3, 8)
    request, item = torch.randn(3, 4), torch.randn(7, 3)
    joint = torch.cat((request[OF_ITEM], item), dim=1)
    expected = joint @ torch.cat((layer.request, layer.item), dim=1).T + layer.bias
    torch.testing.assert_close(layer(request, item, OF_ITEM), expected)


def test_split_mlp_drops_out_in_training_only():
    layer = SplitMLP(4, 3, (16, 5), dropout=0.5)
    request, item = torch.randn(3, 4), torch.randn(7, 3)
    assert not torch.equal(layer(request, item, OF_ITEM), layer(request, item, OF_ITEM))
    layer.eval()
    assert torch.equal(layer(request, item, OF_ITEM), layer(request, item, OF_ITEM))


@pytest.mark.parametrize("rank", [0, 4])
def test_cross_network_is_the_papers_formula(rank):
    net = CrossNetwork(4, 3, layers=3, rank=rank)
    request, item = torch.randn(3, 4), torch.randn(7, 3)
    start = torch.cat((request[OF_ITEM], item), dim=1)
    x = start
    for i in range(3):
        if i == 0:
            inner = start @ torch.cat((net.first.request, net.first.item), dim=1).T + net.first.bias
        else:
            inner = x @ net.down[i - 1].weight.T
        projected = inner @ net.up[i].weight.T + net.up[i].bias if rank else inner
        x = start * projected + x
    torch.testing.assert_close(net(request, item, OF_ITEM), x)


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("rank", [0, 5])
def test_the_weighted_sum_of_crosses_is_that_of_the_output_and_so_are_its_gradients(layers, rank):
    net, weight = CrossNetwork(4, 3, layers, rank), torch.randn(7, requires_grad=True)
    request, item = torch.randn(3, 4), torch.randn(7, 3)
    weights = [weight, *net.parameters()]
    expected, got = net(request, item, OF_ITEM) @ weight, net.summed(request, item, OF_ITEM, weight)
    torch.testing.assert_close(got, expected)
    factors = torch.randn(7)
    for one, other in zip(*(torch.autograd.grad(y @ factors, weights) for y in (got, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def loop_attention(layer: CandidateAttention, item, elements, mask):
    rows = []
    for n, r in enumerate(OF_ITEM.tolist()):
        query = layer.query(item[n]) / math.sqrt(layer.inner)
        total, pooled = 0.0, torch.zeros(layer.inner)
        for position in range(elements.shape[1]):
            if mask[r, position]:
                key, value, bias = layer.element(elements[r, position]).split((layer.inner, layer.inner, 1))
                weight = torch.sigmoid(query @ key + bias[0])
                total, pooled = total + weight, pooled + weight * value
        rows.append(torch.cat((pooled / (1 + total), torch.log1p(torch.as_tensor(total)).reshape(1))))
    return torch.stack(rows)


def test_attention_equals_a_loop_over_candidates_and_elements():
    layer = CandidateAttention(3, 5, 4)
    item, elements = torch.randn(7, 3), torch.randn(3, 6, 5)
    mask = torch.tensor([[1.0] * 6, [0.0] * 6, [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    got = layer(item, elements, mask, OF_ITEM)
    torch.testing.assert_close(got, loop_attention(layer, item, elements, mask))
    assert (got[2] == 0).all(), "an empty sequence gives zeros"


def test_padding_changes_nothing():
    candidate, alone = CandidateAttention(3, 5, 4), SequencePooling(5, 4)
    item, elements, mask = torch.randn(7, 3), torch.randn(3, 6, 5), torch.ones(3, 6)
    longer = torch.cat((elements, torch.randn(3, 2, 5)), dim=1)
    padded = torch.cat((mask, torch.zeros(3, 2)), dim=1)
    torch.testing.assert_close(candidate(item, longer, padded, OF_ITEM), candidate(item, elements, mask, OF_ITEM))
    torch.testing.assert_close(alone(longer, padded), alone(elements, mask))


def test_masked_mean_counts_only_what_is_there():
    ids = torch.tensor([[3, 4, 0], [0, 0, 0]])
    vectors = torch.tensor([[[1.0], [3.0], [0.0]], [[0.0], [0.0], [0.0]]])
    assert masked_mean(vectors, ids).tolist() == [[2.0], [0.0]]


@pytest.mark.parametrize("sparse", [False, True])
def test_padding_row_is_never_trained(sparse, monkeypatch):
    monkeypatch.setattr(embedding_module, "SPARSE_ROWS", 0 if sparse else 1000)
    table = FusedEmbedding(10, 4)
    table(torch.tensor([0, 3, 3])).sum().backward()
    gradient = table.weight.grad
    assert gradient.is_sparse == sparse
    gradient = gradient.to_dense()
    assert gradient[3].tolist() == [2.0] * 4
    assert gradient[torch.arange(10) != 3].abs().sum() == 0


@pytest.mark.parametrize("sparse", [False, True])
def test_the_gradient_of_rows_is_that_of_torch(sparse, monkeypatch):
    """Of ids that come often, of padding, and of two lookups in one step."""
    monkeypatch.setattr(embedding_module, "SPARSE_ROWS", 0 if sparse else 1000)
    table, ids, others = FusedEmbedding(50, 3), torch.randint(0, 20, (40, 5)), torch.randint(0, 50, (7,))
    factors = torch.randn(40, 5, 3)

    def gradient(look_up):
        table.weight.grad = None
        loss = (look_up(ids) * factors).sum() + look_up(others).square().sum()
        loss.backward()
        return loss.item(), table.weight.grad

    loss, got = gradient(table)
    expected_loss, expected = gradient(partial(torch.nn.functional.embedding, weight=table.weight, padding_idx=0))
    assert loss == expected_loss
    assert got.is_sparse is sparse
    torch.testing.assert_close(got.to_dense(), expected)
    assert got.to_dense()[0].abs().sum() == 0
    rows = got.coalesce().indices()[0] if sparse else torch.arange(50)
    assert torch.equal(rows, rows.unique())


def test_the_sum_of_pairs_and_its_gradient_are_those_of_a_loop_over_pairs():
    vectors = torch.randn(5, 4, 3, dtype=torch.float64, requires_grad=True)
    pairs = itertools.combinations(range(4), 2)
    expected = sum(((vectors[:, i] * vectors[:, j]).sum(dim=1) for i, j in pairs), torch.zeros(5))
    torch.testing.assert_close(pair_sum(vectors), expected)
    with torch.no_grad():
        torch.testing.assert_close(pair_sum(vectors), expected)
    weights = torch.randn(5, dtype=torch.float64)
    [wanted] = torch.autograd.grad((expected * weights).sum(), vectors)
    [got] = torch.autograd.grad((pair_sum(vectors) * weights).sum(), vectors)
    torch.testing.assert_close(got, wanted)
