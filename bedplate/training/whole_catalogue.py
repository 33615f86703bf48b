"""Evaluation over the whole catalogue: retrieve, rank, and compare with what was truly chosen.

Sampled metrics are several times larger than full ones and order models differently (Krichene, Rendle 2020, "On sampled
metrics for item recommendation"), so nothing here is sampled but, if asked, the requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, final

import numpy as np
import torch

from bedplate.batch import Column, Ragged
from bedplate.datasets.loaded import LoadedDataset, select_requests, with_candidates, without_candidates
from bedplate.errors import DataError
from bedplate.features.artifact import SCORE
from bedplate.features.assemble import Candidates
from bedplate.features.encoder import Encoder
from bedplate.metrics.intervals import Estimate, mean_interval
from bedplate.metrics.retrieval import ndcg_at_k, recall_at_k, top_k
from bedplate.models.base import Model, RetrievalModel
from bedplate.training.packing import CatalogueVectors
from bedplate.training.tensors import to_tensors
from bedplate.types import Array, Float32s, Int64s

Score: TypeAlias = Callable[[Candidates], Array]
"""The scores [N] of requests with candidates."""

_AT_ONCE = 64


@final
class CatalogueEvaluation:
    """Requests to judge by, and all candidates that could have been recommended.

    Args:
        dataset: the dataset over its data.
        requests: requests with the items that were truly chosen.
        items: [M] int64, ascending: every candidate.
    """

    __slots__ = ("dataset", "items", "requests")

    def __init__(self, dataset: LoadedDataset, requests: Candidates, items: Int64s) -> None:
        self.dataset, self.requests, self.items = dataset, requests, items

    def retrieve(
        self, model: RetrievalModel, encoder: Encoder, vectors: CatalogueVectors, count: int, always: Sequence[str] = ()
    ) -> Int64s:
        """[R, count] the nearest candidates to each request's vector, nearest first.

        Args:
            model: the trained towers.
            encoder: the one they were trained with.
            vectors: of the catalogue.
            count: how many.
            always: list features of the request, of candidates that come first, as in a service's `Retrieval`.
        """
        queries = encoder.making({f.tensor for f in encoder.fields if f.level == "request"})
        found: list[Int64s] = []
        for at in _chunks(len(self.requests.times), _AT_ONCE):
            rows = without_candidates(select_requests(self.requests, at))
            batch = self.dataset.assemble(rows, labels=False)
            with torch.no_grad():
                query = model.query(to_tensors(batch, queries)).numpy()
            scores = query @ vectors.vectors.T
            for name in always:
                _put_first(scores, vectors.keys, batch.request[name])
            found.append(vectors.keys[top_k(scores, count)])
        return np.concatenate(found)

    def rank(self, retrieved: Int64s, score: Score) -> Int64s:
        """The retrieved candidates [R, count] in the order of their scores, best first."""
        count = retrieved.shape[1]
        ranked: list[Int64s] = []
        for at in _chunks(len(retrieved), _AT_ONCE):
            offsets = np.arange(len(at) + 1, dtype=np.int64) * count
            rows = with_candidates(select_requests(self.requests, at), retrieved[at].ravel(), offsets)
            order = np.argsort(-score(rows).reshape(len(at), count), axis=1, kind="stable")
            ranked.append(np.take_along_axis(retrieved[at], order, axis=1))
        return np.concatenate(ranked)

    def best_of_all(self, score: Score, count: int) -> Int64s:
        """[R, count] the best of the whole catalogue by a score, best first."""
        found: list[Int64s] = []
        for at in _chunks(len(self.requests.times), 16):
            every = np.tile(self.items, len(at))
            offsets = np.arange(len(at) + 1, dtype=np.int64) * len(self.items)
            scores = score(with_candidates(select_requests(self.requests, at), every, offsets))
            found.append(self.items[top_k(scores.reshape(len(at), -1), count)])
        return np.concatenate(found)

    def judge(self, ranked: Int64s) -> Mapping[str, Estimate]:
        """Recall@100 and NDCG@10 of ranked candidates [R, at least 100], with 95 % intervals over requests.

        Chosen items that are not in the catalogue count as missed.
        """
        chosen, offsets = self.requests.candidates, self.requests.offsets
        return {
            "recall@100": mean_interval(recall_at_k(ranked, chosen, offsets, 100)),
            "ndcg@10": mean_interval(ndcg_at_k(ranked, chosen, offsets, 10)),
        }

    def recall(self, ranked: Int64s, k: int = 100) -> Array:
        """[R] the Recall@k of each request, for paired comparisons."""
        return recall_at_k(ranked, self.requests.candidates, self.requests.offsets, k)

    def ndcg(self, ranked: Int64s, k: int = 10) -> Array:
        """[R] the NDCG@k of each request, for paired comparisons."""
        return ndcg_at_k(ranked, self.requests.candidates, self.requests.offsets, k)


def _put_first(scores: Array, keys: Int64s, lists: Column) -> None:
    """Raises the scores [R, M] of the keys in each request's list above all others."""
    if not isinstance(lists, Ragged):
        raise DataError("expected a list feature", where="catalogue")
    listed = lists.values.values
    at = np.minimum(np.searchsorted(keys, listed), len(keys) - 1)
    known = keys[at] == listed
    rows = np.repeat(np.arange(len(scores)), np.diff(lists.offsets))
    first = np.zeros(scores.shape, np.bool_)
    first[rows[known], at[known]] = True
    scores[first] += 1e3


def model_score(dataset: LoadedDataset, model: Model, encoder: Encoder) -> Score:
    """Scores by a model on the dataset's features as of each request's time."""

    def score(rows: Candidates) -> Float32s:
        batch = dataset.assemble(rows, labels=False)
        with torch.no_grad():
            return model(to_tensors(batch, encoder))[SCORE].numpy()

    return score


def _chunks(count: int, size: int) -> Sequence[Int64s]:
    """The positions 0 to count in runs of `size`.

    >>> [c.tolist() for c in _chunks(3, 2)]
    [[0, 1], [2]]
    """
    return [np.arange(i, min(count, i + size)) for i in range(0, count, size)]
