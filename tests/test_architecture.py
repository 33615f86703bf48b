"""ARCHITECTURE.md and the other pages say what is there: the contracts that are checked, files and names that exist."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "ARCHITECTURE.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PLACE = re.compile(r"`((?:bedplate|tests|benchmarks|examples|scripts)/[\w/.]*)(?::([\w.]+))?`")


def defined_in(path: Path) -> set[str]:
    """The functions, classes and methods of a file, methods as `Class.method`."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{member.name}" for member in node.body if isinstance(member, ast.FunctionDef)}
    return names


def test_the_contracts_are_quoted_word_for_word() -> None:
    found = re.search(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    project = (ROOT / "pyproject.toml").read_text()
    assert found[1].strip() in project
    assert tomllib.loads(found[1])["tool"] == {"importlinter": tomllib.loads(project)["tool"]["importlinter"]}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_what_a_page_names_exists(page: Path) -> None:
    for path, name in PLACE.findall(page.read_text()):
        assert (ROOT / path).exists(), f"{page}: {path}"
        assert not name or name in defined_in(ROOT / path), f"{page}: {path}:{name}"


def test_every_folder_of_the_package_is_described() -> None:
    folders = {p.parent.relative_to(ROOT).as_posix() for p in (ROOT / "bedplate").glob("*/__init__.py")}
    described = {path for path, _ in PLACE.findall(PAGE.read_text())}
    assert folders <= described, sorted(folders - described)
