"""What the documentation shows is run: the Python blocks of every page, and the examples in every docstring.

The blocks of a page run in order and share their names, in an empty folder. `console` blocks are shown only.
"""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
MODULES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for path in (ROOT / "bedplate").rglob("*.py")
)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def program(page: Path) -> str:
    """The blocks of a page as one program whose line numbers are those of the page."""
    text = page.read_text()
    lines = [""] * (text.count("\n") + 1)
    for block in BLOCK.finditer(text):
        first = text.count("\n", 0, block.start(1))
        for number, line in enumerate(block[1].splitlines()):
            lines[first + number] = line
    return "\n".join(lines)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_the_python_of_a_page_runs(page: Path) -> None:
    code = compile(program(page), str(page), "exec")
    exec(code, {"__name__": "__main__"})


def test_every_python_block_is_found() -> None:
    """An indented or misspelt fence would not be run."""
    for page in PAGES:
        fences = re.findall(r"^\s*(?:```|~~~)\s*(?:py|python)", page.read_text(), re.MULTILINE | re.IGNORECASE)
        assert len(fences) == len(BLOCK.findall(page.read_text())), page


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0
