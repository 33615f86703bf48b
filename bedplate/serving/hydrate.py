"""Hydration: the features of a request and of its candidates, each view read once, by the join that training uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import final

import numpy as np

from bedplate.batch import Batch, Column, Columns, Dense, Ids, Places, Ragged, Stack
from bedplate.errors import DefinitionError
from bedplate.features.assemble import Candidates, Join
from bedplate.features.graph import FeatureGraph
from bedplate.features.model import Scorers
from bedplate.features.reader import Reader
from bedplate.serving.answers import Key
from bedplate.types import Bools, Int64s, Type

_ONE = np.zeros(1, np.int64)
_NOTHING = np.zeros(0, np.int64)
_NO_CANDIDATES = np.zeros(2, np.int64)
_NO_CONTEXT: Mapping[str, Column] = {}


@final
class Hydrator:
    """Reads a service's features: all that its models, filters and exclusions need, and no others.

    Args:
        graph: the project's features.
        names: the features to read.
        item: the entity of the candidates.
        reader: the online store.
        place: what a message calls the service.
        scorers: the models behind the features.

    Attributes:
        entities: the type of the key of each entity of the request.
        item_type: the type of the candidates' keys.
        levels: whether a feature is one of the request, by name.
        selected: the features that are read.
        contexts: the context of the request that the features need.

    Raises:
        DefinitionError: no feature has this name, or no view is about the candidates' entity.
    """

    __slots__ = ("_about", "_item", "_join", "_reader", "contexts", "entities", "item_type", "levels", "selected")

    def __init__(
        self,
        graph: FeatureGraph,
        names: Sequence[str],
        item: str,
        reader: Reader,
        place: str,
        scorers: Scorers = MappingProxyType({}),
    ) -> None:
        self._item, self._reader = item, reader
        kinds = graph.key_types()
        if item not in kinds:
            known = ", ".join(kinds)
            raise DefinitionError(f"no view is about the item '{item}'", where=place, hint=f"entities: {known}")
        self.item_type = kinds[item]
        # Whether a key is known is asked of its own features: of those too that hold the keys of others.
        held = [key for chain, _ in graph.select(names, place).chains for key in chain.keys if key is not None]
        selected = graph.select([*names, *held], place)
        self.selected = selected
        self._join, self.contexts = Join(selected, item, scorers), selected.contexts
        self.entities: dict[str, Type] = {e.name: kinds[e.name] for e in selected.entities if e.name != item}
        self.levels: Mapping[str, bool] = self._join.levels
        about: dict[str, list[str]] = {}
        for view, read in selected.views:
            if len(view.view.entities) == 1:
                about.setdefault(view.view.entities[0].name, []).extend(read)
        self._about = {entity: _About(tuple(names)) for entity, names in about.items()}

    def request(
        self,
        keys: Mapping[str, Int64s],
        time: int,
        context: Mapping[str, Column] = _NO_CONTEXT,
        reader: Reader | None = None,
    ) -> Columns:
        """The features of the request: columns of one row.

        Args:
            keys: [1] int64 for each of `entities`.
            time: microseconds.
            context: columns [1] of the request's context, by full name; what is not here is null.
            reader: reads the features in place of the hydrator's own.

        Raises:
            StoreError: the store can't be read, or is ahead of the time.
        """
        rows = Candidates(keys, self._item, _NOTHING, _NO_CANDIDATES, np.array([time]), _ONE, context)
        return self._join.request(reader or self._reader, rows)

    def candidates(
        self,
        keys: Mapping[str, Int64s],
        time: int,
        candidates: Int64s,
        known: Columns | None = None,
        context: Mapping[str, Column] = _NO_CONTEXT,
        reader: Reader | None = None,
    ) -> Batch:
        """The batch of one request and n candidates.

        Args:
            keys: as for `request`.
            time: as for `request`.
            candidates: [n] int64.
            known: the features of the request, where they were read before.
            context: as for `request`.
            reader: as for `request`.

        Raises:
            StoreError: the store can't be read, or is ahead of the time.
        """
        offsets = np.array([0, len(candidates)], np.int64)
        rows = Candidates(keys, self._item, candidates, offsets, np.array([time]), _ONE, context)
        return self._join.batch(reader or self._reader, rows, known=known)

    def unknown_entities(self, request: Mapping[str, Column]) -> list[str]:
        """The entities of the request of whose key nothing is known."""
        about = self._about
        return [e for e in self.entities if e in about and about[e].unknown(Columns.of(request), 1) is not None]

    def unknown_items(self, batch: Batch) -> Bools | None:
        """[n]: the candidates of which nothing is known, or None: something is known of each."""
        if self._item not in self._about or not batch.items:
            return None
        return self._about[self._item].unknown(Columns.of(batch.item), batch.items)

    def unknown_given(self, batch: Batch, given: Sequence[Key], keys: Int64s) -> dict[str, list[Key]]:
        """Those of the items that a client names of which nothing is known, each once, by the entity; or nothing.

        Args:
            batch: the request with its candidates.
            given: the items, as the client wrote them.
            keys: the same as [n] int64.
        """
        rows = self.unknown_items(batch)
        if rows is None:
            return {}
        named = dict.fromkeys(given[i] for i in np.flatnonzero(np.isin(keys, batch.candidates[rows])).tolist())
        return {self._item: list(named)} if named else {}


@final
class _About:
    """The features of one entity, which tell whether anything is known of a key."""

    __slots__ = ("_last", "_names")

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._last: tuple[Places, tuple[int, ...]] | None = None

    def unknown(self, columns: Columns, n: int) -> Bools | None:
        """[n]: rows where no feature has a value other than zero, or None; looks at no more features than it must."""
        unknown: Bools | None = None
        for part in self._parts(columns):
            known = _has_value(columns.parts[part])
            unknown = ~known if unknown is None else unknown & ~known
            if not unknown.any():
                return None
        return np.ones(n, np.bool_) if unknown is None else unknown

    def _parts(self, columns: Columns) -> tuple[int, ...]:
        """The parts with the features, identities first: a key that is known has them more often than anything else."""
        last, places = self._last, columns.places
        if last is None or last[0] is not places:
            # A stack holds columns of one view, and so of one entity.
            found = dict.fromkeys(places[name][0] for name in self._names if name in places)
            ordered = sorted(found, key=lambda part: not _is_identity(columns.parts[part]))
            last = self._last = places, tuple(ordered)
        return last[1]


def _is_identity(part: Stack | Column) -> bool:
    return part.is_ids if isinstance(part, Stack) else isinstance(part, Ids)


def _has_value(part: Stack | Column) -> Bools:
    """[n]: the rows with a value other than zero; an identity is a value, whichever it is."""
    if isinstance(part, Stack):
        if part.is_ids:
            there: Bools = np.ones(part.values.shape, np.bool_) if part.present is None else part.present
        else:
            there = part.values != 0 if part.present is None else (part.values != 0) & part.present
        return np.logical_or.reduce(there, axis=0)
    if isinstance(part, Ragged):
        return part.offsets[1:] > part.offsets[:-1]
    if isinstance(part, Dense):
        return part.values != 0 if part.present is None else (part.values != 0) & part.present
    return np.ones(len(part), np.bool_) if part.present is None else part.present


def take_candidates(batch: Batch, rows: Int64s) -> Batch:
    """The batch of one request with only these candidates."""
    return Batch(
        request=batch.request,
        item=Columns.of(batch.item).take(rows),
        offsets=np.array([0, len(rows)], np.int64),
        times=batch.times,
        request_ids=batch.request_ids,
        candidates=batch.candidates[rows],
    )


def keys_in(column: Column, place: str) -> Int64s:
    """The keys in a feature of the request: one, or a list of them.

    Raises:
        DefinitionError: the feature holds no keys.
    """
    values = column.values if isinstance(column, Ragged) else column
    if isinstance(values, Ids) or (isinstance(values, Dense) and values.values.dtype == np.int64):
        return values.values if values.present is None else values.values[values.present]
    raise DefinitionError("the feature holds no keys", where=place)
