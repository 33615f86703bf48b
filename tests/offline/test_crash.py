"""`bedplate apply` stopped at any moment, by SIGKILL or Ctrl-C: what is in place is whole, and the next one goes on.

BEDPLATE_KILLS sets how many times it is killed; a few by default, hundreds for a campaign.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_retail import make_project

from bedplate import Project
from bedplate.cli.main import INTERRUPTED_EXIT
from bedplate.files import leftovers

KILLS = int(os.environ.get("BEDPLATE_KILLS", "3"))
STEPS = 46
"""Lines of progress of a whole build; after a few of them the process is stopped."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("crash") / "project")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Mapping[str, Any]:
    """What an uninterrupted build puts in place."""
    project = Project(folder)
    project.apply()
    found = content(project)
    shutil.rmtree(project.config.offline_path)
    return found


def content(project: Project) -> dict[str, Any]:
    """Every file of the offline store but those that stand aside; texts by their ids, as their order has no meaning."""
    root = project.config.offline_path
    found: dict[str, Any] = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        name = path.relative_to(root).as_posix()
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        if path.name == "texts.json":
            ids = np.load(path.parent / "ids.npy").tolist()
            found[name] = dict(zip(ids, json.loads(path.read_bytes()), strict=True))
        elif path.name in ("segment.json", "cost.json"):
            found[name] = json.loads(path.read_bytes()) | {"seconds": None}
        elif name.startswith("needs/"):  # what an interrupted build goes on from is its own
            timelines = json.loads(path.read_bytes())["timelines"]
            found[name] = {t: needs | {"work": None} for t, needs in timelines.items()}
        elif path.name != "ids.npy":
            found[name] = path.read_bytes()
    return found


def stop(folder: Path, number: signal.Signals, lines: int, seconds: float) -> tuple[int, str]:
    """Runs `bedplate apply` and sends a signal some time after a line of progress; its exit code and what it said."""
    command = [sys.executable, "-m", "bedplate", "apply", "--project", str(folder)]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = [process.stderr.readline() for _ in range(lines)]
        time.sleep(seconds)
        process.send_signal(number)
        said.append(process.stderr.read())
    return process.returncode, "".join(said)


def check_in_place(project: Project, whole: Mapping[str, Any]) -> int:
    """What is in place is as in an uninterrupted build, part by part; how many parts are still missing."""
    assert content(project).items() <= whole.items()
    return sum(not build.is_complete for build in project.builds())


def test_killed_at_any_moment_nothing_is_lost_or_half_there(folder: Path, whole: Mapping[str, Any]) -> None:
    chance, project, killed = random.Random(KILLS), Project(folder), 0
    for _ in range(3 * KILLS):
        if killed == KILLS:
            break
        code, said = stop(folder, signal.SIGKILL, chance.randrange(1, STEPS // 2), chance.uniform(0, 0.02))
        assert code in (0, -signal.SIGKILL), said
        killed += code != 0
        if check_in_place(project, whole) == 0:
            project.apply()  # the records of what was built may be missing yet
            assert content(project) == whole
            shutil.rmtree(project.config.offline_path)
    assert killed == KILLS, "most builds ended before the signal came"
    project.apply()
    assert content(project) == whole
    assert leftovers(project.config.offline_path) == []
    assert list(project.config.offline_path.rglob(".*")) == []
    assert project.apply() == []
    shutil.rmtree(project.config.offline_path)


def test_ctrl_c_keeps_the_finished_parts_and_says_how_to_go_on(folder: Path, whole: Mapping[str, Any]) -> None:
    project = Project(folder)
    code, said = stop(folder, signal.SIGINT, 3, 0.0)
    for _ in range(4):
        if code != 0:  # 0: on a busy machine the build may end before the signal comes
            break
        shutil.rmtree(project.config.offline_path)
        code, said = stop(folder, signal.SIGINT, 3, 0.0)
    assert code == INTERRUPTED_EXIT, said
    assert said.endswith("interrupted: the finished parts are kept; 'bedplate apply' goes on from them\n")
    assert "Traceback" not in said
    assert check_in_place(project, whole) > 0
    assert len(content(project)) > 0
    steps: list[str] = []
    project.apply(steps.append)
    assert "customer_lines: sort" not in "".join(steps)
    assert content(project) == whole
    assert list(project.config.offline_path.rglob(".*")) == []
    shutil.rmtree(project.config.offline_path)


def test_what_a_killed_build_left_aside_is_removed_though_nothing_is_missing(
    folder: Path, whole: Mapping[str, Any]
) -> None:
    project = Project(folder)
    project.apply()
    gone = subprocess.run(
        [sys.executable, "-c", "from bedplate.process import process_token; print(process_token())"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    aside = project.config.offline_path / f".part.{gone}.00000000.tmp"
    aside.mkdir()
    (aside / "half.npy").write_bytes(b"half")
    assert project.apply() == []
    assert content(project) == whole
    shutil.rmtree(project.config.offline_path)
