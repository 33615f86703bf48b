"""The pipeline of a service: candidates -> hydrate -> filter -> score -> select."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np

from bedplate.batch import Batch, Column
from bedplate.clock import Clock, system_clock
from bedplate.errors import ArtifactError, DefinitionError, RequestError
from bedplate.features.assemble import Reader
from bedplate.features.graph import FeatureGraph
from bedplate.online.fallback import FallbackReader, Reading, texts_read
from bedplate.online.guard import GuardedStore
from bedplate.online.resident import ResidentViews
from bedplate.serving.artifact import Artifact
from bedplate.serving.filters import Filters
from bedplate.serving.hydrate import Hydrator, keys_in, take_candidates
from bedplate.serving.retrieval import Catalogue
from bedplate.serving.scorer import scorers
from bedplate.serving.service import Service
from bedplate.serving.wire import Answer, Asked, Key, Wire, empty_reason
from bedplate.types import Float32s, Int64s, Type

SCORE = "score"
"""The output of a ranking model: [candidates], larger is better."""
QUERY = "query"
"""The output of a retrieval model's query tower: [requests, width]."""

_NOTHING = np.zeros(0, np.int64)
_NO_CANDIDATES = np.zeros(2, np.int64)


@final
class Pipeline:
    """A loaded service.

    Args:
        service: the definition.
        graph: the project's features.
        reader: the online store. With a `FallbackReader` there is an answer too when the store is slow or down.
        load: gives the checked artifact of a model by its reference.
        clock: gives the time of a request that says none.

    Attributes:
        service: the definition.
        wire: reads requests.
        models: the artifact of each part, `ranking` and `retrieval`.

    Raises:
        DefinitionError: a model reads a feature that is not defined or whose definition has changed; a filter or an
            exclusion is wrong.
        NotFoundError: a model is not there.
        ArtifactError: a model's folder is damaged, or it is of another kind.
    """

    __slots__ = (
        "_candidates", "_fallback", "_filters", "_hydrator", "_made", "_ranker", "_texts_of", "_versions", "models",
        "service", "wire",
    )  # fmt: skip

    def __init__(
        self,
        service: Service,
        graph: FeatureGraph,
        reader: Reader,
        load: Callable[[str], Artifact],
        clock: Clock = system_clock,
    ) -> None:
        self.service = service
        self._ranker = load(service.ranking)
        self.models: dict[str, Artifact] = {"ranking": self._ranker}
        if service.retrieval is not None:
            self.models["retrieval"] = load(service.retrieval.model)
        self._filters = Filters(service.filters, graph, service.place)
        names = list(self._filters.features)
        for artifact in self.models.values():
            artifact.signature.check_features(graph.features, artifact.model.place)
        names += self._ranker.signature.features()
        of_keys = {"exclude": service.exclude, "always": service.retrieval.always if service.retrieval else ()}
        for part, features in of_keys.items():
            _check_keys(features, graph, f"{service.place}, {part}")
            names += features
        retrieval = self.models.get("retrieval")
        if retrieval is not None:
            names += retrieval.signature.features()
        makers = scorers(graph.select(names, service.place), graph, load, _pinned(self.models, service.place))
        self._fallback = reader if isinstance(reader, FallbackReader) else None
        self._hydrator = Hydrator(graph, names, service.item, reader, service.place, makers)
        self._texts_of = texts_read(self._hydrator.selected)
        _check_levels(self._hydrator.levels, self.models, service)
        self._ranker.require(SCORE)
        self._candidates = None if retrieval is None else _Candidates(retrieval, service)
        if self._candidates is not None:
            self._candidates.check_keys(self._hydrator.item_type)
        hydrator = self._hydrator
        self.wire = Wire(service, hydrator.entities, hydrator.item_type, clock, hydrator.contexts)
        self._versions = {part: f"{a.model.name}:{a.model.version}" for part, a in self.models.items()}
        self._made = {name: maker.version for name, maker in makers.items()}

    @property
    def store(self) -> GuardedStore | None:
        """The store as it is read, where the reads may fall back."""
        return None if self._fallback is None else self._fallback.guard

    @property
    def resident(self) -> ResidentViews | None:
        """The resident views, where the reads may fall back."""
        return None if self._fallback is None else self._fallback.resident

    @property
    def catalogue(self) -> Catalogue | None:
        """All items that can be recommended, where the service has a retrieval."""
        return None if self._candidates is None else self._candidates.catalogue

    def recommend(self, asked: Asked) -> Answer:
        """The best items for a request; where there is none, the answer's `reason` says why.

        Raises:
            RequestError: the service has no retrieval.
            StoreError: the store can't be read, or is ahead of the time asked for.
        """
        if self._candidates is None:
            raise RequestError("this service has no retrieval", hint="send the candidates to /rank")
        watch, reading = _Watch(asked.trace), self._begin()
        request = self._hydrator.request(asked.keys, asked.time, asked.context, reading)
        unknown = self._unknown(asked, request)
        watch.mark("request_features")
        found = self._candidates.find(request, asked)
        watch.mark("candidates")
        keys = self._candidates.catalogue.keys[found]
        batch = self._hydrator.candidates(asked.keys, asked.time, keys, request, reader=reading)
        watch.mark("hydrate")
        kept = self._filters.rows(batch)
        if kept is not None:
            batch, found = take_candidates(batch, kept), found[kept]
        watch.mark("filter")
        scores = self._score(batch)
        watch.mark("score")
        order = np.argsort(-scores, kind="stable")[: asked.count]
        wire = self._candidates.catalogue.wire
        ids: list[Key] = [wire[i] for i in found[order].tolist()]
        watch.mark("select")
        return Answer(
            ids=ids,
            scores=scores[order].tolist(),
            models=self._versions,
            time=asked.time,
            unknown=unknown,
            trace=watch.steps,
            degraded={} if reading is None else reading.degraded,
            reason=None if ids else empty_reason(len(self._candidates.catalogue), len(keys)),
        )

    def rank(self, asked: Asked) -> Answer:
        """The score of each candidate that the client gave, in its order.

        Raises:
            StoreError: the store can't be read, or is ahead of the time asked for.
        """
        watch, reading = _Watch(asked.trace), self._begin()
        batch = self._hydrator.candidates(
            asked.keys, asked.time, asked.item_keys, context=asked.context, reader=reading
        )
        # Before the model, whose weights take the place of all else in the processor's caches.
        unknown = self._unknown(asked, batch.request)
        rows = self._hydrator.unknown_items(batch)
        if rows is not None:
            named = dict.fromkeys(asked.items[i] for i in np.flatnonzero(rows).tolist())
            unknown[self.service.item] = list(named)
        watch.mark("hydrate")
        scores = self._score(batch)
        watch.mark("score")
        return Answer(
            ids=asked.items,
            scores=scores.tolist(),
            models={"ranking": self._versions["ranking"]},
            time=asked.time,
            unknown=unknown,
            trace=watch.steps,
            degraded={} if reading is None else reading.degraded,
        )

    def describe(self) -> dict[str, Any]:
        """The service, its models, its features and the requests it answers, for a person or a client to read."""
        return {
            "service": self.service.form(),
            "models": self._versions,
            "features": list(self._hydrator.levels),
            "made_by": self._made,
            "items": None if self._candidates is None else len(self._candidates.catalogue),
            "requests": self.wire.describe(),
        }

    def warm_up(self) -> None:
        """Answers one request of keys that nobody has, so that the first real one finds everything prepared."""
        with contextlib.nullcontext() if self._fallback is None else self._fallback.guard.starting():
            self._warm_up()

    def _warm_up(self) -> None:
        text = {name: "" if kind is Type.STRING else 0 for name, kind in self._hydrator.entities.items()}
        item: Key = "" if self._hydrator.item_type is Type.STRING else 0
        keys = {name: np.zeros(1, np.int64) for name in text}
        now = self.wire.now()
        size = min(self.service.most_candidates, 200)
        asked = Asked(text, keys, now, [item] * size, np.zeros(size, np.int64), self.service.top, trace=False)
        for _ in range(3):
            self.rank(asked)
            if self._candidates is not None:
                self.recommend(asked)
        reading = self._begin()
        self._hydrator.candidates(keys, now, asked.item_keys, reader=reading)
        if reading is not None and reading.failure is not None:
            raise reading.failure

    def _begin(self) -> Reading | None:
        """The reads of one answer, where they may fall back."""
        return None if self._fallback is None else self._fallback.begin(self._texts_of)

    def _score(self, batch: Batch) -> Float32s:
        if not batch.items:
            return np.zeros(0, np.float32)
        return self._ranker.run(batch, SCORE)

    def _unknown(self, asked: Asked, request: Mapping[str, Column]) -> dict[str, list[Key]]:
        return {entity: [asked.given[entity]] for entity in self._hydrator.unknown_entities(request)}


