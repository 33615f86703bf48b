"""Runs of retraining and search are copied too, each by the process that made it."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import retraining_project as small

from bedplate import Project
from bedplate.cli import runs_mirror
from bedplate.cli.main import run as command
from bedplate.config import load_config
from bedplate.registry import run as runs
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.network import Network

Asked = list[list[str]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """The words of each copy that is begun; nothing is started."""
    found: Asked = []
    started = SimpleNamespace(Popen=lambda words, **_: found.append(words), DEVNULL=None)
    monkeypatch.setattr(runs_mirror, "subprocess", started)
    return found


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = small.make(tmp_path_factory.mktemp("mirrored") / "project", 40)
    (folder / "bedplate.toml").write_text('registry.mirror = "tracking"\n')
    assert command(["apply", "--project", str(folder)]) == 0
    return folder


@pytest.fixture
def folder(applied: Path, tmp_path: Path) -> Path:
    return shutil.copytree(applied, tmp_path / "project")


def ids(folder: Path) -> list[str]:
    return sorted(run.id for run in Project(folder).registry.runs())


def test_a_retraining_and_the_trials_of_a_search_are_copied(folder: Path, asked: Asked) -> None:
    where = ["--project", str(folder)]
    assert command(["retrain", "ranker", "trainer.epochs=1", *where]) in (0, 9)
    (first,) = ids(folder)
    assert asked[-1][3:] == ["runs", "mirror", first, *where]
    assert command(["search", "ranker", "--trials", "1", *where]) == 0
    made = ids(folder)
    assert len(made) == 3, "the retraining's, the default's and the trial's"
    assert asked[-1][3:] == ["runs", "mirror", *made, *where]
    assert len(asked) == 2


def test_a_retraining_that_is_interrupted_is_copied(
    folder: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*words: object, **options: object) -> None:
        raise TrainingInterruptedError("stopped")

    monkeypatch.setattr(Network, "fit", interrupted)
    assert command(["retrain", "ranker", "--project", str(folder)]) != 0
    assert [words[3:-2] for words in asked] == [["runs", "mirror", *ids(folder)]]


def test_a_dry_run_and_runs_of_others_are_not_copied(
    folder: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(["retrain", "ranker", "--dry-run", "--project", str(folder)]) == 0
    assert asked == []
    registry = Project(folder).registry
    with monkeypatch.context() as patched:
        patched.setattr(runs, "process_token", lambda: "another")
        with registry.start_run("ranker", {}):
            pass
    with registry.start_run("ranker", {}) as own:
        runs_mirror.mirror_own(load_config(folder), registry)
        assert asked == [], "it has not ended"
    runs_mirror.mirror_own(load_config(folder), registry)
    assert [words[3:-2] for words in asked] == [["runs", "mirror", own.id]]
