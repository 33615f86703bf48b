"""The pipeline of a service: candidates -> hydrate -> filter -> score -> select; each step has a file of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, final

import numpy as np

from bedplate.batch import Batch, Column
from bedplate.clock import Clock, system_clock
from bedplate.errors import NotServedError, RequestError
from bedplate.features.graph import FeatureGraph
from bedplate.features.reader import Reader
from bedplate.features.view import CompiledView
from bedplate.inference.artifact import Artifact
from bedplate.inference.model import SharedCalls
from bedplate.inference.retrieval import Catalogue
from bedplate.inference.scorer import scorers
from bedplate.inference.time_limit import TimeLimit, scored_until
from bedplate.online.fallback import FallbackReader, texts_read
from bedplate.serving.answers import Answer, Key, Similar, Vectors, empty_reason
from bedplate.serving.checks import check_features, check_keys, check_levels, pinned_versions
from bedplate.serving.filters import Filters
from bedplate.serving.finders import Tower
from bedplate.serving.hydrate import Hydrator, take_candidates
from bedplate.serving.progress import READ_SHARE, NotFiniteError, Progress, part_of
from bedplate.serving.score import ScoreStep
from bedplate.serving.select import SelectStep
from bedplate.serving.service import Service
from bedplate.serving.sources import Sources
from bedplate.serving.stepping import finished
from bedplate.serving.steps import Recent, Retrieval
from bedplate.serving.wire import Asked, ItemsAsked, SimilarAsked, Wire
from bedplate.types import Int64s, Type

_PIECES = 8
"""Of candidates that are filtered between two looks at the clock where only the client's time is short."""


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
        models: the artifact of each part: `ranking`, and each Retrieval by its name.

    Raises:
        DefinitionError: a model reads a feature that is not defined or whose definition has changed; a filter or an
            exclusion is wrong.
        NotFoundError: a model is not there.
        ArtifactError: a model's folder is damaged, or it is of another kind.
    """

    __slots__ = (
        "_candidates", "_embedding", "_fallback", "_filtering", "_filters", "_hydrator", "_made", "_score", "_select",
        "_sources", "_texts_of", "_versions", "models", "service", "wire",
    )  # fmt: skip

    def __init__(
        self,
        service: Service,
        graph: FeatureGraph,
        reader: Reader,
        load: Callable[[str], Artifact],
        clock: Clock = system_clock,
    ) -> None:
        self.service, place = service, service.place
        ranker = load(service.ranking)
        self.models: dict[str, Artifact] = {"ranking": ranker}
        for source in service.sources:
            if isinstance(source, Retrieval):
                self.models[source.name] = load(source.model)
        self._filters = Filters(service.filters, graph, place)
        self._filtering, self._embedding = (TimeLimit(None, f"{place}, {name}") for name in ("filter", "embed"))
        for artifact in self.models.values():
            artifact.signature.check_features(graph.features, artifact.model.place)
        towers = {part: Tower(artifact, place) for part, artifact in self.models.items() if part != "ranking"}
        first = next(iter(towers.values()), None)
        self._select = SelectStep(service, None if first is None else first.catalogue)
        names = [*self._filters.features, *ranker.signature.features(), *check_features(service, graph)]
        for tower in towers.values():
            names += tower.artifact.signature.features()
        names = list(dict.fromkeys(names))
        makers = scorers(graph.select(names, place), graph, load, pinned_versions(self.models, place))
        self._fallback = reader if isinstance(reader, FallbackReader) else None
        self._hydrator = hydrator = Hydrator(graph, names, service.item, reader, place, makers)
        shown = [source.feature for source in service.sources if isinstance(source, Recent)] if first is None else []
        self._texts_of = texts_read(hydrator.selected, shown)
        check_levels(hydrator.levels, self.models, service)
        check_keys(service, graph)
        self._score = ScoreStep(ranker, service.fallback, service.budget("score"), place)
        self._sources = Sources(service, graph, towers, reader, load, clock, hydrator.item_type)
        self._candidates = self._sources.step()
        self.wire = Wire(service, hydrator.entities, hydrator.item_type, clock, hydrator.contexts)
        self._versions = {part: f"{a.model.name}:{a.model.version}" for part, a in self.models.items()}
        self._made = {name: maker.version for name, maker in makers.items()}

    @property
    def reader(self) -> FallbackReader | None:
        """What reads the store, where the reads may fall back."""
        return self._fallback

    @property
    def views(self) -> tuple[CompiledView, ...]:
        """The views that it reads."""
        return self._hydrator.selected.every_view

    @property
    def batcher(self) -> SharedCalls | None:
        """Shares calls of the ranking model, where that is measured to pay and scoring has no budget.

        A shared call is made on the event loop's thread, where nothing can end the wait for it.
        """
        return None if self._score.has_limit else self.models["ranking"].model.batcher

    @property
    def catalogue(self) -> Catalogue | None:
        """The items of the first Retrieval, where the service has one."""
        return None if self._sources.tower is None else self._sources.tower.catalogue

    def recommend(self, asked: Asked) -> Answer:
        """The best items for a request; where there is none, the answer's `reason` says why.

        Raises:
            RequestError: the service has no candidates of its own.
            StoreError: the store can't be read, or is ahead of the time asked for; or no source answered.
            DeadlineError: the client's deadline passed.
        """
        return finished(self.answer_recommend(asked))

    async def answer_recommend(self, asked: Asked, batcher: SharedCalls | None = None) -> Answer:
        """As `recommend`.

        Args:
            asked: the request.
            batcher: of the ranking model: other requests may share its call. None: nothing is waited for.
        """
        return await self._recommend(asked, self._progress(asked), batcher)

    async def _recommend(self, asked: Asked, progress: Progress, batcher: SharedCalls | None = None) -> Answer:
        if self._candidates is None:
            raise RequestError("this service has no retrieval", hint="send the candidates to /rank")
        progress.check()
        reading, service = progress.reading, self.service
        with scored_until(progress.deadline):
            request = self._hydrator.request(asked.keys, asked.time, asked.context, reading)
        unknown = self._unknown(asked, request)
        progress.mark("request_features")
        found = self._candidates.find(request, asked, progress)
        brought = len(found.keys)
        progress.mark("candidates")
        with scored_until(progress.deadline):
            batch = self._hydrator.candidates(asked.keys, asked.time, found.keys, request, reader=reading)
        if asked.candidates:
            unknown |= self._hydrator.unknown_given(batch, asked.candidates, asked.candidate_keys)
        progress.mark("hydrate")
        kept = self._filter(batch, progress)
        if kept is not None:
            batch, found = take_candidates(batch, kept), found.take(kept)
        progress.mark("filter")
        scores = await self._score.scores(batch, progress, batcher)
        ranks = self._score.ranks(batch) if scores is None else None
        progress.mark("score")
        chosen = self._select.choose(scores, ranks, batch, asked.count, asked.seed, progress)
        best = found.take(chosen.order)
        ids = best.ids(self._sources.catalogues)
        names = [source.name for source in service.sources]
        progress.mark("select")
        return Answer(
            ids=ids,
            scores=[None] * len(ids) if scores is None else scores[chosen.order].tolist(),
            models=self._versions,
            time=asked.time,
            sources=best.sources(names) if len(names) > 1 else (),
            propensities=() if chosen.propensities is None else chosen.propensities.tolist(),
            seed=asked.seed if self._select.explores else None,
            unknown=unknown,
            trace=progress.steps,
            degraded=progress.degraded,
            behind_seconds=progress.behind,
            reason=None if ids else empty_reason(self._sources.items, brought),
        )

    def rank(self, asked: Asked) -> Answer:
        """The score of each candidate that the client gave, in its order.

        Raises:
            StoreError: the store can't be read, or is ahead of the time asked for.
            DeadlineError: the client's deadline passed.
        """
        return finished(self.answer_rank(asked))

    async def answer_rank(self, asked: Asked, batcher: SharedCalls | None = None) -> Answer:
        """As `rank`.

        Args:
            asked: the request.
            batcher: of the ranking model: other requests may share its call. None: nothing is waited for.
        """
        return await self._rank(asked, self._progress(asked), batcher)

    async def _rank(self, asked: Asked, progress: Progress, batcher: SharedCalls | None = None) -> Answer:
        progress.check()
        with scored_until(progress.deadline):
            batch = self._hydrator.candidates(
                asked.keys, asked.time, asked.item_keys, context=asked.context, reader=progress.reading
            )
        # Before the model, whose weights take the place of all else in the processor's caches.
        unknown = self._unknown(asked, batch.request)
        unknown |= self._hydrator.unknown_given(batch, asked.items, asked.item_keys)
        progress.mark("hydrate")
        scores = await self._score.scores(batch, progress, batcher)
        progress.mark("score")
        return Answer(
            ids=asked.items,
            scores=[None] * len(asked.items) if scores is None else scores.tolist(),
            models={"ranking": self._versions["ranking"]},
            time=asked.time,
            unknown=unknown,
            trace=progress.steps,
            degraded=progress.degraded,
            behind_seconds=progress.behind,
        )

    def embed(self, asked: Asked | ItemsAsked) -> Vectors:
        """The vector of a request by the query tower of the first Retrieval, or those of items in its index.

        Raises:
            RequestError: the service has no Retrieval.
            StoreError: the store can't be read, or is ahead of the time asked for.
            DeadlineError: the client's deadline passed.
        """
        part, tower = self._indexed()
        models = {part: self._versions[part]}
        if isinstance(asked, ItemsAsked):
            places = tower.catalogue.places(asked.keys)
            rows: list[list[float]] = tower.catalogue.vectors[places].tolist()
            found = [row if place >= 0 else None for row, place in zip(rows, places.tolist(), strict=True)]
            return Vectors(vectors=found, models=models)
        progress = self._progress(asked)
        progress.check()
        with scored_until(progress.deadline):
            request = self._hydrator.request(asked.keys, asked.time, asked.context, progress.reading)
        progress.mark("request_features")
        vector: list[float] | None = None
        try:
            vector = self._embedding.run(lambda: tower.query(request, asked.time), progress.deadline).tolist()
        except NotFiniteError as error:
            progress.failed("embed", error, "null")
        progress.mark("embed")
        return Vectors(
            vectors=[vector],
            models=models,
            time=asked.time,
            unknown=self._unknown(asked, request),
            degraded=progress.degraded,
            behind_seconds=progress.behind,
            trace=progress.steps,
        )

    def similar(self, asked: SimilarAsked) -> Similar:
        """The items whose vectors are nearest to that of an item, by the index of the first Retrieval.

        Raises:
            RequestError: the service has no Retrieval.
            NotServedError: the item is not in the index.
        """
        part, tower = self._indexed()
        catalogue = tower.catalogue
        place = int(catalogue.places(np.array([asked.key]))[0])
        if place < 0:
            raise NotServedError(f"the index has no item '{asked.item}'", where="$.item")
        without = np.append(asked.without, asked.key)
        found, scores = catalogue.near(place, asked.count, without)
        ids: list[Key] = [catalogue.wire[i] for i in found.tolist()]
        return Similar(ids=ids, scores=scores.tolist(), models={part: self._versions[part]})

    def describe(self) -> dict[str, Any]:
        """The service, its models, its features and the requests it answers, for a person or a client to read."""
        return {
            "service": self.service.form(),
            "models": self._versions,
            "features": list(self._hydrator.levels),
            "made_by": self._made,
            "items": self._sources.items,
            "requests": self.wire.describe(),
        }

    def warm_up(self) -> None:
        """Answers one request of keys that nobody has, so that the first real one finds everything prepared.

        Raises:
            BedplateError: a step fails.
        """
        with contextlib.nullcontext() if self._fallback is None else self._fallback.guard.starting():
            self._warm_up()

    def _warm_up(self) -> None:
        if self._fallback is not None:
            self._fallback.check_held(self.views)
        text = {name: "" if kind is Type.STRING else 0 for name, kind in self._hydrator.entities.items()}
        item: Key = "" if self._hydrator.item_type is Type.STRING else 0
        keys = {name: np.zeros(1, np.int64) for name in text}
        now = self.wire.now()
        size = min(self.service.most_candidates, 200)
        asked = Asked(text, keys, now, [item] * size, np.zeros(size, np.int64), self.service.top, trace=False)
        reading = self._progress(asked).reading
        self._hydrator.candidates(keys, now, asked.item_keys, reader=reading)
        for error in reading.lacking.values() if reading is not None else ():
            raise error
        for _ in range(3):
            finished(self._rank(asked, self._progress(asked, is_strict=True)))
            if self._candidates is not None:
                finished(self._recommend(asked, self._progress(asked, is_strict=True)))
        reading = self._progress(asked).reading
        self._hydrator.candidates(keys, now, asked.item_keys, reader=reading)
        if reading is not None and reading.failure is not None:
            raise reading.failure

    def _progress(self, asked: Asked, *, is_strict: bool = False) -> Progress:
        """The way of a request, and the reads of its answer where they may fall back."""
        reading = None
        if self._fallback is not None:
            reading = self._fallback.begin(self._texts_of, part_of(asked.deadline, READ_SHARE))
        return Progress(asked.trace, reading, is_strict=is_strict, deadline=asked.deadline)

    def _filter(self, batch: Batch, progress: Progress) -> Int64s | None:
        """The positions of the candidates that are let through; None: all.

        Raises:
            DeadlineError: none was looked at by the deadline of the client.
        """
        if progress.is_strict:
            return self._filters.rows(batch)
        if not self._filters:
            return None
        budget = self.service.budget("filter")
        seconds, pieces = progress.left(budget), 1 if budget is not None else _PIECES
        kept = self._filtering.run(lambda: self._filters.rows_in_time(batch, seconds, pieces), progress.deadline)
        for why, items in (("failed", kept.failed), ("late", kept.late)):
            if items:
                progress.flag("filter", why, "candidates that were looked at", items)
        return kept.rows

    def _indexed(self) -> tuple[str, Tower]:
        index, tower = self.service.index, self._sources.tower
        if index is None or tower is None:
            raise RequestError("this service has no retrieval, and so no vectors")
        return index.name, tower

    def _unknown(self, asked: Asked, request: Mapping[str, Column]) -> dict[str, list[Key]]:
        return {entity: [asked.given[entity]] for entity in self._hydrator.unknown_entities(request)}
