"""Pooling of a request's sequence: on the candidate (attention), or alone (attention with a learned query)."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from bedplate.layers.axes import Axes, Axis


@final
class CandidateAttention(nn.Module):
    """Pools a request's sequence for each candidate, by how much each element has to do with the candidate.

    After the Deep Interest Network (Zhou et al. 2018, arXiv 1706.06978, section 4.3): weights are not normalised to
    one, so that how *many* elements match is kept; here it is a column of its own, and the pooled vector is bounded:

        w[l] = sigmoid(q . k[l] / sqrt(width) + b[l]),  pooled = sum(w[l] v[l]) / (1 + sum(w)),  last = log(1 + sum(w))

    Keys, values and biases of the elements are computed once per request; the score is a product in place of DIN's
    small network, which would run on every pair of a candidate and an element.
    """

    def __init__(self, item_width: int, element_width: int, width: int) -> None:
        super().__init__()
        self.width = width + 1
        self.query = nn.Linear(item_width, width)
        self.element = nn.Linear(element_width, 2 * width + 1)
        self.inner = width
        with torch.no_grad():
            self.element.bias[-1] = -1.0  # begins with small weights: most elements have nothing to do with a candidate

    def axes(self, group: str, item: Axis, elements: Axis) -> Axes:
        """What its weights' axes are for a group of sequences; see `Model.axes`."""
        keys, inner = _own(group, "key", self.inner), _own(group, "element", 2 * self.inner + 1)
        return {
            "query.weight": (keys, item),
            "query.bias": (keys,),
            "element.weight": (inner, elements),
            "element.bias": (inner,),
        }

    def forward(self, item: Tensor, elements: Tensor, mask: Tensor, request_of_item: Tensor) -> Tensor:
        """[N, width + 1].

        Args:
            item: [N, item_width].
            elements: [R, length, element_width].
            mask: [R, length] float, 1 where there is an element.
            request_of_item: [N].
        """
        keys, values, bias = self.element(elements).split((self.inner, self.inner, 1), dim=2)
        query = self.query(item) * (1.0 / math.sqrt(self.inner))
        of_item = keys.transpose(1, 2).index_select(0, request_of_item)
        scores = torch.bmm(query.unsqueeze(1), of_item).squeeze(1) + bias.squeeze(2).index_select(0, request_of_item)
        weights = torch.sigmoid(scores) * mask.index_select(0, request_of_item)
        total = weights.sum(dim=1, keepdim=True)
        pooled = torch.bmm(weights.unsqueeze(1), values.index_select(0, request_of_item)).squeeze(1)
        return torch.cat((pooled / (1.0 + total), torch.log1p(total)), dim=1)


@final
class SequencePooling(nn.Module):
    """Pools a request's sequence without a candidate: the same weights with one learned query."""

    def __init__(self, element_width: int, width: int) -> None:
        super().__init__()
        self.width = width + 1
        self.element = nn.Linear(element_width, width + 1)
        self.inner = width

    def axes(self, group: str, elements: Axis) -> Axes:
        """What its weights' axes are for a group of sequences; see `Model.axes`."""
        inner = _own(group, "element", self.width)
        return {"element.weight": (inner, elements), "element.bias": (inner,)}

    def forward(self, elements: Tensor, mask: Tensor) -> Tensor:
        """[R, width + 1] of elements [R, length, element_width] and mask [R, length]."""
        values, scores = self.element(elements).split((self.inner, 1), dim=2)
        weights = torch.sigmoid(scores) * mask.unsqueeze(2)
        total = weights.sum(dim=1)
        return torch.cat(((weights * values).sum(dim=1) / (1.0 + total), torch.log1p(total)), dim=1)


def pooled_axis(group: str, width: int) -> Axis:
    """What the columns of a pooled group of sequences are, for `Model.axes`."""
    return _own(group, "pooled", width)


def _own(group: str, what: str, width: int) -> Axis:
    return tuple((group, what, i) for i in range(width))
