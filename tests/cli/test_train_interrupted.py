"""A training that is interrupted outside its loop says how to go on, and goes on to the same model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import retraining_project as small

from bedplate import Project, Registry
from bedplate.cli.main import run as command
from bedplate.features.artifact import GRAPH
from bedplate.training import run as training
from bedplate.training import trainer
from bedplate.training.checkpoint import CHECKPOINT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = small.make(tmp_path / "project", 40)
    assert command(["apply", "--project", str(made)]) == 0
    return made


@pytest.mark.parametrize("part", ["fit", "keep_predictions", "write_artifact"])
def test_it_says_how_to_go_on(
    folder: Path, part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["trainer.epochs=1", "--project", str(folder)]
    assert command(["train", "ranker", *where]) == 0

    def interrupted(*words: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training, part, interrupted)
        capsys.readouterr()
        assert command(["train", "ranker", *where]) == 130
    said = capsys.readouterr().err
    found = re.search(r"go on with: bedplate train ranker --resume (\S+)", said)
    assert found is not None, said
    registry = Registry(Project(folder).config.registry_path)
    assert registry.run(found[1]).record.status == "interrupted"
    assert command(["train", "ranker", "--resume", found[1], "--project", str(folder)]) == 0
    assert registry.run(found[1]).record.status == "finished"
    one, two = (path.read_bytes() for path in (registry.root / "runs").glob(f"*/artifact/ranker/{GRAPH}"))
    assert one == two


def test_what_was_judged_after_the_last_checkpoint_is_forgotten(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on from the checkpoint may end before it comes there again."""
    saved, save = list[str](), trainer.save_state

    def until(path: Path, state: dict[str, Any]) -> None:
        saved.append(path.name)
        if saved.count(CHECKPOINT) == 2:
            raise KeyboardInterrupt
        save(path, state)

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "save_state", until)
        assert command(["train", "ranker", "trainer.epochs=3", "--project", str(folder)]) == 130
    registry = Registry(Project(folder).config.registry_path)
    [run] = registry.runs()
    first, second = (point.step for point in run.metrics()["loss"])
    assert command(["train", "ranker", "--resume", run.id, "trainer.epochs=1", "--project", str(folder)]) == 0
    run = registry.run(run.id)
    assert [point.step for point in run.metrics()["loss"]] == [first]
    assert max(point.step for points in run.metrics().values() for point in points) == first < second
