"""The metrics that a validation of binary predictions reports together."""

from __future__ import annotations

from bedplate.metrics.calibration import calibration, expected_calibration_error
from bedplate.metrics.classification import auc, log_loss, normalised_entropy, request_auc
from bedplate.types import Array, Int64s


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
