from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bedplate.errors import ConfigError, DataError, DefinitionError
from bedplate.features.encoding import BagLayout, Layout, SequenceLayout
from bedplate.models.base import Model
from bedplate.models.batch import TensorBatch
from bedplate.models.config import DCNConfig, LogisticConfig, TwoTowerConfig
from bedplate.models.dcn import DCN
from bedplate.models.logistic import Logistic
from bedplate.models.two_tower import TwoTower
from bedplate.training.config import TrainerConfig
from bedplate.training.graph import random_inputs

LAYOUT = Layout(
    rows=60,
    request_dense=5,
    item_dense=4,
    request_ids=2,
    item_ids=2,
    sequences=(SequenceLayout("h", 1, 2), SequenceLayout("views", 2, 0)),
    bags=(BagLayout("words", "item"), BagLayout("tags", "request")),
)


def models(layout=LAYOUT) -> list[Model]:
    return [
        DCN(DCNConfig("label", layers=(16, 8), rank=4), layout),
        DCN(DCNConfig("label", layers=(16,), rank=0, cross_layers=1), layout),
        TwoTower(TwoTowerConfig("label", layers=(16,), width=8, frequency_slots=1024), layout),
        Logistic(LogisticConfig("label"), layout),
    ]


def make_inputs(requests=3, items=17, length=5, layout=LAYOUT, seed=0):
    arrays = random_inputs(layout.tensors(), layout.rows, requests=requests, items=items, length=length, seed=seed)
    return {n: torch.from_numpy(np.ascontiguousarray(a)) for n, a in arrays.items()}


def make_targets(items, labels=None, candidates=None, weights=None):
    rng = np.random.default_rng(1)
    labels = (rng.random(items) < 0.4).astype(np.float32) if labels is None else np.asarray(labels, np.float32)
    candidates = np.arange(items) if candidates is None else np.asarray(candidates, np.int64)
    weights = torch.ones(items) if weights is None else torch.tensor(weights)
    return TensorBatch({}, {"label": torch.from_numpy(labels)}, weights, torch.from_numpy(candidates))


@pytest.mark.parametrize("model", models(), ids=lambda m: type(m).__name__)
def test_requests_of_a_batch_do_not_see_each_other(model):
    inputs = make_inputs()
    model.eval()
    together = model(inputs)["score"]
    of_item = inputs["request_of_item"]
    for r in range(3):
        rows = of_item == r
        alone = {}
        for spec in LAYOUT.tensors():
            tensor = inputs[spec.name]
            alone[spec.name] = tensor[rows] if spec.shape[0] == "items" else tensor[r : r + 1]
        alone["request_of_item"] = torch.zeros(int(rows.sum()), dtype=torch.int64)
        torch.testing.assert_close(model(alone)["score"], together[rows])


