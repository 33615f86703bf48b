"""Two towers: requests and candidates as vectors of one space, for retrieval over the whole catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from bedplate.features.artifact import QUERY, SCORE
from bedplate.features.encoding import OF_ITEM, Layout
from bedplate.layers.attention import SequencePooling, pooled_axis
from bedplate.layers.axes import Axes, WeightAxes, prefixed
from bedplate.layers.inputs import InputVectors
from bedplate.layers.linear import MLP
from bedplate.metrics.classification import request_auc
from bedplate.models.base import RetrievalModel, require, seeded, weighted_mean
from bedplate.models.batch import TensorBatch
from bedplate.models.config import TwoTowerConfig
from bedplate.models.prediction import Prediction

_NOTHING = -1e9  # the logit of what is no negative: far below any other, and finite, so that gradients stay numbers
_MULTIPLIER = -7046029254386353131  # 2^64 / golden ratio as a signed integer: Fibonacci hashing


@final
class TwoTower(RetrievalModel):
    """The score of a request and a candidate is the cosine of their vectors over the temperature.

    The loss is a softmax of each positive against all candidates of the batch that are not positives of its request,
    each candidate once, with the logQ correction (Yi et al. 2019, "Sampling-bias-corrected neural modeling for large
    corpus item recommendations", section 4): the logit of a candidate is lowered by the logarithm of the probability
    that it is in a batch, estimated from the gaps between the batches that held it (algorithm 2 there).
    """

    Config = TwoTowerConfig

    def __init__(self, config: TwoTowerConfig, layout: Layout) -> None:
        """Draws the weights.

        Raises:
            DefinitionError: one side is empty.
        """
        super().__init__(config, layout)
        slots = config.frequency_slots
        with seeded(config.seed):
            self.vectors = InputVectors(layout, config.embedding)
            self.sequences = nn.ModuleList(
                SequencePooling(width, config.embedding) for width in self.vectors.element_widths.values()
            )
            request = self.vectors.request_width + len(self.sequences) * (config.embedding + 1)
            require(request > 0, "the encoder gives nothing about the request", "TwoTower")
            require(self.vectors.item_width > 0, "the encoder gives nothing about the candidate", "TwoTower")
            self.query_tower = self._tower(request, config)
            self.item_tower = self._tower(self.vectors.item_width, config)
        self.label = config.label
        self.temperature = config.temperature
        self.rate = config.frequency_rate
        self.last_seen: Tensor
        self.gap: Tensor
        self.step: Tensor
        self.register_buffer("last_seen", torch.zeros(slots, dtype=torch.int64))
        self.register_buffer("gap", torch.ones(slots))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @staticmethod
    def _tower(width: int, config: TwoTowerConfig) -> nn.Module:
        hidden = MLP(width, config.layers, config.dropout)
        return nn.Sequential(hidden, nn.Linear(hidden.width, config.width))

    def axes(self) -> Axes:
        """What the axes of the weights of the first layers are."""
        request = self.vectors.axis("request")
        found: dict[str, WeightAxes] = {}
        for i, group in enumerate(self.layout.sequences):
            pooling = cast(SequencePooling, self.sequences[i])
            found |= prefixed(f"sequences.{i}", pooling.axes(group.name, self.vectors.element_axis(group.name)))
            request += pooled_axis(group.name, pooling.width)
        first = "0.steps.0.weight" if cast(TwoTowerConfig, self.config).layers else "1.weight"
        return found | {
            f"query_tower.{first}": (None, request),
            f"item_tower.{first}": (None, self.vectors.axis("item")),
        }

    def query(self, batch: Mapping[str, Tensor]) -> Tensor:
        """[R, width] unit vectors of the requests; reads nothing of the candidates."""
        parts = [self.vectors.request(batch)] if self.vectors.request_width else []
        for group, pooling in zip(self.layout.sequences, self.sequences, strict=True):
            parts.append(pooling(*self.vectors.elements(group.name, batch)))
        return nn.functional.normalize(self.query_tower(torch.cat(parts, dim=1)), dim=1)

    def item(self, batch: Mapping[str, Tensor]) -> Tensor:
        """[N, width] unit vectors of the candidates; reads nothing of the requests."""
        return nn.functional.normalize(self.item_tower(self.vectors.item(batch)), dim=1)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`query` [R, width], `item` [N, width], `score` [N], and `request_of_item` as it came in."""
        query, item = self.query(batch), self.item(batch)
        request_of_item = batch[OF_ITEM]
        score = (query.index_select(0, request_of_item) * item).sum(dim=1) / self.temperature
        return {QUERY: query, "item": item, SCORE: score, OF_ITEM: request_of_item}

    def loss(self, outputs: Mapping[str, Tensor], batch: TensorBatch) -> Tensor:
        """The weighted mean over positives of the corrected softmax loss; a training step updates the frequencies."""
        positive = batch.label(self.label) > 0
        request_of_item = outputs[OF_ITEM]
        unique, inverse = _unique(batch.candidates)
        rows = torch.arange(len(inverse))
        first = torch.full((len(unique),), len(inverse)).scatter_reduce(0, inverse, rows, "amin")
        correction = self._log_probability(unique)
        logits = outputs[QUERY] @ outputs["item"].index_select(0, first).T / self.temperature - correction
        bought = torch.zeros(logits.shape, dtype=torch.bool)
        bought[request_of_item[positive], inverse[positive]] = True
        others = torch.logsumexp(logits.masked_fill(bought, _NOTHING), dim=1)
        own = outputs[SCORE][positive] - correction[inverse[positive]]
        losses = nn.functional.softplus(others[request_of_item[positive]] - own)
        return weighted_mean(losses, batch.weights[positive])

    def loss_weight(self, batch: TensorBatch) -> Tensor:
        """The sum of the weights of the positives."""
        return batch.weights[batch.label(self.label) > 0].sum()

    def metrics(self, prediction: Prediction) -> dict[str, float]:
        """`request_auc`: how often a positive scores above another candidate of its request."""
        scores, labels, _, requests = prediction.of(self.label)
        return {"request_auc": request_auc(scores, labels > 0, requests)}

    @torch.no_grad()
    def _log_probability(self, candidates: Tensor) -> Tensor:
        """[n]: the logarithm of the estimated probability that a batch holds each of n different candidates."""
        slots = ((candidates * _MULTIPLIER) >> 32) & (len(self.gap) - 1)
        if self.training:
            self.step += 1
            last, gap = self.last_seen[slots], self.gap[slots]
            newest = (self.step - last).to(gap.dtype)
            # The first gap, counted from the start, is taken whole: an average that began elsewhere would be biased.
            self.gap[slots] = torch.where(last == 0, newest, (1.0 - self.rate) * gap + self.rate * newest)
            self.last_seen[slots] = self.step
        unseen = self.last_seen[slots] == 0
        gaps = torch.where(unseen, (self.step + 1).to(self.gap.dtype), self.gap[slots])
        return -torch.log(gaps.clamp(min=1.0))


def _unique(values: Tensor) -> tuple[Tensor, Tensor]:
    """The different values in ascending order, and the position of each value among them."""
    untyped: Any = torch
    return untyped.unique(values, return_inverse=True)
