"""The project of short videos, built and trained once."""

from __future__ import annotations

from pathlib import Path

import clips
import pytest

from bedplate import Project, Registry
from bedplate.cli.main import run


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, built, with both models trained from the command line."""
    folder = clips.make_project(tmp_path_factory.mktemp("clips") / "clips")
    at = ["--project", str(folder)]
    for words in (["apply"], ["train", "quality", "--promote"], ["train", "ranker", "--promote"]):
        assert run([*words, *at]) == 0
    return folder


@pytest.fixture(scope="session")
def project(folder: Path) -> Project:
    return Project(folder)


@pytest.fixture(scope="session")
def registry(project: Project) -> Registry:
    return project.registry
