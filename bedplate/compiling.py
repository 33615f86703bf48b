"""Compiled loops: the one way in which they are compiled, and remembered on disk.

Numba remembers a compiled function by the file that it is in, and compiles into it what it calls of other files. When
only such another file has changed, the remembered function goes on with the old code, and may give wrong values
(https://numba.readthedocs.io/en/stable/user/jit.html#cache). So what is remembered here is also by the source of all
that the function calls and the values of the constants that it uses, wherever they are.

A process that only runs what is remembered does not prepare for compiling, which takes Numba half a second.

Processes that start together need the same functions at once: one of them compiles a function, and the others wait and
read what it wrote.

Two more of Numba's ways are replaced, for they make a process run what another one compiled of something else:

- It counts functions in each process, the count is part of the names in the machine code, and of two pieces of code
  with one name the first that is loaded is run for both (https://github.com/numba/numba/issues/10486). Here numbers are
  random.
- It numbers files in an index that is written before them: a process that is killed in between, or two that write at
  once, leave a number for the code of something else. Here a file is named by what is in it.
"""

from __future__ import annotations

import fcntl
import functools
import importlib
import inspect
import linecache
import logging
import os
import pickle
import re
import secrets
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar, cast, final

import numba
import numba.core.bytecode
import numba.core.caching
import numba.core.environment
import numba.core.serialize
import numpy as np

from bedplate.canonical import digest_bytes
from bedplate.files import remove_leftovers, write_atomic

log = logging.getLogger("bedplate.compiling")

_FunctionCache: Any = numba.core.caching.FunctionCache
_identity: Any = numba.core.bytecode.FunctionIdentity
_environments: Any = numba.core.environment
_serialize: Any = numba.core.serialize
_numpy_support: Any = importlib.import_module("numba.np.numpy_support")
_helpers: Any = importlib.import_module("numba.core.runtime._nrt_python").c_helpers
_binding: Any = importlib.import_module("llvmlite.binding")  # without type stubs
_Function = TypeVar("_Function", bound=Callable[..., Any])

_FORM = "calls, names, compressed bitcode, environments and code"
"""What is in a file."""
_CONSTANTS: tuple[type[object], ...] = (bool, int, float, str, bytes, tuple, np.generic)
_LONGEST_WAIT = 120.0
"""Seconds to wait for what another process compiles: none takes so long, but one that is stopped ends never."""
_LOOK = 0.02  # seconds
_PACKAGE = __name__.partition(".")[0]


@functools.cache
def code_id(function: FunctionType) -> str:
    """The hash of a function's source, of all functions that it calls with their options, and of the constants used."""
    return digest_bytes(text.encode() for _, text in sorted(_parts(function, {}).items()))


def _parts(function: FunctionType, found: dict[str, str]) -> dict[str, str]:
    """Source and constants by where they are."""
    place = f"{function.__module__}.{function.__qualname__}"
    if place not in found:
        found[place] = _source(function)
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


def _source(function: FunctionType) -> str:
    """The lines of a function, from its first decorator on. `inspect` reads it word by word to find its end."""
    code = function.__code__
    last = max((end or 0 for _, end, _, _ in _positions(code)), default=0)
    if not last:  # as with -X no_debug_ranges
        return inspect.getsource(function)
    return "".join(linecache.getlines(code.co_filename)[code.co_firstlineno - 1 : last])


def _positions(code: CodeType) -> Iterator[tuple[int | None, int | None, int | None, int | None]]:
    yield from code.co_positions()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _positions(constant)


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


def _numbers() -> Iterator[int]:
    """Numbers of functions that no other process draws, nor one that is forked from this one; all have 19 digits."""
    while True:
        yield 2**62 + secrets.randbits(62)


_identity._unique_ids = _numbers()
_COUNTED = re.compile(r"B\dv\d+B")
"""In a name in machine code: a number of so few digits that Numba counted it, before this file was imported."""


