"""Reading views whose keys are in features that were read before: level by level, all views of a level in one read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from bedplate.batch import Column, Columns, Dense, Embedding, Ids, Places, Ragged, Stack
from bedplate.features.links import Chain
from bedplate.features.reader import Read, Reader
from bedplate.types import Array, Bools, Int64s


@final
@dataclass(frozen=True, slots=True)
class Level:
    """Rows of one kind, requests or candidates, whose features are being read.

    Attributes:
        own: gives the [n] int64 keys that the rows have of an entity, by its name.
        find: gives a column [n] that was read before, by its full name.
        times: [n] int64 microseconds.
        found: what was read; more is added.
    """

    own: Callable[[str], Int64s]
    find: Callable[[str], Column]
    times: Int64s
    found: list[Mapping[str, Column]]


@final
class ChainRead:
    """Features of a view to read by keys that features hold.

    Args:
        chain: the way to the view.
        names: full names of features of the view, as the view itself calls them.
        of_request: whether the rows are requests.
    """

    __slots__ = ("_last", "chain", "names", "of_request")

    def __init__(self, chain: Chain, names: Sequence[str], *, of_request: bool) -> None:
        self.chain, self.names, self.of_request = chain, tuple(names), of_request
        self._last: tuple[Places, Places] | None = None

    def keys(self, level: Level) -> tuple[Int64s, Bools | None]:
        """The keys [n, entities], and [n] which rows have all of them (None: all rows)."""
        keys = np.empty((len(level.times), len(self.chain.keys)), np.int64)
        there: Bools | None = None
        for i, (entity, name) in enumerate(zip(self.chain.view.view.entities, self.chain.keys, strict=True)):
            if name is None:
                keys[:, i] = level.own(entity.name)
                continue
            values, present = _key_values(level.find(name))
            keys[:, i] = values
            if present is not None:
                there = present if there is None else there & present
        if there is None or there.all():
            return keys, None
        # What is read for a row without a key is thrown away: so read what is read for another row anyway.
        if there.any():
            keys[~there] = keys[int(there.argmax())]
        return keys, there

    def columns(self, found: Mapping[str, Column], there: Bools | None) -> Columns:
        """What was read under the names that lead there, without values where the key was not there."""
        columns = Columns.of(found)
        last = self._last
        if last is None or last[0] is not columns.places:
            prefix = self.chain.prefix
            # One assignment: other threads read by the same chain.
            last = self._last = columns.places, {prefix + name: place for name, place in columns.places.items()}
        return Columns(columns.parts if there is None else [masked(p, there) for p in columns.parts], last[1])


@final
class Chains:
    """Views to read by keys that features hold.

    Args:
        chains: each with the full names of the features to read, as the view itself calls them.
        item: the name of the candidates' entity; None where all rows are of one kind, counted as requests.
    """

    __slots__ = ("_waves",)

    def __init__(self, chains: Sequence[tuple[Chain, Sequence[str]]], item: str | None = None) -> None:
        waves: dict[int, list[ChainRead]] = {}
        for chain, names in chains:
            of_request = all(e.name != item for e in chain.entities)
            waves.setdefault(chain.depth, []).append(ChainRead(chain, names, of_request=of_request))
        self._waves = [waves[depth] for depth in sorted(waves)]

    def __bool__(self) -> bool:
        """Whether there is anything to read."""
        return bool(self._waves)

    def follow(self, reader: Reader, request: Level | None, item: Level | None) -> None:
        """Reads all that is of these rows, and adds it to what was found.

        Args:
            reader: history or the online store.
            request: the requests; None: what is of them was read before.
            item: the candidates; None: what is of them is not wanted.
        """
        for wave in self._waves:
            asked: list[tuple[ChainRead, Level, Bools | None]] = []
            reads: list[Read] = []
            for one in wave:
                level = request if one.of_request else item
                if level is not None:
                    keys, there = one.keys(level)
                    asked.append((one, level, there))
                    reads.append(Read(one.chain.view, one.names, keys, level.times))
            if reads:
                for (one, level, there), found in zip(asked, reader.read_all(reads), strict=True):
                    level.found.append(one.columns(found, there))


def _key_values(column: Column) -> tuple[Array, Bools | None]:
    if isinstance(column, Ids | Dense):
        return column.values, column.present
    raise TypeError(f"a {type(column).__name__} holds no keys")


def masked(part: Stack | Column, there: Bools) -> Stack | Column:
    """The same rows [n], without values where `there` [n] is false."""
    if isinstance(part, Stack):
        present = np.broadcast_to(there, part.values.shape) if part.present is None else part.present & there
        return Stack(part.values, present, part.is_ids, part.texts)
    if isinstance(part, Ragged):
        return _without(part, there)
    present = there if part.present is None else part.present & there
    if isinstance(part, Ids):
        return Ids(part.values, present, part.texts)
    return Dense(part.values, present) if isinstance(part, Dense) else Embedding(part.values, present)


def _without(lists: Ragged, there: Bools) -> Ragged:
    """The lists, empty where there is none.

    >>> _without(Ragged(Dense(np.array([1, 2, 3])), np.array([0, 1, 3])), np.array([False, True])).offsets.tolist()
    [0, 0, 2]
    """
    lengths = np.diff(lists.offsets)
    offsets = np.concatenate(([0], np.cumsum(lengths * there)))
    return Ragged(lists.values.take(np.flatnonzero(np.repeat(there, lengths))), offsets)
