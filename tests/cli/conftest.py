"""What the tests of commands share: a project of clicks, and a call in the project of the module's `folder`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from bedplate.cli.main import run

CLICKS = """\
from bedplate import Count, Entity, FeatureView, Source
user = Entity("user", key="user")
clicks = Source("clicks", "data", time="time")
clicked = FeatureView("clicked", user, clicks, {"n": Count()})
"""
ROWS = pl.DataFrame(
    {"user": [1, 2], "time": pl.datetime_range(pl.datetime(2026, 1, 1), pl.datetime(2026, 1, 2), "1d", eager=True)}
)


@pytest.fixture
def clicks(tmp_path: Path) -> Path:
    """A project with one view of a table of two rows, loaded, and an empty folder for its stream."""
    (tmp_path / "data").mkdir()
    (tmp_path / "stream").mkdir()
    (tmp_path / "bedplate.toml").write_text("")
    (tmp_path / "features.py").write_text(CLICKS)
    ROWS.write_parquet(tmp_path / "data" / "0.parquet")
    for words in (["apply"], ["materialize", "--until", "2026-01-03"]):
        assert run([*words, "--project", str(tmp_path)]) == 0
    return tmp_path


@pytest.fixture
def call(folder: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command in the project: the exit code, what it wrote, and what it said."""

    def call(*words: str) -> tuple[int, str, str]:
        code = run([*words, "--project", str(folder)])
        out, err = capsys.readouterr()
        return code, out, err

    return call
