"""What models of a binary label share: the loss, and the correction for negatives that were drawn.

A negative is drawn with a probability `q` that depends on the candidate, such as its popularity. Among positives and
drawn negatives the odds of the label are the true ones divided by `q` (and by how many were drawn, the same for all).
A model fitted to them forgets popularity: fine to tell the drawn rows apart, wrong to order a whole catalogue. With
`correct_sampling` the loss takes `logit - log q`, so that the logit itself is the log of the odds without the sampling,
up to a constant, and orders any candidates: noise-contrastive estimation (Gutmann and Hyvarinen 2012, section 2).
Metrics on drawn candidates are of `logit - log q`, too: those rows are what they describe.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bedplate.errors import DataError
from bedplate.features.artifact import SCORE
from bedplate.features.encoding import Layout
from bedplate.metrics.report import binary_report
from bedplate.models.base import Model, weighted_mean
from bedplate.models.batch import TensorBatch
from bedplate.models.config import BinaryConfig
from bedplate.models.outputs import of_candidates
from bedplate.models.prediction import Prediction


class BinaryModel(Model, ABC):
    """A model of a binary label by its log-odds: its `forward` gives `logit` [N], the rest is here."""

    def __init__(self, config: BinaryConfig, layout: Layout) -> None:
        super().__init__(config, layout)
        self.label, self.correct_sampling = config.label, config.correct_sampling

    def served(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`score` [N], the probability of the label."""
        return {SCORE: probability(self(batch)["logit"])}

    def loss(self, outputs: Mapping[str, Tensor], batch: TensorBatch) -> Tensor:
        """The weighted mean log loss, corrected for drawn negatives if the config says so."""
        return binary_loss(self._logit(outputs, batch), batch.label(self.label), batch.weights_of(self.label))

    def loss_weight(self, batch: TensorBatch) -> Tensor:
        """The sum of the weights of the rows in which the label is known."""
        return batch.weights_of(self.label).sum()

    def judged(self, outputs: Mapping[str, Tensor], batch: TensorBatch) -> Tensor:
        """[N]: the probability of the label among the batch's candidates."""
        return probability(self._logit(outputs, batch))

    def metrics(self, prediction: Prediction) -> dict[str, float]:
        """Those of `binary_report`."""
        return binary_report(*prediction.of(self.label))

    def _logit(self, outputs: Mapping[str, Tensor], batch: TensorBatch) -> Tensor:
        of_candidates(outputs, "logit", batch.rows, type(self).__name__)
        return sampled_logit(outputs, batch, self.correct_sampling)


def sampled_logit(outputs: Mapping[str, Tensor], batch: TensorBatch, correct_sampling: bool) -> Tensor:
    """[N]: the log-odds of the label among the batch's candidates.

    Raises:
        DataError: the batch does not say how probable its candidates were.
    """
    if not correct_sampling:
        return outputs["logit"]
    if batch.log_q is None:
        raise DataError(
            "correct_sampling needs the probability of each candidate, which the batch does not have",
            where="model",
            hint="give the dataset negatives, or set correct_sampling=False",
        )
    return outputs["logit"] - batch.log_q


def binary_loss(logit: Tensor, label: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean log loss."""
    return weighted_mean(nn.functional.binary_cross_entropy_with_logits(logit, label, reduction="none"), weights)


def probability(logit: Tensor) -> Tensor:
    """[N]: the probability of a log-odds.

    >>> probability(torch.zeros(1)).item()
    0.5
    """
    return torch.sigmoid(logit)
