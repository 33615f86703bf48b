"""What Feast itself makes and answers, once for all tests: it runs in an environment of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from feast_world import World

ROOT = Path(__file__).parents[2]
FEAST_PYTHON = Path(os.environ.get("FEAST_PYTHON", ROOT / ".venv-feast" / "bin" / "python"))


@pytest.fixture(scope="session")
def feast_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a repository of each of Feast's templates, and Feast's answers about one of them."""
    if not FEAST_PYTHON.exists():
        message = f"Feast is not installed ({FEAST_PYTHON}): scripts/test installs it, FEAST_PYTHON names another"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
    folder = tmp_path_factory.mktemp("feast")
    script = Path(__file__).with_name("feast_session.py")
    # Feast's libraries must not be those of this environment.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    command = [str(FEAST_PYTHON), "-B", str(script), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> World:
    """A small repository, with nothing defined yet."""
    return World(tmp_path, capsys)
