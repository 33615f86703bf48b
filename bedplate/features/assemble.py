"""From keys and times to a batch: the one join of features, used by the training loader and by the server.

The loader reads history, the server reads the online store; both are a `Reader`, and everything after the read is here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import final

import numpy as np

from bedplate.batch import Batch, Column, Columns, Places, expand
from bedplate.errors import RequestError
from bedplate.features.chains import Chains, Level
from bedplate.features.context import PREFIX, Context
from bedplate.features.declared import null_column
from bedplate.features.derived import REQUEST_TIME
from bedplate.features.graph import Selected
from bedplate.features.model import Computed, Scorers, compute
from bedplate.features.reader import Read, Reader
from bedplate.types import Float32s, Int64s


@final
@dataclass(frozen=True, slots=True)
class Candidates:
    """R requests with N candidates, without features.

    Attributes:
        request_keys: [R] int64 for each entity of the request, by entity name.
        item: the name of the candidates' entity.
        candidates: [N] int64 keys.
        offsets: [R + 1] int64.
        times: [R] int64 microseconds.
        request_ids: [R] int64.
        context: columns of length R of the request's context, by full name; what is not here is null.
    """

    request_keys: Mapping[str, Int64s]
    item: str
    candidates: Int64s
    offsets: Int64s
    times: Int64s
    request_ids: Int64s
    context: Mapping[str, Column] = field(default_factory=dict[str, Column])


def context_columns(contexts: Sequence[Context], given: Mapping[str, Column], rows: int) -> dict[str, Column]:
    """The columns of context for n rows, by full name: as given, or all null."""
    return {
        name: given[name] if name in given else null_column(context.type, rows)
        for name, context in ((f"{PREFIX}{c.name}", c) for c in contexts)
    }


@final
class Join:
    """The join of features to requests and candidates, planned once.

    A view whose entities all belong to the request is read on R rows, any other on N rows; a derived feature is
    computed on R rows when all its inputs are. Each view is read once, all of them together.

    Args:
        selected: the features.
        item: the name of the candidates' entity.
        scorers: the models behind selected features; needed when rows are read.

    Attributes:
        selected: as given.
        levels: for each selected feature, and each input of a derived one, whether it is computed once per request.
    """

    __slots__ = (
        "_chains", "_entities", "_every", "_item", "_of_item", "_of_request", "_request", "_steps", "levels",
        "selected",
    )  # fmt: skip

    def __init__(self, selected: Selected, item: str, scorers: Scorers = MappingProxyType({})) -> None:
        self.selected = selected
        self.levels = {name: item not in entities for name, entities in selected.about.items()}
        self._chains = Chains(selected.chains, item)
        views = [(view, names, tuple(e.name for e in view.view.entities)) for view, names in selected.views]
        self._of_request = [v for v in views if item not in v[2]]
        self._of_item = [v for v in views if item in v[2]]
        self._entities = {e.name: chain.view for chain, _ in selected.chains for e in chain.entities if e.name != item}
        self._entities |= {e: view for view, _, entities in views for e in entities if e != item}
        self._steps = {level: self._derived_steps(level, scorers) for level in (True, False)}
        self._request = _Order(tuple(n for n in selected.names if self.levels[n]))
        self._item = _Order(tuple(n for n in selected.names if not self.levels[n]))
        self._every = _Order(tuple(n for n, level in self.levels.items() if level))

    def _derived_steps(self, level: bool, scorers: Scorers) -> list[_Step]:
        """The derived features of a level, in order, those together that can be evaluated at once."""
        steps: list[_Step] = []
        left = [d for d in self.selected.derived if self.levels[d.name] == level]
        while left:
            waiting = {d.name for d in left}
            steps.append(_Step([d for d in left if waiting.isdisjoint(d.inputs)], scorers))
            left = [d for d in left if d not in steps[-1].derived]
        return steps

    def request(self, reader: Reader, rows: Candidates) -> Columns:
        """All that is computed once per request, to be given to `batch` as `known`; the candidates are not looked at.

        Raises:
            RequestError: a view is about an entity that the rows don't have.
        """
        self._check_entities(rows)
        groups = list(reader.read_all(self._reads_of_request(rows)))
        if self._chains:
            self._chains.follow(reader, _of_request(groups, rows), None)
        self._derive_of_request(groups, rows)
        return self._every.joined(groups)

    def batch(
        self,
        reader: Reader,
        rows: Candidates,
        labels: Mapping[str, Float32s] | None = None,
        known: Columns | None = None,
    ) -> Batch:
        """A batch with the features.

        Args:
            reader: history or the online store.
            rows: the requests and their candidates.
            labels: [N] float32 each, by name.
            known: what `request` gave for these requests; it is not made again.

        Raises:
            RequestError: a view is about an entity that the rows don't have.
        """
        self._check_entities(rows)
        of_item = expand(rows.offsets)
        item_times = rows.times[of_item]
        reads = self._reads_of_request(rows) if known is None else []
        requests = len(reads)
        for view, names, entities in self._of_item:
            reads.append(Read(view, names, _keys(entities, rows, of_item), item_times))
        found = reader.read_all(reads)
        item, request = list(found[requests:]), list(found[:requests])
        if known is not None:
            request.append(known)
        if self._chains:
            of_rows = Level(
                lambda entity: rows.candidates if entity == rows.item else rows.request_keys[entity][of_item],
                lambda n: _find(request, n).take(of_item) if self.levels[n] else _find(item, n),
                item_times,
                item,
            )
            self._chains.follow(reader, _of_request(request, rows) if known is None else None, of_rows)
        if known is None:
            self._derive_of_request(request, rows)
        for step in self._steps[False]:
            columns = {n: _find(request, n).take(of_item) if self.levels[n] else _find(item, n) for n in step.inputs}
            item.append(step.columns(columns, item_times))
        return Batch(
            request=self._request.joined(request),
            item=self._item.joined(item),
            offsets=rows.offsets,
            times=rows.times,
            request_ids=rows.request_ids,
            candidates=rows.candidates,
            labels=labels or {},
            keys=rows.request_keys,
        )

    def _reads_of_request(self, rows: Candidates) -> list[Read]:
        return [
            Read(view, names, _keys(entities, rows, None), rows.times) for view, names, entities in self._of_request
        ]

    def _derive_of_request(self, groups: list[Mapping[str, Column]], rows: Candidates) -> None:
        if self.selected.contexts:
            groups.append(context_columns(self.selected.contexts, rows.context, len(rows.times)))
        for step in self._steps[True]:
            groups.append(step.columns({n: _find(groups, n) for n in step.inputs}, rows.times))

    def _check_entities(self, rows: Candidates) -> None:
        missing = self._entities.keys() - rows.request_keys.keys()
        if missing:
            entity = next(e for e in self._entities if e in missing)
            known = [*rows.request_keys, rows.item]
            raise RequestError(f"needs the entity '{entity}', got {known}", where=self._entities[entity].place)


def _keys(entities: tuple[str, ...], rows: Candidates, of_item: Int64s | None) -> Int64s:
    """[R or N, entities] int64."""
    count = len(rows.times) if of_item is None else len(of_item)
    keys = np.empty((count, len(entities)), np.int64)
    for i, entity in enumerate(entities):
        if entity == rows.item:
            keys[:, i] = rows.candidates
        else:
            keys[:, i] = rows.request_keys[entity] if of_item is None else rows.request_keys[entity][of_item]
    return keys


def _of_request(found: list[Mapping[str, Column]], rows: Candidates) -> Level:
    return Level(rows.request_keys.__getitem__, lambda n: _find(found, n), rows.times, found)


def _find(groups: Sequence[Mapping[str, Column]], name: str) -> Column:
    for columns in groups:
        if name in columns:
            return columns[name]
    raise KeyError(name)


@final
class _Step:
    """Derived features that are evaluated together; their columns are always in the same places."""

    __slots__ = ("_places", "_scorers", "derived", "inputs")

    def __init__(self, derived: list[Computed], scorers: Scorers) -> None:
        self.derived, self._scorers = derived, scorers
        self.inputs = {n for d in derived for n in d.inputs if n != REQUEST_TIME}
        self._places: Places = {d.name: (i, -1) for i, d in enumerate(derived)}

    def columns(self, inputs: Mapping[str, Column], times: Int64s) -> Columns:
        """The values of n rows, of the inputs by name."""
        found = compute(self.derived, inputs, times, self._scorers)
        return Columns([found[d.name] for d in self.derived], self._places)


@final
class _Order:
    """Puts the columns of several reads together under given names, and remembers where each was the last time."""

    __slots__ = ("_last", "_names")

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._last: tuple[list[Places], Places] | None = None

    def joined(self, groups: Sequence[Mapping[str, Column]]) -> Columns:
        """The columns of the names in order; stacks stay as they are."""
        every = [Columns.of(group) for group in groups]
        parts = [part for columns in every for part in columns.parts]
        last = self._last
        if last is None or [id(p) for p in last[0]] != [id(c.places) for c in every]:
            where: dict[str, tuple[int, int]] = {}
            first = 0
            for columns in every:
                where.update({n: (first + part, at) for n, (part, at) in columns.places.items()})
                first += len(columns.parts)
            # One assignment: other threads join by the same plan.
            last = self._last = [c.places for c in every], {n: where[n] for n in self._names}
        return Columns(parts, last[1])
