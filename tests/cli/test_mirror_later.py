"""The copy of a run that is made when it has ended: by a process of its own, which can't fail or slow the training."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bedplate.cli.runs_mirror import LOG, mirror_later
from bedplate.config import load_config
from bedplate.registry.registry import Registry


def test_nothing_is_waited_for_and_what_fails_is_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "bedplate.toml").write_text('registry.mirror = "nonsense://nowhere"\n')
    registry = Registry(tmp_path / ".bedplate" / "registry")
    with registry.start_run("ranker", {}) as going:
        going.log_metrics(1, {"loss": 0.5})
    began = time.perf_counter()
    process = mirror_later(load_config(tmp_path), going.id)
    assert process is not None
    assert time.perf_counter() - began < 1.0
    assert process.wait(timeout=120) != 0
    assert "nonsense" in (going.folder / LOG).read_text()
    assert registry.run(going.id).status == "finished"


def test_without_a_mirror_nothing_is_started(tmp_path: Path) -> None:
    (tmp_path / "bedplate.toml").touch()
    assert mirror_later(load_config(tmp_path), "20260105-093000-1f2e3d") is None


def test_a_process_that_can_not_be_started_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bedplate.toml").write_text('registry.mirror = "tracking"\n')
    assert mirror_later(load_config(tmp_path), "20260105-093000-1f2e3d") is None, "its folder is gone"
    assert "is not mirrored" in capsys.readouterr().err
