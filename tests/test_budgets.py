"""The budgets of the design: what importing costs, how long and deep the code may be, and how much of it is tests."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("bedplate", "benchmarks", "examples", "tests")
FILES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)

FILE_LINES = 600
FUNCTION_LINES = 60
CLASS_METHODS = 20
PACKAGE_DEPTH = 1
MEDIAN_LINES = 150
TEST_SHARE = 0.37

ALLOWED: dict[str, str] = {}
"""What may be beyond a budget, each with its reason: a file as `path`, a function or class as `path:name`."""

NEW_MODULES = 15
ENGINES = {
    "duckdb",
    "lmdb",
    "mlflow",
    "numba",
    "onnxruntime",
    "pandas",
    "polars",
    "pyarrow",
    "ray",
    "redis",
    "sklearn",
    "torch",
}

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def definitions() -> Iterator[tuple[str, Definition]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, Definition):
                yield f"{name_of(path)}:{node.name}", node


def beyond() -> dict[str, str]:
    """Everything that is beyond a budget, with what was measured."""
    found: dict[str, str] = {}
    for path in FILES:
        if (lines := len(path.read_text().splitlines())) > FILE_LINES:
            found[name_of(path)] = f"{lines} lines of {FILE_LINES}"
    for name, node in definitions():
        if isinstance(node, ast.ClassDef):
            methods = sum(isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) for n in node.body)
            if methods > CLASS_METHODS:
                found[name] = f"{methods} methods of {CLASS_METHODS}"
        elif (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES:
            found[name] = f"{lines} lines of {FUNCTION_LINES}"
    return found


def test_files_functions_and_classes_are_short_or_have_a_reason() -> None:
    found = beyond()
    assert {name: size for name, size in found.items() if name not in ALLOWED} == {}
    assert sorted(set(ALLOWED) - set(found)) == [], "no longer beyond a budget"
    assert all(reason.strip() for reason in ALLOWED.values())


def test_the_median_file_is_short() -> None:
    lines = sorted(len(p.read_text().splitlines()) for p in FILES if p.name != "__init__.py")
    assert lines[len(lines) // 2] <= MEDIAN_LINES


def test_the_package_is_flat_and_every_folder_is_installed() -> None:
    package = ROOT / "bedplate"
    folders = {p.parent.relative_to(package) for p in package.rglob("*.py")}
    assert max(len(folder.parts) for folder in folders) == PACKAGE_DEPTH
    assert [str(f) for f in folders if not (package / f / "__init__.py").is_file()] == []


def test_every_file_of_the_package_says_what_it_is() -> None:
    silent = [
        p for p in FILES if p.is_relative_to(ROOT / "bedplate") and not ast.get_docstring(ast.parse(p.read_text()))
    ]
    assert silent == []


def test_tests_are_a_share_of_the_lines() -> None:
    lines = dict.fromkeys(FOLDERS, 0)
    for path in FILES:
        lines[path.relative_to(ROOT).parts[0]] += sum(1 for line in path.read_text().splitlines() if line.strip())
    share = lines["tests"] / sum(lines.values())
    measured = f"tests are {share:.0%} of {sum(lines.values()):,} lines of Python: {lines}"
    print(measured)  # noqa: T201  (pytest -s shows it)
    assert share >= TEST_SHARE, measured


def modules_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after a statement and did not have before."""
    program = (
        "import sys, json; before = set(sys.modules)\n"
        f"{statement}\n"
        "sys.stderr.write(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, text=True, capture_output=True, timeout=60
    )
    return set(json.loads(done.stderr))


def test_importing_bedplate_imports_next_to_nothing() -> None:
    modules = modules_after("import bedplate")
    assert modules & ENGINES == set()
    assert sorted(m for m in modules if m.startswith("bedplate")) == ["bedplate"]
    assert len(modules) <= NEW_MODULES


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["init", "--help"]])
def test_help_loads_no_library_but_click(arguments: list[str]) -> None:
    modules = modules_after(f"from bedplate.cli.main import run; run({arguments!r})")
    assert modules & (ENGINES | {"numpy"}) == set()
    assert "click" in modules


@pytest.mark.parametrize("name", ["Count", "Entity", "FeatureView", "Source"])
def test_definitions_load_no_engine(name: str) -> None:
    modules = modules_after(f"from bedplate import {name}")
    assert modules & (ENGINES - {"polars"}) == set()


@pytest.mark.xdist_group("grouped")
def test_what_is_grouped_runs_in_one_process(request: pytest.FixtureRequest) -> None:
    """Otherwise what a group shares is made in every process of the tests, which takes minutes."""
    grouping = getattr(request.config.option, "loadgroup", False)  # xdist's, in a process that it starts
    assert not grouping or request.node.nodeid.endswith("@grouped")
