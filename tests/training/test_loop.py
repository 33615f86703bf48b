"""What a step does: gradients of several batches, rates that change, averages, validations, less precision."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import polars as pl
import pytest
import torch
from synthetic import Source, make_batch

from bedplate.batch import Dense
from bedplate.datasets.slices import slice_batch
from bedplate.errors import ConfigError, DataError, StoreError
from bedplate.models.config import DCNConfig
from bedplate.models.dcn import DCN
from bedplate.training.adamw import AdamW
from bedplate.training.checkpoint import load_state
from bedplate.training.config import TrainerConfig, override
from bedplate.training.evaluate import evaluate
from bedplate.training.report import line
from bedplate.training.source import Encoded
from bedplate.training.trainer import Trainer
from bedplate.training.wrong_rows import FILE

MODEL = DCNConfig("label", layers=(8,), rank=4, cross_layers=1)
ALL = {
    "accumulate": 3,
    "warmup": 2,
    "schedule": "cosine",
    "average": 0.9,
    "evaluate_every": 4,
    "embedding_optimizer": "adagrad",
}

pytestmark = pytest.mark.usefixtures("one_thread")


def fit(encoder, folder, source, show=None, log=None, **config):
    settings = TrainerConfig(**{"epochs": 2, "patience": 9, "checkpoint_every": 2, "seed": 5} | config)
    model = DCN(MODEL, encoder.layout)
    return Trainer(settings, show=show, log=log).fit(model, encoder, source, Source(2, salt=1), folder)


def weights(result):
    return torch.cat([w.flatten() for w in result.model.state_dict().values()])


class Sized(Source):
    """The same requests, in batches of so many."""

    def __init__(self, sizes):
        super().__init__(len(sizes))
        self.ends = np.cumsum([0, *sizes]).tolist()

    def epoch(self, seed, epoch, start=0):
        whole = make_batch(np.random.default_rng(0), self.ends[-1])
        for i in range(start, len(self)):
            yield slice_batch(whole, self.ends[i], self.ends[i + 1])


def test_gradients_of_several_batches_are_those_of_one_of_all_their_rows(encoder, tmp_path):
    config = {"epochs": 1, "learning_rate": 0.01, "weight_decay": 0.0}
    parts = fit(encoder, tmp_path / "parts", Sized([3, 1, 2, 2, 4]), accumulate=2, **config)
    whole = fit(encoder, tmp_path / "whole", Sized([4, 4, 4]), **config)
    assert torch.allclose(weights(parts), weights(whole), atol=1e-6)
    assert (parts.steps, whole.steps) == (5, 3)
    other = fit(encoder, tmp_path / "other", Sized([3, 1, 2, 2, 4]), **config)
    assert not torch.allclose(weights(other), weights(whole), atol=1e-4)


class Stop(Exception):
    pass


@pytest.mark.parametrize("at", [1, 5, 8, 13, 20])
def test_it_is_resumed_exactly_whatever_is_chosen(encoder, tmp_path, at):
    whole = fit(encoder, tmp_path / "whole", Source(10), **ALL)

    def stop(status):
        if status.metrics is None and (status.epoch - 1) * 10 + status.batch == at:
            raise Stop

    with pytest.raises(Stop):
        fit(encoder, tmp_path / "resumed", Source(10), show=stop, **ALL)
    resumed = fit(encoder, tmp_path / "resumed", Source(10), **ALL)
    assert torch.equal(weights(whole), weights(resumed))
    assert whole.history == resumed.history
    assert resumed.resumed_step % 10 in (0, 3, 6, 9)  # between two updates


def test_a_schedule_that_falls_to_the_end_is_not_prolonged(encoder, tmp_path):
    fit(encoder, tmp_path, Source(4), schedule="linear", epochs=1)
    with pytest.raises(StoreError, match="another trainer config"):
        fit(encoder, tmp_path, Source(4), schedule="linear", epochs=2)


def test_rates_rise_and_fall(encoder, tmp_path, monkeypatch):
    seen = []
    step = AdamW.step

    def record(self):
        seen.append(self.rate)
        return step(self)

    monkeypatch.setattr(AdamW, "step", record)
    fit(encoder, tmp_path, Source(5), warmup=4, schedule="linear", learning_rate=0.01)
    assert seen == pytest.approx([0.0025, 0.005, 0.0075, 0.01, *(0.01 * (1 - i / 6) for i in range(6))])


def test_it_is_judged_and_kept_with_the_average(encoder, tmp_path):
    plain = fit(encoder, tmp_path / "plain", Source(8), epochs=1)
    averaged = fit(encoder, tmp_path / "averaged", Source(8), epochs=1, average=0.9)
    state = load_state(tmp_path / "averaged" / "checkpoint.pt")
    assert torch.equal(torch.cat([w.flatten() for w in state["model"].values()]), weights(plain))
    assert not torch.equal(weights(averaged), weights(plain))
    assert averaged.metrics["loss"] == evaluate(averaged.model, Encoded(Source(2, salt=1), encoder), seed=5)["loss"]
    table = "vectors.embedding.weight"
    assert torch.equal(averaged.model.state_dict()[table], plain.model.state_dict()[table])


def test_a_validation_within_an_epoch_is_shown_with_its_batch(encoder, tmp_path):
    shown = []
    fit(encoder, tmp_path, Source(10), evaluate_every=4, show=shown.append)
    lines = [line(status) for status in shown if status.metrics is not None]
    begins = [text.partition("train loss")[0] for text in lines]
    assert begins == [
        "epoch 1/2  batch 4/10  ", "epoch 1/2  batch 8/10  ", "epoch 1/2  ",
        "epoch 2/2  batch 4/10  ", "epoch 2/2  batch 8/10  ", "epoch 2/2  ",
    ]  # fmt: skip
    assert all("validation loss" in text for text in lines)


def test_it_is_judged_while_it_trains_and_stops_within_an_epoch(encoder, tmp_path):
    logged = []
    whole = fit(encoder, tmp_path / "whole", Source(10), evaluate_every=4, log=lambda step, _: logged.append(step))
    assert logged == [4, 8, 10, 14, 18, 20]
    assert len(whole.history) == 6
    once = fit(encoder, tmp_path / "once", Source(10))
    assert torch.equal(
        *(
            torch.cat([w.flatten() for w in load_state(tmp_path / n / "checkpoint.pt")["model"].values()])
            for n in ("whole", "once")
        )
    )
    assert once.history[-1]["loss"] == whole.history[-1]["loss"]
    early = fit(encoder, tmp_path / "early", Source(30), evaluate_every=2, patience=1, learning_rate=0.3, epochs=9)
    assert early.stopped_early
    assert early.steps % 30
    assert early.best_at == len(early.history) - 2


@pytest.mark.parametrize("name", ["row_wise_adagrad", "adagrad"])
def test_rows_without_a_gradient_are_untouched(encoder, tmp_path, name):
    result = fit(encoder, tmp_path, Source(2), epochs=1, embedding_optimizer=name)
    before = DCN(MODEL, encoder.layout).vectors.embedding.weight
    after = result.model.vectors.embedding.weight
    changed = (before != after).any(dim=1)
    assert 0 < int(changed.sum()) < len(changed)


def test_less_precision_and_compiling_learn_the_same(encoder, tmp_path):
    config = {"epochs": 1, "learning_rate": 0.01}
    plain = fit(encoder, tmp_path / "plain", Source(20), **config)
    compiled = fit(encoder, tmp_path / "compiled", Source(20), compile="aot_eager", **config)
    assert torch.allclose(weights(plain), weights(compiled), atol=1e-4)
    reduced = fit(encoder, tmp_path / "reduced", Source(20), precision="bfloat16", **config)
    assert not torch.equal(weights(plain), weights(reduced))
    assert reduced.metrics["loss"] == pytest.approx(plain.metrics["loss"], abs=0.02)
    assert {w.dtype for w in reduced.model.state_dict().values()} == {torch.float32}


def test_rows_that_are_not_finite_are_saved(encoder, tmp_path):
    class Broken(Source):
        def epoch(self, seed, epoch, start=0):
            for batch in super().epoch(seed, epoch, start):
                spoilt = batch.item["product.style"].values.copy()
                spoilt[[3, 30]] = np.nan
                yield replace(
                    batch, item={**batch.item, "product.style": Dense(spoilt)}, request_ids=np.arange(16) + 70
                )

    with pytest.raises(DataError, match=rf"item_dense \(product.style\) \(2 rows: .*{FILE}\)"):
        fit(encoder, tmp_path, Broken(2))
    batch = next(Broken(2).epoch(5, 0))
    assert pl.read_parquet(tmp_path / FILE).rows() == [
        (70, int(batch.candidates[3]), "item_dense (product.style)"),
        (72, int(batch.candidates[30]), "item_dense (product.style)"),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"accumulate": 0},
        {"average": 1.0},
        {"warmup": -1},
        {"schedule": "steps"},
        {"precision": "float16"},
        {"embedding_optimizer": "adam"},
        {"evaluate_every": 0},
    ],
)
def test_choices_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainerConfig(**wrong)


def test_a_backend_that_torch_does_not_have_is_named(encoder, tmp_path):
    with pytest.raises(ConfigError, match=r"trainer: compile is 'inducter'.*\n  did you mean 'inductor'"):
        fit(encoder, tmp_path, Source(1), compile="inducter")


def test_choices_by_name_are_suggested():
    with pytest.raises(ConfigError, match=r"schedule=cosin: .*\n  did you mean 'cosine'"):
        override(TrainerConfig(), ["schedule=cosin"])
    with pytest.raises(ConfigError, match=r"schedule is 'steps'.*\n.*constant, cosine, linear"):
        TrainerConfig(schedule="steps")


def test_plain_values_make_the_same_config():
    config = TrainerConfig(**ALL)
    assert msgspec.convert(msgspec.to_builtins(config), TrainerConfig) == config
