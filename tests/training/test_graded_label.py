"""Labels that are not 0 or 1: versions and trials are compared by metrics of the model's own, with intervals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import retraining_project as small
from kept import predicted

from bedplate import Project, Registry
from bedplate.cli.main import run as command
from bedplate.errors import DataError
from bedplate.metrics.classification import log_loss
from bedplate.metrics.intervals import mean_interval
from bedplate.models.prediction import Prediction
from bedplate.training.champion import with_requests
from bedplate.training.comparison import compare, measure


def graded(folder: Path, days: int) -> None:
    """Puts so many days of data in place: up to four likes a play."""
    rows = small.plays(days)
    rows.with_columns(pl.col("liked") * (1 + pl.col("page") % 4)).write_parquet(folder / "plays.parquet")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a champion of its first 40 days."""
    folder = small.make(tmp_path_factory.mktemp("graded") / "project", 1, small.OWN)
    (folder / "features.py").write_text(small.FEATURES.replace(", at_least=1", ""))
    graded(folder, 40)
    assert command(["retrain", "ranker", "--project", str(folder)]) == 0
    return folder


def runs(folder: Path) -> int:
    return len(Registry(Project(folder).config.registry_path).runs("ranker"))


def test_versions_are_compared_by_the_models_own_metric(folder: Path, call: Callable[..., Any]) -> None:
    registry = Registry(Project(folder).config.registry_path)
    outcome = json.loads((registry.runs("ranker")[0].folder / "retraining.json").read_bytes())
    assert outcome["reasons"][0].startswith("the first champion: rmse ")
    assert list(outcome["measured"]) == ["rmse"], "what rules take for a metric of probabilities is left out"
    graded(folder, 48)
    # The rmse of a model that has learnt nothing is higher, and that is worse.
    code, outcome = call("retrain", "ranker", "trainer.learning_rate=1e-9", "trainer.embedding_learning_rate=1e-9")
    assert (code, outcome["status"]) == (9, "refused")
    assert "clearly worse than the champion" in outcome["reasons"][0]
    assert outcome["reasons"][0].startswith("rmse ")
    assert outcome["compared"]["rmse"]["difference"]["low"] > 0
    code, outcome = call("retrain", "ranker")
    assert (code, outcome["status"], outcome["version"]) == (0, "promoted", "ranker:3")
    run = registry.run(outcome["run"])
    reported, b = run.record.metrics["test_rmse"], outcome["compared"]["rmse"]["b"]
    assert (b["low"] < b["mean"] < b["high"], b["mean"]) == (True, pytest.approx(reported, rel=1e-5))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            "trainer.metric=loss",
            "label 'liked' is not one of 0 and 1, so that versions are compared by a metric of the ",
        ),
        ("promotion.metric=auc", "'auc' of the promotion rules is of such labels alone: leave it out"),
        ('promotion.guards={"calibration": 0.1}', "'calibration' of the promotion rules is of such labels alone"),
    ],
)
def test_what_can_not_be_compared_is_refused_before_anything_is_trained(
    folder: Path, call: Callable[..., Any], setting: str, said: str
) -> None:
    graded(folder, 48)
    for words in (("--dry-run",), ()):
        code, outcome = call("retrain", "ranker", setting, *words)
        assert (code, outcome["status"]) == (9, "refused")
        assert any(said in reason for reason in outcome["reasons"])
    assert runs(folder) == 1


def test_a_search_compares_the_best_with_the_default_by_the_models_own_metric(
    folder: Path, call: Callable[..., Any]
) -> None:
    code, found = call("search", "wider")
    assert (code, found["lower_is_better"]) == (0, True)
    assert found["best"]["value"] == min(t["value"] for t in found["trials"])
    compared = found["difference"]["rmse"]
    assert compared["a"]["mean"] == pytest.approx(found["default"]["value"], rel=1e-5)
    assert compared["b"]["mean"] == pytest.approx(found["best"]["value"], rel=1e-5)
    assert (
        compared["difference"]["low"] < compared["b"]["mean"] - compared["a"]["mean"] < (compared["difference"]["high"])
    )