@final
class _Candidates:
    """Retrieval: the query tower on the request's features, then the nearest items of the catalogue."""

    def __init__(self, artifact: Artifact, service: Service) -> None:
        if artifact.catalogue is None or service.retrieval is None:
            raise DefinitionError(
                f"{artifact.model.place} has no retrieval index", where=service.place, hint="name a retrieval model"
            )
        artifact.require(QUERY)
        if artifact.signature.features("item"):
            raise DefinitionError(f"{artifact.model.place} reads features of candidates", where=service.place)
        self.catalogue = artifact.catalogue
        self._tower = artifact
        self._count = service.retrieval.count
        self._exclude = tuple((name, f"{service.place}, exclude '{name}'") for name in service.exclude)
        self._always = tuple((name, f"{service.place}, always '{name}'") for name in service.retrieval.always)

    def check_keys(self, kind: Type) -> None:
        """Checks that the catalogue knows its items as clients do.

        Raises:
            ArtifactError: the keys are strings and the catalogue has no texts, or the other way round.
        """
        if self.catalogue.has_texts != (kind is Type.STRING):
            raise ArtifactError(f"the retrieval index has no {kind} keys, as the item's views have")

    def find(self, request: Mapping[str, Column], asked: Asked) -> Int64s:
        """Positions in the catalogue, nearest first."""
        times = np.array([asked.time])
        batch = Batch(request, {}, _NO_CANDIDATES, times, _NO_CANDIDATES[:1], _NOTHING)
        query: Float32s = self._tower.run(batch, QUERY)[0]
        without = [asked.item_keys, *(keys_in(request[name], place) for name, place in self._exclude)]
        always = [_NOTHING, *(keys_in(request[name], place) for name, place in self._always)]
        return self.catalogue.search(query, self._count, np.concatenate(without), np.concatenate(always))


