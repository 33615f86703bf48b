"""Metrics of ranked lists over the whole catalogue, one value a request; sampled candidates would inflate them."""

from __future__ import annotations

import numpy as np

from bedplate.errors import DataError
from bedplate.types import Array, Bools, Float64s, Int64s


def top_k(scores: Array, k: int) -> Int64s:
    """[R, min(k, C)]: the columns of the highest scores of each row [R, C], best first; ties in order of columns.

    >>> top_k(np.array([[1., 3., 3., 2.]]), 3).tolist()
    [[1, 2, 3]]
    """
    _check_k(k)
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def hits(ranked: Int64s, relevant: Int64s, offsets: Int64s) -> Bools:
    """[R, K]: which of the ranked candidates are relevant to their request.

    Args:
        ranked: [R, K] int64 keys of candidates, best first, none twice in a row.
        relevant: [M] int64 keys; those of request i are `relevant[offsets[i]:offsets[i + 1]]`.
        offsets: [R + 1].

    Raises:
        DataError: shapes do not fit, a candidate is ranked twice for a request, or a request has nothing relevant.
    """
    requests = len(offsets) - 1
    if ranked.ndim != 2 or len(ranked) != requests or int(offsets[-1]) != len(relevant):
        raise DataError(
            f"got {ranked.shape} ranked, {len(relevant)} relevant and offsets for {requests} requests", where="metrics"
        )
    if requests and int(np.diff(offsets).min()) == 0:
        raise DataError(
            f"request {int(np.argmin(np.diff(offsets)))} has nothing relevant",
            where="metrics",
            hint="leave such requests out and say how many",
        )
    keys, codes = np.unique(np.concatenate((ranked.ravel(), relevant)), return_inverse=True)
    wide = max(len(keys), 1)
    shown = codes[: ranked.size].reshape(ranked.shape) + np.arange(requests)[:, None] * wide
    if np.unique(shown).size != shown.size:
        raise DataError("a candidate is ranked twice for one request", where="metrics")
    wanted = codes[ranked.size :] + np.repeat(np.arange(requests), np.diff(offsets)) * wide
    return np.isin(shown, wanted)


def recall_at_k(ranked: Int64s, relevant: Int64s, offsets: Int64s, k: int) -> Float64s:
    """[R]: the share of a request's relevant candidates (each counted once) that are among the first k.

    Args and errors as in `hits`.

    >>> recall_at_k(np.array([[4, 5, 6]]), np.array([5, 9]), np.array([0, 2]), k=2).tolist()
    [0.5]
    """
    _check_k(k)
    found = hits(ranked, relevant, offsets)[:, :k].sum(axis=1)
    return found / _distinct(relevant, offsets)


def ndcg_at_k(ranked: Int64s, relevant: Int64s, offsets: Int64s, k: int) -> Float64s:
    """[R]: the discounted gain over the best possible one (Jarvelin and Kekalainen 2002), gains 0 or 1.

    `DCG = sum of 1 / log2(rank + 1)` over relevant candidates among the first k; ranks begin at 1. Args and errors as
    in `hits`.

    >>> ndcg_at_k(np.array([[4, 5, 6]]), np.array([4]), np.array([0, 1]), k=3).tolist()
    [1.0]
    """
    _check_k(k)
    found = hits(ranked, relevant, offsets)[:, :k]
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    best = np.concatenate(([0.0], np.cumsum(discounts)))
    ideal = best[np.minimum(_distinct(relevant, offsets), k)]
    return (found * discounts[: found.shape[1]]).sum(axis=1) / ideal


def _check_k(k: int) -> None:
    if k < 1:
        raise DataError(f"got k={k}, expected at least 1", where="metrics")


def _distinct(relevant: Int64s, offsets: Int64s) -> Int64s:
    """[R]: how many different relevant candidates each request has."""
    requests = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((relevant, requests))
    r, c = requests[order], relevant[order]
    new = np.concatenate(([True], (r[1:] != r[:-1]) | (c[1:] != c[:-1])))
    return np.bincount(r[new], minlength=len(offsets) - 1)
