"""From the definitions of a service's sources to the step that asks them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import final

from bedplate.clock import Clock
from bedplate.errors import DefinitionError
from bedplate.features.graph import FeatureGraph
from bedplate.features.reader import Reader
from bedplate.inference.artifact import Artifact
from bedplate.inference.retrieval import Catalogue
from bedplate.inference.scorer import scorers
from bedplate.online.fallback import FallbackReader
from bedplate.online.fetch import OnlineReader
from bedplate.serving.candidates import CandidateStep
from bedplate.serving.finders import (
    Finder,
    GivenFinder,
    PopularFinder,
    RecentFinder,
    RetrievalFinder,
    Tower,
    check_texts,
    index_of,
)
from bedplate.serving.popular import Ranking
from bedplate.serving.service import Service
from bedplate.serving.steps import CandidateSource, Popular, Recent, Retrieval
from bedplate.types import SECOND, Type, parse_duration


@final
class Sources:
    """Where a service's candidates come from.

    Args:
        service: the definition.
        graph: the project's features.
        towers: the models of each Retrieval, by its name.
        reader: the online store.
        load: gives the checked artifact of a model by its reference.
        clock: gives the time now.
        kind: the type of the items' keys.

    Attributes:
        tower: of the first Retrieval; None: there is none.
        catalogues: the indexes that know the items' keys as clients do.

    Raises:
        DefinitionError: a Popular has no catalogue to rank.
        ArtifactError: an index has keys of another type than the item's views.
    """

    __slots__ = ("_graph", "_load", "_reader", "_service", "_towers", "catalogues", "clock", "tower")

    def __init__(
        self,
        service: Service,
        graph: FeatureGraph,
        towers: Mapping[str, Tower],
        reader: Reader,
        load: Callable[[str], Artifact],
        clock: Clock,
        kind: Type,
    ) -> None:
        self._service, self._graph, self._towers, self._load, self.clock = service, graph, towers, load, clock
        # What the ranking reads is not what requests read: it would take the place of that among the rows kept.
        self._reader = OnlineReader(reader.guard) if isinstance(reader, FallbackReader) else reader
        self.tower = next(iter(towers.values()), None)
        self.catalogues: list[Catalogue] = [tower.catalogue for tower in towers.values()]
        for source in service.sources:
            if isinstance(source, Popular) and source.catalogue is not None:
                self.catalogues.append(index_of(load(source.catalogue), service.place))
        for catalogue in self.catalogues:
            check_texts(catalogue, kind is Type.STRING)

    @property
    def items(self) -> int | None:
        """How many items the index has, where a Retrieval is the only source."""
        return None if self.tower is None or len(self._service.sources) > 1 else len(self.tower.catalogue)

    def step(self) -> CandidateStep | None:
        """The step that asks the sources; None: there is none."""
        service = self._service
        if not service.sources:
            return None
        finders = [self._finder(source) for source in service.sources]
        return CandidateStep(finders, service.exclude, service.place, service.budget("candidates"))

    def _finder(self, source: CandidateSource) -> Finder:
        place = self._service.place
        if isinstance(source, Retrieval):
            return RetrievalFinder(source, self._towers[source.name], place)
        if isinstance(source, Recent):
            return RecentFinder(source, None if self.tower is None else self.tower.catalogue, place)
        return PopularFinder(source, self._ranking(source)) if isinstance(source, Popular) else GivenFinder(source)

    def _ranking(self, source: Popular) -> Ranking:
        place = f"{self._service.place}, popular '{source.feature}'"
        if source.catalogue is not None:
            catalogue = index_of(self._load(source.catalogue), place)
        elif self.tower is not None:
            catalogue = self.tower.catalogue
        else:
            raise DefinitionError(
                "no index says which items there are",
                where=place,
                hint='add a Retrieval, or name the model of one: Popular(..., catalogue="towers@champion")',
            )
        made = scorers(self._graph.select([source.feature], place), self._graph, self._load)
        seconds = parse_duration(source.every) / SECOND
        item = self._service.item
        return Ranking(source.feature, catalogue.keys, self._graph, item, self._reader, made, seconds, self.clock)