@final
class _Watch:
    """The milliseconds of each step, measured where the request asks."""

    __slots__ = ("_last", "steps")

    def __init__(self, wanted: bool) -> None:
        self.steps: dict[str, float] | None = {} if wanted else None
        self._last = time.perf_counter_ns()

    def mark(self, step: str) -> None:
        """The end of a step."""
        if self.steps is not None:
            now = time.perf_counter_ns()
            self.steps[step] = (now - self._last) / 1e6
            self._last = now


def _pinned(models: Mapping[str, Artifact], place: str) -> dict[str, str]:
    """The version of the model behind each feature that the service's models were trained with.

    Raises:
        DefinitionError: two of them were trained with different ones.
    """
    found: dict[str, tuple[str, Artifact]] = {}
    for artifact in models.values():
        for feature, version in artifact.signature.models.items():
            first, other = found.setdefault(feature, (version, artifact))
            if first != version:
                raise DefinitionError(
                    f"{other.model.place} was trained with '{feature}' made by {first}, {artifact.model.place} with "
                    f"the one made by {version}",
                    where=place,
                    hint="train one of them again, so that both read the feature of one version",
                )
    return {feature: version for feature, (version, _) in found.items()}


def _check_keys(features: Sequence[str], graph: FeatureGraph, place: str) -> None:
    for feature in graph.select(features, place).features:
        if feature.type not in (Type.INT, Type.STRING):
            raise DefinitionError(f"'{feature.name}' holds values of type {feature.type}, expected keys", where=place)


def _check_levels(levels: Mapping[str, bool], models: Mapping[str, Artifact], service: Service) -> None:
    for artifact in models.values():
        for wanted in artifact.signature.inputs:
            if wanted.feature in levels and levels[wanted.feature] != (wanted.level == "request"):
                raise DefinitionError(
                    f"{artifact.model.place} reads '{wanted.feature}' of the {wanted.level}, "
                    f"with candidates of '{service.item}' it is not",
                    where=service.place,
                    hint="is `item` the entity of the candidates that the model was trained with?",
                )
    always = service.retrieval.always if service.retrieval else ()
    wrong = [name for name in (*service.exclude, *always) if not levels[name]]
    if wrong:
        part = "exclude" if wrong[0] in service.exclude else "always"
        raise DefinitionError(f"'{wrong[0]}' is no feature of the request", where=f"{service.place}, {part}")
