"""Logistic regression on the encoded features: the baseline that every ranking model must beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from bedplate.features.artifact import SCORE
from bedplate.features.encoding import OF_ITEM, Layout
from bedplate.layers.axes import NOTHING, Axes
from bedplate.layers.inputs import InputVectors
from bedplate.models.base import require, seeded
from bedplate.models.binary import BinaryModel, probability
from bedplate.models.config import LogisticConfig


@final
class Logistic(BinaryModel):
    """A weight for each number and each key of a category; a bag or a sequence enters as the mean of its elements.

    A key's weight is an embedding of width 1, times one weight of the feature. What is the same for all candidates of a
    request moves all their scores alike: no product of a request's and a candidate's features is in it.
    """

    Config = LogisticConfig

    def __init__(self, config: LogisticConfig, layout: Layout) -> None:
        super().__init__(config, layout)
        with seeded(config.seed):
            self.vectors = InputVectors(layout, 1)
            self.sequence = nn.Linear(max(sum(self.vectors.element_widths.values()), 1), 1, bias=False)
            require(self.vectors.item_width > 0, "the encoder gives nothing about the candidate", "Logistic")
            self.item = nn.Linear(self.vectors.item_width, 1)
            self.request = nn.Linear(max(self.vectors.request_width, 1), 1, bias=False)

    def axes(self) -> Axes:
        """What the axes of the weights are."""
        elements = sum((self.vectors.element_axis(g.name) for g in self.layout.sequences), ())
        return {
            "sequence.weight": (None, elements or NOTHING),
            "item.weight": (None, self.vectors.axis("item")),
            "request.weight": (None, self.vectors.axis("request") or NOTHING),
        }

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`logit` [N], and `score` [N], the probability of the label."""
        logit = self.item(self.vectors.item(batch)).squeeze(1)
        if self.vectors.request_width:
            shared = self.request(self.vectors.request(batch)).squeeze(1)
            logit = logit + shared.index_select(0, batch[OF_ITEM])
        if self.layout.sequences:
            means = torch.cat(
                [mean_element(*self.vectors.elements(g.name, batch)) for g in self.layout.sequences], dim=1
            )
            logit = logit + self.sequence(means).squeeze(1).index_select(0, batch[OF_ITEM])
        return {"logit": logit, SCORE: probability(logit)}


def mean_element(vectors: Tensor, mask: Tensor) -> Tensor:
    """[R, width]: the mean of a sequence's vectors [R, length, width] where the mask [R, length] is 1; zeros if none.

    >>> mean_element(torch.tensor([[[2.0], [4.0], [9.0]]]), torch.tensor([[1.0, 1.0, 0.0]])).tolist()
    [[3.0]]
    """
    total = (vectors * mask.unsqueeze(2)).sum(dim=1)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1.0)
