"""The definitions of a project: its Python files are run, and what they define is collected, with the places."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, TypeVar, cast, final

from bedplate.config import Config
from bedplate.datasets.dataset import Dataset
from bedplate.errors import BedplateError, DefinitionError
from bedplate.features.context import Context
from bedplate.features.derived import DerivedFeature
from bedplate.features.graph import FeatureGraph
from bedplate.features.links import Link
from bedplate.features.model import Computed, ModelFeature
from bedplate.features.view import FeatureView
from bedplate.mistakes import hint_for
from bedplate.sources.base import Source

_Definition = TypeVar("_Definition")

_CALLED = {
    "Context": "context",
    "Dataset": "dataset",
    "DerivedFeature": "derived feature",
    "Entity": "entity",
    "FeatureView": "view",
    "Job": "job",
    "Label": "label",
    "Link": "link",
    "ModelFeature": "model feature",
    "Service": "service",
    "Source": "source",
}
"""What messages call a definition of each class."""

_NAMED = re.compile(rf"\b(?:{'|'.join(_CALLED.values())}) '[^']*'")


@final
@dataclass(frozen=True, slots=True)
class Definitions:
    """The definitions of a project, in the order in which its files name them.

    Attributes:
        views: the feature views.
        derived: the derived features, and those that models make.
        datasets: the datasets.
        others: what else the files name, with the variable: services, training jobs, sources, entities.
        places: where a definition is made, such as "features.py:12", by what a message calls it: "view 'sales'".
    """

    views: list[FeatureView] = field(default_factory=list[FeatureView])
    derived: list[Computed] = field(default_factory=list[Computed])
    datasets: list[Dataset] = field(default_factory=list[Dataset])
    others: list[tuple[str, object]] = field(default_factory=list[tuple[str, object]])
    places: dict[str, str] = field(default_factory=dict[str, str])

    def of(self, kind: type[_Definition]) -> list[_Definition]:
        """The definitions among the others that are of a class."""
        return [value for _, value in self.others if isinstance(value, kind)]

    def graph(self, root: Path) -> FeatureGraph:
        """The features of all that is defined: views, what links reach, context, and what is computed of them.

        Args:
            root: the folder where relative paths of sources start.

        Raises:
            DefinitionError: the definitions don't fit together.
        """
        return FeatureGraph(self.views, self.derived, root, self.of(Context), self.of(Link))

    def add(self, variable: str, value: object) -> None:
        """Takes in what a variable of a file holds."""
        if isinstance(value, FeatureView):
            self.views.append(value)
        elif isinstance(value, DerivedFeature | ModelFeature):
            self.derived.append(value)
        elif isinstance(value, Dataset):
            self.datasets.append(value)
        elif not isinstance(value, ModuleType | type) and not callable(value):
            self.others.append((variable, value))

    def sources(self) -> list[Source]:
        """The sources that views and datasets read."""
        found = [view.source for view in self.views]
        for dataset in self.datasets:
            found += [dataset.spine.source, *(label.source for label in dataset.labels)]
            found += [dataset.negatives.source] if dataset.negatives else []
        return list(dict.fromkeys(found))

    def locate(self, places: Mapping[int, str]) -> None:
        """Takes in where definitions are made, by the id of each: of those that were added, and of their parts."""
        parts: list[object] = [*(value for _, value in self.others), *self.sources()]
        for view in self.views:
            parts += [view, *view.entities]
        for dataset in self.datasets:
            parts += [dataset, *dataset.labels]
        for part in [*parts, *self.derived]:
            kind = _CALLED.get(type(part).__name__)  # a variable may hold anything, whose attributes may raise
            if kind is not None and id(part) in places:
                self.places.setdefault(f"{kind} '{getattr(part, 'name', '')}'", places[id(part)])

    def is_in(self, file: str, called: str) -> bool:
        """Whether a definition, by what a message calls it, is made in a file."""
        return self.places.get(called, "").rpartition(":")[0] == file

    def place(self, where: str | None) -> str | None:
        """The place of an error with the file in front, where the first definition that it names is known."""
        places = (self.places.get(found[0]) for found in _NAMED.finditer(where or ""))
        place = next((p for p in places if p is not None), None)
        return f"{place}: {where}" if place else where


def load_definitions(config: Config) -> Definitions:
    """Runs a project's definition files and collects what they define, in variables or in lists.

    The files may import each other by name. Modules of a project loaded before are forgotten, so that two projects may
    both have a `features.py`.

    Raises:
        DefinitionError: a file fails, or two definitions have one name; the message names the file and the line.
    """
    found = Definitions()
    with _importable(config):
        modules = [_run(path) for path in config.definitions]
        places = _places(config.root)
    seen: set[int] = set()
    for module in modules:
        for variable, value in vars(module).items():
            for member in [] if variable.startswith("_") else _members(value):
                if id(member) not in seen:
                    seen.add(id(member))
                    found.add(variable, member)
    found.locate(places)
    from bedplate.serving.service import Service
    from bedplate.training.job import Job

    for kind, made in (
        ("sources", found.of(Source)),
        ("views", found.views),
        ("derived features", found.derived),
        ("contexts", found.of(Context)),
        ("links", found.of(Link)),
        ("datasets", found.datasets),
        ("jobs", found.of(Job)),
        ("services", found.of(Service)),
    ):
        _check_names(kind, made, places)
    return found


def _members(value: object) -> list[object]:
    return list(cast("Sequence[object]", value)) if isinstance(value, list | tuple) else [value]


def _check_names(kind: str, made: Sequence[Any], places: Mapping[int, str]) -> None:
    known: dict[str, object] = {}
    for definition in made:
        first = known.setdefault(definition.name, definition)
        if first is not definition:
            raise DefinitionError(
                f"two {kind} are named '{definition.name}'",
                where=places.get(id(definition)),
                hint=f"the other is in {places.get(id(first), 'another file')}; rename one of them",
            )


def _places(root: Path) -> dict[int, str]:
    """The file and line of every assignment at the top of a project's loaded files, by the id of the assigned value."""
    places: dict[int, str] = {}
    loaded = [(m, Path(p)) for m in list(sys.modules.values()) for p in _files(m)[:1] if root.name in p]
    for module, path in [(m, p) for m, p in loaded if p.parent == root and p.suffix == ".py" and p.is_file()]:
        for statement in ast.parse(path.read_bytes()).body:
            targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
            for name in [t.id for t in targets if isinstance(t, ast.Name)]:
                for member in _members(vars(module).get(name)):
                    places.setdefault(id(member), f"{path.name}:{statement.lineno}")
    return places


