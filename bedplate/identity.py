"""The identity of Python code that makes values: a function's, a class's.

It is the name and the source of all of the project's code that the values depend on, without comments and docstrings.
"""

from __future__ import annotations

import ast
import dis
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from enum import Enum
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeAlias, cast, final
from weakref import WeakKeyDictionary
from zoneinfo import ZoneInfo

import numpy as np

from bedplate.canonical import digest
from bedplate.errors import DefinitionError

_CONSTANT: tuple[Any, ...] = (str, bytes, int, float, complex, date, timedelta, ZoneInfo, np.generic, np.dtype)
_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME")
_ATTRIBUTE = ("LOAD_ATTR", "LOAD_METHOD")
_NO_CODE = ("bedplate", "torch", *sys.stdlib_module_names)
"""Packages whose classes are taken by their names where a class inherits from them."""

_Forms: TypeAlias = dict[str, str]

_classes: WeakKeyDictionary[type, str] = WeakKeyDictionary()


@final
@dataclass(frozen=True, slots=True)
class _Home:
    """Where code is: what lies in the same package or folder belongs to it."""

    package: str
    folder: Path

    @staticmethod
    def of(value: FunctionType | type) -> _Home:
        return _Home(value.__module__.partition(".")[0], _file(value).parent)

    def has(self, value: FunctionType | type | ModuleType) -> bool:
        module = value.__name__ if isinstance(value, ModuleType) else value.__module__
        return module.partition(".")[0] == self.package or _file(value).parent == self.folder


def _file(value: FunctionType | type | ModuleType) -> Path:
    if isinstance(value, FunctionType):
        return Path(value.__code__.co_filename)
    module = value if isinstance(value, ModuleType) else sys.modules.get(value.__module__)
    return Path(getattr(module, "__file__", None) or "/nowhere/at/all")


def function_form(function: Any, place: str) -> dict[str, str]:
    """The canonical form of a function: its name, and the id of what it does.

    The id is that of its code (without comments and docstring), of its defaults, and of the functions, classes and
    constants that it uses from its own file, from files beside it and from its own package. Functions of other
    libraries are taken by their names.

    Args:
        function: the function.
        place: what a message calls the definition.

    Raises:
        DefinitionError: it is not a plain function at the top of a file, or uses something that can change.
    """
    checked = _plain(function, place)
    forms: _Forms = {}
    _add(checked, _Home.of(checked), forms, place)
    return {"function": _name(checked), "id": digest(forms)}


def class_id(kind: type, place: str) -> str:
    """The id of what a class does.

    It is that of its code (without comments and docstrings), of the values of its attributes, of what its methods use,
    as for `function_form`, and of the classes that it inherits from; those of Bedplate and of Python count by their
    names.

    Args:
        kind: the class.
        place: what a message calls the definition.

    Raises:
        DefinitionError: its source can't be read, or it uses something that can change.
    """
    if kind not in _classes:
        forms: _Forms = {}
        for one in kind.__mro__:
            if one.__module__.partition(".")[0] in _NO_CODE:
                forms[_name(one)] = ""
            else:
                _add_class(one, forms, place)
        _classes[kind] = digest(forms)
    return _classes[kind]


def _add_class(kind: type, forms: _Forms, place: str) -> None:
    name, home = _name(kind), _Home.of(kind)
    forms[name] = _source(kind, place)
    for attribute, value in vars(kind).items():
        functions = _functions(value)
        for function in functions:
            _check_variables(function, {"__class__"}, place)
            if not _is_inside(function, kind):
                _add(function, home, forms, place)
            elif not function.__code__.co_filename.startswith("<"):  # a decorator made it of what the class says
                _add_used(function, home, forms, place)
        is_special = attribute.startswith("__") or attribute == "_abc_impl" or hasattr(value, "__get__")
        if not functions and not is_special:
            forms[f"{name} attribute {attribute}"] = _constant(value, f"'{kind.__qualname__}.{attribute}'", place)


def _functions(value: Any) -> list[FunctionType]:
    """The functions behind an attribute of a class: of a method, a property, a static or a cached one."""
    if isinstance(value, property):
        parts: list[Any] = [value.fget, value.fset, value.fdel]
    else:
        parts = [getattr(value, "__func__", None) or getattr(value, "func", None) or value]
    return [f for f in map(_unwrapped, parts) if f is not None]


def _is_inside(function: FunctionType, kind: type) -> bool:
    """Whether the source of a class holds that of a function."""
    return function.__module__ == kind.__module__ and function.__qualname__.startswith(f"{kind.__qualname__}.")


