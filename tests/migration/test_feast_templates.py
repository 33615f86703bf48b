"""The repositories that `feast init` makes: each becomes a project that loads, with the values that Feast answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from bedplate import Project
from bedplate.cli.main import run
from bedplate.errors import DataError

pytestmark = pytest.mark.xdist_group("feast")  # Feast makes its templates once
TEMPLATES = {
    # by template: views, their features and context of requests, and feature lists carried over; how much was not
    "minimal": (0, 0, 0, 0),
    "local": (2, 10, 3, 13),
    "gcp": (2, 8, 3, 7),
    "aws": (2, 8, 3, 8),
    "snowflake": (2, 8, 3, 10),
    "spark": (0, 0, 0, 4),
    "postgres": (2, 8, 3, 8),
    "hbase": (2, 8, 3, 7),
    "cassandra": (2, 8, 3, 7),
    "hazelcast": (2, 8, 3, 7),
    "couchbase": (2, 8, 3, 9),
    "milvus": (2, 8, 3, 8),
    "ray": (2, 6, 2, 4),
    "ray_rag": (0, 0, 0, 4),
    "rag": (3, 4, 2, 4),
    "pytorch_nlp": (2, 13, 3, 3),
}
WITHOUT_DATA = ("gcp", "aws", "snowflake", "couchbase")


def imported(repository: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    code = run(["import", "feast", str(repository), "--to", str(target), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == (8 if report["not_carried"] else 0)
    return report


def test_the_templates_are_all_of_feast_s(feast_folder: Path) -> None:
    assert set(json.loads((feast_folder / "made.json").read_text())) == set(TEMPLATES)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_becomes_a_project_that_loads(
    feast_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], template: str
) -> None:
    report = imported(feast_folder / template, tmp_path / "made", capsys)
    assert all(left["reason"] and left["todo"] for left in report["not_carried"])
    assert [p.name for p in sorted((tmp_path / "made").iterdir())] == sorted(report["files"])
    code = (tmp_path / "made" / "features.py").read_text()
    last, context = code.count(": Attribute("), code.count(" = Context(")
    lists = sum(line[:1].isupper() and " = [" in line for line in code.splitlines())
    found = (code.count(" = FeatureView("), last + context, lists, len(report["not_carried"]))
    assert found == TEMPLATES[template]
    if template == "postgres":  # a server that is not there
        assert '"postgresql://me@localhost:5432/postgres?table=public.feast_driver_hourly_stats&order=' in code
        return
    if template in WITHOUT_DATA:
        with pytest.raises(DataError, match="no Parquet file found"):
            Project(tmp_path / "made")
        return
    project = Project(tmp_path / "made")
    assert project.config.name == report["project"]
    assert (len(project.views), len(project.graph.features)) == found[:2]


def test_the_code_is_what_ruff_would_write(
    feast_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for template in TEMPLATES:
        imported(feast_folder / template, tmp_path / template, capsys)
    for words in (["format", "--check"], ["check", "--select", "E,F,I,UP,B,SIM,RUF", "--ignore", "E501"]):
        command = [sys.executable, "-m", "ruff", *words, "--isolated", "--no-cache", "."]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("labels", "later"), [("odd", 0), ("exact", 1)])
def test_lookups_are_what_feast_answers(
    feast_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], labels: str, later: int
) -> None:
    """At times of no row both agree; at a row's own time Feast sees it, and Bedplate a microsecond later."""
    imported(feast_folder / "local", tmp_path / "made", capsys)
    answered = pl.read_parquet(feast_folder / f"{labels}.parquet").sort("row")
    times = answered["event_timestamp"].dt.epoch("us").to_numpy()
    project = Project(tmp_path / "made")
    project.apply()
    names = ["conv_rate", "acc_rate", "avg_daily_trips", "driver_config"]
    full = [f"driver_hourly_stats.{n}" for n in names]
    ours = project.lookup(full, {"driver": answered["driver_id"].to_numpy()}, times + later)
    for name, column in zip(names, full, strict=True):
        assert ours[column].to_list() == answered[name].to_list()
    nulls = ours[full[0]].null_count()
    assert 0 < nulls < len(times)
    if labels == "exact":
        at_the_row = project.lookup(full, {"driver": answered["driver_id"].to_numpy()}, times)
        assert np.count_nonzero((at_the_row[full[0]] == ours[full[0]]).fill_null(False).to_numpy()) < len(times) // 2
