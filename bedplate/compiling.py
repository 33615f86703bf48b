"""Compiled loops: the one way in which they are compiled, and remembered on disk.

Numba remembers a compiled function by the file that it is in, and compiles into it what it calls of other files. When
only such another file has changed, the remembered function goes on with the old code, and may give wrong values
(https://numba.readthedocs.io/en/stable/user/jit.html#cache). So what is remembered here is also by the source of all
that the function calls and the values of the constants that it uses, wherever they are.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar, cast, final

import numba
import numba.core.caching
import numpy as np

from bedplate.canonical import digest_bytes

_FunctionCache: Any = numba.core.caching.FunctionCache
_Function = TypeVar("_Function", bound=Callable[..., Any])

_CONSTANTS: tuple[type[object], ...] = (bool, int, float, str, bytes, tuple, np.generic)
_PACKAGE = __name__.partition(".")[0]


@functools.cache
def code_id(function: FunctionType) -> str:
    """The hash of a function's source, of all functions that it calls with their options, and of the constants used."""
    return digest_bytes(text.encode() for _, text in sorted(_parts(function, {}).items()))


def _parts(function: FunctionType, found: dict[str, str]) -> dict[str, str]:
    """Source and constants by where they are."""
    place = f"{function.__module__}.{function.__qualname__}"
    if place not in found:
        found[place] = inspect.getsource(function)
        for name, value in _used(function):
            if isinstance(value, _CONSTANTS):
                found[f"{place} {name}"] = repr(value)
            elif isinstance(value, np.ndarray):
                found[f"{place} {name}"] = value.tobytes().hex()
            elif isinstance(inner := getattr(value, "py_func", value), FunctionType):
                found[f"{place} {name}"] = _text(getattr(value, "targetoptions", {}))
                _parts(inner, found)
            elif (module := getattr(value, "__module__", None) or "").startswith(_PACKAGE):
                found[module] = Path(inspect.getfile(inspect.getmodule(value) or function)).read_text()
    return found


def _used(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """The globals and the variables around it that a function names, those of a module of this package one by one."""
    names = set(_names(function.__code__))
    around = inspect.getclosurevars(function).nonlocals
    for name, value in {**{n: function.__globals__[n] for n in names & function.__globals__.keys()}, **around}.items():
        if isinstance(value, ModuleType):
            if value.__name__.startswith(_PACKAGE):
                yield from ((f"{name}.{n}", getattr(value, n)) for n in sorted(names) if hasattr(value, n))
        else:
            yield name, value


def _text(options: dict[str, Any]) -> str:
    return repr(sorted(options.items()))


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


@final
class _Cache(_FunctionCache):
    """Numba's cache of a function; an entry is found by `code_id` and the options too."""

    def __init__(self, function: Any, options: dict[str, Any]) -> None:
        _FunctionCache.__init__(self, function)
        self._options = _text(options)

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        of_function: Any = _FunctionCache._index_key(self, sig, codegen)
        return (*of_function, code_id(self._py_func), self._options)


def compiled(function: _Function, **options: Any) -> _Function:
    """The function compiled when it is first called, remembered on disk, without the interpreter's lock.

    Args:
        function: the function.
        options: further ones of `numba.njit`.
    """
    dispatcher: Any = numba.njit(nogil=True, **options)(function)
    dispatcher._cache = _Cache(function, options)  # what `cache=True` does, with another key
    return cast("_Function", dispatcher)
