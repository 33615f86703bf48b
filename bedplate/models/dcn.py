"""DCN-V2 (Wang et al. 2021, arXiv 2008.13535) with sequences pooled by attention on the candidate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from bedplate.features.encoding import Layout
from bedplate.layers.attention import CandidateAttention
from bedplate.layers.cross import CrossNetwork
from bedplate.layers.inputs import InputVectors
from bedplate.layers.linear import SplitMLP
from bedplate.metrics.report import binary_report
from bedplate.models.base import Model, Prediction, Targets, require, seeded
from bedplate.models.binary import binary_loss, probability, sampled_logit
from bedplate.models.config import DCNConfig


@final
class DCN(Model):
    """Ranks candidates by the probability of the label.

    The request's columns enter the first cross, the first deep layer and the attention's keys and values on R rows.
    """

    def __init__(self, config: DCNConfig, layout: Layout) -> None:
        """Draws the weights.

        Raises:
            DefinitionError: a layout without one of the two sides.
        """
        super().__init__(config, layout)
        with seeded(config.seed):
            self.vectors = InputVectors(layout, config.embedding)
            request, item = self.vectors.request_width, self.vectors.item_width
            require(item > 0, "the encoder gives nothing about the candidate", "DCN", "encode at least 'candidate'")
            require(request > 0, "the encoder gives nothing about the request", "DCN", "or use Logistic")
            self.attention = nn.ModuleList(
                CandidateAttention(item, width, config.attention) for width in self.vectors.element_widths.values()
            )
            item += len(self.attention) * (config.attention + 1)
            self.cross = CrossNetwork(request, item, config.cross_layers, config.rank)
            self.deep = SplitMLP(request, item, config.layers, config.dropout)
            self.crossed = nn.Linear(request + item, 1)
            self.deepened = nn.Linear(self.deep.width, 1, bias=False)
        self.label, self.correct_sampling = config.label, config.correct_sampling

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`logit` [N], and `score` [N], the probability of the label."""
        request_of_item = inputs["request_of_item"]
        request, item = self.vectors.request(inputs), self.vectors.item(inputs)
        pooled = [item]
        for group, attention in zip(self.layout.sequences, self.attention, strict=True):
            vectors, mask = self.vectors.elements(group.name, inputs)
            pooled.append(attention(item, vectors, mask, request_of_item))
        item = torch.cat(pooled, dim=1)
        crossed = self.crossed(self.cross(request, item, request_of_item))
        logit = (crossed + self.deepened(self.deep(request, item, request_of_item))).squeeze(1)
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
