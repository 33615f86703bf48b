"""Runs the files of a Feast repository against a stand-in for the package `feast` that records what they define.

A program of its own: it needs the standard library only, so that any interpreter runs it, with Feast or without. Every
name that a file takes from `feast` or a module below it is a class that is made on the spot; calling it makes a record
of the call. A library that is not installed is stood in for too, by objects that let anything be done with them: they
matter only where a definition depends on them.

    python feast_recorder.py REPOSITORY ANSWER.json
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import json
import math
import os
import sys
import traceback
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path, PurePath
from typing import Any, cast

FEAST = "feast"
IGNORED = (".git", ".feastignore", ".venv", "**/.ipynb_checkpoints", "**/.pytest_cache", "**/__pycache__")
"""What Feast never reads, beside what the repository's .feastignore names."""


PUBLIC = {
    "feast": (
        *("Aggregation", "AthenaSource", "BatchFeatureView", "BigQuerySource", "ConflictPolicy", "Entity", "Feature"),
        *("FeatureService", "FeatureStore", "FeatureView", "Field", "FileSource", "KafkaSource", "KinesisSource"),
        *("LabelView", "OnDemandFeatureView", "OracleSource", "Project", "PushSource", "RedshiftSource", "RepoConfig"),
        *("RequestSource", "SnowflakeSource", "StreamFeatureView", "ValueType"),
    ),
    "feast.types": (
        *("Array", "Bool", "Bytes", "Decimal", "Float32", "Float64", "Int32", "Int64", "Invalid", "Json", "Map"),
        *("Set", "String", "Struct", "UnixTimestamp", "Uuid"),
    ),
}
"""What `from MODULE import *` takes."""


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


class Name(type):
    """The class of every name of the stand-in; an attribute of one is another."""

    def __getattr__(cls, name: str) -> Any:
        """A name below this one, such as `ValueType.STRING`."""
        if _is_special(name):
            raise AttributeError(name)
        return named(f"{cls.__module__}.{cls.__qualname__}.{name}")


@dataclass
class Made:
    """How a recorded object came to be: the name that was called and with what, or what it was taken from and how."""

    kind: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict[str, Any])
    place: list[Any] = field(default_factory=list[Any])
    base: Recorded | None = None


class Recorded(metaclass=Name):
    """A call of one of Feast's names, or something that a file took from such a call.

    Beside `recorded` its attributes are those of Feast's object, as far as the arguments tell.
    """

    recorded = Made("?")
    """Of a class of the repository's own that does not call the constructor."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kind = next(k.__qualname__ for k in type(self).__mro__ if k.__module__.partition(".")[0] == FEAST)
        self.recorded = Made(kind, args, kwargs, _place())

    def __getattr__(self, name: str) -> Any:
        """An argument of the call by its name, or a record of the attribute."""
        if _is_special(name):
            raise AttributeError(name)
        given = self.recorded.kwargs
        if name == "join_key":
            return (given.get("join_keys") or [given.get("name")])[0]
        return given[name] if name in given else taken(self, "attribute", name)

    def __getitem__(self, item: Any) -> Any:
        """A record of the item, such as a feature view's choice of features."""
        return taken(self, "item", item)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """A record of the call, such as a decorator's of its function."""
        return taken(self, "call", *args, **kwargs)

    def __iter__(self) -> Iterator[Any]:
        """Nothing."""
        return iter(())


Recorded.__module__ = FEAST


def taken(base: Recorded, kind: str, *args: Any, **kwargs: Any) -> Recorded:
    """What a file took from a recorded object."""
    record = Recorded()
    record.recorded = Made(kind, args, kwargs, _place(), base)
    return record


_names: dict[str, Name] = {}


def named(full: str) -> Name:
    """The class of a name, the same one each time."""
    if full not in _names:
        module, _, name = full.rpartition(".")
        _names[full] = Name(name, (Recorded,), {"__module__": module})
    return _names[full]


class Missing:
    """Stands for anything of a library that is not installed: whatever is done with it gives another one."""

    def __init__(self, name: str) -> None:
        self.missing_name = name

    def __getattr__(self, name: str) -> Any:
        """Another one."""
        if _is_special(name):
            raise AttributeError(name)
        return Missing(f"{self.missing_name}.{name}")

    def _other(self, *args: Any, **kwargs: Any) -> Any:
        return Missing(self.missing_name)

    __call__ = __getitem__ = __enter__ = _other
    __add__ = __radd__ = __sub__ = __mul__ = __truediv__ = __or__ = __ror__ = __and__ = __lt__ = __gt__ = _other

    def __str__(self) -> str:
        """What it stands for."""
        return f"<{self.missing_name}>"

    def __exit__(self, *args: Any) -> None:
        """Nothing to leave."""

    def __iter__(self) -> Iterator[Any]:
        """Nothing."""
        return iter(())

    def __mro_entries__(self, bases: Any) -> tuple[type, ...]:
        """A class that derives from it derives from nothing."""
        return ()


