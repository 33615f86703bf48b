"""A registered model's scores on other rows than it was tested on: its artifact, on features read from history."""

from __future__ import annotations

from typing import final

import numpy as np

from bedplate.batch import Batch
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.loader import Loader
from bedplate.datasets.negatives import LOG_Q
from bedplate.errors import ArtifactError, RequestError
from bedplate.features.artifact import QUERY, SCORE
from bedplate.inference.artifact import load_artifact
from bedplate.models.prediction import Prediction
from bedplate.registry.version import ModelVersion
from bedplate.runtimes.base import threads_for
from bedplate.types import Array, Float64s, Int64s

_LOGIT_ERROR = 1e-7
"""How far a probability is held from 0 and 1 before its log-odds are taken: the spacing of float32 below 1."""


def check_scores(version: ModelVersion) -> None:
    """Checks that a model version can be compared with: it is what was registered, and gives what it gave then.

    Args:
        version: the version.

    Raises:
        ArtifactError: a file is missing or has changed, a golden request is not reproduced, or it gives neither scores
            nor vectors to search with.
        MissingExtraError: the library that runs it is not installed.
    """
    _Scorer(version).close()


def score_test(version: ModelVersion, dataset: LoadedDataset) -> Prediction:
    """What a model version gives for the test split of a dataset that has its features.

    It is loaded as a server loads it, so that what is damaged scores nothing.

    Args:
        version: the version.
        dataset: with the features that the version reads, of the definitions that it was trained on.

    Raises:
        ArtifactError, MissingExtraError: as `check_scores`; or it can't be run on these rows.
    """
    scorer = _Scorer(version)
    parts = [(scorer.scores(batch), batch) for batch in Loader(dataset, "test").epoch(0, 0) if batch.items]
    scorer.close()
    firsts = np.cumsum([0, *(b.requests for _, b in parts)])
    batches = [b for _, b in parts]
    weights = [np.ones(b.items, np.float32) if b.weights is None else b.weights for b in batches]
    names = batches[0].labels
    return Prediction(
        scores=np.concatenate([s for s, _ in parts]),
        labels={n: np.concatenate([np.asarray(b.labels[n], np.float32) for b in batches]) for n in names},
        weights=np.concatenate([np.asarray(w, np.float32) for w in weights]),
        requests=np.concatenate([b.request_of_item() + f for b, f in zip(batches, firsts, strict=False)]),
        request_ids=np.concatenate([b.request_ids for b in batches]),
        candidates=np.concatenate([b.candidates for b in batches]),
    )


def with_requests(prediction: Prediction, wanted: Int64s) -> Prediction:
    """The rows of some requests; those without a candidate leave no trace.

    Args:
        prediction: of any requests.
        wanted: the ids of requests.
    """
    rows = np.isin(prediction.request_ids, wanted)[prediction.requests]
    requests, first = prediction.requests[rows], np.flatnonzero(rows)
    codes, at, found = np.unique(requests, return_index=True, return_inverse=True)
    return Prediction(
        scores=prediction.scores[first],
        labels={name: values[first] for name, values in prediction.labels.items()},
        weights=prediction.weights[first],
        requests=found.astype(np.int64),
        request_ids=prediction.request_ids[requests[at]] if len(codes) else np.zeros(0, np.int64),
        candidates=prediction.candidates[first],
        loss=prediction.loss,
    )


@final
class _Scorer:
    """Scores batches with a version's model, and where that gives a vector with its catalogue."""

    def __init__(self, version: ModelVersion) -> None:
        self._artifact = load_artifact(version, threads_for())
        given = self._artifact.model.outputs
        self._ranks = SCORE in given
        if not self._ranks and (QUERY not in given or self._artifact.catalogue is None):
            raise ArtifactError(
                f"it gives {', '.join(given)}, expected '{SCORE}', or '{QUERY}' and a catalogue",
                where=self._artifact.model.place,
            )
        missing = set(self._artifact.model.inputs) - {t.name for t in self._artifact.encoder.layout.tensors()}
        if missing:
            raise ArtifactError(
                f"its inputs {', '.join(sorted(missing))} are of no feature, so it can't be run on rows of history",
                where=self._artifact.model.place,
                hint="make another version the champion: bedplate models promote",
            )
        config = version.manifest.config.get("model", {})
        self._corrects = bool(config.get("correct_sampling", False))

    def scores(self, batch: Batch) -> Float64s:
        """[N]: what the model is judged by on these rows."""
        catalogue = self._artifact.catalogue
        if self._ranks or catalogue is None:
            return self._judged(self._run(batch, SCORE).astype(np.float64), batch)
        at = catalogue.places(batch.candidates)
        queries = self._run(batch, QUERY)[batch.request_of_item()].astype(np.float64)
        products: Float64s = (queries * catalogue.vectors[at]).sum(axis=1)
        # What is not in the catalogue it was served with can't be retrieved: it comes after all that is.
        return np.where(at >= 0, products, np.float64(products.min(initial=0.0) - 1.0))

    def close(self) -> None:
        """Gives back what runs the model; it scores no more."""
        self._artifact.model.runtime.close()

    def _run(self, batch: Batch, output: str) -> Array:
        try:
            return self._artifact.run(batch, output)
        except RequestError as error:
            raise ArtifactError(
                f"it can't be run on the rows of the test split: {error.message}", where=self._artifact.model.place
            ) from error

    def _judged(self, scores: Float64s, batch: Batch) -> Float64s:
        """Scores of drawn candidates, as `models.binary` judges them."""
        if not self._corrects or LOG_Q not in batch.item:
            return scores
        held = np.clip(scores, _LOGIT_ERROR, 1 - _LOGIT_ERROR)
        logit = np.log(held) - np.log1p(-held) - batch.item[LOG_Q].values  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        return 1.0 / (1.0 + np.exp(-logit))
