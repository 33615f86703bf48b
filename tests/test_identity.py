"""The id of a class follows all that its values depend on, and nothing else."""

from __future__ import annotations

import importlib
import linecache
import sys
from pathlib import Path

import pytest

from bedplate.errors import DefinitionError
from bedplate.identity import class_id, function_form

FILES = {
    "identity_main": """
import functools
import identity_beside
from identity_beside import Base, halved
from bedplate.aggregations.base import OneInput

LIMIT = 5

def doubled(x):
    return x * 2

class Kept:
    factor = 1.5

class Main(Base, OneInput):
    \"\"\"Says what it does.\"\"\"

    depth = LIMIT

    def __init__(self, expression, rest=0):
        super().__init__(expression)  # says how

    @property
    def size(self):
        return doubled(self.depth)

    @staticmethod
    def scaled(x, by=2.0):
        return x * by * Kept.factor

    @functools.lru_cache
    def cached(self):
        return halved(1)

    def finalize(self, partials, times):
        return [identity_beside.thirds(p) for p in partials]

def function(x):
    return identity_beside.thirds(x)
""",
    "identity_beside": """
PARTS = 3

def halved(x):
    return x / 2

def thirds(x):
    return x / PARTS

def unused(x):
    return x

class Base:
    def more(self):
        return halved(3)
""",
}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The ids of the class and of the function, with one text of the files in place of another."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def made(old: str = "", new: str = "") -> tuple[str, str]:
        assert any(old in text for text in FILES.values())
        for name, text in FILES.items():
            (tmp_path / f"{name}.py").write_text(text.replace(old, new) if old else text)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        linecache.clearcache()
        module = importlib.import_module("identity_main")
        return class_id(module.Main, "main"), function_form(module.function, "main")["id"]

    yield made
    for name in FILES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Says what it does.", "Says it otherwise."),
        ("# says how", "# otherwise"),
        ("    @property", "\n\n    @property"),
        ("def unused(x):\n    return x", "def unused(x):\n    return -x"),
    ],
)
def test_comments_format_and_what_is_not_used_change_nothing(made, old, new):
    assert made() == made(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("for p in partials", "for p in partials[:1]"),
        ("LIMIT = 5", "LIMIT = 6"),
        ("return x * 2", "return x * 3"),
        ("factor = 1.5", "factor = 2.5"),
        ("by=2.0", "by=3.0"),
        ("rest=0", "rest=1"),
        ("halved(1)", "halved(2)"),
        ("return x / 2", "return x / 4"),
        ("return halved(3)", "return halved(4)"),
        ("return x / PARTS", "return x / PARTS / 2"),
        ("PARTS = 3", "PARTS = 4"),
        ("class Main(Base, OneInput)", "class Main(OneInput)"),
    ],
)
def test_what_a_value_depends_on_changes_the_id(made, old, new):
    assert made()[0] != made(old, new)[0]


def test_members_of_enums_of_this_package_are_constants_and_others_may_have_code(made):
    assert made("LIMIT = 5", "from bedplate.layers.axes import ID_ROWS as LIMIT")[0] != made()[0]
    with pytest.raises(DefinitionError, match=r"'Main\.depth' is a Kind, which can change"):
        made("LIMIT = 5", "import enum\nclass Kind(enum.Enum):\n    ONE = 1\nLIMIT = Kind.ONE")


def test_a_function_that_a_module_of_the_project_is_asked_for_is_followed(made):
    assert made()[1] != made("return x / PARTS", "return x / PARTS / 2")[1]
    assert made()[1] != made("PARTS = 3", "PARTS = 4")[1]
    assert made()[1] == made("return x / 2", "return x / 4")[1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("LIMIT = 5", "LIMIT = [5]", r"'Main\.depth' is a list, which can change"),
        ("PARTS = 3", "PARTS = {3}", r"'PARTS', which 'identity_beside\.thirds' uses, is a set"),
        ("by=2.0", "by=[]", "the default 0 of 'identity_main.Main.scaled' is a list"),
    ],
)
def test_what_can_change_is_refused(made, old, new, message):
    with pytest.raises(DefinitionError, match=message):
        made(old, new)


def test_variables_of_a_function_around_it_are_refused():
    by = 2

    class Local:
        def finalize(self):
            return by

    with pytest.raises(DefinitionError, match="is made inside another function, and may depend on its variables"):
        class_id(Local, "local")


def test_a_class_of_no_file_is_refused():
    namespace = {"__name__": "of_no_file"}
    exec("class Typed: pass", namespace)
    with pytest.raises(DefinitionError, match="the source of 'Typed' can't be read: it is in no file"):
        class_id(namespace["Typed"], "typed")
