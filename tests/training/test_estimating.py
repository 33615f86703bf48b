"""The training of estimators: ended early, interrupted and resumed to the very model, refused where wrong."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from synthetic import ENCODINGS, Source

from bedplate import Job, TrainerConfig
from bedplate.batch import Batch, Dense
from bedplate.datasets.negatives import LOG_Q
from bedplate.errors import ConfigError, DataError, DefinitionError, MissingExtraError, StoreError
from bedplate.features.encoding import Bag, Encoding, Sequence
from bedplate.features.fitting import fit
from bedplate.models.boosting import logistic
from bedplate.models.estimators import BoostedConfig, EstimatorConfig, LightGBMConfig, SklearnConfig, XGBoostConfig
from bedplate.models.matrix import MatrixLayout
from bedplate.training import memory
from bedplate.training.continuing import Beginning
from bedplate.training.estimating import ROWS, Estimating
from bedplate.training.importance import IMPORTANCE
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.learner import learner_of, require_library
from bedplate.training.report import RoundStatus
from bedplate.training.wrong_rows import FILE

INPUTS: dict[str, Encoding] = {n: e for n, e in ENCODINGS.items() if not isinstance(e, Sequence | Bag)}
KINDS = [LightGBMConfig, XGBoostConfig]
HISTOGRAM = "sklearn.ensemble:HistGradientBoostingClassifier"
SKLEARN = SklearnConfig("label", estimator=HISTOGRAM, params={"max_iter": 20})
NO: Any = None
NOTHING = Beginning(None, NO, NO)
"""Neither a version to go on from, nor a registry, nor definitions behind the run."""
BATCHES = 24
_MADE: dict[tuple[int, int], list[Batch]] = {}


class Kept(Source):
    """Batches of the first epoch, made once for all tests."""

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        known = _MADE.setdefault((self.batches, self.salt), [])
        if not known:
            known.extend(super().epoch(0, 0))
            self.made.clear()
        for i, batch in enumerate(known[start:], start):
            self.made.append((epoch, i))
            yield batch


def job(model: EstimatorConfig, **trainer: Any) -> Job:
    return Job("trees", dataset="d", model=model, inputs=INPUTS, trainer=TrainerConfig(**trainer))


def boosted(kind: type[BoostedConfig], **options: Any) -> BoostedConfig:
    usual = {"rounds": 24, "depth": 3, "evaluate_every": 4, "checkpoint_every": 7, "subsample": 0.7, "colsample": 0.6}
    return kind("label", **{**usual, **options})


class Run:
    """A job's estimator on synthetic rows, in a folder."""

    def __init__(self, wanted: Job, folder: Path, training: Any = None) -> None:
        self.learner = learner_of(wanted, NOTHING)
        self.encoder = self.learner.encoder(fit(wanted.inputs, Kept(10, salt=7).epoch(0, 0)))
        self.folder = folder / "run" / "checkpoints"
        self.training = Kept(BATCHES) if training is None else training
        self.shown: list[RoundStatus] = []
        self.logged: dict[int, dict[str, float]] = {}

    def fit(self, show: Any = None) -> Any:
        return self.learner.fit(
            self.encoder,
            self.training,
            Kept(6, salt=1),
            self.folder,
            self.logged.__setitem__,
            show or self.shown.append,
        )

    def scores(self, result: Any) -> np.ndarray:
        return self.learner.predict(result.model, self.encoder, Kept(4, salt=3)).scores


