"""Calibration: whether predicted probabilities are the observed frequencies."""

from __future__ import annotations

from typing import final

import msgspec
import numpy as np

from bedplate.errors import DataError
from bedplate.metrics.classification import as_predictions
from bedplate.types import Array


@final
class Bin(msgspec.Struct, frozen=True):
    """Predictions of one range: their smallest and largest, weight, mean, and the mean of their labels."""

    low: float
    high: float
    weight: float
    predicted: float
    observed: float


def calibration(probabilities: Array, labels: Array, weights: Array | None = None) -> float:
    """The sum of predictions over that of labels (He et al. 2014, section 2); 1 is right, above 1 predicts too much.

    NaN where there are no positives.

    >>> calibration(np.array([0.2, 0.4]), np.array([0, 1])).__round__(3)
    0.6
    """
    p, y, w = as_predictions(probabilities, labels, weights)
    observed = float((w * y).sum())
    return float((w * p).sum()) / observed if observed > 0 else float("nan")


def reliability(probabilities: Array, labels: Array, weights: Array | None = None, bins: int = 20) -> list[Bin]:
    """The reliability table over bins of equal mass; equal predictions are never split between two bins.

    >>> for b in reliability(np.array([0.1, 0.2, 0.6, 0.8]), np.array([0, 0, 1, 1]), bins=2):
    ...     print(b.low, b.high, b.weight, b.observed)
    0.1 0.2 2.0 0.0
    0.6 0.8 2.0 1.0
    """
    if bins < 1:
        raise DataError(f"got {bins} bins, expected at least 1", where="metrics")
    p, y, w = as_predictions(probabilities, labels, weights)
    order = np.argsort(p, kind="stable")
    p, y, w = p[order], y[order], w[order]
    new = np.concatenate(([True], p[1:] != p[:-1]))
    middle = np.cumsum(w) - w / 2
    of_row = np.minimum((middle * bins / w.sum()).astype(np.int64), bins - 1)
    of_row = of_row[np.flatnonzero(new)][np.cumsum(new) - 1]  # equal predictions go to the bin of their first
    starts = np.flatnonzero(np.concatenate(([True], of_row[1:] != of_row[:-1])))
    ends = np.append(starts[1:], len(p)) - 1
    mass = np.add.reduceat(w, starts)
    predicted, observed = np.add.reduceat(w * p, starts) / mass, np.add.reduceat(w * y, starts) / mass
    columns = (p[starts], p[ends], mass, predicted, observed)
    return [Bin(*(float(v) for v in row)) for row in zip(*columns, strict=True)]


def expected_calibration_error(
    probabilities: Array, labels: Array, weights: Array | None = None, bins: int = 20
) -> float:
    """The mean over bins, by weight, of `|predicted - observed|` (Naeini et al. 2015), over bins of equal mass.

    >>> round(expected_calibration_error(np.array([0.1, 0.1, 0.9, 0.9]), np.array([0, 0, 1, 1]), bins=2), 3)
    0.1
    """
    table = reliability(probabilities, labels, weights, bins)
    return sum(b.weight * abs(b.predicted - b.observed) for b in table) / sum(b.weight for b in table)