@final
class _Source(SourceFileLoader):
    """Compiles a file each time: Python takes what it has compiled by the second and the size of the source.

    A file that is changed twice within a second, by a script or another process, would be taken for what it was.
    """

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


@final
class _Finder(MetaPathFinder):
    """Finds the modules in a project's folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file = self._root / f"{fullname}.py"
        return _spec(file) if path is None and file.is_file() else None


def _spec(file: Path) -> ModuleSpec | None:
    return importlib.util.spec_from_file_location(file.stem, file, loader=_Source(file.stem, str(file)))


@contextlib.contextmanager
def _importable(config: Config) -> Generator[None]:
    stems = {p.stem for p in config.root.glob("*.py")}
    for name, module in list(sys.modules.items()):
        project = getattr(module, "__dict__", {}).get("__bedplate_project__")
        if project is not None and (name in stems or project == str(config.root)):
            _forget(name)
    known = set(sys.modules)
    finder = _Finder(config.root)
    sys.meta_path.insert(0, finder)
    sys.path.insert(0, str(config.root))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.path.remove(str(config.root))
        for name in stems | (sys.modules.keys() - known):
            module = sys.modules.get(name)
            if module is not None and _is_of(config.root, module):
                module.__dict__["__bedplate_project__"] = str(config.root)


def _forget(name: str) -> None:
    """Forgets a module, and what a package has in it: its new module would not know of them."""
    for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
        del sys.modules[module]


def _is_of(root: Path, module: ModuleType) -> bool:
    """Whether a module is a project's own; an environment of libraries may be in its folder."""
    # Most are of libraries, of which there are thousands: only paths that may be below the folder are taken apart.
    paths = [Path(p) for p in _files(module) if root.name in p]
    own = [path.relative_to(root).parts for path in paths if path.is_relative_to(root)]
    return any(not {"site-packages", "dist-packages"} & set(parts) for parts in own)


def _files(module: ModuleType) -> list[str]:
    """The file of a module and the folders of a package; nothing of what is none, such as a lazy stand-in."""
    known = getattr(module, "__dict__", {})
    return [str(p) for p in (known.get("__file__"), *(known.get("__path__") or ())) if p]


def _run(path: Path) -> ModuleType:
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    spec = _spec(path)
    if spec is None or spec.loader is None:
        raise DefinitionError("is not a Python file", where=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BedplateError as error:
        sys.modules.pop(path.stem, None)
        place = _line_of(error, path)
        error.where = f"{place}: {error.where}" if error.where else place
        raise
    except (Exception, SystemExit) as error:
        sys.modules.pop(path.stem, None)
        text = (error.msg if isinstance(error, SyntaxError) else "") or str(error)
        raise DefinitionError(
            f"{type(error).__name__}: {text}", where=_line_of(error, path), hint=hint_for(error)
        ) from error
    return module


def _line_of(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).parent == path.parent:
        return f"{Path(error.filename).name}:{error.lineno}"
    lines = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent == path.parent]
    return f"{Path(lines[-1].filename).name}:{lines[-1].lineno}" if lines else path.name
