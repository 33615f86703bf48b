"""Models that make features: versions of the registry, run on rows.

Rows are run in blocks of one size, the last one filled up. A processor multiplies matrices of different sizes in
different orders, and sums in another order round differently: so a row's value would depend on how many others are
asked for with it, and training would read another one than serving.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import final

import numpy as np

from bedplate.batch import Batch, Column, Dense
from bedplate.errors import ArtifactError, BedplateError, DefinitionError, suggest
from bedplate.features.encoding import CANDIDATE
from bedplate.features.graph import FeatureGraph, Selected
from bedplate.features.model import ModelFeature, Scorers
from bedplate.inference.artifact import Artifact, load_artifact
from bedplate.inference.time_limit import TimeLimit, scores_end
from bedplate.registry.registry import Registry
from bedplate.types import Bools, Int64s

_ROWS = 64
"""Rows that are run at once."""


@final
class ArtifactScorer:
    """A loaded model version as the maker of a feature. Satisfies `features.model.Scorer`.

    Args:
        feature: the feature.
        artifact: the version.

    Raises:
        DefinitionError: the model reads other features than the definition says.
        ArtifactError: it has no such output, or not one number a candidate, or it reads the candidate's own key.
    """

    __slots__ = ("_artifact", "_limit", "_output", "trained_until", "version")

    def __init__(self, feature: ModelFeature, artifact: Artifact) -> None:
        self._artifact, self._output = artifact, feature.output
        self.version = f"{artifact.model.name}:{artifact.model.version}"
        self.trained_until = artifact.trained_until
        self._limit = TimeLimit(None, f"{feature.place}, {artifact.model.place}")
        _check(feature, artifact)

    def score(self, columns: Mapping[str, Column], times: Int64s) -> Dense:
        """The values of n rows; see `Scorer`.

        Raises:
            DeadlineError: it took longer than `scored_until` allows.
        """
        return self._limit.run(lambda: self._values(columns, times), scores_end())

    def _values(self, columns: Mapping[str, Column], times: Int64s) -> Dense:
        n = len(times)
        values = np.empty(-(-n // _ROWS) * _ROWS, np.float64)
        for start in range(0, n, _ROWS):
            rows: Int64s = np.minimum(np.arange(start, start + _ROWS), n - 1)
            values[start : start + _ROWS] = self._artifact.run(self._batch(columns, times, rows), self._output)
        there: Bools = np.isfinite(values[:n])
        return Dense(values[:n]) if there.all() else Dense(np.where(there, values[:n], 0.0), there)

    def _batch(self, columns: Mapping[str, Column], times: Int64s, rows: Int64s) -> Batch:
        """Each row as a request of its own with one candidate."""
        signature, count = self._artifact.signature, len(rows)
        return Batch(
            request={name: columns[name].take(rows) for name in signature.features("request")},
            item={name: columns[name].take(rows) for name in signature.features("item")},
            offsets=np.arange(count + 1),
            times=times[rows],
            request_ids=np.zeros(count, np.int64),
            candidates=np.zeros(count, np.int64),
        )


def _check(feature: ModelFeature, artifact: Artifact) -> None:
    place, reads = feature.place, artifact.signature.features()
    wrong = sorted(set(reads) ^ set(feature.inputs))
    if wrong:
        which = "reads" if wrong[0] in reads else "does not read"
        raise DefinitionError(
            f"{artifact.model.place} {which} '{wrong[0]}', and the inputs say otherwise",
            where=place,
            hint=f"its signature lists: inputs={list(reads)}",
        )
    if any(field.feature == CANDIDATE for field in artifact.encoder.fields):
        raise ArtifactError(
            f"{artifact.model.place} reads '{CANDIDATE}', the key of the candidates, which is no feature of a row",
            where=place,
            hint="train it with the key as a feature: an Attribute of the key's column in a view about the item",
        )
    if feature.output not in artifact.model.outputs:
        hint = suggest(feature.output, artifact.model.outputs, "outputs")
        raise ArtifactError(f"{artifact.model.place} has no output '{feature.output}'", where=place, hint=hint)
    spec = artifact.model.outputs[feature.output]
    if len(spec.shape) != 1:
        raise ArtifactError(
            f"the output '{feature.output}' of {artifact.model.place} has {len(spec.shape)} axes, expected a number "
            "a row",
            where=place,
        )


def scorers(
    selected: Selected, graph: FeatureGraph, load: Callable[[str], Artifact], pinned: Mapping[str, str] | None = None
) -> Scorers:
    """The models behind features that are read.

    Args:
        selected: the features.
        graph: the project's features.
        load: gives a model by its reference.
        pinned: for features whose version is settled, such as by the signature of a model that reads them, the version.

    Raises:
        NotFoundError: a model is not there.
        DefinitionError: it reads other features than the definition says, or ones whose definition has changed.
        ArtifactError: it is damaged, or gives something else than is wanted of it.
    """
    found: dict[str, ArtifactScorer] = {}
    for feature in selected.models:
        try:
            artifact = load((pinned or {}).get(feature.name, feature.model))
        except BedplateError as error:
            error.where = f"{feature.place}: {error.where}" if error.where else feature.place
            raise
        artifact.signature.check_features(graph.features, f"{feature.place}, {artifact.model.place}")
        found[feature.name] = ArtifactScorer(feature, artifact)
    return found


def load_scorers(
    selected: Selected, graph: FeatureGraph, registry: Registry, pinned: Mapping[str, str] | None = None
) -> Scorers:
    """As `scorers`, from a registry."""
    return scorers(selected, graph, lambda reference: load_artifact(registry.get(reference)), pinned)
