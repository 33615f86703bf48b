"""A label that few requests have: only these count, and intervals are over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import retraining_project as small

from bedplate import Project, Registry
from bedplate.cli.main import run as command

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
