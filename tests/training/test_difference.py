"""Two runs of other kinds of models side by side, and what a bisection makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from kept import predicted, times_of

from bedplate import Category, DCNConfig, Job, Number, Registry, TrainerConfig
from bedplate.errors import ConfigError, DefinitionError
from bedplate.models.estimators import LightGBMConfig, SklearnConfig, XGBoostConfig
from bedplate.registry.run import StoredRun
from bedplate.training.bisect import Experiment
from bedplate.training.difference import diff_runs
from bedplate.training.evidence import run_config
from bedplate.training.factors import FACTORS, config_factors, job_of, same_result
from bedplate.training.predictions import write_predictions

INPUTS = {"users.n": Number(), "candidate": Category()}
MODELS: dict[str, Any] = {
    "dcn": DCNConfig("liked", rank=4, seed=3),
    "lightgbm": LightGBMConfig("liked", rounds=30, seed=3, params={"max_bin": 63}),
    "xgboost": XGBoostConfig("liked", rounds=30, seed=3),
    "sklearn": SklearnConfig("liked", estimator="sklearn.linear_model:LogisticRegression", params={"C": 0.5}),
}
TREES = [name for name in MODELS if name != "dcn"]


def job(kind: str, **trainer: Any) -> Job:
    chosen = TrainerConfig(**{"metric": "log_loss", **trainer})
    return Job("ranker", dataset="pages", model=MODELS[kind], inputs=INPUTS, trainer=chosen)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def ran(registry: Registry, kind: str, seed: int = 0, **trainer: Any) -> StoredRun:
    """A run of a job as training leaves it; the better the model, the less noise its scores have."""
    one = predicted(seed=seed, noise=0.1 if kind == "dcn" else 2.0)
    config = run_config(job(kind, **trainer), None)
    with registry.start_run("ranker", config, definitions={"model": kind}, sources={"plays": "s1"}) as going:
        going.log_metrics(1, {"log_loss": 0.5, "test_auc": 0.7, "test_log_loss": 0.5, "train_loss": 0.4})
        write_predictions(going.folder, one, times_of(one))
    return registry.run(going.id)


@pytest.mark.parametrize("kind", TREES)
def test_a_network_and_an_estimator_are_compared_on_the_same_rows(registry: Registry, kind: str) -> None:
    a, b = ran(registry, kind), ran(registry, "dcn")
    found = diff_runs(a, b, registry.root)
    changes = {c.name: (c.a, c.b) for c in found.config}
    assert changes["model.class"] == (MODELS[kind].title(), "DCNConfig")
    assert changes["model.rank"] == (None, 4)
    assert not any(name.startswith(("trainer.", "inputs.")) for name in changes), "these are the same"
    assert [(c.name, c.a, c.b) for c in found.definitions] == [("model", kind, "dcn")]
    assert (found.paired, found.note) == (True, "")
    assert {m.name: m.better for m in found.metrics} == {"auc": "b", "log_loss": "b"}
    turned = {m.name: m for m in diff_runs(b, a, registry.root).metrics}
    for metric in found.metrics:
        other = turned[metric.name]
        assert metric.difference is not None
        assert other.difference is not None
        assert (metric.a, metric.b) == (other.b, other.a)
        assert metric.difference.mean == pytest.approx(-other.difference.mean)
        assert other.better == "a"


def test_where_a_run_has_kept_no_rows_the_rest_is_still_told(registry: Registry) -> None:
    a, b = ran(registry, "lightgbm"), ran(registry, "dcn")
    (b.folder / "predictions.parquet").unlink()
    found = diff_runs(a, b, registry.root)
    assert (found.metrics, found.paired) == ([], False)
    assert "the run has kept no predictions" in found.note
    assert {c.name for c in found.reported} == {"log_loss", "test_auc", "test_log_loss", "train_loss"}
    assert found.config


@pytest.mark.parametrize("kind", MODELS)
def test_a_job_is_made_again_from_the_config_of_its_run(registry: Registry, kind: str) -> None:
    config = ran(registry, kind).record.config
    made = job_of("ranker", {"a": config, "b": config}, Experiment(frozenset()).sides(), {}, shift=0)
    assert made.model == MODELS[kind]
    assert (made.form(), made.inputs) == (job(kind).form(), INPUTS)
    shifted = job_of("ranker", {"a": config, "b": config}, Experiment(frozenset()).sides(), {}, shift=2)
    assert shifted.model == msgspec.structs.replace(MODELS[kind], seed=MODELS[kind].seed + 2)


def test_the_model_is_a_factor_that_can_be_swapped_between_kinds(registry: Registry) -> None:
    a = ran(registry, "lightgbm").record.config
    b = ran(registry, "dcn", learning_rate=0.1).record.config
    runs = [registry.run(run.id).record for run in reversed(registry.runs())]
    assert [f.name for f in config_factors(*runs)] == ["model", "trainer"]
    one = job_of("ranker", {"a": a, "b": b}, Experiment(frozenset({"model"})).sides(), {}, 0)
    assert (one.model, one.trainer.learning_rate) == (MODELS["dcn"], TrainerConfig().learning_rate)
    # Trees have no use for the rate of a network; the bisection says so and leaves the experiment out.
    with pytest.raises(DefinitionError, match="'learning_rate' is of the training of networks"):
        job_of("ranker", {"a": a, "b": b}, Experiment(frozenset({"trainer"})).sides(), {}, 0)


def test_the_pace_of_a_run_is_no_factor(registry: Registry) -> None:
    slow = ran(registry, "dcn", prefetch=2, prefetch_memory="9MB", loader_threads=1, checkpoint_every=7).record
    usual, other = ran(registry, "dcn").record, ran(registry, "dcn", epochs=9).record
    assert config_factors(usual, slow) == []
    assert same_result(usual.config, slow.config)
    assert [f.name for f in config_factors(slow, other)] == ["trainer"]
    assert [c.name for c in config_factors(slow, other)[0].changes] == ["epochs"]


def test_runs_that_a_job_alone_does_not_make_are_refused(registry: Registry) -> None:
    usual = ran(registry, "dcn").record
    for extra in ("continued", "retraining", "searched"):
        odd = msgspec.structs.replace(usual, config={**usual.config, extra: {"parent": "ranker:1"}})
        with pytest.raises(ConfigError, match=f"(?s)from its job alone: {extra}.*began from nothing"):
            config_factors(usual, odd)
        assert not same_result(usual.config, odd.config)
    with pytest.raises(ConfigError, match="no config"):
        config_factors(msgspec.structs.replace(usual, config={}), usual)


def test_all_factors_are_known_and_a_part_of_another_version_is_said(registry: Registry) -> None:
    config = ran(registry, "lightgbm").record.config
    assert set(Experiment(frozenset()).sides()) >= set(FACTORS)
    old = {**config, "model": {**config["model"], "bins": 9}}
    with pytest.raises(ConfigError, match=r"does not fit the code.*bins"):
        job_of("ranker", {"a": old, "b": config}, Experiment(frozenset()).sides(), {}, 0)
