"""What is compiled is remembered on disk, and forgotten when any file changes that could have gone into it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bedplate.compiling import loops_id

PACKAGE = Path(__file__).parents[1] / "bedplate"

CALLED = """
from bedplate.compiling import compiled

@compiled
def answer():
    return {answer}
"""
CALLER = """
from bedplate.compiling import compiled
from bedplate.called import answer

@compiled
def doubled():
    return 2 * answer()
"""
PROGRAM = """
from bedplate.caller import doubled
print(doubled(), sum(doubled.stats.cache_hits.values()))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package `bedplate` of two files with loops, one of which calls the other."""
    made = tmp_path / "bedplate"
    made.mkdir()
    for name in ("__init__.py", "compiling.py", "canonical.py", "errors.py"):
        (made / name).write_text("" if name == "__init__.py" else (PACKAGE / name).read_text())
    (made / "caller.py").write_text(CALLER)
    (made / "called.py").write_text(CALLED.format(answer=21))
    return made


def run(package: Path) -> list[str]:
    """What `doubled` gives in a process of its own, and how often it was found on disk."""
    here = {"PYTHONPATH": str(package.parent), "NUMBA_CACHE_DIR": str(package.parent / "cache")}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, cwd=package.parent, env=os.environ | here, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_a_second_process_compiles_nothing(package):
    assert run(package) == ["42", "0"]
    assert run(package) == ["42", "1"]


def test_a_change_in_what_is_called_is_seen_by_the_caller(package):
    assert run(package) == ["42", "0"]
    (package / "called.py").write_text(CALLED.format(answer=50))
    assert run(package) == ["100", "0"]
    assert run(package) == ["100", "1"]


def identity(package: Path) -> str:
    loops_id.cache_clear()
    found = loops_id(package)
    loops_id.cache_clear()
    return found


def test_a_file_whose_constants_a_loop_uses_counts_and_others_do_not(package):
    (package / "sizes.py").write_text("BLOCK = 64\n")
    (package / "other.py").write_text("BLOCK = 64\n")
    (package / "caller.py").write_text("from bedplate.sizes import BLOCK\n" + CALLER)
    before = identity(package)
    (package / "other.py").write_text("BLOCK = 128\n")
    assert identity(package) == before
    (package / "sizes.py").write_text("BLOCK = 128\n")
    assert identity(package) != before


@pytest.mark.parametrize(
    "name", ["offline/kernels.py", "offline/instructions.py", "online/kernels.py", "online/codec.py", "hashing.py"]
)
def test_the_files_of_this_package_count(tmp_path, name):
    """Loops, instructions and the layout of packed rows: a change in any of them is one of all that is compiled."""
    for path in PACKAGE.rglob("*.py"):
        copy = tmp_path / path.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    before = identity(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b"\n# changed\n")
    assert identity(tmp_path) != before


def test_every_compiled_function_of_the_package_is_compiled_here():
    """No file compiles loops on its own: what it remembered would not be forgotten."""
    uses = [p for p in PACKAGE.rglob("*.py") if "njit" in p.read_text() and p.name != "compiling.py"]
    assert uses == []
