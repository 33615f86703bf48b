"""The public names: few, sorted, documented, and loaded when they are asked for."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import bedplate

LIMIT = 40


def imported_for_type_checkers() -> dict[str, str]:
    tree = ast.parse(Path(bedplate.__file__).read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    return {
        alias.asname or alias.name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_they_are_few_and_sorted() -> None:
    assert 0 < len(bedplate.__all__) <= LIMIT
    assert list(bedplate.__all__) == sorted(set(bedplate.__all__))


def test_type_checkers_and_the_interpreter_find_the_same_things() -> None:
    found = {name: getattr(bedplate, name) for name in bedplate.__all__}
    for name, module in imported_for_type_checkers().items():
        assert found.pop(name).__module__ == module
    assert found == {}


@pytest.mark.parametrize("name", bedplate.__all__)
def test_each_has_a_docstring_of_its_own(name: str) -> None:
    documented = inspect.cleandoc(vars(getattr(bedplate, name))["__doc__"])
    assert len(documented.splitlines()[0]) > 10


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(AttributeError, match="did you mean 'FeatureView'"):
        _ = bedplate.FeatureVew
    assert set(bedplate.__all__) <= set(dir(bedplate))
