"""DCN-V2 (Wang et al. 2021, arXiv 2008.13535) with sequences pooled by attention on the candidate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast, final

import torch
from torch import Tensor, nn

from bedplate.features.artifact import SCORE
from bedplate.features.encoding import OF_ITEM, Layout
from bedplate.layers.attention import CandidateAttention, pooled_axis
from bedplate.layers.axes import Axes, Axis, WeightAxes, prefixed
from bedplate.layers.cross import CrossNetwork
from bedplate.layers.inputs import InputVectors
from bedplate.layers.linear import SplitMLP
from bedplate.models.base import require, seeded
from bedplate.models.binary import BinaryModel, probability
from bedplate.models.config import DCNConfig


@final
class DCN(BinaryModel):
    """Ranks candidates by the probability of the label.

    The request's columns enter the first cross, the first deep layer and the attention's keys and values on R rows.
    """

    Config = DCNConfig

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

    def axes(self) -> Axes:
        """What the axes of the weights of the first layers are."""
        request, item = self.vectors.axis("request"), self.vectors.axis("item")
        found: dict[str, WeightAxes] = {}
        pooled: Axis = ()
        for i, group in enumerate(self.layout.sequences):
            attention = cast(CandidateAttention, self.attention[i])
            elements = self.vectors.element_axis(group.name)
            found |= prefixed(f"attention.{i}", attention.axes(group.name, item, elements))
            pooled += pooled_axis(group.name, attention.width)
        item += pooled
        found |= prefixed("cross", self.cross.axes(request, item))
        found |= prefixed("deep.first", self.deep.first.axes(request, item))
        return found | {"crossed.weight": (None, request + item)}

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`logit` [N], and `score` [N], the probability of the label."""
        request_of_item = batch[OF_ITEM]
        request, item = self.vectors.request(batch), self.vectors.item(batch)
        pooled = [item]
        for group, attention in zip(self.layout.sequences, self.attention, strict=True):
            vectors, mask = self.vectors.elements(group.name, batch)
            pooled.append(attention(item, vectors, mask, request_of_item))
        item = torch.cat(pooled, dim=1)
        crossed = self.cross.summed(request, item, request_of_item, self.crossed.weight[0]) + self.crossed.bias
        logit = crossed + self.deepened(self.deep(request, item, request_of_item)).squeeze(1)
        return {"logit": logit, SCORE: probability(logit)}