@pytest.fixture(scope="module")
def trained(before: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with a version more that knows something, and one that has learnt nothing."""
    folder = shutil.copytree(before, tmp_path_factory.mktemp("trained") / "project")
    for words in (("model.seed=2",), ("trainer.learning_rate=1e-9", "trainer.embedding_learning_rate=1e-9")):
        assert command(["train", "ranker", *words, "--project", str(folder)]) == 0
    return folder


def test_a_diff_has_intervals_of_the_models_own_metrics(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("runs", "diff", "ranker:2", "ranker:3", "--project", str(trained))
    capsys.readouterr()
    assert command([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["paired"], found["note"]) == (True, "")
    (rmse,) = (m for m in found["metrics"] if m["name"] == "rmse")
    registry = Registry(Project(trained).config.registry_path)
    for side in ("a", "b"):
        reported = registry.run(found[side]).record.metrics["test_rmse"]
        assert (rmse[side]["mean"], rmse[side]["count"]) == (pytest.approx(reported, rel=1e-5), 399)
    assert (rmse["better"], rmse["difference"]["low"] > 0) == ("a", True), "a higher rmse is worse"
    assert not any(change["name"] == "test_rmse" for change in found["reported"])
    assert command([*words, "--check", "rmse"]) == 7
    assert command(["runs", "diff", "ranker:3", "ranker:2", "--project", str(trained), "--check", "rmse"]) == 0


def test_a_diff_asks_for_a_direction_to_check_by(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = small.OWN.replace('"rmse", "log_loss")', '"rmse", "mean")').replace('"log_loss": float', '"mean": float')
    (folder / "train.py").write_text(plain)
    assert command(["train", "ranker", "--project", str(folder)]) == 0
    capsys.readouterr()
    assert command(["runs", "diff", "ranker:2", "ranker:2", "--check", "mean", "--project", str(folder)]) == 2
    assert "whether a lower or a higher 'mean' is better is not known" in capsys.readouterr().err


def test_a_change_is_attributed_by_the_models_own_metric(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("runs", "bisect", "ranker:2", "ranker:3", "--seeds", "1", "--json", "--project", str(trained))
    capsys.readouterr()
    assert command([*words]) == 0
    found = json.loads(capsys.readouterr().out)
    effects = {e["factor"]["name"]: e["effect"]["rmse"] for e in found["effects"]}
    assert effects["trainer"]["low"] > 0, "to learn nothing has a higher rmse"
    assert abs(effects["seed"]["mean"]) < effects["trainer"]["mean"] / 3
    assert found["total"]["rmse"]["mean"] == pytest.approx(sum(e["mean"] for e in effects.values()))
    assert "rmse" in found["noise"]


@pytest.mark.parametrize("words", [("--plan",), ()])
def test_where_the_models_metrics_are_not_to_be_had_nothing_is_trained(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    folder = shutil.copytree(trained, tmp_path / "project")
    (folder / "train.py").write_text(small.OWN.replace("class Stars", "class Others").replace("Stars.", "Others."))
    registry = Registry(Project(folder).config.registry_path)
    made = len(registry.runs())
    capsys.readouterr()
    assert command(["runs", "bisect", "ranker:2", "ranker:3", "--project", str(folder), *words]) == 3
    said = capsys.readouterr().err
    assert "label 'liked' is not one of 0 and 1, and metrics of the model can't be had: the code has no" in said
    assert len(registry.runs()) == made
    assert command(["runs", "diff", "ranker:2", "ranker:3", "--project", str(folder)]) == 0
    assert "no intervals: the code has no model with the config 'Stars" in capsys.readouterr().out


def loss_of(p: Prediction) -> dict[str, float]:
    scores, labels, weights, _ = p.of("liked")
    return {"log_loss": log_loss(scores, labels, weights), "unknown": float("nan")}


def test_intervals_of_a_function_are_those_of_the_sums_that_it_is_of() -> None:
    a, b = predicted(seed=1, noise=0.1), predicted(seed=2, noise=1.0)
    own, known = compare(a, b, "liked", metrics=loss_of), compare(a, b, "liked")["log_loss"]
    assert list(own) == ["log_loss"], "what has no value is left out"
    found = own["log_loss"]
    for one, other in ((found.a, known.a), (found.b, known.b), (found.difference, known.difference)):
        assert one.mean == pytest.approx(other.mean)
        assert one.error == pytest.approx(other.error, rel=0.15)
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=other.error / 2)
        assert one.count == other.count == 300
    assert found.difference.error < found.b.error, "both are of the same draws"
    assert compare(a, b, "liked", metrics=loss_of) == own


def test_a_request_that_is_drawn_twice_counts_twice_and_keeps_its_rows() -> None:
    one = predicted(seed=1)
    sizes = np.bincount(one.requests)

    def mean_size(p: Prediction) -> dict[str, float]:
        assert len(p.request_ids) == len(one.request_ids)
        found = np.bincount(p.requests)
        np.testing.assert_array_equal(found, sizes[np.searchsorted(one.request_ids, p.request_ids)])
        return {"size": float(found.mean())}

    found, expected = measure(one, "liked", 0.9, metrics=mean_size)["size"], mean_interval(sizes, 0.9)
    assert found.mean == pytest.approx(expected.mean)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=expected.error / 3)
    alone = with_requests(one, one.request_ids[:1])
    with pytest.raises(DataError, match="got 1 requests with the label 'liked', expected at least two"):
        measure(alone, "liked", metrics=lambda _: {"x": 1.0})
