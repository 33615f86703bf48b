"""The files of compiled loops: what is not whole, or of something else, is compiled again."""

from __future__ import annotations

import importlib.util
import itertools
import linecache
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numba
import pytest

from bedplate import compiling

SOURCE = """
from bedplate.compiling import compiled

@compiled
def answer(x):
    return {} + x

@compiled
def other(x):
    return -x
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Makes the loops anew, as another process would: nothing is left of them but what is on disk."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # the file changes within a second
    compiling._warn_once.cache_clear()

    def loaded(number: int = 40) -> ModuleType:
        path = tmp_path / "loops.py"
        path.write_text(SOURCE.format(number))
        linecache.checkcache(str(path))
        spec = importlib.util.spec_from_file_location("loops", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return loaded


def files(folder: Path, name: str = "answer") -> list[Path]:
    return sorted((folder / "cache").rglob(f"loops.{name}-*"))


def hits(loop: compiling.Any) -> int:
    return sum(loop.stats.cache_hits.values())


@pytest.mark.parametrize(
    "damaged", [lambda b: b"", lambda b: b[:-1], lambda b: b[:100], lambda b: b[:-2000] + bytes(2000)]
)
def test_a_file_that_is_not_whole_is_compiled_and_written_again(damaged, load, tmp_path):
    assert load().answer(2) == 42
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(damaged(whole))
    again = load()
    assert (again.answer(2), hits(again.answer)) == (42, 0)
    assert len(file.read_bytes()) > len(whole) // 2
    third = load()
    assert (third.answer(2), hits(third.answer)) == (42, 1)


def test_a_file_of_another_loop_is_not_run(load, tmp_path):
    loops = load()
    assert (loops.answer(2), loops.other(2)) == (42, -2)
    (file,), (other,) = files(tmp_path), files(tmp_path, "other")
    file.write_bytes(other.read_bytes())
    assert load().answer(2) == 42


def test_types_have_files_of_their_own_and_those_of_an_old_source_go(load, tmp_path):
    loops = load()
    assert (loops.answer(2), loops.answer(0.5), loops.other(1)) == (42, 40.5, -1)
    old = files(tmp_path)
    assert len(old) == 2
    assert load(30).answer(2) == 32
    (new,) = files(tmp_path)
    assert new not in old
    assert len(files(tmp_path, "other")) == 1


def test_a_full_disk_stops_no_loop(load, tmp_path, caplog):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        loops = load()
        assert (loops.answer(2), loops.other(2)) == (42, -2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(tmp_path) == []
    (record,) = caplog.records
    assert "not remembered" in record.getMessage()
    assert load().answer(2) == 42
    assert len(files(tmp_path)) == 1


def test_a_machine_without_a_folder_to_write_runs_loops(load, monkeypatch, caplog):
    monkeypatch.setattr(numba.config, "CACHE_LOCATOR_CLASSES", "UserProvidedCacheLocator")
    monkeypatch.setattr(numba.config, "CACHE_DIR", "/proc/none")
    assert load().answer(2) == 42
    assert "NUMBA_CACHE_DIR" in caplog.text


def test_what_numba_counted_is_not_remembered(load, tmp_path, monkeypatch, caplog):
    """Another process counts the same."""
    monkeypatch.setattr("numba.core.bytecode.FunctionIdentity._unique_ids", itertools.count(1))
    assert load().answer(2) == 42
    assert files(tmp_path) == []
    assert "import it first" in caplog.text
