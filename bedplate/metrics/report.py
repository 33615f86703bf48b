"""The metrics that a validation of binary predictions reports together."""

from __future__ import annotations

from collections.abc import Mapping

from bedplate.metrics.calibration import calibration, expected_calibration_error
from bedplate.metrics.classification import auc, log_loss, normalised_entropy, request_auc
from bedplate.metrics.ranking import request_ndcg
from bedplate.types import Array, Int64s

BINARY_METRICS = (
    "auc",
    "request_auc",
    "log_loss",
    "normalised_entropy",
    "calibration",
    "expected_calibration_error",
)
"""The names of the metrics of `binary_report`."""


RANKING_METRICS = ("auc", "request_auc", "ndcg")
"""The names of the metrics of `ranking_report`."""


def ranking_report(scores: Array, labels: Array, weights: Array, requests: Int64s) -> dict[str, float]:
    """How well scores of any scale order all rows, and the candidates of each request.

    Args:
        scores: [n].
        labels: [n], 0 or 1.
        weights: [n].
        requests: [n], equal for the candidates of one request.
    """
    return {
        "auc": auc(scores, labels, weights),
        "request_auc": request_auc(scores, labels, requests),
        "ndcg": request_ndcg(scores, labels, requests),
    }


def binary_report(probabilities: Array, labels: Array, weights: Array, requests: Int64s) -> dict[str, float]:
    """Discrimination (over all rows and within requests), log loss and calibration.

    Args:
        probabilities: [n].
        labels: [n], 0 or 1.
        weights: [n].
        requests: [n], equal for the candidates of one request.
    """
    return {
        "auc": auc(probabilities, labels, weights),
        "request_auc": request_auc(probabilities, labels, requests),
        "log_loss": log_loss(probabilities, labels, weights),
        "normalised_entropy": normalised_entropy(probabilities, labels, weights),
        "calibration": calibration(probabilities, labels, weights),
        "expected_calibration_error": expected_calibration_error(probabilities, labels, weights),
    }


def warnings_of(metrics: Mapping[str, float]) -> list[str]:
    """What a person should know before such a model is used: where it is worse than knowing no feature at all.

    Args:
        metrics: of validation by name, and those of test with the prefix `test_`.

    >>> warnings_of({"normalised_entropy": 0.9, "test_normalised_entropy": 3.0876})
    ['on the test split it is worse than predicting the mean label (normalised entropy 3.088, above 1)']
    """
    splits = {"validation": "normalised_entropy", "test": "test_normalised_entropy"}
    return [
        f"on the {split} split it is worse than predicting the mean label "
        f"(normalised entropy {metrics[name]:.3f}, above 1)"
        for split, name in splits.items()
        if metrics.get(name, 0.0) > 1
    ]
