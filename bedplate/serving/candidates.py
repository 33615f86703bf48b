"""The first step: candidates of all sources, each item once, with the source that it counts for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import final

import numpy as np

from bedplate.batch import Column
from bedplate.errors import DeadlineError, StoreError
from bedplate.inference.retrieval import Catalogue
from bedplate.inference.time_limit import TimeLimit
from bedplate.serving.finders import Finder
from bedplate.serving.hydrate import keys_in
from bedplate.serving.progress import NotFiniteError, Progress
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
            NotFiniteError: none did, as the vector of the request is not finite: it will be so again.
            DeadlineError: none did in the client's time.
        """
        budget = self._limit.seconds
        seconds = progress.left(budget)
        until = math.inf if seconds is None or progress.is_strict else monotonic() + seconds
        without = [asked.item_keys, *(keys_in(request[name], place) for name, place in self._exclude)]
        asking = _Asking(self.finders, request, asked, np.concatenate(without), until)
        late: Exception | None = None
        try:
            if not self._limit.run(asking.all, until, is_patient=progress.is_strict):
                asking.quick()
        except DeadlineError as error:
            late = error
            asking.quick()  # the thread may not have come to them
        found, failures = asking.found.copy(), asking.failures.copy()
        if late is None and len(found) + len(failures) < len(self.finders):
            late = DeadlineError("no time was left")
        for position, finder in enumerate(self.finders):
            error = failures.get(position, late)
            if position not in found and error is not None:
                progress.failed("candidates", error, _INSTEAD, finder.name)
        if not found:
            progress.check()
            if late is not None and seconds != budget:
                raise DeadlineError("no source of candidates answered before the deadline")
            if failures and all(isinstance(error, NotFiniteError) for error in failures.values()):
                raise failures[min(failures)]
            raise StoreError("no source of candidates answered", hint="the server's log says more")
        for finder in self.finders:
            if finder.age is not None:
                progress.flag("candidates", f"{finder.name}: old", "the items ranked last")
        return self._merged([found.get(i, _NOTHING) for i in range(len(self.finders))], request, asked)

    def _merged(self, lists: Sequence[Int64s], request: Mapping[str, Column], asked: Asked) -> Found:
        texts: dict[int, str] = {}
        for finder in self.finders:
            texts.update(finder.texts(request, asked))
        return Found(*merge(lists), texts)


@final
class _Asking:
    """The sources, asked for one request, perhaps on a thread that is left behind meanwhile.

    Attributes:
        found: the keys of each source that answered, by its position.
        failures: what the others raised.
    """

    __slots__ = ("_asked", "_begun", "_finders", "_request", "_until", "_without", "failures", "found")

    def __init__(
        self, finders: Sequence[Finder], request: Mapping[str, Column], asked: Asked, without: Int64s, until: float
    ) -> None:
        self._finders, self._request, self._asked, self._without = finders, request, asked, without
        self._until = until
        self._begun: int | None = None  # the last that was asked
        self.found: dict[int, Int64s] = {}
        self.failures: dict[int, Exception] = {}

    def all(self) -> bool:
        """Asks all, as long as there is time; what is quick first: a source that is slow gets all that is left.

        Gives whether all were asked.
        """
        for position in sorted(range(len(self._finders)), key=lambda i: self._finders[i].is_slow):
            if self._until != math.inf and monotonic() >= self._until:
                return False  # nobody waits any more
            self._ask(position)
        return True

    def quick(self) -> None:
        """Asks those that take no time and were not asked; none where one of them holds up the thread just now."""
        left = [i for i, f in enumerate(self._finders) if not f.is_slow and i not in self.found | self.failures]
        for position in [] if self._begun in left else left:
            self._ask(position)

    def _ask(self, position: int) -> None:
        self._begun = position
        try:
            self.found[position] = self._finders[position].find(self._request, self._asked, self._without)
        except Exception as error:  # noqa: BLE001  (of a model, of a store: the other sources can do without)
            self.failures[position] = error


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
