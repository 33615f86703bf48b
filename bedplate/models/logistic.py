"""Logistic regression on the encoded features: the baseline that every ranking model must beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from bedplate.features.encoding import Layout
from bedplate.layers.inputs import InputVectors
from bedplate.metrics.report import binary_report
from bedplate.models.base import Model, Prediction, Targets, require, seeded
from bedplate.models.binary import binary_loss, probability, sampled_logit
from bedplate.models.config import LogisticConfig


@final
class Logistic(Model):
    """A weight for each number and each key of a category; a bag or a sequence enters as the mean of its elements.

    A key's weight is an embedding of width 1, times one weight of the feature. What is the same for all candidates of a
    request moves all their scores alike: no product of a request's and a candidate's features is in it.
    """

    def __init__(self, config: LogisticConfig, layout: Layout) -> None:
        super().__init__(config, layout)
        with seeded(config.seed):
            self.vectors = InputVectors(layout, 1)
            self.sequence = nn.Linear(max(sum(self.vectors.element_widths.values()), 1), 1, bias=False)
            require(self.vectors.item_width > 0, "the encoder gives nothing about the candidate", "Logistic")
            self.item = nn.Linear(self.vectors.item_width, 1)
            self.request = nn.Linear(max(self.vectors.request_width, 1), 1, bias=False)
        self.label, self.correct_sampling = config.label, config.correct_sampling

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`logit` [N], and `score` [N], the probability of the label."""
        logit = self.item(self.vectors.item(inputs)).squeeze(1)
        if self.vectors.request_width:
            shared = self.request(self.vectors.request(inputs)).squeeze(1)
            logit = logit + shared.index_select(0, inputs["request_of_item"])
        if self.layout.sequences:
            means = torch.cat(
                [mean_element(*self.vectors.elements(g.name, inputs)) for g in self.layout.sequences], dim=1
            )
            logit = logit + self.sequence(means).squeeze(1).index_select(0, inputs["request_of_item"])
        return {"logit": logit, "score": torch.sigmoid(logit)}

    def served(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`score` [N], the probability of the label."""
        return {"score": self(inputs)["score"]}

    def loss(self, outputs: Mapping[str, Tensor], targets: Targets) -> Tensor:
        """The weighted mean log loss, corrected for drawn negatives if the config says so."""
        logit = sampled_logit(outputs, targets, self.correct_sampling)
        return binary_loss(logit, targets.label(self.label), targets.weights_of(self.label))

    def judged(self, outputs: Mapping[str, Tensor], targets: Targets) -> Tensor:
        """[N]: the probability of the label among the batch's candidates."""
        return probability(sampled_logit(outputs, targets, self.correct_sampling))

    def metrics(self, prediction: Prediction) -> dict[str, float]:
        """Those of `binary_report`."""
        return binary_report(*prediction.of(self.label))


def mean_element(vectors: Tensor, mask: Tensor) -> Tensor:
    """[R, width]: the mean of a sequence's vectors [R, length, width] where the mask [R, length] is 1; zeros if none.

    >>> mean_element(torch.tensor([[[2.0], [4.0], [9.0]]]), torch.tensor([[1.0, 1.0, 0.0]])).tolist()
    [[3.0]]
    """
    total = (vectors * mask.unsqueeze(2)).sum(dim=1)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1.0)
