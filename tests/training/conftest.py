"""What the tests of training share: an encoder, a thread, so that weights are equal bit for bit, and commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic import make_encoder

from bedplate.cli.main import run as command
from bedplate.features.encoder import Encoder

Call = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def one_thread() -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return make_encoder()


@pytest.fixture
def folder(before: Path, tmp_path: Path) -> Path:
    """A copy of the project that the fixture `before` of a file has made."""
    return shutil.copytree(before, tmp_path / "project")


@pytest.fixture
def call(folder: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command on that copy: its exit code, and what it writes as JSON; nothing where it writes none."""

    def run(*words: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = command([*words, "--json", "--project", str(folder)])
        out = capsys.readouterr().out
        return code, json.loads(out) if out else {}

    return run
