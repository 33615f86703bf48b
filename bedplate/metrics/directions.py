"""Whether a lower or a higher value of a metric is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

Direction: TypeAlias = Literal["lower", "higher"]
"""Which values of a metric are better."""

DIRECTIONS: Mapping[str, Direction] = {
    "loss": "lower",
    "train_loss": "lower",
    "log_loss": "lower",
    "normalised_entropy": "lower",
    "expected_calibration_error": "lower",
    "auc": "higher",
    "request_auc": "higher",
    "ndcg": "higher",
}
"""Of the metrics that Bedplate computes; a model says it of its own (`ModelConfig.directions`)."""


def sign_of(direction: Direction) -> float:
    """What values are multiplied by so that less of them is better.

    >>> sign_of("lower"), sign_of("higher")
    (1.0, -1.0)
    """
    return 1.0 if direction == "lower" else -1.0