class StandIn(types.ModuleType):
    """A module whose names are made when they are asked for."""

    def __getattr__(self, name: str) -> Any:
        """A name of `feast`, or something of a library that is missing."""
        if name == "__version__":
            return "0"
        if _is_special(name):
            raise AttributeError(name)
        full = f"{self.__name__}.{name}"
        return named(full) if full.partition(".")[0] == FEAST else Missing(full)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds stand-ins: for everything below one package, or for top-level packages that no other finder found."""

    def __init__(self, package: str | None) -> None:
        self.package = package
        self.found: list[str] = []

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """A module's spec, or None: not for this finder."""
        top = fullname.partition(".")[0]
        if self.package is None:
            # What installed libraries look for and don't find is their own affair.
            if top not in self.found and ("." in fullname or not _imported_by_repository()):
                return None
            if top not in self.found:
                self.found.append(top)
        elif top != self.package:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """The module."""
        return StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Gives it the list of its public names."""
        vars(module)["__all__"] = PUBLIC.get(module.__name__, ())


_repository = Path("/nowhere")


def _place() -> list[Any]:
    """The file of the repository, and the line in it, that is being executed; empty where none is."""
    frame = inspect.currentframe()
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(_repository):
            return [file.relative_to(_repository).as_posix(), frame.f_lineno]
        frame = frame.f_back
    return []


def _imported_by_repository() -> bool:
    """Whether the import that is going on stands in a file of the repository."""
    frame = inspect.currentframe()
    while frame is not None and (frame.f_code.co_filename == __file__ or "importlib" in frame.f_code.co_filename):
        frame = frame.f_back
    return frame is not None and Path(frame.f_code.co_filename).is_relative_to(_repository)


def repository_files(root: Path) -> list[Path]:
    """The files that Feast would read, in its order."""
    ignore = root / ".feastignore"
    lines = ignore.read_text().splitlines() if ignore.is_file() else []
    patterns = [*IGNORED, *(text for line in lines if (text := line.partition("#")[0].strip()))]
    ignored: set[Path] = set()
    for pattern in patterns:
        for found in root.glob(pattern):
            ignored |= set(found.glob("**/*.py")) if found.is_dir() else {found}
    return sorted(p for p in set(root.glob("**/*.py")) - ignored if p.is_file() and p.name != "__init__.py")


def load(file: Path) -> types.ModuleType:
    """Executes a file as the module that an import from another file of the repository would give."""
    name = ".".join(file.relative_to(_repository).with_suffix("").parts)
    present = sys.modules.get(name)
    if present is not None and getattr(present, "__file__", None) == str(file):
        return present
    if present is not None:
        name = f"repository.{name}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} can't be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


class Answer:
    """What the files defined, as JSON: records by number, and values that refer to them."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}
        self.kept: list[Recorded] = []
        self.records: list[dict[str, Any]] = []

    def number(self, record: Recorded) -> int:
        """The number of a record, which is written when it is first met."""
        if id(record) not in self.numbers:
            self.numbers[id(record)] = len(self.records)
            self.kept.append(record)
            made = record.recorded
            entry: dict[str, Any] = {"kind": made.kind, "place": made.place}
            self.records.append(entry)
            entry["base"] = None if made.base is None else self.number(made.base)
            entry["args"] = [self.value(a) for a in made.args]
            entry["kwargs"] = {k: self.value(v) for k, v in made.kwargs.items()}
        return self.numbers[id(record)]

    def value(self, value: Any) -> Any:
        """A value: JSON's own as it is, another one as an object that says its kind."""
        if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
            return value
        if isinstance(value, Name):
            return {"is": "name", "name": value.__qualname__}
        if isinstance(value, Recorded):
            return {"is": "record", "number": self.number(value)}
        if isinstance(value, Missing):
            return {"is": "missing", "name": value.missing_name}
        if isinstance(value, timedelta):
            return {"is": "duration", "micros": value // timedelta(microseconds=1)}
        if isinstance(value, PurePath):
            return str(value)
        if isinstance(value, dict):
            pairs = cast("dict[Any, Any]", value).items()
            return {"is": "dict", "entries": [[self.value(k), self.value(v)] for k, v in pairs]}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.value(v) for v in cast("list[Any]", value)]
        if isinstance(value, types.FunctionType):
            code = value.__code__
            return {"is": "function", "name": value.__name__, "file": code.co_filename, "line": code.co_firstlineno}
        text = value.isoformat() if isinstance(value, (date, datetime)) else repr(value)[:200]
        return {"is": "other", "type": type(value).__name__, "text": text}


def _failure(error: BaseException, file: Path) -> dict[str, Any]:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    line = lines[-1] if lines else getattr(error, "lineno", None)
    return {"line": line, "error": type(error).__name__, "message": str(error)}


def record(root: Path) -> dict[str, Any]:
    """Executes every file of a repository and says what they define.

    Args:
        root: the folder of `feature_store.yaml`.
    """
    global _repository  # noqa: PLW0603  (the program does this once)
    _repository = root
    missing = Finder(None)
    sys.meta_path.insert(0, Finder(FEAST))
    sys.meta_path.append(missing)
    sys.path.insert(0, str(root))
    os.chdir(root)
    files = repository_files(root)
    failures: list[dict[str, Any]] = []
    defined: list[dict[str, Any]] = []
    answer, seen = Answer(), set[int]()
    for file in files:
        shown = file.relative_to(root).as_posix()
        try:
            module = load(file)
        except (Exception, SystemExit) as error:  # noqa: BLE001  (whatever a file does: the others are still read)
            failures.append({"file": shown, **_failure(error, file)})
            continue
        for name, value in list(vars(module).items()):
            if isinstance(value, Recorded) and id(value) not in seen:
                seen.add(id(value))
                defined.append({"file": shown, "variable": name, "number": answer.number(value)})
    return {
        "files": [f.relative_to(root).as_posix() for f in files],
        "failures": failures,
        "missing": missing.found,
        "defined": defined,
        "records": answer.records,
    }


def main() -> None:
    """Reads the repository that the command line names, and writes what it defines."""
    sys.dont_write_bytecode = True
    root, target = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    del sys.path[0]  # the folder of this file, whose names are none of the repository's business
    content = json.dumps(record(root))
    target.write_text(content)
    sys.stdout.flush()
    os._exit(0)  # threads that a file started must not keep the program


if __name__ == "__main__":
    main()
