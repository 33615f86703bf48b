"""A model that goes on from another one begins with its scores, whatever else its encoder knows by now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from synthetic import ENCODINGS, Source, make_batch
from torch import Tensor, nn

from bedplate.batch import Batch, Dense, Ids
from bedplate.errors import DefinitionError
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import Category, Encoding, Layout, Number, Sequence
from bedplate.features.fitting import fit
from bedplate.layers.axes import ID_ROWS, Axes
from bedplate.layers.inputs import InputVectors
from bedplate.models.base import Model, seeded
from bedplate.models.binary import BinaryModel
from bedplate.models.config import BinaryConfig, DCNConfig, LogisticConfig, ModelConfig, TwoTowerConfig, implementation
from bedplate.training.carried_encoder import carried_encoder, kept_features
from bedplate.training.carried_optimizer import carried_optimizer
from bedplate.training.config import TrainerConfig
from bedplate.training.first_scores import check_first_scores
from bedplate.training.optimizer import Optimizer
from bedplate.training.tensors import to_tensors
from bedplate.training.trainer import Trainer
from bedplate.training.warm_start import Side, WarmStart

CONFIGS = [
    DCNConfig("label", layers=(8, 4), rank=3, cross_layers=2, attention=4, embedding=4),
    DCNConfig("label", layers=(8,), rank=0, cross_layers=3, attention=4, embedding=4),
    LogisticConfig("label"),
    TwoTowerConfig("label", layers=(8,), width=4, embedding=4, frequency_slots=64),
    TwoTowerConfig("label", layers=(), width=4, embedding=4, frequency_slots=64),
]
OTHER = {f"feature {name}": "1" for name in ENCODINGS}
# The old features in another order, one of them gone, and new ones of every kind, which come first.
GROWN: dict[str, Encoding] = {
    "user.age": Number(log=True),
    "user.recent": Sequence(Category("product"), "earlier", 3),
    "user.city": Category(),
    "product.price": Number(),
    **{name: ENCODINGS[name] for name in reversed(ENCODINGS)},
}


def grown(batch: Batch, seed: int = 3, shift: int = 0) -> Batch:
    """The batch with new features, and with other ids, where `shift` is not 0."""
    rng = np.random.default_rng(seed)
    request = {
        **batch.request,
        "user.age": Dense(rng.normal(size=batch.requests), rng.random(batch.requests) < 0.7),
        "user.city": Ids(rng.integers(0, 5, batch.requests)),
        "user.recent": batch.request["user.products"],
    }
    item = {**batch.item, "product.price": Dense(rng.normal(size=batch.items))}
    return replace(batch, request=request, item=item, candidates=batch.candidates + shift)


def side(config: ModelConfig, encodings: Mapping[str, Encoding], seed: int, **data: int) -> tuple[Side, list[Batch]]:
    batches = [grown(b, i, **data) for i, b in enumerate(Source(6, salt=seed).epoch(0, 0))]
    encoder = fit(encodings, batches)
    model: Model = implementation(config)(msgspec.structs.replace(config, seed=seed), encoder.layout)
    return Side(model.eval(), encoder), batches


def continued(parent: Side, fitted: Encoder, config: ModelConfig, now: Mapping[str, str] = OTHER) -> WarmStart:
    kept = kept_features(parent.encoder, fitted, OTHER, now)
    encoder = carried_encoder(parent.encoder, fitted, kept)
    model = implementation(config)(msgspec.structs.replace(config, seed=99), encoder.layout)
    start = WarmStart(parent, Side(model.eval(), encoder), kept)
    model.load_state_dict(start.weights())
    return start


def scores(one: Side, batch: Batch) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return one.model(to_tensors(batch, one.encoder))["score"].numpy()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.title()}{getattr(c, 'layers', '')}")
def test_with_the_same_features_the_first_scores_are_those_of_the_parent_to_the_last_bit(config: ModelConfig) -> None:
    parent, batches = side(config, ENCODINGS, 1)
    start = continued(parent, parent.encoder, config)
    for batch in batches:
        assert np.array_equal(scores(start.own, batch), scores(parent, batch))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.title()}{getattr(c, 'layers', '')}")
def test_with_new_features_and_ids_the_first_scores_are_those_of_the_parent(config: ModelConfig) -> None:
    parent, old = side(config, ENCODINGS, 1)
    own, new = side(config, GROWN, 2, shift=17)
    start = continued(parent, own.encoder, config)
    assert start.own.encoder.layout.rows > parent.encoder.layout.rows
    for batch in (*old, *new):
        expected = scores(parent, batch)
        rounding = 1e-6 * float(np.abs(expected).max())  # a score near 0 is a sum of terms as large as other scores
        np.testing.assert_allclose(scores(start.own, batch), expected, rtol=2e-6, atol=rounding)
    # The test can see a difference: the parent's weights at the wrong places give other scores.
    drawn = implementation(config)(config, start.own.encoder.layout)
    assert np.abs(scores(Side(drawn.eval(), start.own.encoder), old[0]) - scores(parent, old[0])).max() > 1e-3


def test_what_reads_a_new_feature_begins_at_zero_and_learns() -> None:
    config = CONFIGS[0]
    parent, _ = side(config, ENCODINGS, 1)
    own, _ = side(config, GROWN, 2)
    start = continued(parent, own.encoder, config)
    column = start.own.encoder.columns_of("item_dense").index("product.price")
    weights = start.own.model.get_parameter("deep.first.item")
    assert weights[:, column].abs().max() == 0
    start.own.model.train()
    batch = to_tensors(grown(make_batch(np.random.default_rng(0))), start.own.encoder)
    start.own.model.loss(start.own.model(batch), batch).backward()
    assert weights.grad is not None
    assert weights.grad[:, column].abs().max() > 0


def test_scales_and_ids_of_the_parent_stay_and_new_ids_begin_as_unknown_ones() -> None:
    config = CONFIGS[2]
    parent, _ = side(config, ENCODINGS, 1)
    own, _ = side(config, GROWN, 2, shift=17)
    start = continued(parent, own.encoder, config)
    fields = {f.feature: f.encoding for f in start.own.encoder.fields}
    was = {f.feature: f.encoding for f in parent.encoder.fields}
    assert (
        fields["user.taste"] == was["user.taste"] != {f.feature: f for f in own.encoder.fields}["user.taste"].encoding
    )
    keys, known = start.own.encoder.vocabularies["product"].keys, parent.encoder.vocabularies["product"].keys
    assert set(keys.tolist()) == {*known.tolist(), *own.encoder.vocabularies["product"].keys.tolist()}
    new = int(np.flatnonzero(~np.isin(keys, known))[0])
    table = "vectors.embedding.weight"
    got = start.own.model.get_parameter(table)[start.own.encoder.vocabularies.first_rows["product"] + 2 + new]
    assert torch.equal(got, parent.model.get_parameter(table)[parent.encoder.vocabularies.first_rows["product"] + 1])


def test_a_feature_whose_definition_has_changed_is_a_new_one() -> None:
    config = CONFIGS[0]
    parent, _ = side(config, ENCODINGS, 1)
    start = continued(parent, parent.encoder, config, OTHER | {"feature product.style": "2"})
    column = start.own.encoder.columns_of("item_dense").index("product.style")
    assert start.own.model.get_parameter("deep.first.item")[:, column].abs().max() == 0
    assert start.own.model.get_parameter("deep.first.request").abs().min() > 0


def stepped(parent: Side, batches: list[Batch], trainer: TrainerConfig) -> Optimizer:
    """An optimiser that has made a step for each batch."""
    found = Optimizer(parent.model, trainer)
    parent.model.train()
    for batch in batches:
        found.clear()
        tensors = to_tensors(batch, parent.encoder)
        parent.model.loss(parent.model(tensors), tensors).backward()
        found.step()
    return found


@pytest.mark.parametrize("kind", ["row_wise_adagrad", "adagrad"])
def test_the_optimisers_state_is_carried_over_by_meaning(kind: Any, tmp_path: Any) -> None:
    config, trainer = CONFIGS[0], TrainerConfig(epochs=1, embedding_optimizer=kind)
    parent, batches = side(config, ENCODINGS, 1)
    was = stepped(parent, batches, trainer)
    own, _ = side(config, GROWN, 2, shift=17)
    start = continued(parent, own.encoder, config)
    optimizer = Optimizer(start.own.model, trainer)
    state = carried_optimizer(start, was, optimizer)
    moments = optimizer.adam.state[start.own.model.get_parameter("deep.first.item")]
    before = was.adam.state[parent.model.get_parameter("deep.first.item")]
    columns = [e.columns_of("item_dense").index("product.style") for e in (start.own.encoder, parent.encoder)]
    assert moments["step"] == len(batches)
    assert torch.equal(moments["exp_avg"][:, columns[0]], before["exp_avg"][:, columns[1]])
    assert moments["exp_avg"][:, start.own.encoder.columns_of("item_dense").index("product.price")].abs().max() == 0
    vocabularies = [e.vocabularies for e in (start.own.encoder, parent.encoder)]
    keys = [v["product"].keys for v in vocabularies]
    rows = [
        v.first_rows["product"] + 2 + int(np.flatnonzero(k == 30)[0]) for v, k in zip(vocabularies, keys, strict=True)
    ]
    assert torch.equal(optimizer.adagrad.sums[0][rows[0]], was.adagrad.sums[0][rows[1]])
    assert was.adagrad.sums[0][rows[1]].max() > 0
    result = Trainer(trainer).fit(start.own.model, start.own.encoder, Grown(3), Grown(1, salt=4), tmp_path, state)
    assert result.steps == 3


class Grown(Source):
    def epoch(self, seed: int, epoch: int, start: int = 0) -> Any:
        return (grown(b) for b in super().epoch(seed, epoch, start))


def test_another_model_or_other_layers_are_refused() -> None:
    parent, _ = side(CONFIGS[0], ENCODINGS, 1)
    with pytest.raises(DefinitionError, match=r"the parent is a DCN, the job's model a Logistic"):
        continued(parent, parent.encoder, CONFIGS[2])
    wider = msgspec.structs.replace(CONFIGS[0], layers=(16, 4))
    with pytest.raises(DefinitionError, match=r"'deep.first.request' are \[16, .*\], those of the parent \[8, "):
        continued(parent, parent.encoder, wider)
    deeper = msgspec.structs.replace(CONFIGS[0], cross_layers=3)
    with pytest.raises(DefinitionError, match="the parent has no weights 'cross"):
        continued(parent, parent.encoder, deeper)


def test_a_model_that_does_not_say_what_reads_its_features_goes_on_with_the_same_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = CONFIGS[2]
    parent, batches = side(config, ENCODINGS, 1)
    own, _ = side(config, GROWN, 2)
    monkeypatch.setattr(implementation(config), "axes", Model.axes)
    start = continued(parent, parent.encoder, config)
    assert np.array_equal(scores(start.own, batches[0]), scores(parent, batches[0]))
    with pytest.raises(DefinitionError, match=r"(?s)does not say what reads them.*axes\(\)"):
        continued(parent, own.encoder, config)


class Looking(BinaryModel):
    """Has a number for each id in weights of its own kind, and another one for each position."""

    class Config(BinaryConfig, frozen=True):
        said: str = "ids"
        kind: str = "embedding"

    def __init__(self, config: Config, layout: Layout) -> None:
        super().__init__(config, layout)
        with seeded(config.seed):
            self.vectors, self.kind, self.said = InputVectors(layout, 4), config.kind, config.said
            self.net = nn.Linear(self.vectors.request_width + self.vectors.item_width, 1)
            self.own = nn.Embedding(layout.rows if config.kind == "embedding" else 400, 1)
            self.places = nn.Parameter(torch.randn(layout.rows if config.kind == "rows" else 400, 1))

    def axes(self) -> Axes:
        own: Axes = {"ids": {"own.weight": (ID_ROWS,)}, "positions": {"own.weight": (None,)}, "nothing": {}}[self.said]
        return {"net.weight": (None, self.vectors.axis("request") + self.vectors.axis("item")), **own}

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        logit, ids = self.net(self.vectors.rows(batch)).squeeze(1), batch["item_ids"]
        if self.kind in ("parameter", "rows"):
            return {"logit": logit + nn.functional.embedding(ids, self.places).flatten(1).sum(1)}
        at = torch.arange(len(ids)) % 400 if self.kind == "positions" else ids[:, 0]
        return {"logit": logit + self.own(at).squeeze(1)}


def judged(one: Side, batch: Batch) -> np.ndarray[Any, Any]:
    tensors = to_tensors(batch, one.encoder)
    with torch.no_grad():
        return one.model.judged(one.model(tensors), tensors).numpy()


@pytest.mark.parametrize("kind", ["embedding", "of more rows"])
@pytest.mark.parametrize("encodings", [ENCODINGS, GROWN], ids=["same features", "new features"])
def test_what_a_model_says_is_looked_up_by_ids_moves_with_them(encodings: Mapping[str, Encoding], kind: str) -> None:
    config, trainer = Looking.Config("label", kind=kind), TrainerConfig(epochs=1)
    parent, old = side(config, ENCODINGS, 1)
    own, new = side(config, encodings, 2, shift=-7)
    start = continued(parent, own.encoder, config)
    rows = start.rows
    assert start.moves == (encodings is ENCODINGS)
    assert (rows.source != rows.target).sum() > 20, "rows of known ids have moved"
    for batch in (*old, *new):
        np.testing.assert_allclose(judged(start.own, batch), judged(parent, batch), rtol=2e-6, atol=1e-6)
    if start.moves:
        check_first_scores(parent, start.own, (*old, *new))
    was, optimizer = stepped(parent, old, trainer), Optimizer(start.own.model, trainer)
    carried_optimizer(start, was, optimizer)
    before = was.adam.state[parent.model.get_parameter("own.weight")]["exp_avg"]
    moments = optimizer.adam.state[start.own.model.get_parameter("own.weight")]["exp_avg"]
    assert torch.equal(moments[rows.target], before[rows.source])
    assert before.abs().max() > 0
    assert moments[rows.new].abs().max() == 0


@pytest.mark.parametrize("kind", ["embedding", "of more rows"])
def test_an_embedding_of_which_it_is_not_said_what_it_is_looked_up_by_is_refused_where_ids_are_new(kind: str) -> None:
    config = Looking.Config("label", said="nothing", kind=kind)
    parent, batches = side(config, ENCODINGS, 1)
    same = continued(parent, parent.encoder, config)
    assert np.array_equal(judged(same.own, batches[0]), judged(parent, batches[0]))
    own, _ = side(config, ENCODINGS, 2, shift=-7)
    said = r"(?s)the rows of 'own.weight' .*new ids: \d of 'product' \(-7, -6, -5, \.\.\.\).*'own.weight': \(ID_ROWS,\)"
    with pytest.raises(DefinitionError, match=said):
        continued(parent, own.encoder, config)


def test_rows_of_ids_say_nothing_of_what_reads_features() -> None:
    class Silent(Looking):
        class Config(Looking.Config, frozen=True):
            """Its own."""

        def axes(self) -> Axes:
            return {"own.weight": (ID_ROWS,)}

    config = Silent.Config("label")
    parent, _ = side(config, ENCODINGS, 1)
    own, _ = side(config, GROWN, 2)
    with pytest.raises(DefinitionError, match="the model does not say what reads them"):
        continued(parent, own.encoder, config)


def test_an_embedding_that_something_else_is_looked_up_in_stays_as_it_is() -> None:
    config = Looking.Config("label", said="positions", kind="positions")
    parent, old = side(config, ENCODINGS, 1)
    own, new = side(config, ENCODINGS, 2, shift=-7)
    start = continued(parent, own.encoder, config)
    assert start.moves
    check_first_scores(parent, start.own, (*old, *new))
    assert torch.equal(start.own.model.get_parameter("own.weight"), parent.model.get_parameter("own.weight"))


def test_ids_that_are_looked_up_in_a_way_that_can_t_be_seen_are_found_by_the_first_scores() -> None:
    config = Looking.Config("label", kind="parameter")
    parent, old = side(config, ENCODINGS, 1)
    start = continued(parent, side(config, ENCODINGS, 2, shift=-7)[0].encoder, config)
    said = r"(?s)first scores would not be those of the parent.*new ids: .*'product' \(-7, -6, -5.*have axes\(\) say"
    with pytest.raises(DefinitionError, match=said):
        check_first_scores(parent, start.own, old)


def test_other_weights_with_a_row_for_each_id_are_refused_where_ids_are_new_and_it_is_said_why() -> None:
    config = Looking.Config("label", said="positions", kind="rows")
    parent, _ = side(config, ENCODINGS, 1)
    own, _ = side(config, ENCODINGS, 2, shift=-7)
    said = r"(?s)'places' have a row for each id, \d+, and .*new ids: 7 of 'product'.*\{'places': \(ID_ROWS,\)\}"
    with pytest.raises(DefinitionError, match=said):
        continued(parent, own.encoder, config)


def test_axes_of_fewer_rows_than_ids_have_and_of_other_axes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Looking.Config("label")
    parent, _ = side(config, ENCODINGS, 1)
    rows = parent.encoder.layout.rows
    for axes, said in (
        ({"net.bias": (ID_ROWS,)}, rf"axes gives 'net.bias' ID_ROWS and 1 rows, expected the {rows} of layout.rows"),
        ({"net.weight": (None, ID_ROWS)}, r"axes gives 'net.weight' ID_ROWS as axis 1, expected it as the first axis"),
    ):
        monkeypatch.setattr(Looking, "axes", lambda self, axes=axes: axes)
        with pytest.raises(DefinitionError, match=said):
            continued(parent, parent.encoder, config)