@pytest.mark.parametrize("config", [boosted(LightGBMConfig), boosted(XGBoostConfig), SKLEARN])
def test_an_estimator_learns_and_is_judged(config: EstimatorConfig, tmp_path: Path) -> None:
    run = Run(job(config), tmp_path)
    result = run.fit()
    assert result.metrics["auc"] > 0.7
    assert result.metrics == result.history[result.best_at]
    assert run.logged[result.steps] == result.history[-1]
    prediction = run.learner.predict(result.model, run.encoder, Kept(4, salt=3))
    assert prediction.loss == result.model.metrics(prediction)["log_loss"] < 0.69
    assert len(prediction.candidates) == 4 * 16 * 12
    assert prediction.requests.max() + 1 == len(prediction.request_ids) == 4 * 16
    importance = json.loads((run.folder.parent / IMPORTANCE).read_text())
    assert all("user.taste" in values for values in importance.values())
    assert importance
    assert not (run.folder / ROWS).exists()
    assert {s.what for s in run.shown} >= {"read train, batch", "read validation, batch"}


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_raw_and_a_null_is_nan(kind: type[BoostedConfig], tmp_path: Path) -> None:
    run = Run(job(boosted(kind)), tmp_path)
    (batch,) = Kept(1, salt=3).epoch(0, 0)
    matrix, names = MatrixLayout(run.encoder).matrix(run.encoder.encode(batch)), MatrixLayout(run.encoder).names
    assert names == ("user.spend", "user.taste", "user.country", "product.style", "candidate")
    np.testing.assert_array_equal(
        matrix[:, 1], batch.request["user.taste"].values.astype(np.float32)[batch.request_of_item()]
    )
    present = batch.request["user.spend"].present[batch.request_of_item()]
    np.testing.assert_array_equal(np.isnan(matrix[:, 0]), ~present)
    np.testing.assert_array_equal(matrix[:, 4], batch.candidates + 2)
    standard = Run(job(boosted(kind, numbers="standard")), tmp_path)
    assert MatrixLayout(standard.encoder).names[2] == "user.spend?"


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_is_ordered_by_lambdarank(kind: type[BoostedConfig], tmp_path: Path) -> None:
    run = Run(job(boosted(kind, objective="lambdarank"), metric="ndcg"), tmp_path)
    result = run.fit()
    assert set(result.metrics) == {"loss", "auc", "request_auc", "ndcg"}
    assert result.metrics["request_auc"] > 0.7
    assert result.metrics["loss"] == pytest.approx(1 - result.metrics["ndcg"])
    scores = run.scores(result)
    assert scores.min() < 0
    with pytest.raises(DefinitionError, match="reports no 'log_loss'"):
        job(boosted(kind, objective="lambdarank"), metric="log_loss")


