"""Metrics of the order of each request's candidates."""

from __future__ import annotations

import numpy as np

from bedplate.errors import DataError
from bedplate.metrics.classification import as_columns
from bedplate.types import Array, Float64s, Int64s


def request_ndcgs(scores: Array, labels: Array, requests: Int64s) -> Float64s:
    """The NDCG of each request that has a label above 0, in ascending order of `requests`.

    `sum of label / log2(rank + 1)` over that of the best order (Jarvelin and Kekalainen 2002), over all candidates;
    candidates of equal score get the mean of their discounts, which is what a random order of them gives on average
    (McSherry and Najork 2008).

    Args:
        scores: [n], any scale.
        labels: [n], at least 0.
        requests: [n], equal for the candidates of one request.

    >>> request_ndcgs(np.array([2., 1., 1., 1.]), np.array([0, 1, 1, 0]), np.array([5, 5, 9, 9])).round(4).tolist()
    [0.6309, 0.8155]
    """
    s, y, _ = as_columns(scores, labels, None)
    if len(requests) != len(s):
        raise DataError(f"got {len(requests)} requests of {len(s)} rows, expected one a row", where="metrics")
    if (y < 0).any():
        raise DataError(f"got the label {y.min():g}, expected at least 0", where="metrics")
    groups = np.asarray(requests)
    order = np.lexsort((-s, groups))
    s, group = s[order], groups[order]
    first = np.concatenate(([True], group[1:] != group[:-1]))
    starts = np.flatnonzero(first)
    rank = np.arange(len(s)) - np.repeat(starts, np.diff(np.append(starts, len(s))))
    discount = 1.0 / np.log2(rank + 2.0)
    ties = np.flatnonzero(first | np.concatenate(([True], s[1:] != s[:-1])))
    sizes = np.diff(np.append(ties, len(s)))
    shared = np.repeat(np.add.reduceat(discount, ties) / sizes, sizes)
    gained = np.add.reduceat(shared * y[order], starts)
    best = np.add.reduceat(discount * y[np.lexsort((-y, groups))], starts)
    return gained[best > 0] / best[best > 0]


def request_ndcg(scores: Array, labels: Array, requests: Int64s) -> float:
    """The mean of `request_ndcgs`: each request counts the same. NaN where no request has a label above 0."""
    found = request_ndcgs(scores, labels, requests)
    return float(found.mean()) if len(found) else float("nan")
