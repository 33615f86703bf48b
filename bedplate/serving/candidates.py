"""The first step: candidates of all sources, each item once, with the source that it counts for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import final

import numpy as np

from bedplate.batch import Column
from bedplate.errors import StoreError
from bedplate.serving.finders import Finder
from bedplate.serving.hydrate import keys_in
from bedplate.serving.progress import Progress, TimeLimit
from bedplate.serving.retrieval import Catalogue
from bedplate.serving.wire import Asked, Key
from bedplate.types import Int64s

_NOTHING = np.zeros(0, np.int64)
_INSTEAD = "the other sources"


@final
class Found:
    """The candidates of one request.

    Attributes:
        keys: [n] int64, each once: those of the first source, then what the second one adds, and so on.
        source: [n] the position of the source that each counts for.
    """

    __slots__ = ("_texts", "keys", "source")

    def __init__(self, keys: Int64s, source: Int64s, texts: Mapping[int, str]) -> None:
        self.keys, self.source, self._texts = keys, source, texts

    def take(self, rows: Int64s) -> Found:
        """Only the candidates at these positions."""
        return Found(self.keys[rows], self.source[rows], self._texts)

    def sources(self, names: Sequence[str]) -> list[str]:
        """The name of the source that each candidate counts for."""
        positions: list[int] = self.source.tolist()
        return [names[position] for position in positions]

    def ids(self, catalogues: Sequence[Catalogue]) -> list[Key]:
        """The keys as a client knows them."""
        ids: list[Key] = self.keys.tolist()
        left = np.arange(len(ids))
        for catalogue in catalogues:
            if not catalogue.has_texts or not len(left):
                return ids
            places = catalogue.places(self.keys[left])
            for i, place in zip(left.tolist(), places.tolist(), strict=True):
                if place >= 0:
                    ids[i] = catalogue.wire[place]
            left = left[places < 0]
        for i in left.tolist() if self._texts else ():
            key = int(self.keys[i])
            ids[i] = self._texts.get(key, key)
        return ids


@final
class CandidateStep:
    """Asks all sources. One that is late or fails is left out; the answer says so.

    Args:
        finders: of the sources, in the order of the definition.
        exclude: features of the request whose items are no candidates.
        place: what a message calls the service.
        seconds: how long all of them may take; None: no limit.

    Attributes:
        finders: as given.
    """

    __slots__ = ("_exclude", "_limit", "finders")

    def __init__(self, finders: Sequence[Finder], exclude: Sequence[str], place: str, seconds: float | None) -> None:
        self.finders = tuple(finders)
        self._exclude = tuple((name, f"{place}, exclude '{name}'") for name in exclude)
        self._limit = TimeLimit(seconds, f"{place}, candidates")

    def find(self, request: Mapping[str, Column], asked: Asked, progress: Progress) -> Found:
        """The candidates of a request.

        Raises:
            StoreError: none of the sources answered.
        """
        seconds = progress.left(self._limit.seconds)
        until = math.inf if seconds is None else monotonic() + seconds
        without = [asked.item_keys, *(keys_in(request[name], place) for name, place in self._exclude)]
        excluded = np.concatenate(without)
        found: dict[int, Int64s] = {}
        # What is quick first: a source that is slow gets all the time that is left.
        for position in sorted(range(len(self.finders)), key=lambda i: self.finders[i].is_slow):
            finder = self.finders[position]
            try:
                found[position] = self._ask(finder, request, asked, excluded, until, progress.is_strict)
            except Exception as error:  # noqa: BLE001  (of a model, of a store: the other sources can do without)
                progress.failed("candidates", error, _INSTEAD, finder.name)
        if not found:
            raise StoreError("no source of candidates answered", hint="the server's log says more")
        for finder in self.finders:
            if finder.age is not None:
                progress.flag("candidates", f"{finder.name}: old", "the items ranked last")
        return self._merged([found.get(i, _NOTHING) for i in range(len(self.finders))], request, asked)

    def _ask(
        self,
        finder: Finder,
        request: Mapping[str, Column],
        asked: Asked,
        without: Int64s,
        until: float,
        is_patient: bool,
    ) -> Int64s:
        if not finder.is_slow:
            return finder.find(request, asked, without)
        return self._limit.run(lambda: finder.find(request, asked, without), until, is_patient=is_patient)

    def _merged(self, lists: Sequence[Int64s], request: Mapping[str, Column], asked: Asked) -> Found:
        texts: dict[int, str] = {}
        for finder in self.finders:
            texts.update(finder.texts(request, asked))
        return Found(*merge(lists), texts)


def merge(lists: Sequence[Int64s]) -> tuple[Int64s, Int64s]:
    """Keys of several sources, each once.

    Args:
        lists: of each source keys [n_i], each once in its list.

    Returns:
        The keys [n], list after list, an item where it comes first; and [n] the position of that list.

    >>> keys, source = merge([np.array([5, 3]), np.array([3, 9])])
    >>> keys.tolist(), source.tolist()
    ([5, 3, 9], [0, 0, 1])
    """
    keys = np.concatenate(lists)
    source = np.repeat(np.arange(len(lists)), [len(found) for found in lists])
    if len(lists) > 1:
        _, first = np.unique(keys, return_index=True)
        first.sort()
        keys, source = keys[first], source[first]
    return keys, source
