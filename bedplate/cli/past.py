"""The project with the code of a commit: its Python files of then, and everything else as it is now."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from bedplate.cli.revision import Revision, extract
from bedplate.errors import NotFoundError
from bedplate.project import Project


def project_at(root: Path, revision: Revision, folder: Path, progress: Callable[[str], None]) -> Project:
    """Makes a folder with the project's code of a commit, and builds what its definitions need of the offline store.

    Tables and stores are links to those of today's project. What is recorded as applied stays as it is.

    Args:
        root: the project's folder of today.
        revision: the commit.
        folder: a new folder for it.
        progress: told each step of a build.

    Raises:
        NotFoundError: the project was not there at that commit.
        DefinitionError: its definitions don't load.
        DataError: a table is missing or can't be read.
    """
    extract(root, revision, folder)
    if not (folder / "bedplate.toml").is_file():
        raise NotFoundError("it had no bedplate.toml yet", where=f"the project at {revision.text}")
    _link(root, folder)
    project = Project(folder)
    build_missing(project, progress)
    return project


def build_missing(project: Project, progress: Callable[[str], None]) -> None:
    """Builds what a project's definitions need of the offline store; what is recorded as applied stays as it is."""
    for build in project.builds():
        if not build.is_complete:
            build.run(progress)


def _link(now: Path, then: Path) -> None:
    """Puts links to what is there now in place of all that is no code."""
    for path in now.iterdir():
        target = then / path.name
        is_code = path.suffix == ".py" or path.name in ("bedplate.toml", "__pycache__", ".git")
        if is_code:
            continue
        if path.is_dir() and target.is_dir() and any(target.rglob("*.py")):
            _link(path, target)
            continue
        if target.is_dir():
            shutil.rmtree(target)
        target.unlink(missing_ok=True)
        target.symlink_to(path.absolute())