@final
class _Entries:
    """The files of a function's compiled forms, each named by what went into it, with a digest of its content."""

    def __init__(self, folder: Path, base: str, stamp: Any) -> None:
        self._folder, self._base = folder, base
        self._version = f"{base}.{_short(stamp)}"

    def save(self, key: Any, form: Any) -> None:
        """Writes a form, and deletes those of other versions of the function's file."""
        content = _serialize.dumps(form)
        path = self._path(key)
        write_atomic(path, digest_bytes([path.name.encode(), content]).encode() + content)
        remove_leftovers(self._folder)
        for other in self._folder.iterdir():
            if other.name.startswith(f"{self._base}.") and not other.name.startswith(f"{self._version}."):
                other.unlink(missing_ok=True)

    def load(self, key: Any) -> Any:
        """A form; None: there is none, or its file is not what was written."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        begin = len(digest_bytes([]))
        if digest_bytes([path.name.encode(), data[begin:]]).encode() != data[:begin]:
            return None
        return pickle.loads(data[begin:])

    def turn(self, key: Any) -> int | None:
        """Waits until no other process compiles a form, and takes it on.

        Returns:
            the turn; None: the disk has no locks, or another process, which may have been stopped, takes very long.
        """
        place, until = int(_short(self._path(key).name)[:15], 16), monotonic() + _LONGEST_WAIT
        while True:
            try:
                fcntl.lockf(_turns(self._folder), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            except (BlockingIOError, PermissionError):  # as the system says that another process has it
                if monotonic() > until:
                    return None
                sleep(_LOOK)
            except OSError:
                return None
            else:
                return place

    def end_turn(self, place: int) -> None:
        """Lets others have a form; the system does so when the process ends."""
        fcntl.lockf(_turns(self._folder), fcntl.LOCK_UN, 1, place)

    def _path(self, key: Any) -> Path:
        types, *others = key
        return (
            self._folder / f"{self._version}.{_short([_FORM, numba.__version__, [str(t) for t in types], others])}.nbc"
        )


@functools.cache
def _turns(folder: Path) -> int:
    """The file of which a process locks a byte for each form that it compiles. Never closed: that ends the locks."""
    folder.mkdir(parents=True, exist_ok=True)
    return os.open(folder / "turns", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _short(value: Any) -> str:
    return digest_bytes([repr(value).encode()])[:24]


@final
class _Cache(_FunctionCache):
    """Numba's cache of a function; an entry is found by `code_id` and the options too."""

    def __init__(self, function: Any, options: dict[str, Any]) -> None:
        _FunctionCache.__init__(self, function)
        self._options = _text(options)
        place: Any = self._impl.locator
        self._cache_file = _Entries(Path(self._cache_path), self._impl.filename_base, place.get_source_stamp())
        self._turns: dict[Any, int] = {}

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What was remembered, also by another process that compiles it now; None: this process is to compile it."""
        found = self._remembered(sig, target_context)
        if (
            found is None
            and (turn := self._cache_file.turn(self._index_key(sig, target_context.codegen()))) is not None
        ):
            self._turns[sig] = turn
            found = self._remembered(sig, target_context)
        return found

    def end_turn(self, sig: Any) -> None:
        """Lets other processes have a signature, whether it was compiled or not."""
        if (turn := self._turns.pop(sig, None)) is not None:
            self._cache_file.end_turn(turn)

    def _remembered(self, sig: Any, target_context: Any) -> Any:
        """What is on disk for these types; None: nothing.

        What it calls by name has to be there, or it would crash: if it is not, Numba prepares for compiling.
        """
        found = self._cache_file.load(self._index_key(sig, target_context.codegen()))
        if found is None:
            return None
        (calls, defined, inner), names, (*form, others) = found
        _declare_runtime()
        if any(_binding.address_of_symbol(name) is None for name in calls):
            target_context.refresh()
        environments = (*others, *map(_environment, names))
        target_context.codegen()._engine._defined_symbols.update(defined)
        result = self._impl.rebuild(target_context, (*form, environments))
        # Read where another function is compiled that takes this one in, which takes ten times the memory.
        result.library._get_module_for_linking = functools.cache(lambda: _binding.parse_bitcode(zlib.decompress(inner)))
        return result

    def save_overload(self, sig: Any, data: Any) -> None:
        """Remembers what was compiled, if its names are its own and the disk takes it; it runs all the same."""
        if any(_COUNTED.search(f.name) for f in data.library.get_defined_functions()):
            _warn_once("Numba compiled parts of them before bedplate was imported: import it first")
            return
        if not self._impl.check_cachable(data):
            return
        try:
            self._impl.locator.ensure_cache_path()
            (library, kind, (code, inner)), *form, environments = self._impl.reduce(data)
            names = [e.env_name for e in environments if not e.consts]
            others = tuple([e for e in environments if e.consts])
            machine = (library, kind, (code, _binding.parse_assembly("").as_bitcode()))
            found = ((*_symbols(data.library), zlib.compress(inner)), names, (machine, *form, others))
            self._cache_file.save(self._index_key(sig, data.codegen), found)
        except OSError as e:
            _warn_once(f"{self._cache_path}: {e.strerror or e}")

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        of_function: Any = _FunctionCache._index_key(self, sig, codegen)
        return (*of_function, code_id(self._py_func), self._options)


@functools.cache
def _declare_runtime() -> None:
    """Tells what machine code calls of Numba's runtime. Numba does that too, and compiles a part of it again."""
    for name, address in _helpers.items():
        _binding.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)