@pytest.mark.parametrize("model", models(), ids=lambda m: type(m).__name__)
def test_every_input_matters(model):
    """The score's gradient reaches every weight, so that no feature is dropped on the way."""
    model.train()
    inputs = make_inputs(requests=4, items=40)
    model.loss(model(inputs), make_targets(40)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


@pytest.mark.parametrize("i", range(4))
def test_weights_depend_on_the_seed_alone(i):
    torch.manual_seed(1)
    first = models()[i].state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = models()[i].state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert torch.equal(state, torch.get_rng_state()), "torch's own generator is left alone"
    other = DCN(DCNConfig("label", seed=1), LAYOUT).state_dict()
    assert not torch.equal(other["crossed.weight"], DCN(DCNConfig("label"), LAYOUT).state_dict()["crossed.weight"])


@pytest.mark.parametrize("model", models(), ids=lambda m: type(m).__name__)
def test_a_batch_without_candidates_has_no_loss(model):
    inputs = make_inputs(requests=2, items=0)
    loss = model.loss(model(inputs), make_targets(0))
    assert loss.item() == 0


@pytest.mark.parametrize("model", models()[::3], ids=lambda m: type(m).__name__)
def test_loss_is_weighted(model):
    inputs = make_inputs()
    outputs = model(inputs)
    score = outputs["score"].detach().numpy().astype(np.float64)
    weights = np.linspace(0, 2, 17).astype(np.float32)
    targets = make_targets(17, weights=weights)
    y = targets.labels["label"].numpy()
    expected = -(weights * (y * np.log(score) + (1 - y) * np.log1p(-score))).sum() / weights.sum()
    assert model.loss(outputs, targets).item() == pytest.approx(expected, rel=1e-5)


def test_missing_label_is_named():
    model = Logistic(LogisticConfig("labels"), LAYOUT)
    with pytest.raises(DataError, match=r"no label 'labels'\n.*'label'"):
        model.loss(model(make_inputs()), make_targets(17))


@pytest.mark.parametrize("kind", [DCN, TwoTower])
@pytest.mark.parametrize("layout", [Layout(rows=5, item_ids=1), Layout(rows=5, request_ids=1)])
def test_a_side_without_features_is_refused(kind, layout):
    config = DCNConfig("label") if kind is DCN else TwoTowerConfig("label")
    with pytest.raises(DefinitionError, match="gives nothing about"):
        kind(config, layout)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (DCNConfig, {"label": 3}, "DCNConfig: label is 3: expected `str`, got `int`"),
        (DCNConfig, {"label": ""}, "DCNConfig: got no label"),
        (DCNConfig, {"layers": ()}, "DCNConfig: got no layers"),
        (DCNConfig, {"layers": (8, 0)}, r"DCNConfig: layers is \(8, 0\), expected widths of at least 1"),
        (DCNConfig, {"layers": 8}, "DCNConfig: layers is 8: expected `array`, got `int`"),
        (DCNConfig, {"layers": ("8",)}, r"DCNConfig: layers is \('8',\): expected `int`, got `str`"),
        (DCNConfig, {"cross_layers": 0}, "DCNConfig: cross_layers is 0, expected at least 1"),
        (DCNConfig, {"rank": -1}, "DCNConfig: rank is -1, expected at least 0"),
        (DCNConfig, {"embedding": 0}, "DCNConfig: embedding is 0, expected at least 1"),
        (DCNConfig, {"dropout": 1.0}, "DCNConfig: dropout is 1.0, expected at least 0 and below 1"),
        (DCNConfig, {"dropout": float("nan")}, "DCNConfig: dropout is nan"),
        (DCNConfig, {"seed": -1}, "DCNConfig: seed is -1, expected at least 0"),
        (LogisticConfig, {"label": None}, "LogisticConfig: label is None: expected `str`, got `null`"),
        (LogisticConfig, {"correct_sampling": 1}, "LogisticConfig: correct_sampling is 1: expected `bool`, got `int`"),
        (TwoTowerConfig, {"frequency_slots": 1000}, "TwoTowerConfig: frequency_slots is 1000, expected a power of two"),
        (TwoTowerConfig, {"frequency_slots": 0}, "TwoTowerConfig: frequency_slots is 0, expected at least 1"),
        (TwoTowerConfig, {"temperature": 0.0}, "TwoTowerConfig: temperature is 0.0, expected more than 0"),
        (TwoTowerConfig, {"frequency_rate": 1.5}, "TwoTowerConfig: frequency_rate is 1.5, expected more than 0"),
        (TwoTowerConfig, {"width": 0}, "TwoTowerConfig: width is 0, expected at least 1"),
        (TwoTowerConfig, {"layers": (-1,)}, r"TwoTowerConfig: layers is \(-1,\), expected widths"),
        (TrainerConfig, {"epochs": "3"}, "trainer: epochs is '3': expected `int`, got `str`"),
        (TrainerConfig, {"weight_decay": -0.1}, "trainer: weight_decay is -0.1, expected at least 0"),
    ],
)
def test_configs_out_of_range_are_refused(kind, options, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        kind(**(({} if kind is TrainerConfig else {"label": "label"}) | options))


def test_a_tower_may_be_one_linear_map():
    layout = Layout(rows=5, item_ids=1, request_ids=1)
    assert len(TwoTower(TwoTowerConfig("label", layers=()), layout).state_dict()) > 0


def test_logistic_works_on_items_alone():
    layout = Layout(rows=5, item_ids=1)
    inputs = make_inputs(layout=layout)
    assert Logistic(LogisticConfig("label"), layout)(inputs)["score"].shape == (17,)


def tower() -> TwoTower:
    return TwoTower(TwoTowerConfig("label", layers=(16,), width=8, frequency_slots=1024, frequency_rate=0.2), LAYOUT)


def test_two_tower_loss_equals_brute_force():
    model = tower()
    model.eval()
    inputs = make_inputs(requests=3, items=17)
    of_item = inputs["request_of_item"].tolist()
    rng = np.random.default_rng(2)
    candidates = np.concatenate([rng.choice(9, of_item.count(r), replace=False) for r in range(3)])
    weights = rng.random(17).astype(np.float32) + 0.1
    targets = make_targets(17, candidates=candidates, weights=weights)
    model.step += 4
    model.last_seen[:] = torch.from_numpy(rng.integers(0, 4, 1024))
    model.gap[:] = torch.from_numpy(rng.random(1024) * 5 + 1)
    outputs = model(inputs)
    query, item = outputs["query"].detach().numpy(), outputs["item"].detach().numpy()
    unique = sorted(set(candidates.tolist()))
    vector = {c: item[candidates.tolist().index(c)] for c in unique}
    log_q = dict(zip(unique, model._log_probability(torch.tensor(unique)).tolist(), strict=True))
    labels = targets.labels["label"].numpy()
    losses = []
    for n in np.flatnonzero(labels):
        r = of_item[n]
        bought = {c for c, y, o in zip(candidates.tolist(), labels, of_item, strict=True) if o == r and y > 0}
        own = query[r] @ item[n] / model.temperature - log_q[candidates[n]]
        others = [query[r] @ vector[c] / model.temperature - log_q[c] for c in unique if c not in bought]
        losses.append(-own + np.log(np.exp([own, *others]).sum()))
    expected = np.average(losses, weights=weights[labels > 0])
    assert model.loss(outputs, targets).item() == pytest.approx(expected, rel=1e-4)


def test_two_tower_gradient_is_finite_when_all_candidates_are_positive():
    model = tower()
    loss = model.loss(model(make_inputs()), make_targets(17, labels=np.ones(17)))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_frequency_estimate_finds_how_often_a_candidate_is_in_a_batch():
    model = tower()
    model.train()
    shares = {3: 1.0, 5: 0.5, 8: 0.1}
    rng = np.random.default_rng(0)
    found = {c: [] for c in shares}
    for _ in range(1000):
        present = [c for c, share in shares.items() if rng.random() < share]
        if not present:
            continue
        for c, value in zip(present, model._log_probability(torch.tensor(present)).tolist(), strict=True):
            found[c].append(math.exp(-value))
    for candidate, share in shares.items():
        assert np.mean(found[candidate][20:]) == pytest.approx(1 / share, rel=0.2)


def test_frequency_is_left_alone_in_validation():
    model = tower()
    model.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.loss(model(make_inputs()), make_targets(17))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_towers_read_one_side_each():
    model = tower()
    inputs = make_inputs()
    request = {n: t for n, t in inputs.items() if n.startswith(("request_", "sequence_", "bag_ids.tags"))}
    item = {n: t for n, t in inputs.items() if n.startswith(("item_", "bag_ids.words"))}
    outputs = model(inputs)
    assert torch.equal(model.served(request)["query"], outputs["query"])
    assert torch.equal(model.item(item), outputs["item"])
    torch.testing.assert_close(outputs["query"].norm(dim=1), torch.ones(3))


def test_logistic_regression_is_linear_in_the_mean_of_a_sequences_elements():
    model = Logistic(LogisticConfig("label"), LAYOUT)
    inputs = make_inputs()

    def logit(**changed: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model({**inputs, **changed})["logit"]

    there = inputs["sequence_ids.h"][:, :, 0] != 0
    numbers = inputs["sequence_numbers.h"]
    weights = model.sequence.weight[0, 1:3].detach()
    moved = logit(**{"sequence_numbers.h": numbers + 2.0 * there.unsqueeze(2)}) - logit()
    filled = there.any(dim=1)[inputs["request_of_item"]]
    torch.testing.assert_close(moved, 2.0 * weights.sum() * filled, rtol=1e-4, atol=1e-5)
    padded = logit(**{"sequence_numbers.h": numbers + 7.0 * ~there.unsqueeze(2)})
    torch.testing.assert_close(padded, logit(), msg="what pads does not count")
    # Of a request's side, every candidate's logit is moved by the same.
    other = make_inputs(seed=9)
    moved = (
        logit(**{n: other[n] for n in inputs if n.startswith(("request_dense", "request_ids", "sequence"))}) - logit()
    )
    for request in range(3):
        own = moved[inputs["request_of_item"] == request]
        torch.testing.assert_close(own, own[:1].expand(len(own)), rtol=1e-4, atol=1e-5)
