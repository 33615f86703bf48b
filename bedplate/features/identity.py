"""The identity of a Python function: its name and the source of all of the project's code that its value depends on."""

from __future__ import annotations

import ast
import dis
import inspect
import re
import textwrap
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeAlias, cast
from zoneinfo import ZoneInfo

import numpy as np

from bedplate.canonical import digest
from bedplate.errors import DefinitionError

_CONSTANT: tuple[Any, ...] = (str, bytes, int, float, complex, date, timedelta, ZoneInfo, np.generic, np.dtype)
_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME")

_Forms: TypeAlias = dict[str, str]


def function_form(function: Any, place: str) -> dict[str, str]:
    """The canonical form of a function: its name, and the id of what it does.

    The id is that of its code (without comments and docstring), of its defaults, and of the functions and constants
    that it uses from its own file, from files beside it and from its own package. Functions of other libraries are
    taken by their names.

    Args:
        function: the function.
        place: what a message calls the definition.

    Raises:
        DefinitionError: it is not a plain function at the top of a file, or uses something that can change.
    """
    checked = _plain(function, place)
    forms: _Forms = {}
    _add(checked, checked, forms, place)
    return {"function": _name(checked), "id": digest(forms)}


def _plain(function: Any, place: str) -> FunctionType:
    hint = "define it with def at the top of a file; what it needs beside its inputs are constants of that file"
    if not isinstance(function, FunctionType):
        kind = f"a {type(function).__name__}"
        raise DefinitionError(f"got {kind}, expected a function that def makes", where=place, hint=hint)
    if function.__name__ == "<lambda>":
        raise DefinitionError("got a lambda, which has no name that stays", where=place, hint=hint)
    if function.__closure__ or "<locals>" in function.__qualname__:
        raise DefinitionError(
            f"'{function.__qualname__}' is made inside another function, and may depend on its variables",
            where=place,
            hint=hint,
        )
    return function


def _name(value: Any) -> str:
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or repr(value)
    return f"{getattr(value, '__module__', None) or ''}.{name}".strip(".")


def _add(function: FunctionType, root: FunctionType, forms: _Forms, place: str) -> None:
    """Adds what a function depends on, and itself."""
    name = _name(function)
    if name in forms:
        return
    forms[name] = _source(function, place)
    defaults = {**dict(enumerate(function.__defaults__ or ())), **(function.__kwdefaults__ or {})}
    for key, value in defaults.items():
        forms[f"{name} default {key}"] = _constant(value, f"the default {key!r} of '{name}'", place)
    for used in sorted(set(_globals(function.__code__))):
        if used not in function.__globals__:
            continue  # a builtin, or not there: then the function fails by itself
        value = function.__globals__[used]
        own = _own(value, root)
        if own is not None:
            _add(own, root, forms, place)
        elif isinstance(value, ModuleType):
            forms[f"{name} module {used}"] = value.__name__
        elif _is_named(value):
            forms[f"{name} name {used}"] = _class_source(value, root) or _name(value)
        else:
            forms[f"{name} constant {used}"] = _constant(value, f"'{used}', which '{name}' uses,", place)


def _globals(code: CodeType) -> Iterator[str]:
    """The global names that code reads, those of the functions and comprehensions inside it too."""
    yield from (str(i.argval) for i in dis.get_instructions(code) if i.opname in _GLOBAL)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals(constant)


def _own(value: Any, root: FunctionType) -> FunctionType | None:
    """The function behind a value where it is of the root's file, folder or package; a cached or compiled one too."""
    inner = getattr(value, "py_func", None) or getattr(value, "__wrapped__", None) or value
    if not isinstance(inner, FunctionType):
        return None
    package = inner.__module__.partition(".")[0] == root.__module__.partition(".")[0]
    beside = Path(inner.__code__.co_filename).parent == Path(root.__code__.co_filename).parent
    return inner if package or beside else None


def _is_named(value: Any) -> bool:
    """Whether its name says what this is: a function, a class or a NumPy ufunc, and no object that can be called."""
    return isinstance(value, np.ufunc) or (callable(value) and isinstance(getattr(value, "__qualname__", None), str))


def _class_source(value: Any, root: FunctionType) -> str | None:
    """The source of a class of the root's file."""
    return inspect.getsource(value) if isinstance(value, type) and value.__module__ == root.__module__ else None


def _source(function: FunctionType, place: str) -> str:
    try:
        text = textwrap.dedent(inspect.getsource(function))
        [definition] = ast.parse(text).body
    except (OSError, TypeError, SyntaxError, ValueError) as error:
        raise DefinitionError(
            f"the source of '{function.__qualname__}' can't be read: {error}",
            where=place,
            hint="put the function into one of the project's files",
        ) from error
    for node in ast.walk(definition):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(definition)


def _constant(value: Any, what: str, place: str) -> str:
    """The text of a value that can't change.

    Raises:
        DefinitionError: it can.
    """
    if value is None or isinstance(value, _CONSTANT):
        return repr(value)
    if isinstance(value, re.Pattern):
        return repr((cast("re.Pattern[str]", value).pattern, value.flags))
    if isinstance(value, tuple | frozenset):
        members = cast("tuple[Any, ...]", value)
        texts = [_constant(v, what, place) for v in members]
        return f"frozenset({sorted(texts)})" if isinstance(value, frozenset) else f"tuple({texts})"
    if _is_named(value):
        return _name(value)
    raise DefinitionError(
        f"{what} is a {type(value).__name__}, which can change and so has no canonical form",
        where=place,
        hint="make it a constant: a number, a text, a tuple or a frozenset of them, a compiled pattern",
    )
