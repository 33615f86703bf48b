"""What the tests of commands share: a call in the project of the module's `folder`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bedplate.cli.main import run


@pytest.fixture
def call(folder: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command in the project: the exit code, what it wrote, and what it said."""

    def call(*words: str) -> tuple[int, str, str]:
        code = run([*words, "--project", str(folder)])
        out, err = capsys.readouterr()
        return code, out, err

    return call
