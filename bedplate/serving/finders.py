"""How each source of candidates finds them, for one request."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import final

import numpy as np

from bedplate.batch import Batch, Column, Ids, Ragged
from bedplate.errors import ArtifactError, DefinitionError
from bedplate.features.artifact import QUERY
from bedplate.inference.artifact import Artifact
from bedplate.inference.retrieval import Catalogue
from bedplate.serving.hydrate import keys_in
from bedplate.serving.popular import Ranking
from bedplate.serving.progress import NotFiniteError
from bedplate.serving.steps import Given, Popular, Recent, Retrieval
from bedplate.serving.wire import Asked
from bedplate.types import Float32s, Int64s

_NOTHING = np.zeros(0, np.int64)
_NO_CANDIDATES = np.zeros(2, np.int64)


class Finder(ABC):
    """Finds the candidates of one source.

    Attributes:
        name: of the source.
        is_slow: whether it may take long: then it can be left behind, on a thread of its own.
    """

    name: str
    is_slow: bool = False

    @abstractmethod
    def find(self, request: Mapping[str, Column], asked: Asked, without: Int64s) -> Int64s:
        """The keys [n] of the candidates, best first, each once.

        Args:
            request: the features of the request, columns of one row.
            asked: the request.
            without: keys that are left out.
        """

    def texts(self, request: Mapping[str, Column], asked: Asked) -> Mapping[int, str]:
        """The texts behind keys that the source brings and no catalogue knows."""
        return {}

    @property
    def age(self) -> float | None:
        """The seconds since what the source gives was made, where that is too long; else None."""
        return None


@final
class Tower:
    """A retrieval model: its query tower and its index.

    Args:
        artifact: the model.
        place: what a message calls the service.

    Attributes:
        artifact: as given.
        catalogue: the index.

    Raises:
        DefinitionError: the model has no index, or its tower reads features of candidates.
        ArtifactError: it has no query tower.
    """

    __slots__ = ("artifact", "catalogue")

    def __init__(self, artifact: Artifact, place: str) -> None:
        self.artifact, self.catalogue = artifact, index_of(artifact, place)
        artifact.require(QUERY)
        if artifact.signature.features("item"):
            raise DefinitionError(f"{artifact.model.place} reads features of candidates", where=place)

    def query(self, request: Mapping[str, Column], time: int) -> Float32s:
        """The vector [width] of a request.

        Raises:
            NotFiniteError: it holds NaN or infinity, with which every item is as near as any other.
        """
        batch = Batch(request, {}, _NO_CANDIDATES, np.array([time]), _NO_CANDIDATES[:1], _NOTHING)
        vector = self.artifact.run(batch, QUERY)[0]
        if not np.isfinite(vector).all():
            raise NotFiniteError(
                "the vector of the request holds NaN or infinity, expected finite numbers",
                where=self.artifact.model.place,
                hint="look for a feature of the request far beyond those that the model was trained on",
            )
        return vector


@final
class RetrievalFinder(Finder):
    """The nearest items to the request's vector."""

    is_slow = True

    def __init__(self, source: Retrieval, tower: Tower, place: str) -> None:
        self.name, self._source, self.tower = source.name, source, tower
        self._always = tuple((name, f"{place}, always '{name}'") for name in source.always)

    def find(self, request: Mapping[str, Column], asked: Asked, without: Int64s) -> Int64s:
        """See `Finder.find`."""
        always = [_NOTHING, *(keys_in(request[name], place) for name, place in self._always)]
        query, catalogue = self.tower.query(request, asked.time), self.tower.catalogue
        return catalogue.keys[catalogue.search(query, self._source.count, without, np.concatenate(always))]


@final
class PopularFinder(Finder):
    """The first of the items ranked by a feature."""

    def __init__(self, source: Popular, ranking: Ranking) -> None:
        self.name, self._count, self._ranking = source.name, source.count, ranking

    def find(self, request: Mapping[str, Column], asked: Asked, without: Int64s) -> Int64s:
        """See `Finder.find`."""
        # So many of the best that as many as are wanted are left.
        best = self._ranking.items()[: self._count + len(without)]
        return _allowed(best, without)[: self._count]

    @property
    def age(self) -> float | None:
        """See `Finder.age`."""
        return self._ranking.age


@final
class RecentFinder(Finder):
    """The items in a feature of the request, newest first.

    Args:
        source: the definition.
        catalogue: the items that can be recommended; None: all.
        place: what a message calls the service.
    """

    def __init__(self, source: Recent, catalogue: Catalogue | None, place: str) -> None:
        self.name, self._source, self._catalogue = source.name, source, catalogue
        self._place = f"{place}, recent '{source.feature}'"

    def find(self, request: Mapping[str, Column], asked: Asked, without: Int64s) -> Int64s:
        """See `Finder.find`."""
        keys = _once(keys_in(request[self._source.feature], self._place)[::-1])
        if self._catalogue is not None:
            keys = keys[self._catalogue.places(keys) >= 0]
        elif self._ids(request) is not None:
            known = self.texts(request, asked)
            keys = keys[np.fromiter((key in known for key in keys.tolist()), np.bool_, len(keys))]
        return _allowed(keys, without)[: self._source.count]

    def texts(self, request: Mapping[str, Column], asked: Asked) -> Mapping[int, str]:
        """See `Finder.texts`."""
        ids = self._ids(request) if self._catalogue is None else None
        if ids is None or ids.texts is None:
            return {}
        found = {key: ids.texts.get(key) for key in keys_in(ids, self._place).tolist()}
        return {key: text for key, text in found.items() if text is not None}

    def _ids(self, request: Mapping[str, Column]) -> Ids | None:
        """The feature's values where texts are behind them."""
        column = request[self._source.feature]
        values = column.values if isinstance(column, Ragged) else column
        return values if isinstance(values, Ids) and values.texts is not None else None


@final
class GivenFinder(Finder):
    """The items that the client names."""

    def __init__(self, source: Given) -> None:
        self.name = source.name

    def find(self, request: Mapping[str, Column], asked: Asked, without: Int64s) -> Int64s:
        """See `Finder.find`."""
        return _allowed(_once(asked.candidate_keys), without)

    def texts(self, request: Mapping[str, Column], asked: Asked) -> Mapping[int, str]:
        """See `Finder.texts`."""
        pairs = zip(asked.candidate_keys.tolist(), asked.candidates, strict=True)
        return {key: text for key, text in pairs if isinstance(text, str)}


def index_of(artifact: Artifact, place: str) -> Catalogue:
    """The retrieval index of a model.

    Raises:
        DefinitionError: it has none.
    """
    if artifact.catalogue is None:
        raise DefinitionError(
            f"{artifact.model.place} has no retrieval index", where=place, hint="name a retrieval model"
        )
    return artifact.catalogue


def check_texts(catalogue: Catalogue, has_texts: bool) -> None:
    """Checks that a catalogue knows its items as clients do.

    Raises:
        ArtifactError: the keys are strings and the catalogue has no texts, or the other way round.
    """
    if catalogue.has_texts != has_texts:
        kind = "string" if has_texts else "int"
        raise ArtifactError(f"the retrieval index has no {kind} keys, as the item's views have")


def _once(keys: Int64s) -> Int64s:
    """The keys, each where it is first."""
    _, first = np.unique(keys, return_index=True)
    return keys if len(first) == len(keys) else keys[np.sort(first)]


def _allowed(keys: Int64s, without: Int64s) -> Int64s:
    return keys[~np.isin(keys, without)] if len(without) and len(keys) else keys
