"""Schema drift of a project: what became of the columns of its sources since the last apply, and who uses them."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import polars as pl

from bedplate.datasets.dataset import CompiledDataset, Dataset
from bedplate.errors import BedplateError, DefinitionError
from bedplate.features.applied import read_columns
from bedplate.features.view import CompiledView, FeatureView
from bedplate.sources.base import Source
from bedplate.sources.drift import ColumnChange, column_changes, columns_of, used_columns


@final
@dataclass(frozen=True, slots=True)
class Drift:
    """A column of a source that changed, or that can't be read.

    Attributes:
        source: the source's name.
        column: the column's name.
        text: what became of it.
        users: the definitions that need it.
        advice: what to do; empty: nothing.
    """

    source: str
    column: str
    text: str
    users: tuple[str, ...]
    advice: str

    def __str__(self) -> str:
        """A line for a person."""
        users = f"used by {', '.join(self.users)}" if self.users else "nothing uses it"
        return f"source '{self.source}': {self.text}; {users}" + (f": {self.advice}" if self.advice else "")


@final
@dataclass(frozen=True, slots=True)
class _User:
    """A definition that reads a source."""

    name: str
    source: Source
    columns: frozenset[str]


def drift(
    path: Path, views: Iterable[CompiledView], datasets: Iterable[CompiledDataset], root: Path | None
) -> list[Drift]:
    """What became of the columns of a project's sources.

    Args:
        path: the record of what was applied last; without one nothing is known to have changed.
        views: the project's feature views.
        datasets: the project's datasets.
        root: the project's folder.

    Raises:
        StoreError: the record can't be read.
        DataError: a table is missing or can't be read.
    """
    users, before = _users(views, datasets, root), read_columns(path)
    found: list[Drift] = []
    for source in dict.fromkeys(u.source for u in users):
        readers = [u for u in users if u.source is source]
        if source.name in before:
            changed = column_changes(before[source.name], columns_of(source, root))
            found += [_changed(source, change, readers) for change in changed]
        for column, problem in source.table(root).unreadable_columns().items():
            names = _names(readers, column)
            advice = "write all files of the table with one type, or leave the column out" if names else ""
            found.append(Drift(source.name, column, f"column '{column}' can't be read: {problem}", names, advice))
    return found


def table_columns(
    views: Iterable[CompiledView], datasets: Iterable[CompiledDataset], root: Path | None
) -> dict[str, dict[str, str]]:
    """The columns of every source of a project, for the record of what was applied."""
    sources = [v.view.source for v in views] + [s for d in datasets for s in d.sources]
    return {source.name: columns_of(source, root) for source in dict.fromkeys(sources)}


@contextlib.contextmanager
def explained(
    path: Path, views: Sequence[FeatureView], datasets: Sequence[Dataset], root: Path | None
) -> Generator[None]:
    """Says with an error that a column which it names is gone, or has another type, since the last apply."""
    try:
        yield
    except DefinitionError as error:
        sources = [v.source for v in views]
        for dataset in datasets:
            negatives = [] if dataset.negatives is None else [dataset.negatives.source]
            sources += [dataset.spine.source, *(label.source for label in dataset.labels), *negatives]
        error.hint = _drifted(path, dict.fromkeys(sources), root, error) or error.hint
        raise


def _drifted(path: Path, sources: Iterable[Source], root: Path | None, error: DefinitionError) -> str | None:
    """What to say where an error names a column that a table has lost, or that has another type."""
    try:
        before = read_columns(path)
        changes = [(s, c) for s in sources for c in column_changes(before.get(s.name, {}), columns_of(s, root))]
    except BedplateError:  # what is reported must not hide the error that it explains
        return None
    said = str(error)
    for source, change in changes:
        if change.was is not None and any(f"{q}{change.column}{q}" in said for q in "'\""):
            gone = change.now is None
            again = "write it again" if gone else f"write it as {change.was} again"
            text = (
                f"in the source '{source.name}' the {change} since the last apply: {again}, change what uses it, "
                "or read an earlier version of the table"
            )
            return text if gone or not error.hint else f"{text}\n  {error.hint}"
    return None


def _changed(source: Source, change: ColumnChange, readers: Sequence[_User]) -> Drift:
    names = _names(readers, change.column)
    # A view that needs a column which is gone does not load at all, so a column that is used has another type.
    advice = "'bedplate apply' builds anew what is computed from it" if names and change.was is not None else ""
    return Drift(source.name, change.column, str(change), names, advice)


def _names(readers: Sequence[_User], column: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(u.name for u in readers if column in u.columns))


def _users(views: Iterable[CompiledView], datasets: Iterable[CompiledDataset], root: Path | None) -> list[_User]:
    """Every definition that reads a source, with the columns that it needs."""
    users = [_of_view(view, view.place) for view in views]
    for dataset in datasets:
        spine, place = dataset.dataset.spine, dataset.dataset.place
        read = [spine.request, spine.item.key, *(e.key for e in spine.entities)]
        read += [c.column for c in dataset.selected.contexts]
        users.append(_of_rows(f"{place} (spine)", spine.source, root, read, spine.where))
        users += [_of_view(c.view, f"{place} ({c.label.place})") for c in dataset.labels]
        if dataset.negatives is not None:
            drawn = dataset.negatives.negatives
            users.append(_of_rows(f"{place} (negatives)", drawn.source, root, [drawn.item.key], drawn.where))
    return users


def _of_view(view: CompiledView, name: str) -> _User:
    expressions = [pl.col(e.key) for e in view.view.entities] + [e for s in view.selections for e in s.expressions]
    named = [e.alias(f"input {i}") for i, e in enumerate(expressions)]
    source = view.view.source
    return _User(name, source, used_columns(source, view.root, named, view.view.where))


def _of_rows(name: str, source: Source, root: Path | None, columns: Sequence[str], where: pl.Expr | None) -> _User:
    named = [pl.col(column).alias(f"input {i}") for i, column in enumerate(columns)]
    return _User(name, source, used_columns(source, root, named, where))