def _plain(function: Any, place: str) -> FunctionType:
    hint = "define it with def at the top of a file; what it needs beside its inputs are constants of that file"
    if not isinstance(function, FunctionType):
        kind = f"a {type(function).__name__}"
        raise DefinitionError(f"got {kind}, expected a function that def makes", where=place, hint=hint)
    if function.__name__ == "<lambda>":
        raise DefinitionError("got a lambda, which has no name that stays", where=place, hint=hint)
    _check_variables(function, set(), place, inside="<locals>" in function.__qualname__)
    return function


def _check_variables(function: FunctionType, known: set[str], place: str, *, inside: bool = False) -> None:
    """Raises `DefinitionError` where a function uses variables of a function around it."""
    if inside or set(function.__code__.co_freevars) - known:
        raise DefinitionError(
            f"'{function.__qualname__}' is made inside another function, and may depend on its variables",
            where=place,
            hint="define it at the top of a file; what it needs beside its inputs are constants of that file",
        )


def _name(value: Any) -> str:
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or repr(value)
    return f"{getattr(value, '__module__', None) or ''}.{name}".strip(".")


def _add(function: FunctionType, home: _Home, forms: _Forms, place: str) -> None:
    """Adds a function and what it depends on."""
    if _name(function) not in forms:
        forms[_name(function)] = _source(function, place)
        _add_used(function, home, forms, place)


def _add_used(function: FunctionType, home: _Home, forms: _Forms, place: str) -> None:
    """Adds what a function depends on."""
    name = _name(function)
    defaults = {**dict(enumerate(function.__defaults__ or ())), **(function.__kwdefaults__ or {})}
    for key, value in defaults.items():
        forms[f"{name} default {key}"] = _constant(value, f"the default {key!r} of '{name}'", place)
    for path in sorted(set(_globals(function.__code__))):
        if path[0] not in function.__globals__:
            continue  # a builtin, or not there: then the function fails by itself
        used, value = _resolved(path, function.__globals__[path[0]], home)
        own = _unwrapped(value)
        if own is not None and home.has(own):
            _add(own, home, forms, place)
        elif isinstance(value, ModuleType):
            forms[f"{name} module {used}"] = value.__name__
        elif _is_named(value):
            is_own = isinstance(value, type) and home.has(value)
            forms[f"{name} name {used}"] = _source(value, place) if is_own else _name(value)
        else:
            forms[f"{name} constant {used}"] = _constant(value, f"'{used}', which '{name}' uses,", place)


def _globals(code: CodeType) -> Iterator[tuple[str, ...]]:
    """The global names that code reads, those of the functions and comprehensions inside it too.

    Each comes with the attributes that are read of it, one after the other.
    """
    path: list[str] = []
    for instruction in dis.get_instructions(code):
        if instruction.opname in _ATTRIBUTE and path:
            path.append(str(instruction.argval))
        elif instruction.opname != "EXTENDED_ARG":
            if path:
                yield tuple(path)
            path = [str(instruction.argval)] if instruction.opname in _GLOBAL else []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals(constant)


def _resolved(path: tuple[str, ...], value: Any, home: _Home) -> tuple[str, Any]:
    """The name and value of what is used: of modules of the project's own what is read from them."""
    name, *attributes = path
    for attribute in attributes:
        if not (isinstance(value, ModuleType) and home.has(value) and hasattr(value, attribute)):
            break
        name, value = f"{name}.{attribute}", getattr(value, attribute)
    return name, value


def _unwrapped(value: Any) -> FunctionType | None:
    """The function behind a value; a cached or compiled one too."""
    inner = getattr(value, "py_func", None) or getattr(value, "__wrapped__", None) or value
    return inner if isinstance(inner, FunctionType) else None


def _is_named(value: Any) -> bool:
    """Whether its name says what this is: a function, a class or a NumPy ufunc, and no object that can be called."""
    return isinstance(value, np.ufunc) or (callable(value) and isinstance(getattr(value, "__qualname__", None), str))


def _source(value: FunctionType | type, place: str) -> str:
    try:
        text = textwrap.dedent(inspect.getsource(value))
        [definition] = ast.parse(text).body
    except (OSError, TypeError, SyntaxError, ValueError) as error:
        kind = "class" if isinstance(value, type) else "function"
        reason = "it is in no file" if isinstance(error, OSError | TypeError) else str(error)
        raise DefinitionError(
            f"the source of '{value.__qualname__}' can't be read: {reason}",
            where=place,
            hint=f"put the {kind} into one of the project's files",
        ) from error
    for node in ast.walk(definition):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(node):
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
    if isinstance(value, Enum) and type(value).__module__.startswith("bedplate."):  # one of a project may have code
        return f"{_name(type(value))}.{value.name}"
    if _is_named(value):
        return _name(value)
    raise DefinitionError(
        f"{what} is a {type(value).__name__}, which can change and so has no canonical form",
        where=place,
        hint="make it a constant: a number, a text, a tuple or a frozenset of them, a compiled pattern",
    )
