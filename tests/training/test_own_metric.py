"""Metrics of a model's own: it says whether lower or higher is better, and everything that chooses goes by that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from kept import predicted, times_of
from synthetic import Source, make_encoder

from bedplate import Category, Job, Registry, TrainerConfig
from bedplate.cli.main import run as command
from bedplate.errors import ConfigError, DefinitionError
from bedplate.layers.inputs import InputVectors
from bedplate.metrics.directions import Direction
from bedplate.models.base import Model, seeded
from bedplate.models.boosting import Boosted
from bedplate.models.config import ModelConfig
from bedplate.models.estimators import LightGBMConfig
from bedplate.training.comparison import compare
from bedplate.training.difference import diff_runs, direction_in
from bedplate.training.evidence import run_config
from bedplate.training.factors import config_factors
from bedplate.training.predictions import write_predictions
from bedplate.training.rounds import Rounds
from bedplate.training.trainer import Trainer
from bedplate.training.trial import VALIDATION, Bench

pytestmark = pytest.mark.usefixtures("one_thread")

VALUES = [0.7, 0.3, 0.5, 0.9]


class Scripted(Model):
    """Reports given values, one a validation, under names of its own."""

    class Config(ModelConfig, frozen=True):
        metrics: ClassVar[tuple[str, ...]] = ("error", "gain", "plain")
        directions: ClassVar[Mapping[str, Direction]] = {"error": "lower", "gain": "higher"}

    def __init__(self, config: ModelConfig, layout: Any) -> None:
        super().__init__(config, layout)
        with seeded(0):
            self.vectors = InputVectors(layout, 2)
        self.asked = 0

    def forward(self, batch: Any) -> Any:
        return {"score": self.vectors.rows(batch).sum(dim=1)}

    def loss(self, outputs: Any, batch: Any) -> Any:
        return (outputs["score"] - batch.label("label")).pow(2).mean()

    def metrics(self, prediction: Any) -> dict[str, float]:
        self.asked += 1
        return dict.fromkeys(("error", "gain", "plain"), VALUES[self.asked - 1])


def job(config: ModelConfig | None = None, metric: str = "error") -> Job:
    config = Scripted.Config("label") if config is None else config
    trainer = TrainerConfig(metric=metric)
    return Job("own", dataset="d", model=config, inputs={"candidate": Category()}, trainer=trainer)


@pytest.mark.parametrize(("metric", "best"), [("error", 1), ("gain", 3)])
def test_the_epoch_that_is_kept_is_the_best_by_the_declared_direction(metric: str, best: int, tmp_path: Path) -> None:
    encoder = make_encoder()
    model = Scripted(Scripted.Config("label"), encoder.layout)
    config = TrainerConfig(epochs=4, patience=9, metric=metric)
    result = Trainer(config).fit(model, encoder, Source(2), Source(1, salt=1), tmp_path)
    assert (result.best_at, result.metrics[metric]) == (best, VALUES[best])


def test_patience_counts_from_the_best_by_the_declared_direction(tmp_path: Path) -> None:
    encoder = make_encoder()
    model = Scripted(Scripted.Config("label"), encoder.layout)
    result = Trainer(TrainerConfig(epochs=4, patience=1, metric="error")).fit(
        model, encoder, Source(2), Source(1, salt=1), tmp_path
    )
    assert [m["error"] for m in result.history] == VALUES[:3]


def test_a_metric_of_no_known_direction_is_an_error_before_the_first_batch(tmp_path: Path) -> None:
    said = r"Scripted\.Config doesn't say whether a lower or a higher 'plain' is better\n"
    said += r"  declare it beside metrics: directions: ClassVar = \{\"plain\": \"lower\"\}, or \"higher\""
    with pytest.raises(DefinitionError, match=said) as caught:
        job(metric="plain")
    assert caught.value.where == "job 'own': trainer: metric"
    encoder, train = make_encoder(), Source(2)
    model = Scripted(Scripted.Config("label"), encoder.layout)
    with pytest.raises(ConfigError, match=said):
        Trainer(TrainerConfig(metric="plain")).fit(model, encoder, train, Source(1), tmp_path)
    assert train.made == []


@pytest.mark.parametrize(
    ("directions", "said"),
    [
        ({"eror": "lower"}, r"the model reports no 'eror'\n  did you mean 'error'"),
        ({"error": "less"}, r"'error' is 'less', expected \"lower\" or \"higher\""),
        ({"auc": "lower"}, r"'auc' is \"lower\", and a higher 'auc' is better\n  give a metric of your own another"),
    ],
)
def test_a_wrong_declaration_is_refused_with_the_job(directions: dict[str, Any], said: str) -> None:
    class Wrong(Scripted):
        class Config(ModelConfig, frozen=True):
            metrics: ClassVar[tuple[str, ...]] = ("error", "auc")

    Wrong.Config.directions = directions
    with pytest.raises(DefinitionError, match=said) as caught:
        job(Wrong.Config("label"), "loss")
    assert caught.value.where == "job 'own': Wrong.Config: directions"


def test_the_config_of_a_run_says_it_where_a_model_does(tmp_path: Path) -> None:
    assert job().form()["directions"] == {"error": "lower", "gain": "higher"}
    assert "directions" not in job(LightGBMConfig("label"), "auc").form()
    registry = Registry(tmp_path)
    with registry.start_run("own", run_config(job(), None)) as going:
        going.log_metrics(1, {"error": 1.0})
    record = registry.run(going.id).record
    assert [direction_in(record, n) for n in ("error", "test_gain", "plain", "auc", "test_log_loss")] == [
        "lower", "higher", None, "higher", "lower",
    ]  # fmt: skip
    assert config_factors(record, record) == [], "a run of such a model can be bisected"


@pytest.mark.parametrize(("metric", "value"), [("error", 0.3), ("gain", 0.9)])
def test_the_value_of_a_trial_that_is_read_again_is_its_best(metric: str, value: float, tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    with registry.start_run("own", {"searched": {"study": "s", "trial": "0"}}) as going:
        for step, one in enumerate(VALUES):
            going.log_metrics(step, {metric: one})
        (going.folder / VALIDATION).mkdir()
    data: Any = SimpleNamespace()
    bench = Bench(data, {}, registry, tmp_path, data, "s")
    assert bench.run(job(metric=metric), "0").value == value


class Segment:
    rounds = 0

    def grow(self) -> bool:
        self.rounds += 1
        return True

    def margins(self, matrix: Any, first: int, last: int) -> Any:
        return np.zeros(len(matrix))

    def train_loss(self) -> None:
        return None

    def content(self) -> bytes:
        return b"x"


class Trees(Boosted):
    """Trees that add nothing, and report given values."""

    class Config(LightGBMConfig, frozen=True):
        metrics: ClassVar[tuple[str, ...]] = ("error", "gain")
        directions: ClassVar[Mapping[str, Direction]] = {"error": "lower", "gain": "higher"}

        def reported(self) -> tuple[str, ...]:
            return self.metrics

    asked = 0

    def open(self, train: Any) -> None:
        return None

    def segment(self, data: Any, scores: Any, seed: int) -> Any:
        return Segment()

    def read(self, content: bytes) -> Any:
        return Segment()

    def loss(self, prediction: Any) -> float:
        return 0.0

    def metrics(self, prediction: Any) -> dict[str, float]:
        self.asked += 1
        return dict.fromkeys(("error", "gain"), VALUES[self.asked - 1])


@pytest.mark.parametrize(("metric", "best"), [("error", 1), ("gain", 3)])
def test_the_rounds_that_are_kept_are_the_best_by_the_declared_direction(
    metric: str, best: int, tmp_path: Path, rows: Callable[[], Any]
) -> None:
    model = Trees(Trees.Config("label", rounds=4, evaluate_every=1), ())
    stop: Any = SimpleNamespace(asked=False)
    result = Rounds(model, metric, {}, tmp_path, stop, lambda *_: None, None).run(rows)
    assert (result.best_at, result.metrics[metric]) == (best, VALUES[best])


@pytest.fixture
def rows() -> Callable[[], Any]:
    from bedplate.models.estimator import Rows

    def made() -> Any:
        one = Rows(np.zeros((4, 1), np.float32), np.float32([0, 1, 0, 1]), np.ones(4, np.float32), np.arange(4))
        return one, one

    return made


def test_runs_show_and_diff_say_which_is_better(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bedplate.toml").touch()
    registry = Registry(tmp_path / ".bedplate" / "registry")
    ids: list[str] = []
    for seed, noise in ((0, 0.1), (0, 2.0)):
        one = predicted(seed=seed, noise=noise)
        config = run_config(job(), None)
        config["model"]["label"] = "liked"
        with registry.start_run("own", config) as going:
            for step, value in enumerate(VALUES):
                going.log_metrics(step, {"error": value, "plain": value})
            going.log_metrics(9, {"test_error": 0.4, "test_plain": 0.4, "test_gain": 0.4})
            write_predictions(going.folder, one, times_of(one))
        ids.append(going.id)
    where = ["--project", str(tmp_path)]
    assert command(["runs", "show", ids[0], "--no-plots", *where]) == 0
    assert "judged by error, lower is better: the best is 0.3 at 1" in capsys.readouterr().out
    assert command(["runs", "diff", *ids, *where]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name, direction in (("test_error", "lower"), ("test_gain", "higher"), ("test_plain", "-")):
        assert [name, "0.4", "0.4", direction] in lines
    assert diff_runs(registry.run(ids[0]), registry.run(ids[1]), tmp_path).note == ""


def test_a_comparison_knows_no_better_one_without_a_direction() -> None:
    found = compare(predicted(seed=0, noise=2.0), predicted(seed=0, noise=0.1), "liked")["auc"]
    assert (found.better("auc"), found.better("own")) == ("b", None)
    assert (found.better("own", "lower"), found.better("own", "higher")) == ("a", "b")
