"""Compiled loops: the one way in which they are compiled, and remembered on disk.

Numba remembers a compiled function by the file that it is in, and compiles into it what it calls of other files. When
only such another file has changed, the remembered function goes on with the old code, and may give wrong values
(https://numba.readthedocs.io/en/stable/user/jit.html#cache). So what is remembered here is of the content of all files
with compiled loops and of what they import.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast, final

import numba
import numba.core.caching

from bedplate.canonical import digest_bytes

_FunctionCache: Any = numba.core.caching.FunctionCache
_Function = TypeVar("_Function", bound=Callable[..., Any])


_LOOP = re.compile(rb"^@(?:compiled|jit|_inline)$", re.MULTILINE)
_IMPORT = re.compile(rb"^from bedplate\.([\w.]+) import", re.MULTILINE)


@functools.cache
def loops_id(package: Path = Path(__file__).parent) -> str:
    """The hash of all files with compiled loops, and of those from which they import functions and constants."""
    contents = {path: path.read_bytes() for path in package.rglob("*.py")}
    found = {path for path, content in contents.items() if _LOOP.search(content)}
    for path in sorted(found):
        modules = (name.decode() for name in _IMPORT.findall(contents[path]))
        found |= {package / f"{name.replace('.', '/')}.py" for name in modules} & contents.keys()
    return digest_bytes(contents[path] for path in sorted(found))


@final
class _Cache(_FunctionCache):
    """Numba's cache of a function; an entry is found by `loops_id` too."""

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        of_function: Any = _FunctionCache._index_key(self, sig, codegen)
        return (*of_function, loops_id())


def compiled(function: _Function, **options: Any) -> _Function:
    """The function compiled when it is first called, remembered on disk, without the interpreter's lock.

    Args:
        function: the function.
        options: further ones of `numba.njit`.
    """
    dispatcher: Any = numba.njit(nogil=True, **options)(function)
    dispatcher._cache = _Cache(function)  # what `cache=True` does, with another key
    return cast("_Function", dispatcher)