@pytest.mark.parametrize("kind", KINDS)
def test_training_ends_when_it_gets_no_better_and_keeps_the_best(kind: type[BoostedConfig], tmp_path: Path) -> None:
    config = boosted(kind, rounds=400, learning_rate=0.9, depth=6, early_stopping=12, subsample=1.0, colsample=1.0)
    run = Run(job(config, metric="log_loss"), tmp_path)
    result = run.fit()
    assert result.stopped_early
    losses = [metrics["log_loss"] for metrics in result.history]
    assert result.best_at == int(np.argmin(losses)) == len(losses) - 1 - 3
    assert result.steps == 4 * len(losses)
    assert sum(rounds for _, rounds in result.model.kept) == 4 * (result.best_at + 1)
    found = run.learner.predict(result.model, run.encoder, Kept(6, salt=1))
    assert found.loss == pytest.approx(min(losses), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_rounds_that_nobody_has_judged_do_not_end_the_training(kind: type[BoostedConfig], tmp_path: Path) -> None:
    config = boosted(kind, rounds=12, learning_rate=0.05, evaluate_every=4, early_stopping=1)
    result = Run(job(config, metric="log_loss"), tmp_path).fit()
    assert (result.steps, len(result.history)) == (12, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_that_the_library_does_not_take_is_refused_before_rows_are_read(
    kind: type[BoostedConfig], tmp_path: Path
) -> None:
    name = {LightGBMConfig: "lambda_l1", XGBoostConfig: "reg_alpha"}[kind]
    run = Run(job(boosted(kind, params={name: "x"})), tmp_path, training=Kept(0))
    with pytest.raises(ConfigError, match=rf"{kind.__name__}: params: the library refuses the parameters"):
        run.fit()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("when", ["read train, batch", 3, 13])
def test_an_interrupted_run_ends_with_the_same_model(
    kind: type[BoostedConfig], when: int | str, tmp_path: Path
) -> None:
    whole = Run(job(boosted(kind)), tmp_path / "whole")
    expected = whole.fit()
    run = Run(job(boosted(kind)), tmp_path / "cut")

    def stop(status: RoundStatus) -> None:
        if status.what == when or (status.what == "round" and status.done == when):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(TrainingInterruptedError):
        run.fit(stop)
    result = run.fit()
    assert result.resumed_step == (7 if when == 13 else 0)
    assert result.history == expected.history
    assert [s.content() for s, _ in result.model.kept] == [s.content() for s, _ in expected.model.kept]
    np.testing.assert_array_equal(run.scores(result), whole.scores(expected))
    again = run.fit()  # all is there already
    assert (again.resumed_step, again.metrics) == (24, expected.metrics)
    np.testing.assert_array_equal(run.scores(again), whole.scores(expected))


def test_a_killed_run_reads_no_rows_twice_and_is_of_one_config(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(status: RoundStatus) -> None:
        if status.what == "round" and status.done == 13:
            raise Killed

    run = Run(job(boosted(LightGBMConfig)), tmp_path)
    with pytest.raises(Killed):
        run.fit(kill)
    assert len(run.training.made) == BATCHES
    other = Run(job(boosted(LightGBMConfig, leaves=9)), tmp_path)
    with pytest.raises(StoreError, match="the checkpoint is of another model config"):
        other.fit()
    assert run.fit().resumed_step == 7
    assert len(run.training.made) == BATCHES


def test_a_metric_that_is_not_a_number_is_kept_by_a_checkpoint(tmp_path: Path) -> None:
    """No request has candidates of both labels: its AUC is not a number."""

    def change(batch: Batch) -> Batch:
        label = (batch.request["user.taste"].values > 0).astype(np.float32)
        return replace(batch, labels={"label": label[batch.request_of_item()]})

    run = Run(job(boosted(LightGBMConfig)), tmp_path)
    steps: list[int] = []

    def stop(status: RoundStatus) -> None:
        if status.what == "round":
            steps.append(status.done)
            if len(steps) == 13:
                signal.raise_signal(signal.SIGINT)

    def fit() -> Any:
        return run.learner.fit(run.encoder, Wrong(change), Wrong(change), run.folder, run.logged.__setitem__, stop)

    with pytest.raises(TrainingInterruptedError):
        fit()
    result = fit()
    assert result.resumed_step == 7
    assert [np.isnan(metrics["request_auc"]) for metrics in result.history] == [True] * 6


def test_the_same_seed_gives_the_same_model_and_another_another(tmp_path: Path) -> None:
    scores = []
    for i, seed in enumerate((1, 1, 2)):
        run = Run(job(boosted(LightGBMConfig, seed=seed)), tmp_path / str(i))
        scores.append(run.scores(run.fit()))
    np.testing.assert_array_equal(scores[0], scores[1])
    assert (scores[0] != scores[2]).any()


def test_an_estimator_that_learns_at_once_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bedplate.models.sklearn import SklearnEstimator

    run = Run(job(SKLEARN), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(SklearnEstimator, "fit", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(TrainingInterruptedError, match="it is fitted from the beginning"):
            run.fit()
    assert len(run.training.made) == BATCHES
    result = run.fit()
    assert len(run.training.made) == BATCHES
    assert result.metrics["auc"] > 0.7


class Wrong:
    """Batches of which some values are wrong."""

    def __init__(self, change: Any) -> None:
        self.source, self.change = Kept(4), change

    def __len__(self) -> int:
        return len(self.source)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        for batch in self.source.epoch(seed, epoch, start):
            yield self.change(batch)


def test_what_is_not_finite_is_named_with_its_rows(tmp_path: Path) -> None:
    def change(batch: Batch) -> Batch:
        taste = batch.request["user.taste"].values.copy()
        taste[[2, 5]] = np.nan
        return replace(batch, request={**batch.request, "user.taste": Dense(taste)})

    run = Run(job(boosted(LightGBMConfig)), tmp_path, Wrong(change))
    with pytest.raises(DataError, match=r"not finite: user\.taste \(2 rows: .*not-finite\.parquet\)"):
        run.fit()
    found = pl.read_parquet(run.folder / ROWS / FILE)
    assert found["request_id"].to_list() == [2, 5]
    assert found["what"].unique().to_list() == ["user.taste"]

    def huge(batch: Batch) -> Batch:
        return replace(batch, labels={"label": np.where(batch.candidates == 3, np.inf, 0).astype(np.float32)})

    with pytest.raises(DataError, match=r"not finite: label label"):
        Run(job(boosted(LightGBMConfig)), tmp_path / "other", Wrong(huge)).fit()


def test_rows_whose_label_is_not_known_are_left_out(tmp_path: Path) -> None:
    def change(batch: Batch) -> Batch:
        labels = np.where(batch.request_of_item() < 8, batch.labels["label"], np.nan).astype(np.float32)
        return replace(batch, labels={"label": labels})

    run = Run(job(boosted(LightGBMConfig)), tmp_path, Wrong(change))
    sizes: list[int] = []

    def stop(status: RoundStatus) -> None:
        if status.what == "round":
            sizes.append(len(np.load(run.folder / ROWS / "train" / "labels.npy")))

    run.fit(stop)
    assert sizes[0] == 4 * 8 * 12


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_is_corrected(kind: type[BoostedConfig], tmp_path: Path) -> None:
    """Where the label depends on nothing but how negatives were drawn, the model has nothing left to learn."""

    def change(batch: Batch) -> Batch:
        log_q = np.where(batch.candidates < 20, -0.5, -3.0).astype(np.float32)
        draw = np.random.default_rng(int(batch.candidates.sum()))
        label = (draw.random(batch.items) < logistic(-1.5 - log_q.astype(np.float64))).astype(np.float32)
        return replace(batch, labels={"label": label}, item={**batch.item, LOG_Q: Dense(log_q)})

    class Drawn(Wrong):
        def __init__(self, batches: int, salt: int = 0) -> None:
            super().__init__(change)
            self.source = Kept(batches, salt)

    config = boosted(kind, correct_sampling=True, rounds=8, learning_rate=0.3)
    run = Run(job(config), tmp_path, Drawn(BATCHES))
    result = run.learner.fit(run.encoder, Drawn(BATCHES), Drawn(6, salt=1), run.folder, run.logged.__setitem__, None)
    (batch,) = Drawn(1, salt=3).epoch(0, 0)
    margins = result.model.margins(MatrixLayout(run.encoder).matrix(run.encoder.encode(batch)))
    rare = batch.candidates < 20
    assert margins.mean() == pytest.approx(-1.5, abs=0.2)
    assert margins[rare].mean() == pytest.approx(margins[~rare].mean(), abs=0.2)
    assert run.learner.predict(result.model, run.encoder, Drawn(4, salt=3)).loss < 0.6
    with pytest.raises(DataError, match="correct_sampling needs the probability of each candidate"):
        Run(job(config), tmp_path / "without").fit()


def test_too_little_memory_is_said_before_learning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.available() is None or memory.available() > 0
    monkeypatch.setattr(memory, "available", lambda: 100_000)
    run = Run(job(SKLEARN), tmp_path)
    with pytest.raises(
        DataError, match=r"learning from 4,608 rows needs about 0\.0 GB of memory, and 0\.0 GB are free"
    ):
        run.fit()


def test_a_list_and_what_is_of_networks_are_refused() -> None:
    for name, value, hint in [
        ("learning_rate", 0.5, r"set learning_rate of LightGBMConfig: model\.learning_rate"),
        ("epochs", 9, r"set rounds of LightGBMConfig: model\.rounds"),
        ("patience", 9, r"model\.early_stopping"),
        ("clip_norm", 1.0, "leave it out"),
    ]:
        with pytest.raises(DefinitionError, match=f"'{name}' is of the training of networks.*\n  .*{hint}"):
            job(boosted(LightGBMConfig), **{name: value})
    with pytest.raises(DefinitionError, match=r"'epochs' is of the training of networks.*\n  leave it out"):
        job(SKLEARN, epochs=9)


def test_settings_are_checked() -> None:
    changed = job(boosted(LightGBMConfig)).with_settings(
        ["model.rounds=9", "model.params.max_bin=63", "trainer.metric=auc"]
    )
    assert changed.model == boosted(LightGBMConfig, rounds=9, params={"max_bin": 63})
    with pytest.raises(ConfigError, match=r"LightGBMConfig has no field 'leafs'\n  did you mean 'leaves'"):
        changed.with_settings(["model.leafs=9"])
    with pytest.raises(ConfigError, match="did you mean 'lambdarank'"):
        changed.with_settings(["model.objective=lambda_rank"])
    with pytest.raises(DefinitionError, match="'epochs' is of the training of networks"):
        changed.with_settings(["trainer.epochs=2"])


@pytest.mark.parametrize(
    ("library", "config"), [("lightgbm", LightGBMConfig("l")), ("xgboost", XGBoostConfig("l")), ("skl2onnx", SKLEARN)]
)
def test_a_missing_library_names_its_extra(
    library: str, config: EstimatorConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, config.implemented_by.partition(":")[0], raising=False)
    extra = "sklearn" if library == "skl2onnx" else library
    with pytest.raises(MissingExtraError, match=rf"pip install 'bedplate\[{extra}\]'"):
        require_library(job(config))


def test_jobs_are_read_without_a_library() -> None:
    assert isinstance(learner_of(job(SKLEARN), NOTHING), Estimating)
    program = (
        "import sys; from bedplate import Job, Number; from bedplate.models.estimators import LightGBMConfig\n"
        "Job('j', dataset='d', model=LightGBMConfig('l'), inputs={'x': Number()})\n"
        "import bedplate.training.run\n"
        "assert not {'lightgbm', 'xgboost', 'sklearn', 'torch'} & set(sys.modules)"
    )
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", program], check=True)
