"""Metrics of binary predictions, exact and weighted, in float64."""

from __future__ import annotations

import numpy as np

from bedplate.errors import DataError
from bedplate.types import Array, Float64s, Int64s

NOT_FOR_JUDGING = frozenset({"calibration"})
"""The metrics that are best at a value between: no epoch is chosen by them."""


def as_columns(*columns: Array | None) -> list[Float64s]:
    """Columns of equal length as float64; a missing one (weights) as ones.

    Raises:
        DataError: they differ in length, are empty, or hold a value that is not finite.
    """
    size = len(columns[0]) if columns[0] is not None else 0
    found = [np.ones(size) if c is None else np.asarray(c, np.float64) for c in columns]
    if size == 0 or any(c.shape != (size,) for c in found):
        raise DataError(f"got columns of {[c.shape for c in found]}, expected one length above 0", where="metrics")
    for c in found:
        if not np.isfinite(c).all():
            raise DataError(f"got {int((~np.isfinite(c)).sum())} values that are not finite", where="metrics")
    return found


def as_predictions(probabilities: Array, labels: Array, weights: Array | None) -> list[Float64s]:
    """Probabilities, labels and weights as float64.

    Raises:
        DataError: as for `as_columns`; or a probability or label is not between 0 and 1, a weight is below 0, or all
            weights are 0.
    """
    p, y, w = as_columns(probabilities, labels, weights)
    wrong = (p < 0) | (p > 1)
    if wrong.any():
        raise DataError(
            f"got the prediction {p[wrong][0]:g}, expected a probability",
            where="metrics",
            hint="a score or a logit is not one; auc takes any scale",
        )
    _check_rows(y, w)
    return [p, y, w]


def _check_rows(labels: Float64s, weights: Float64s) -> None:
    wrong = (labels < 0) | (labels > 1)
    if wrong.any():
        raise DataError(f"got the label {labels[wrong][0]:g}, expected 0 or 1", where="metrics")
    if (weights < 0).any() or not weights.sum() > 0:
        raise DataError("got weights below 0 or only zeros, expected weights above 0", where="metrics")


def auc(scores: Array, labels: Array, weights: Array | None = None) -> float:
    """The probability that a positive scores above a negative, a tie counting half (Hanley and McNeil 1982).

    `sum over pairs of w+ w- ([s+ > s-] + [s+ = s-] / 2) / (W+ W-)`. NaN where there are no positives or no negatives.

    Args:
        scores: [n], any scale.
        labels: [n], 0 or 1 (True).
        weights: [n], or None for ones.

    >>> auc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1]))
    0.875
    """
    s, y, w = as_columns(scores, labels, weights)
    _check_rows(y, w)
    order = np.argsort(s, kind="stable")
    s, positive, negative = s[order], (w * y)[order], (w * (1 - y))[order]
    starts = np.flatnonzero(np.concatenate(([True], s[1:] != s[:-1])))
    positives, negatives = np.add.reduceat(positive, starts), np.add.reduceat(negative, starts)
    below = np.cumsum(negatives) - negatives
    pairs = float(positives.sum()) * float(negatives.sum())
    return float((positives * (below + negatives / 2)).sum() / pairs) if pairs > 0 else float("nan")


def request_aucs(scores: Array, labels: Array, requests: Int64s) -> Float64s:
    """The AUC within each request that has both a positive and a negative, in ascending order of `requests`.

    Of requests, with `r` the rank (ties: the mean of their ranks): `(sum of r+ - P (P + 1) / 2) / (P Q)`, with P
    positives and Q negatives (Mann and Whitney 1947).

    Args:
        scores: [n].
        labels: [n], 0 or 1 (True).
        requests: [n], equal for the candidates of one request.

    >>> request_aucs(np.array([1., 2., 2., 3.]), np.array([0, 1, 0, 1]), np.array([5, 5, 9, 9])).tolist()
    [1.0, 1.0]
    """
    s, y, w = as_columns(scores, labels, None)
    _check_rows(y, w)
    if len(requests) != len(s):
        raise DataError(f"got {len(requests)} requests of {len(s)} rows, expected one a row", where="metrics")
    order = np.lexsort((s, requests))
    s, y, group = s[order], y[order], np.asarray(requests)[order]
    first = np.concatenate(([True], group[1:] != group[:-1]))
    starts = np.flatnonzero(first)
    within = np.arange(len(s)) - np.repeat(starts, np.diff(np.append(starts, len(s)))) + 1.0
    ties = np.flatnonzero(first | np.concatenate(([True], s[1:] != s[:-1])))
    sizes = np.diff(np.append(ties, len(s)))
    ranks = np.repeat(np.add.reduceat(within, ties) / sizes, sizes)
    positives = np.add.reduceat(y, starts)
    negatives = np.add.reduceat(1 - y, starts)
    sums = np.add.reduceat(ranks * y, starts)
    both = (positives > 0) & (negatives > 0)
    p, q = positives[both], negatives[both]
    return (sums[both] - p * (p + 1) / 2) / (p * q)


def request_auc(scores: Array, labels: Array, requests: Int64s) -> float:
    """The mean of `request_aucs`: each request counts the same. NaN where no request has both classes."""
    found = request_aucs(scores, labels, requests)
    return float(found.mean()) if len(found) else float("nan")


def log_loss(probabilities: Array, labels: Array, weights: Array | None = None) -> float:
    """The mean of `-(y log p + (1 - y) log(1 - p))`, in nats; p is held 1e-15 away from 0 and 1.

    >>> round(log_loss(np.array([0.5, 0.9]), np.array([0, 1])), 4)
    0.3993
    """
    p, y, w = as_predictions(probabilities, labels, weights)
    p = np.clip(p, 1e-15, 1 - 1e-15)
    losses = -(y * np.log(p) + (1 - y) * np.log1p(-p))
    return float((w * losses).sum() / w.sum())


def normalised_entropy(probabilities: Array, labels: Array, weights: Array | None = None) -> float:
    """The log loss over that of always predicting the mean label (He et al. 2014, "Practical lessons", equation 1).

    Below 1 is better than knowing only the mean; it does not depend on how rare positives are. NaN where all labels
    are equal.

    >>> normalised_entropy(np.array([0.5, 0.5]), np.array([0, 1]))
    1.0
    """
    _, y, w = as_predictions(probabilities, labels, weights)
    mean = float((w * y).sum() / w.sum())
    if mean in (0.0, 1.0):
        return float("nan")
    entropy = -(mean * np.log(mean) + (1 - mean) * np.log1p(-mean))
    return log_loss(probabilities, labels, weights) / float(entropy)
