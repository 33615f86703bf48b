"""Datasets: what a model learns from, as definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Self, final

from bedplate.arguments import checks_arguments
from bedplate.canonical import digest
from bedplate.datasets.checks import check_kind, check_list, check_name, check_number
from bedplate.datasets.labels import CompiledLabel, Label
from bedplate.datasets.leaks import check_allowed, check_fresh, check_outcomes
from bedplate.datasets.negatives import LOG_Q, SAMPLED, CompiledNegatives, Negatives
from bedplate.datasets.rolling import RollingSplit
from bedplate.datasets.spine import CompiledSpine, Spine
from bedplate.datasets.split import TimeSplit
from bedplate.errors import DefinitionError, suggest
from bedplate.features.context import Context
from bedplate.features.derived import DerivedFeature
from bedplate.features.graph import FeatureGraph, FeatureLike, Selected
from bedplate.features.model import ModelFeature
from bedplate.features.view import CompiledView, FeatureView
from bedplate.sources.base import Source
from bedplate.types import Type, format_duration

BATCH_ITEMS = 4096
"""Candidate rows of a batch where a dataset does not say."""


@checks_arguments
@final
class Dataset:
    """Requests with their candidates, features as of the request's time, and labels of what came after it.

    Args:
        name: unique in the project.
        spine: the requests and what was chosen in them.
        labels: what is to be predicted; none for a model that needs only to know what was chosen.
        features: by name (`"view.feature"`, `"view.*"`), views, or derived features.
        split: the splits by time.
        allow: the leaks that are known and wanted, by the name that the error gives them, each with the reason; it is
            recorded with everything that is made of the dataset. See `datasets.leaks`.
        negatives: candidates that were not chosen; None for the spine's candidates alone.
        batch_items: about how many candidate rows a batch has, whole requests always; or
        batch_requests: exactly how many requests a batch has (the last one may have fewer).

    Raises:
        DefinitionError: an argument does not fit.
    """

    __slots__ = ("allow", "batch_items", "batch_requests", "features", "labels", "name", "negatives", "spine", "split")

    def __init__(
        self,
        name: str,
        *,
        spine: Spine,
        labels: Label | Sequence[Label] = (),
        features: Sequence[FeatureLike],
        split: TimeSplit | RollingSplit,
        negatives: Negatives | None = None,
        batch_items: int | None = None,
        batch_requests: int | None = None,
        allow: Mapping[str, str] | None = None,
    ) -> None:
        check_name(name, "dataset")
        self.name = name
        check_kind(
            {} if allow is None else allow, Mapping, f"{self.place}: allow", 'for example {"a leak": "a reason"}'
        )
        self.allow = dict(allow or {})
        check_kind(spine, Spine, f"{self.place}: spine")
        check_kind(split, TimeSplit | RollingSplit, f"{self.place}: split")
        if negatives is not None:
            check_kind(negatives, Negatives, f"{self.place}: negatives")
        self.spine, self.split, self.negatives = spine, split, negatives
        if not isinstance(labels, Label):
            check_list(labels, f"{self.place}: labels", "for example [Label('bought', ...)]")
        self.labels = (labels,) if isinstance(labels, Label) else tuple(labels)
        for label in self.labels:
            check_kind(label, Label, f"{self.place}: labels", hint="for example Label('bought', ...)")
        if isinstance(features, str | FeatureView | DerivedFeature | ModelFeature | Context):
            raise DefinitionError("got one feature, expected a list", where=f"{self.place}: features")
        check_list(features, f"{self.place}: features", 'for example ["view.feature", other_view]')
        self.features = tuple(features)
        self.batch_items = BATCH_ITEMS if batch_items is None and batch_requests is None else batch_items
        self.batch_requests = batch_requests
        self._check()

    def _check(self) -> None:
        if not self.features:
            raise DefinitionError("no features", where=self.place)
        names = [label.name for label in self.labels]
        twice = [n for n in names if names.count(n) > 1]
        if twice:
            raise DefinitionError(f"two labels have the name '{twice[0]}'", where=self.place)
        sizes = [n for n in (self.batch_items, self.batch_requests) if n is not None]
        for part, value in (("batch_items", self.batch_items), ("batch_requests", self.batch_requests)):
            if value is not None:
                check_number(value, f"{self.place}: {part}", whole=True)
        if len(sizes) != 1 or sizes[0] <= 0:
            raise DefinitionError(
                f"got batch_items={self.batch_items} and batch_requests={self.batch_requests}, "
                "expected one whole number above zero",
                where=self.place,
            )
        for label in self.labels:
            if label.complete_after >= self.split.validation_length:
                maturity = f" and the maturity {format_duration(label.maturity)}" if label.maturity else ""
                raise DefinitionError(
                    f"no request of validation would have label '{label.name}': the split is "
                    f"{format_duration(self.split.validation_length)} long, no more than the horizon "
                    f"{format_duration(label.horizon)}{maturity}, and no label looks into the next split",
                    where=self.place,
                    hint="move test later, or validation earlier",
                )

    @property
    def place(self) -> str:
        """What a message calls the dataset."""
        return f"dataset '{self.name}'"

    def compile(self, graph: FeatureGraph, root: Path | None = None) -> CompiledDataset:
        """The dataset checked against the project's features and the columns of its sources.

        Args:
            graph: the project's features.
            root: the project's folder, where relative paths of sources start.

        Raises:
            DefinitionError: an unknown feature or column, an entity that the spine does not have, keys of two types.
        """
        return CompiledDataset(self, graph, root)

    def with_features(self, features: Sequence[FeatureLike]) -> Self:
        """The dataset with these features beside its own."""
        found = copy(self)
        found.features = (*self.features, *features)
        return found

    def form(self) -> dict[str, Any]:
        """The canonical form; features in it are as they were given."""
        return {
            "name": self.name,
            "spine": self.spine.form(),
            "labels": [label.form() for label in self.labels],
            "features": [f if isinstance(f, str) else _name(f) for f in self.features],
            "negatives": None if self.negatives is None else self.negatives.form(),
            "split": self.split.form(),
            "batch_items": self.batch_items,
            "batch_requests": self.batch_requests,
        } | ({"allow": self.allow} if self.allow else {})


def _name(feature: FeatureView | DerivedFeature | ModelFeature | Context) -> str:
    return feature.feature.name if isinstance(feature, Context) else feature.name


@final
class CompiledDataset:
    """A dataset checked against the project's features and sources.

    Attributes:
        dataset: the definition.
        spine: the compiled spine.
        labels: the compiled labels, in order.
        negatives: the compiled negatives, or None.
        selected: the features and what it takes to compute them.
        id: the hash of all that decides which rows and values the dataset has on given data.
        root: the project's folder, where relative paths of sources start.
    """

    __slots__ = ("dataset", "id", "labels", "negatives", "root", "selected", "spine")

    def __init__(self, dataset: Dataset, graph: FeatureGraph, root: Path | None) -> None:
        self.dataset, self.root = dataset, root
        self.selected: Selected = graph.select(dataset.features, f"{dataset.place}: features")
        self.spine: CompiledSpine = dataset.spine.compile(root, self.selected.contexts)
        self.labels: tuple[CompiledLabel, ...] = tuple(label.compile(root) for label in dataset.labels)
        self.negatives: CompiledNegatives | None = dataset.negatives and dataset.negatives.compile(root)
        self._check_entities(graph.key_types())
        self._check_requests()
        self._check_negatives()
        self._check_leaks()
        self.id = digest(
            {
                "spine": self.spine.id,
                "labels": [label.id for label in self.labels],
                "features": [f.id for f in self.selected.features],
                "names": list(self.selected.names),
                "negatives": self.negatives and self.negatives.id,
                "split": dataset.split.form(),
                "batch": [dataset.batch_items, dataset.batch_requests],
            }
            | ({"allow": dataset.allow} if dataset.allow else {})
        )

    def _check_entities(self, kinds: Mapping[str, Type]) -> None:
        place, known = self.dataset.place, self.spine.key_types()
        for view, names in self.selected.views:
            self._check_known([e.name for e in view.view.entities], f"feature '{names[0]}'")
        for chain, names in self.selected.chains:
            self._check_known([e.name for e in chain.entities], f"feature '{chain.prefix}{names[0]}'")
        for label in self.labels:
            self._check_known([e.name for e in label.label.entities], label.label.place)
        for user, types in [("features", kinds), *((c.label.place, c.key_types()) for c in self.labels)]:
            for entity, kind in types.items():
                if entity in known and known[entity] is not kind:
                    raise DefinitionError(
                        f"entity '{entity}' has {known[entity]} keys in the spine and {kind} keys in {user}",
                        where=place,
                        hint="cast the key column in a source's prepare step",
                    )

    def _check_known(self, entities: Sequence[str], user: str) -> None:
        known = self.spine.key_types()
        for entity in entities:
            if entity not in known:
                raise DefinitionError(
                    f"{user} is about the entity '{entity}', which the spine does not have",
                    where=self.dataset.place,
                    hint=suggest(entity, known, "entities of the spine"),
                )

    def _check_requests(self) -> None:
        """Checks the labels that are joined by the request's id."""
        for label in (c for c in self.labels if c.request_type is not None):
            spine, place = self.dataset.spine, f"{self.dataset.place}: {label.label.place}"
            others = [e.name for e in label.label.entities if e.name != spine.item.name]
            if others:
                raise DefinitionError(
                    f"it is joined by the request's id and is about '{others[0]}', expected the item "
                    f"'{spine.item.name}' or nothing: the id says whose request it is",
                    where=place,
                )
            if label.request_type is not self.spine.request_type:
                raise DefinitionError(
                    f"the column '{label.label.request}' holds {label.request_type}, the spine's '{spine.request}' "
                    f"{self.spine.request_type}",
                    where=place,
                    hint="cast one of them in its source's prepare step",
                )

    def _check_negatives(self) -> None:
        if self.negatives is None:
            return
        item, drawn = self.dataset.spine.item, self.negatives.negatives.item
        if drawn.name != item.name or self.negatives.key_type is not self.spine.key_types()[item.name]:
            raise DefinitionError(
                f"the negatives are of entity '{drawn.name}' with {self.negatives.key_type} keys, the candidates of "
                f"'{item.name}' with {self.spine.key_types()[item.name]} keys",
                where=self.dataset.place,
            )
        for name in (LOG_Q, SAMPLED):
            if name in self.selected.names:
                raise DefinitionError(
                    f"the name of the feature '{name}' is that of a column of the negatives", where=self.dataset.place
                )

    def _check_leaks(self) -> None:
        dataset, labels = self.dataset, [c.label.name for c in self.labels]
        reads = [*self.selected.views, *((chain.view, names) for chain, names in self.selected.chains)]
        check_allowed(dataset.allow, reads, self.selected.names, labels, dataset.place)
        check_fresh(dataset.labels, reads, dataset.allow, dataset.place)
        check_outcomes(dataset.spine, dataset.labels, reads, dataset.allow, dataset.place)

    def definitions(self) -> dict[str, str]:
        """The id of each definition that decides the rows: of the whole, spine, labels, negatives and split."""
        found = {f"dataset {self.dataset.name}": self.id, "spine": self.spine.id}
        found |= {f"label {c.label.name}": c.id for c in self.labels}
        found["negatives"] = "none" if self.negatives is None else self.negatives.id
        found["split"] = digest(self.dataset.split.form())
        return found | {f"allowed {leak}": reason for leak, reason in self.dataset.allow.items()}

    @property
    def views(self) -> tuple[CompiledView, ...]:
        """Every view that history must hold: those of the features, then those of the labels, each once."""
        labels = {label.view.id: label.view for label in self.labels}
        return (*self.selected.every_view, *labels.values())

    @property
    def sources(self) -> tuple[Source, ...]:
        """Every source that the dataset reads, each once."""
        negatives = () if self.negatives is None else (self.negatives.negatives.source,)
        return tuple(dict.fromkeys((self.dataset.spine.source, *negatives, *(v.view.source for v in self.views))))
