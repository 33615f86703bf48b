"""What a model predicted over a whole source, with what it is compared with; needs no torch to be read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import numpy as np

from bedplate.types import Float32s, Float64s, Int64s


@final
@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's scores over a whole source, with what they are compared with.

    Attributes:
        scores: [N] float64.
        labels: [N] float32 each, by name; NaN where the label is not known.
        weights: [N] float32.
        requests: [N] int64, equal for the candidates of one request; counted from 0 in the order of the source.
        request_ids: [R] int64.
        candidates: [N] int64.
        loss: the mean loss over batches, each by what it counts (`Model.loss_weight`).
    """

    scores: Float64s
    labels: Mapping[str, Float32s]
    weights: Float32s
    requests: Int64s
    request_ids: Int64s
    candidates: Int64s
    loss: float = field(default=float("nan"))

    def of(self, label: str) -> tuple[Float64s, Float32s, Float32s, Int64s]:
        """The scores, labels, weights and requests of the rows in which a label is known."""
        known = ~np.isnan(self.labels[label])
        return self.scores[known], self.labels[label][known], self.weights[known], self.requests[known]

    def requests_with(self, label: str) -> Int64s:
        """Ascending: the requests, as in `requests`, with a row in which a label is known."""
        return np.unique(self.of(label)[3])
