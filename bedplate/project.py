"""A project: a folder with `bedplate.toml` and Python files of definitions, and everything that can be done with it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias, TypeVar, final

import numpy as np
import polars as pl

from bedplate.batch import column_to_series
from bedplate.config import Config, load_config
from bedplate.datasets.dataset import CompiledDataset, Dataset
from bedplate.datasets.loaded import LoadedDataset
from bedplate.errors import BedplateError, DataError, DefinitionError, NotFoundError, suggest
from bedplate.features.assemble import Reader
from bedplate.features.derived import DerivedFeature
from bedplate.features.entity import KeysLike, encode_keys
from bedplate.features.graph import FeatureGraph, FeatureLike
from bedplate.features.view import CompiledView, FeatureView
from bedplate.offline.build import Build, Progress
from bedplate.offline.lookup import IndexedHistory
from bedplate.types import Int64s, to_micros

_Definition = TypeVar("_Definition")

TimesLike: TypeAlias = "str | int | date | Sequence[str | int | date] | pl.Series | Int64s"
"""One time or several: datetimes, dates, ISO 8601 texts or integer microseconds."""


@final
@dataclass(frozen=True, slots=True)
class Definitions:
    """The definitions of a project, in the order in which its files name them.

    Attributes:
        views: the feature views.
        derived: the derived features.
        datasets: the datasets.
        others: what else the files name, with the variable: services, training jobs.
        files: the file that names a definition, by the definition's name.
    """

    views: list[FeatureView] = field(default_factory=list[FeatureView])
    derived: list[DerivedFeature] = field(default_factory=list[DerivedFeature])
    datasets: list[Dataset] = field(default_factory=list[Dataset])
    others: list[tuple[str, object]] = field(default_factory=list[tuple[str, object]])
    files: dict[str, str] = field(default_factory=dict[str, str])

    def place(self, where: str | None) -> str | None:
        """The place of an error with the file in front, where the definition it names is known."""
        named = re.findall(r"'([^']+)'", where or "")
        file = next((self.files[n] for n in named if n in self.files), None)
        return f"{file}: {where}" if file else where


@final
class Project:
    """A project's definitions, its history and its stores.

    Args:
        directory: the folder that holds `bedplate.toml`.

    Raises:
        ConfigError: the folder has no `bedplate.toml`, or a wrong one.
        DefinitionError: a file does not load, or a definition is wrong.
    """

    def __init__(self, directory: Path | str = ".") -> None:
        self.config: Config = load_config(Path(directory))
        self.definitions = load_definitions(self.config)
        try:
            self.graph = FeatureGraph(self.definitions.views, self.definitions.derived, self.config.root)
            self.datasets: Mapping[str, CompiledDataset] = self._compiled_datasets()
        except BedplateError as error:
            error.where = self.definitions.place(error.where)
            raise
        self.history = IndexedHistory(self.config.offline_path)

    @property
    def root(self) -> Path:
        """The project's folder."""
        return self.config.root

    @property
    def views(self) -> Mapping[str, CompiledView]:
        """The feature views by name."""
        return self.graph.views

    def builds(self) -> list[Build]:
        """What the offline store needs for every view and label of the project."""
        views: dict[str, CompiledView] = {v.id: v for v in self.views.values()}
        for dataset in self.datasets.values():
            views |= {v.id: v for v in dataset.views}
        return [self.history.build(v) for v in views.values()]

    def apply(self, progress: Progress = lambda _: None) -> list[Build]:
        """Builds what is missing in the offline store; the builds that had something to do."""
        todo = [b for b in self.builds() if not b.is_complete]
        for build in todo:
            build.run(progress)
        return todo

    def dataset(self, name: str) -> CompiledDataset:
        """A dataset by name.

        Raises:
            NotFoundError: there is none of this name.
        """
        return _named("dataset", self.datasets, name)

    def load(self, name: str) -> LoadedDataset:
        """A dataset over its data.

        Raises:
            NotFoundError: there is none of this name.
            StoreError: the offline store lacks a view: run `apply` first.
        """
        compiled = self.dataset(name)
        for view in compiled.views:
            self.history.reader(view)
        return LoadedDataset(compiled, self.history)

    def lookup(
        self,
        features: FeatureLike | Sequence[FeatureLike],
        keys: KeysLike | Mapping[str, KeysLike],
        times: TimesLike,
        reader: Reader | None = None,
    ) -> pl.DataFrame:
        """Point-in-time values, one row for each key and time.

        Args:
            features: features, views or their names.
            keys: n keys, or n keys for each entity by its name.
            times: n times, or one for all: datetimes, ISO 8601 texts or microseconds.
            reader: where to read; the project's history unless given.

        Returns:
            n rows: a column for each entity, `time`, and a column for each feature.

        Raises:
            DataError: keys and times differ in number, or an entity's keys are missing.
        """
        asked = [features] if isinstance(features, str | FeatureView | DerivedFeature) else list(features)
        selected = self.graph.select(asked)
        entities = [e.name for e in selected.entities]
        by_entity: Mapping[str, KeysLike] = keys if isinstance(keys, Mapping) else dict.fromkeys(entities[:1], keys)
        missing = [e for e in entities if e not in by_entity]
        if missing:
            raise DataError(f"no keys of '{missing[0]}'", where="lookup", hint=f"give keys for each of {entities}")
        kinds = self.graph.key_types()
        encoded = {e: encode_keys(by_entity[e], kinds[e], f"keys of '{e}'") for e in entities}
        micros = _times(times, len(next(iter(encoded.values()))))
        if any(len(k) != len(micros) for k in encoded.values()):
            raise DataError(
                f"got { ({e: len(k) for e, k in encoded.items()}) } keys and {len(micros)} times", where="lookup"
            )
        columns: dict[str, Any] = {}
        for view, names in selected.views:
            own = np.stack([encoded[e.name] for e in view.view.entities], axis=1)
            columns |= dict((reader or self.history).read(view, names, own, micros))
        for derived in selected.derived:
            columns[derived.name] = derived.evaluate(columns, micros)
        shown = [pl.Series(e, by_entity[e]) for e in entities]
        time = pl.Series("time", micros).cast(pl.Datetime("us", "UTC"))
        return pl.DataFrame([*shown, time, *(column_to_series(columns[n], n) for n in selected.names)])

    def find(self, kind: type[_Definition], name: str | None = None) -> _Definition:
        """A definition of another kind (a service, a training job) by its variable's name or its own.

        Args:
            kind: the class of the definition.
            name: its name; None when the project has only one.

        Raises:
            NotFoundError: there is none, or none of this name.
        """
        found: dict[str, _Definition] = {}
        for variable, value in self.definitions.others:
            if isinstance(value, kind):
                found[str(getattr(value, "name", variable))] = value
        if name is None and len(found) == 1:
            return next(iter(found.values()))
        if name is None:
            raise NotFoundError(
                f"the project defines {len(found)} of {kind.__name__}",
                hint=f"name one of: {', '.join(found) or 'none'}",
            )
        return _named(kind.__name__.lower(), found, name)

    def _compiled_datasets(self) -> dict[str, CompiledDataset]:
        compiled: dict[str, CompiledDataset] = {}
        for dataset in self.definitions.datasets:
            if dataset.name in compiled:
                raise DefinitionError(f"two datasets are named '{dataset.name}'")
            compiled[dataset.name] = dataset.compile(self.graph, self.root)
        return compiled


