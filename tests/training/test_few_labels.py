"""A label that few requests have: only these count, and intervals are over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import retraining_project as small

from bedplate import Project, Registry
from bedplate.cli.main import run as command
from bedplate.errors import DataError, DefinitionError, NotFoundError
from bedplate.models.prediction import Prediction
from bedplate.training.comparison import compare, measure

MASKED = """
asked = Source("asked", "asked.parquet", time="time", delay="1m")
liked = Label("liked", [user, video], asked, Sum("liked"), within="1m", at_least=1, empty="masked")
"""


def ask(folder: Path, days: int, every: int) -> None:
    """Puts so many days in place, in which whether a video was liked is known of every so many plays."""
    small.write(folder, days)
    known = small.plays(days).filter((pl.col("page") % every < 2) | (pl.col("page") < 1250))
    known.write_parquet(folder / "asked.parquet")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = small.make(tmp_path_factory.mktemp("masked") / "project", 1)
    head, tail = small.FEATURES.split("pages = Dataset(")
    labels = 'labels=Label("liked", [user, video], plays, Sum("liked"), within="1m", at_least=1)'
    assert labels in tail
    (folder / "features.py").write_text(head + MASKED + "pages = Dataset(" + tail.replace(labels, "labels=liked"))
    ask(folder, 40, every=4)
    return folder


def test_requests_without_a_label_do_not_count_for_the_least_number(folder: Path, call: Callable[..., Any]) -> None:
    loose = ("promotion.largest_label_change=99", "promotion.largest_miscalibration=99", "promotion.guards={}")
    assert command(["apply", "--project", str(folder)]) == 0
    dataset = Project(folder).load("pages")
    first, last = dataset.positions("test")
    known = dataset.labelled("liked", "test")
    assert (last - first > 300, 150 < known < 250) == (True, True)
    code, outcome = call("retrain", "ranker", *loose, f"promotion.minimum_requests={known + 1}")
    assert (code, outcome["status"], outcome["version"]) == (9, "refused", None)
    said = f"only {known} test requests have the label 'liked', expected at least {known + 1} (minimum_requests)"
    assert outcome["reasons"] == [said]
    code, outcome = call("retrain", "ranker", *loose, f"promotion.minimum_requests={known}")
    assert (code, outcome["status"], outcome["requests"]) == (0, "promoted", known)
    assert outcome["measured"]["log_loss"]["count"] == known
    # Of later data the champion knows some, and of the rest few have the label.
    ask(folder, 48, every=50)
    registry = Registry(Project(folder).config.registry_path)
    seen = registry.get("ranker:1").manifest.trained_until or 0
    code, outcome = call("retrain", "ranker", *loose)
    later = Project(folder).load("pages").labelled("liked", "test", seen)
    assert (code, outcome["status"], outcome["requests"]) == (9, "refused", later)
    assert 0 < later < 30
    assert f"only {later} test requests have the label 'liked' and are later than" in "; ".join(outcome["reasons"])
    assert len(registry.runs("ranker")) == 1


def few(requests: int, *known: int) -> Prediction:
    """Predictions of requests of one candidate, of which these have the label: 1, 2, ..."""
    rows, labels = np.arange(requests), np.full(requests, np.nan, np.float32)
    labels[list(known)] = np.arange(1, len(known) + 1)
    scores = rows.astype(np.float64)
    return Prediction(scores, {"stars": labels}, np.ones(requests, np.float32), rows, rows * 3, rows)


def test_draws_are_of_requests_that_have_the_label() -> None:
    calls = list[int]()

    def own(p: Prediction) -> dict[str, float]:
        labels = p.of("stars")[1]
        calls.append(len(labels))
        return {"mean": float(labels.sum()) / len(labels)}

    one = few(600, 5, 100, 590)
    found = measure(one, "stars", metrics=own)["mean"]
    assert set(calls) == {3}, "a draw has as many labels as there are"
    # The standard deviation of means of three of 1, 2, 3 is sqrt(2/3 / 3).
    assert (found.mean, found.count, found.error) == (2.0, 3, pytest.approx(2**0.5 / 3, rel=0.15))
    assert compare(one, one, "stars", metrics=own)["mean"].b == found
    with pytest.raises(DataError, match="got 1 requests with the label 'stars', expected at least two"):
        measure(few(600, 5), "stars", metrics=own)
    with pytest.raises(NotFoundError, match="there is no label 'star'"):
        measure(one, "star", metrics=own)


@pytest.mark.parametrize("fails", [True, False])
def test_a_metric_with_values_in_fewer_than_half_of_the_draws_is_left_out(fails: bool) -> None:
    def own(p: Prediction) -> dict[str, float]:
        kinds = len(set(p.of("stars")[1].tolist()))
        return {"one": without(kinds < 1), "two": without(kinds < 2), "all": without(kinds < 3)}

    def without(no_value: bool) -> float:
        return float("nan") if no_value else 1.0

    def failing(p: Prediction) -> dict[str, float]:
        found = own(p)
        if not all(value == value for value in found.values()):
            raise DefinitionError("metrics fails: division by zero")
        return found

    one = few(50, 4, 8, 15)
    # Of 27 draws of three 3 are of one request alone, and 6 have all three.
    found = measure(one, "stars", metrics=failing if fails else own)
    assert list(found) == ([] if fails else ["one", "two"])
    assert list(compare(one, one, "stars", metrics=failing if fails else own)) == list(found)


def test_what_fails_in_some_draws_has_the_interval_of_the_others_and_what_fails_on_all_requests_is_said() -> None:
    def own(p: Prediction) -> dict[str, float]:
        labels = p.of("stars")[1]
        if float(labels.std()) == 0.0:
            raise DefinitionError("metrics fails: division by zero")
        return {"mean": float(labels.mean())}

    found = measure(few(50, 4, 8, 15), "stars", metrics=own)["mean"]
    assert (found.mean, found.low < 2 < found.high) == (2.0, True)

    def wrong(p: Prediction) -> dict[str, float]:
        raise DefinitionError("metrics fails in line 3")

    with pytest.raises(DefinitionError, match="metrics fails in line 3"):
        measure(few(50, 4, 8, 15), "stars", metrics=wrong)


def test_a_search_of_fewer_than_two_validation_requests_with_the_label_is_refused_at_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "train.py").write_text(small.OWN)
    features = folder / "features.py"
    features.write_text(features.read_text().replace(", at_least=1", ""))
    assert command(["apply", "--project", str(folder)]) == 0
    dataset = Project(folder).load("pages")
    first, last = dataset.positions("validation")
    times = dataset.spine.rows.times[first:last]
    asked = pl.read_parquet(folder / "asked.parquet")
    others = asked.filter((pl.col("time") < times[0]) | (pl.col("time") > times[-1]))
    inside = small.plays(40).filter(pl.col("time") == times[len(times) // 2])
    pl.concat([others, inside]).sort("time").write_parquet(folder / "asked.parquet")
    assert command(["apply", "--project", str(folder)]) == 0
    capsys.readouterr()
    assert command(["search", "wider", "--project", str(folder)]) == 3
    said = "search 'wider': got 1 validation requests with the label 'liked', expected at least two"
    assert said in capsys.readouterr().err
    assert Registry(Project(folder).config.registry_path).runs() == []
