"""A project: a folder with `bedplate.toml` and Python files of definitions, and everything that can be done with it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, final

import polars as pl

from bedplate.config import Config, load_config
from bedplate.datasets.dataset import CompiledDataset
from bedplate.datasets.drift import explained, table_columns
from bedplate.definitions import Definitions, load_definitions
from bedplate.errors import BedplateError, DefinitionError, NotFoundError, suggest
from bedplate.features.applied import applied_path, read_applied, write_applied
from bedplate.features.diff import GraphDiff, diff
from bedplate.features.entity import KeysLike
from bedplate.features.graph import FeatureGraph, FeatureLike, Selected
from bedplate.features.lookup import lookup_table
from bedplate.features.model import Scorers
from bedplate.features.reader import Reader
from bedplate.features.times import TimesLike
from bedplate.features.view import CompiledView
from bedplate.files import remove_leftovers

if TYPE_CHECKING:
    from bedplate.datasets.loaded import LoadedDataset
    from bedplate.materialize import Materialized
    from bedplate.offline.extend import Build, Progress
    from bedplate.offline.history import IndexedHistory
    from bedplate.online.base import OnlineStore
    from bedplate.registry.registry import Registry
    from bedplate.serving.service import Service
    from bedplate.training.job import Job

_Definition = TypeVar("_Definition")

_FILES = {"job": "train.py", "service": "service.py"}
"""Where a project usually defines what commands ask for by name."""


@final
class Project:
    """A project's definitions, its history and its stores.

    Args:
        directory: the folder that holds `bedplate.toml`.
        snapshots: the ids of the snapshots in which sources are read that have moved on since, by the source's name; a
            run's `sources` are such. None: all are read as they are now.

    Raises:
        ConfigError: the folder has no `bedplate.toml`, or a wrong one.
        DefinitionError: a file does not load, or a definition is wrong.
        DataError: a source can no longer be read in the state of its snapshot.
    """

    def __init__(self, directory: Path | str = ".", snapshots: Mapping[str, str] | None = None) -> None:
        self.config: Config = load_config(Path(directory))
        self.definitions = found = load_definitions(self.config)
        # Beside the indexes, which apply can write; several projects may share them.
        self._applied_path = applied_path(self.config.offline_path, self.root)
        with self.located():
            for source in found.sources():
                if snapshots is not None and source.name in snapshots:
                    source.pin(snapshots[source.name], self.root)
        with self.located(), explained(self._applied_path, found.views, found.datasets, self.root):
            self.graph = found.graph(self.root)
            self.datasets: Mapping[str, CompiledDataset] = _datasets(found, self.graph, self.root)
            _check_jobs_and_services(self)

    @functools.cached_property
    def history(self) -> IndexedHistory:
        """The offline store; a server needs none of it."""
        from bedplate.offline.history import IndexedHistory

        return IndexedHistory(self.config.offline_path, memory=self.config.memory)

    @functools.cached_property
    def registry(self) -> Registry:
        """The registry of runs and model versions, opened when it is first asked for.

        Raises:
            StoreError: it can't be opened.
        """
        from bedplate.registry.registry import Registry

        return Registry(self.config.registry_path)

    def open_store(self, patience: float | None = None, *, create: bool = True) -> OnlineStore:
        """Opens the online store that `bedplate.toml` names, as this project; a `with` block closes it.

        Args:
            patience: how long a store of servers tries a lost connection again by itself, seconds; None: its own.
            create: whether a store is made where there is none, as whoever writes it needs. One who only reads it would
                hide by a new and empty one that it is gone.

        Raises:
            ConfigError: it is `memory:`: one that is opened is empty, and gone with this process.
            MissingExtraError: the library that the store needs is not installed.
            StoreError: it can't be opened; or there is none, and none is to be made.
        """
        from bedplate.online.base import open_own

        return open_own(self.config, patience, create=create)

    @property
    def root(self) -> Path:
        """The project's folder."""
        return self.config.root

    @property
    def views(self) -> Mapping[str, CompiledView]:
        """The feature views by name."""
        return self.graph.views

    @property
    def jobs(self) -> list[Job]:
        """The training jobs."""
        from bedplate.training.job import Job

        return self.definitions.of(Job)

    @property
    def services(self) -> list[Service]:
        """The services."""
        from bedplate.serving.service import Service

        return self.definitions.of(Service)

    @contextlib.contextmanager
    def located(self) -> Generator[None]:
        """Puts the file and line of the definition that an error names in front of the error's place."""
        try:
            yield
        except BedplateError as error:
            error.where = self.definitions.place(error.where)
            raise

    def builds(self) -> list[Build]:
        """What the offline store needs for every view and label of the project.

        Raises:
            DataError: the table of a source is missing or can't be read.
        """
        views: dict[str, CompiledView] = {v.id: v for v in self.views.values()}
        for dataset in self.datasets.values():
            views |= {v.id: v for v in dataset.views}
        with self.located():
            return [self.history.build(v) for v in views.values()]

    def apply(self, progress: Progress = lambda _: None) -> list[Build]:
        """Builds what is missing in the offline store; the builds that had something to do."""
        remove_leftovers(self.config.offline_path)
        builds = self.builds()
        todo = [b for b in builds if not b.is_complete]
        if todo:
            self.history.reserve(self.root, todo)
        with self.located():
            for build in todo:
                build.run(progress)
        self.history.finish(self.root, builds, progress)
        self.record_applied()
        return todo

    def record_applied(self) -> None:
        """Puts the features on record as those that are built, for `changes`; `apply` does.

        Raises:
            StoreError: the record can't be written.
        """
        columns = table_columns(self.views.values(), self.datasets.values(), self.root)
        write_applied(self._applied_path, self.graph.features, columns)

    def changes(self) -> GraphDiff | None:
        """How the features differ from those that were applied last; None where nothing was applied yet.

        Raises:
            StoreError: the record of the last time can't be read.
        """
        applied = read_applied(self._applied_path)
        return None if applied is None else diff(applied, self.graph.features)

    def view(self, name: str) -> CompiledView:
        """A feature view by name.

        Raises:
            NotFoundError: there is none of this name.
        """
        return _named("view", self.views, name)

    def materialize(
        self,
        store: OnlineStore,
        views: Sequence[str] = (),
        until: str | int | date | None = None,
        *,
        replace: bool = False,
        adopt: bool = False,
        progress: Progress = lambda _: None,
    ) -> list[Materialized]:
        """Fills an online store from history, so that it answers as of `until` and a stream can go on from there.

        A view whose stream is at work is kept: its events since are in the store only.

        Args:
            store: the online store.
            views: names of views; all of the project when empty.
            until: only events before this time are loaded, and the stream's are those from then on. At most now: the
                store answers exactly from this time on, and of later times nothing can be known yet. By default just
                after the last event of the view's source, whether it is of the view or not (never later than now), or
                where the stream of the source began.
            replace: loads views anew whose stream is at work. The stream is then taken in from its first file again,
                which must not hold events before `until`: `Ingest` refuses them. Those of a topic are passed over.
            adopt: changed views go on with the rows of their old version, which is frozen, or where these do not hold
                all, are loaded up to where its stream began, unless `until` is given; see `online.adoption`.
            progress: told what is under way.

        Raises:
            ConfigError: `until` is no time, or later than now.
            NotFoundError: a view is not there.
            StoreError: the offline store lacks a view (run `apply` first), the store can't be written or holds a view
                for another project, or `until` is not where the stream of a view began.
        """
        from bedplate.materialize import materialize

        chosen = [self.view(name) for name in dict.fromkeys(views)] or list(self.views.values())
        with self.located():
            readers = {view: self.history.reader(view) for view in chosen}
        every = list(self.views.values())
        return materialize(self.history, every, readers, store, until, replace=replace, adopt=adopt, progress=progress)

    def dataset(self, name: str) -> CompiledDataset:
        """A dataset by name.

        Raises:
            NotFoundError: there is none of this name.
        """
        return _named("dataset", self.datasets, name)

    def load(self, name: str, more: Sequence[str] = ()) -> LoadedDataset:
        """A dataset over its data.

        Args:
            name: of the dataset.
            more: names of features to read beside the dataset's own.

        Raises:
            NotFoundError: there is none of this name.
            DefinitionError: `more` names an unknown feature.
            StoreError: the offline store lacks a view: run `apply` first.
            DataError: a table does not hold what the definition says, or changed since its indexes were opened.
        """
        from bedplate.datasets.loaded import LoadedDataset

        compiled = self.dataset(name)
        with self.located():
            if more:
                compiled = compiled.dataset.with_features(more).compile(self.graph, self.root)
            indexed = {view.id: self.history.reader(view).snapshot for view in compiled.views}
            return LoadedDataset(compiled, self.history, indexed, self.scorers(compiled.selected))

    def scorers(self, selected: Selected) -> Scorers:
        """The models behind features, of the versions that are named or that have the alias now.

        Raises:
            NotFoundError: a model is not there.
            DefinitionError: it reads other features than the definition says, or ones whose definition has changed.
            ArtifactError: it is damaged, or gives something else than is wanted of it.
        """
        if not selected.models:
            return {}
        from bedplate.inference.scorer import load_scorers

        return load_scorers(selected, self.graph, self.registry)

    def lookup(
        self,
        features: FeatureLike | Sequence[FeatureLike],
        keys: KeysLike | Mapping[str, KeysLike],
        times: TimesLike,
        reader: Reader | None = None,
        context: Mapping[str, Sequence[Any]] | None = None,
    ) -> pl.DataFrame:
        """Point-in-time values, one row for each key and time.

        Args:
            features: features, views or their names.
            keys: n keys, or n keys for each entity by its name.
            times: n times, or one for all: datetimes, dates, ISO 8601 texts or integer microseconds, between 1970 and
                2200; NumPy datetimes of any unit.
            reader: where to read; the project's history unless given.
            context: n values for each context of the request that features need, by its name; None where a request has
                none.

        Returns:
            n rows: a column for each entity that has keys, `time`, and a column for each feature.

        Raises:
            DataError: keys and times differ in number, an entity's keys or a context that is needed is missing, keys
                are of an unknown entity, or a key or a time is null or none; says which.
            DefinitionError: something else than features is asked for, or nothing.
            NotFoundError: no feature or view has this name.
        """
        with self.located():
            return lookup_table(self.graph, reader or self.history, features, keys, times, context, self.scorers)

    def find(self, kind: type[_Definition], name: str | None = None) -> _Definition:
        """A definition of another kind (a service, a training job) by its name, or by the file that defines it.

        Args:
            kind: the class of the definition.
            name: its name, "FILE.py:NAME", or "FILE.py" where that file has only one; None when the project has.

        Raises:
            NotFoundError: there is none, or none of this name.
        """
        found: dict[str, _Definition] = {}
        for variable, value in self.definitions.others:
            if isinstance(value, kind):
                found[str(getattr(value, "name", variable))] = value
        word, place = kind.__name__.lower(), "the project"
        file, suffix, rest = (name or "").rpartition(".py")
        if suffix and rest[:1] in ("", ":"):
            place = f"{Path(file).name}.py"
            found = {n: d for n, d in found.items() if self.definitions.is_in(place, f"{word} '{n}'")}
            name = rest[1:] or None
        if name is None and len(found) == 1:
            return next(iter(found.values()))
        if not found and (name is None or suffix):
            hint = f"define a {kind.__name__} in {_FILES.get(word, 'features.py')}; 'bedplate plan' checks it"
            if suffix and place not in [path.name for path in self.config.definitions]:
                hint = "it is none of the files of definitions: name it under project.definitions in bedplate.toml"
            raise NotFoundError(f"{place} defines no {word}", hint=hint)
        if name is None:
            raise NotFoundError(f"{place} defines {len(found)} {word}s", hint=f"name one of: {', '.join(found)}")
        return _named(word, found, name)


def _datasets(found: Definitions, graph: FeatureGraph, root: Path) -> dict[str, CompiledDataset]:
    compiled: dict[str, CompiledDataset] = {}
    for dataset in found.datasets:
        if dataset.name in compiled:
            raise DefinitionError(f"two datasets are named '{dataset.name}'")
        try:
            compiled[dataset.name] = dataset.compile(graph, root)
        except BedplateError as error:
            where = error.where or ""
            error.where = where if where.startswith(dataset.place) else f"{dataset.place}: {where}"
            raise
    return compiled


def _named(kind: str, known: Mapping[str, _Definition], name: str) -> _Definition:
    if name not in known:
        raise NotFoundError(f"no {kind} is named '{name}'", hint=suggest(name, known))
    return known[name]


def _check_jobs_and_services(project: Project) -> None:
    from bedplate.serving.checks import check_service
    from bedplate.training.checks import check_job

    for job in project.jobs:
        check_job(job, project.datasets)
    for service in project.services:
        check_service(service, project.graph)