def _named(kind: str, known: Mapping[str, _Definition], name: str) -> _Definition:
    if name not in known:
        raise NotFoundError(f"no {kind} is named '{name}'", hint=suggest(name, known))
    return known[name]


def _times(times: TimesLike, count: int) -> Int64s:
    if isinstance(times, np.ndarray):
        return times
    if isinstance(times, pl.Series):
        return times.to_numpy() if times.dtype.is_integer() else times.dt.epoch("us").to_numpy()
    if isinstance(times, str | int | date):
        return np.full(count, to_micros(times), np.int64)
    return np.array([to_micros(t) for t in times], np.int64)


def load_definitions(config: Config) -> Definitions:
    """Runs a project's definition files and collects what they define.

    The files may import each other by name. Modules of a project loaded before are forgotten, so that two projects may
    both have a `features.py`.

    Raises:
        DefinitionError: a file fails; the message names the file and the line.
    """
    found = Definitions()
    seen: set[int] = set()
    with _importable(config):
        for path in config.definitions:
            module = _run(path)
            for variable, value in vars(module).items():
                if variable.startswith("_") or id(value) in seen:
                    continue
                seen.add(id(value))
                name = getattr(value, "name", None)
                if isinstance(name, str):
                    found.files.setdefault(name, path.name)
                if isinstance(value, FeatureView):
                    found.views.append(value)
                elif isinstance(value, DerivedFeature):
                    found.derived.append(value)
                elif isinstance(value, Dataset):
                    found.datasets.append(value)
                elif not isinstance(value, ModuleType | type) and not callable(value):
                    found.others.append((variable, value))
    return found


@contextlib.contextmanager
def _importable(config: Config) -> Generator[None]:
    stems = {p.stem for p in config.root.glob("*.py")}
    for name in stems:
        module = sys.modules.get(name)
        if module is not None and getattr(module, "__bedplate_project__", None) is not None:
            del sys.modules[name]
    sys.path.insert(0, str(config.root))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(config.root))
        for name in stems:
            module = sys.modules.get(name)
            if module is not None and str(getattr(module, "__file__", "")).startswith(str(config.root)):
                module.__dict__["__bedplate_project__"] = str(config.root)


def _run(path: Path) -> ModuleType:
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    spec = importlib.util.spec_from_file_location(path.stem, path)
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
    except Exception as error:
        sys.modules.pop(path.stem, None)
        raise DefinitionError(f"{type(error).__name__}: {error}", where=_line_of(error, path)) from error
    return module


def _line_of(error: BaseException, path: Path) -> str:
    lines = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent == path.parent]
    return f"{Path(lines[-1].filename).name}:{lines[-1].lineno}" if lines else path.name
