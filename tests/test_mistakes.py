"""Mistakes of Python in definition files get a hint, and names that are nearly right a suggestion."""

from __future__ import annotations

from pathlib import Path

import pytest

from bedplate.cli.main import run

START = """\
import polars as pl
from bedplate import Count, Entity, FeatureView, Mean, Source
table = pl.DataFrame({"user": [1], "rating": [3.0], "time": [1767225600000000]})
ratings = Source("ratings", table, time="time")
user_watches = FeatureView("user_watches", Entity("user", key="user"), ratings, {"n": Count(), "mean": Mean("rating")})
"""


@pytest.mark.parametrize(
    ("old", "new", "where", "hint"),
    [
        ("import Count,", "import Coumt,", "features.py:2", "did you mean 'Count'?"),
        ('Mean("rating")', 'Mean("rating", window="90d")', "features.py:5", "did you mean 'windows'?"),
    ],
)
def test_a_misspelt_name_or_argument(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, where: str, hint: str
) -> None:
    (tmp_path / "bedplate.toml").write_text("")
    (tmp_path / "features.py").write_text(START.replace(old, new))
    assert run(["plan", "--project", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {where}: ")
    assert message.endswith(f"\n  {hint}\n")


def test_a_view_where_a_feature_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bedplate.toml").write_text("")
    (tmp_path / "features.py").write_text(START)
    assert run(["lookup", "user_watches", "--key", "user=1", "--project", str(tmp_path)]) == 4
    assert "'user_watches' is a view; all its features are 'user_watches.*'" in capsys.readouterr().err


def test_promoting_what_is_no_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bedplate.toml").write_text("")
    assert run(["models", "promote", "m", "latest", "--project", str(tmp_path)]) == 2
    assert (
        "got 'latest', expected the number of a version; 'bedplate models list' shows them" in capsys.readouterr().err
    )


def test_a_project_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["init", "."]) == 0
    assert capsys.readouterr().out.endswith("\nnext: bedplate plan\n")


def test_one_view_is_loaded_and_an_empty_stream_is_said_to_be_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bedplate.toml").write_text("")
    (tmp_path / "features.py").write_text(START)
    (tmp_path / "stream").mkdir()
    place = ["--project", str(tmp_path)]
    assert run(["apply", *place]) == 0
    assert run(["materialize", *place]) == 0
    assert "loaded 1 view, " in capsys.readouterr().out
    assert run(["ingest", str(tmp_path / "stream"), "--source", "ratings", *place]) == 0
    assert "holds no file *.parquet, *.jsonl" in capsys.readouterr().err
