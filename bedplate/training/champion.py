"""A registered model's scores on other rows than it was tested on: its artifact, on features read from history."""

from __future__ import annotations

from typing import final

import numpy as np

from bedplate.batch import Batch
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.loader import Loader
from bedplate.datasets.negatives import LOG_Q
from bedplate.errors import ArtifactError
from bedplate.features import artifact
from bedplate.features.encoder import Encoder
from bedplate.models.prediction import Prediction
from bedplate.registry.version import ModelVersion
from bedplate.training.packing import Session
from bedplate.types import Array, Float64s, Int64s

_LOGIT_ERROR = 1e-7
"""How far a probability is held from 0 and 1 before its log-odds are taken: the spacing of float32 below 1."""


def score_test(version: ModelVersion, dataset: LoadedDataset) -> Prediction:
    """What a model version gives for the test split of a dataset that has its features.

    Args:
        version: the version.
        dataset: with the features that the version reads, of the definitions that it was trained on.

    Raises:
        ArtifactError: it can't be read, or gives neither scores nor vectors to search with.
    """
    encoder, scorer = Encoder.load(version.path / artifact.ENCODER), _Scorer(version)
    parts: list[tuple[Float64s, Batch]] = []
    for batch in Loader(dataset, "test").epoch(0, 0):
        if batch.items:
            parts.append((scorer.scores(encoder.encode(batch), batch), batch))
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
    """Scores encoded batches with a version's graph, and where that gives a vector with its catalogue."""

    def __init__(self, version: ModelVersion) -> None:
        self._place = f"model '{version}'"
        try:
            self._session = Session((version.path / artifact.GRAPH).read_bytes(), version.path.absolute())
            has = (version.path / artifact.KEYS).is_file()
            self._keys: Int64s | None = np.load(version.path / artifact.KEYS, allow_pickle=False) if has else None
            self._vectors: Array | None = np.load(version.path / artifact.VECTORS, allow_pickle=False) if has else None
        except artifact.UNREADABLE as error:
            raise ArtifactError(f"it can't be read: {error}", where=self._place) from error
        model = version.manifest.config.get("model", {})
        self._corrects = bool(model.get("correct_sampling", False))

    def scores(self, tensors: dict[str, Array], batch: Batch) -> Float64s:
        """[N]: what the model is judged by on these rows."""
        outputs = self._session.run({name: tensors[name] for name in self._session.inputs})
        if "score" in outputs:
            return self._judged(outputs["score"].astype(np.float64), batch)
        if "query" not in outputs or self._keys is None or self._vectors is None:
            raise ArtifactError(
                f"it gives {', '.join(outputs)}, expected 'score', or 'query' and a catalogue", where=self._place
            )
        at = np.minimum(np.searchsorted(self._keys, batch.candidates), len(self._keys) - 1)
        queries = outputs["query"][batch.request_of_item()].astype(np.float64)
        products: Float64s = (queries * self._vectors[at]).sum(axis=1)
        # What is not in the catalogue it was served with can't be retrieved: it comes after all that is.
        known = self._keys[at] == batch.candidates
        return np.where(known, products, np.float64(products.min(initial=0.0) - 1.0))

    def _judged(self, scores: Float64s, batch: Batch) -> Float64s:
        """Scores of drawn candidates, as `models.binary` judges them."""
        if not self._corrects or LOG_Q not in batch.item:
            return scores
        held = np.clip(scores, _LOGIT_ERROR, 1 - _LOGIT_ERROR)
        logit = np.log(held) - np.log1p(-held) - batch.item[LOG_Q].values  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        return 1.0 / (1.0 + np.exp(-logit))
