"""What models of a binary label share: the loss, and the correction for negatives that were drawn.

A negative is drawn with a probability `q` that depends on the candidate, such as its popularity. Among positives and
drawn negatives the odds of the label are the true ones divided by `q` (and by how many were drawn, the same for all).
A model fitted to them forgets popularity: fine to tell the drawn rows apart, wrong to order a whole catalogue. With
`correct_sampling` the loss takes `logit - log q`, so that the logit itself is the log of the odds without the sampling,
up to a constant, and orders any candidates: noise-contrastive estimation (Gutmann and Hyvarinen 2012, section 2).
Metrics on drawn candidates are of `logit - log q`, too: those rows are what they describe.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bedplate.errors import DataError
from bedplate.models.base import Targets, weighted_mean


def sampled_logit(outputs: Mapping[str, Tensor], targets: Targets, correct_sampling: bool) -> Tensor:
    """[N]: the log-odds of the label among the batch's candidates.

    Raises:
        DataError: the batch does not say how probable its candidates were.
    """
    if not correct_sampling:
        return outputs["logit"]
    if targets.log_q is None:
        raise DataError(
            "correct_sampling needs the probability of each candidate, which the batch does not have",
            where="model",
            hint="give the dataset negatives, or set correct_sampling=False",
        )
    return outputs["logit"] - targets.log_q


def binary_loss(logit: Tensor, label: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean log loss."""
    return weighted_mean(nn.functional.binary_cross_entropy_with_logits(logit, label, reduction="none"), weights)


def probability(logit: Tensor) -> Tensor:
    """[N]: the probability of a log-odds.

    >>> probability(torch.zeros(1)).item()
    0.5
    """
    return torch.sigmoid(logit)