def _environment(name: str) -> Any:
    """What machine code of a function looks for before it begins, and reads only where it has constants.

    Numba gives it the globals of the function's module, which it imports for that: `np.zeros` costs 5 MB.
    """
    found = _environments.lookup_environment(name)
    if found is None:
        found = _environments.Environment({})
        found.env_name = name
        _environments.Environment._memo[name] = found
    return found


def _symbols(library: Any) -> tuple[list[str], list[str]]:
    """The functions that machine code calls by name and doesn't hold, and the names of what it holds."""
    module = library._final_module
    calls = [f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")]
    return calls, [s.name for s in (*module.functions, *module.global_variables) if not s.is_declaration]


@functools.cache
def _warn_once(why: str) -> None:
    log.warning("compiled loops are not remembered, each process spends a minute on them (%s)", why)


def compiled(function: _Function, **options: Any) -> _Function:
    """The function compiled when it is first called, remembered on disk, without the interpreter's lock.

    Args:
        function: the function.
        options: further ones of `numba.njit`.
    """
    dispatcher: Any = numba.njit(nogil=True, **options)(function)
    try:
        cache = _Cache(function, options)
    except RuntimeError:
        _warn_once("set NUMBA_CACHE_DIR to a folder that can be written")
        return cast("_Function", dispatcher)
    dispatcher._cache = cache  # what `cache=True` does, with other keys and files
    dispatcher.compile = functools.partial(_compile, dispatcher.compile, cache)
    dispatcher.typeof_pyval = functools.partial(_type_of, dispatcher.typeof_pyval)
    return cast("_Function", dispatcher)


def _compile(compile_form: Callable[[Any], Any], cache: _Cache, sig: Any) -> Any:
    try:
        return compile_form(sig)
    finally:
        cache.end_turn(sig)


def _type_of(of_any: Callable[[Any], Any], value: Any) -> Any:
    """The type of an argument. Numba asks of an array whether it is masked, and imports `numpy.ma` for that: 1.4 MB."""
    if type(value) is np.ndarray and value.dtype.kind in "bifu":
        dtype, layout = _numpy_support.from_dtype(value.dtype), _numpy_support.map_layout(value)
        return numba.types.Array(dtype, value.ndim, layout, readonly=not value.flags.writeable)
    return of_any(value)
