"""Writing while the disk fails: whichever call of the system fails, and after however many, readers find old or new."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from bedplate.errors import StoreError
from bedplate.features.applied import read_applied, write_applied
from bedplate.features.view import Feature
from bedplate.files import leftovers, move_folder, new_folder, write_atomic
from bedplate.types import Type


class Disk:
    """Lets so many calls of the system pass and then fails every one, as a disk does that is full or gone."""

    def __init__(self, passing: int) -> None:
        self.passing, self.calls = passing, 0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls > self.passing:
                raise OSError(28, "No space left on device")
            return function(*args, **named)

        return call


@contextlib.contextmanager
def failing_after(passing: int) -> Generator[Disk]:
    disk = Disk(passing)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", disk.wrap(os.fsync))
        for name in ("rename", "replace"):
            patch.setattr(Path, name, disk.wrap(getattr(Path, name)))
        yield disk


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def attempts(step: Callable[[], object]) -> Generator[bool]:
    """Runs a step with ever more calls passing, until none fails; whether each attempt came to its end."""
    for passing in range(100):
        with failing_after(passing) as disk:
            done = True
            try:
                step()
            except OSError as error:
                assert error.errno == 28  # noqa: PT017
                done = False
        yield done
        if disk.calls <= passing:
            return
    raise AssertionError("a step that never ends")


def test_a_file_is_old_or_new(tmp_path: Path) -> None:
    path, outcomes = tmp_path / "state.json", list[bool]()
    path.write_bytes(b"old")
    for done in attempts(lambda: write_atomic(path, b"new")):
        outcomes.append(done)
        assert path.read_bytes() in ((b"new",) if done else (b"old", b"new"))
        assert names(tmp_path) == ["state.json"]
        path.write_bytes(b"old")
    assert outcomes[0] is False
    assert outcomes[-1] is True
    assert len(outcomes) == 4  # flush the file, rename it, flush the folder


def test_a_new_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "index"

    def step() -> None:
        with new_folder(target) as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "part").write_bytes(b"1")
            (folder / "manifest").write_bytes(b"2")

    outcomes = list[bool]()
    for done in attempts(step):
        outcomes.append(done)
        assert names(tmp_path) in ([], ["index", "index/deep", "index/deep/part", "index/manifest"])
        assert not done or target.is_dir()
        shutil.rmtree(target, ignore_errors=True)
    assert outcomes.count(True) == 1
    assert len(outcomes) > 5


def test_moving_fails_loudly_unless_the_target_is_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with failing_after(0), pytest.raises(OSError, match="No space left"):
        move_folder(tmp_path / "a", tmp_path / "b")
    assert names(tmp_path) == ["a"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_text("first")
    with failing_after(0):
        assert move_folder(tmp_path / "a", tmp_path / "b") is False
    assert (tmp_path / "b" / "x").read_text() == "first"
    assert leftovers(tmp_path) == []


def test_a_record_of_what_was_applied_is_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "applied" / "p.json"
    old = {"a": Feature("a", Type.INT, False, "1", "Count()")}
    new = {"a": Feature("a", Type.INT, False, "2", "Count(x)"), "b": Feature("b", Type.FLOAT, True, "3", "LastN(x)")}
    write_applied(path, old)
    for passing in range(6):
        with failing_after(passing) as disk:
            done = True
            try:
                write_applied(path, new)
            except StoreError as error:
                assert error.message == "can't record what was applied: No space left on device"  # noqa: PT017
                done = False
        assert read_applied(path) in ((new,) if done else (old, new))
        assert names(tmp_path) == ["applied", "applied/p.json"]
        if disk.calls <= passing:
            break
        write_applied(path, old)
    assert done
