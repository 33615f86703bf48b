"""A registry in an empty folder, artifacts, manifests, and processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bedplate.registry.manifest import Environment, Git, Manifest
from bedplate.registry.registry import Registry
from bedplate.types import SECOND, to_micros

ROOT = Path(__file__).parents[2]


class Ticks:
    """A clock that goes on by a second each time it is asked."""

    def __init__(self) -> None:
        self.now = to_micros("2026-01-01")

    def __call__(self) -> int:
        self.now += SECOND
        return self.now


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry", clock=Ticks())


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        git=Git("0123abcd", dirty=False),
        definitions={"view sales": "aa11", "feature sales.spend_7d": "bb22"},
        sources={"orders": "s-1"},
        config={"layers": [64, 32], "rate": 0.1},
        seeds={"weights": 7},
        environment=Environment("3.11.0", "Linux", {"numpy": "2.4.0"}),
        metrics={"auc": 0.75},
    )


@pytest.fixture
def artifact(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of files from `name=content`."""
    numbers: Iterator[int] = iter(range(1000))

    def make(**files: bytes) -> Path:
        folder = tmp_path / f"artifact{next(numbers)}"
        for name, content in (files or {"model": b"weights"}).items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder

    return make


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python in a process of its own, with a script's path or `-c` and code; killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def python(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., str]:
    """Runs Python to its end in a process of its own; what it printed."""

    def complete(*arguments: str) -> str:
        process = start(*arguments)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out

    return complete
