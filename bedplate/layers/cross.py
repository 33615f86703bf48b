"""The cross network of DCN-V2 (Wang et al. 2021, arXiv 2008.13535, equations 1 and 2)."""

from __future__ import annotations

from typing import cast, final

import torch
from torch import Tensor, nn

from bedplate.layers.axes import Axes, Axis, prefixed
from bedplate.layers.linear import SplitLinear


@final
class CrossNetwork(nn.Module):
    """Explicit feature crosses: `x[l+1] = x[0] * (U[l] V[l] x[l] + b[l]) + x[l]`, x[0] being [request | item].

    The matrices have rank `rank` (U is [width, rank], V is [rank, width]); with rank 0 there is one full matrix. The
    first layer's projection `V x[0]` is computed once per request for the request's columns.
    """

    def __init__(self, request_width: int, item_width: int, layers: int, rank: int) -> None:
        """At least one layer."""
        super().__init__()
        width = request_width + item_width
        self.width, self.rank, self._request_width = width, rank, request_width
        inner = rank or width
        self.first = SplitLinear(request_width, item_width, inner)
        self.down = nn.ModuleList(nn.Linear(width, inner, bias=False) for _ in range(layers - 1))
        self.up = nn.ModuleList(nn.Linear(rank, width) if rank else nn.Identity() for _ in range(layers))

    def axes(self, request: Axis, item: Axis) -> Axes:
        """What its weights' axes are; see `Model.axes`."""
        both = request + item
        inner = None if self.rank else both
        found = prefixed("first", self.first.axes(request, item, inner))
        found |= {f"down.{i}.weight": (inner, both) for i in range(len(self.down))}
        if self.rank:
            for i in range(len(self.up)):
                found |= {f"up.{i}.weight": (both, None), f"up.{i}.bias": (both,)}
        return found

    def forward(self, request: Tensor, item: Tensor, request_of_item: Tensor) -> Tensor:
        """[N, request_width + item_width]."""
        return self._crossed(request, item, request_of_item, len(self.up))

    def summed(self, request: Tensor, item: Tensor, request_of_item: Tensor, weight: Tensor) -> Tensor:
        """[N]: `forward` times `weight` [width], without computing the last layer's output.

        As `w . (x[0] * (M x + b) + x) = x . (w + M^T (w * x[0])) + b . (w * x[0])`, that layer's matrix meets only what
        is there before any cross: the request's columns once per request, and those of the item regardless of it.
        """
        if not self.down:
            return _weighted(self(request, item, request_of_item), weight)
        x = self._crossed(request, item, request_of_item, len(self.up) - 1)
        down, up = cast(nn.Linear, self.down[-1]), self.up[-1]
        if isinstance(up, nn.Linear):
            shared, own = self._both(request, item, weight.unsqueeze(1) * up.weight)
            last = _added_up(down(x) * (own + shared.index_select(0, request_of_item)), self.rank)
            rows, ends = self._request_width, weight * up.bias
            of_item, of_request = _weighted(item, ends[rows:]), _weighted(request, ends[:rows])
            return _weighted(x, weight) + last + of_item + of_request.index_select(0, request_of_item)
        shared, own = self._both(request, item, weight.unsqueeze(1) * down.weight)
        return _added_up(x * (own + (shared + weight).index_select(0, request_of_item)), self.width)

    def _crossed(self, request: Tensor, item: Tensor, request_of_item: Tensor, layers: int) -> Tensor:
        """[N, width]: what the first layers give."""
        start = torch.cat((request.index_select(0, request_of_item), item), dim=1)
        x = torch.addcmul(start, start, self.up[0](self.first(request, item, request_of_item)))
        for down, up in zip(self.down[: layers - 1], self.up[1:layers], strict=True):
            x = torch.addcmul(x, start, up(down(x)))
        return x

    def _both(self, request: Tensor, item: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """The two sides times their rows of a matrix [width, n]."""
        rows = self._request_width  # a size of the model, not of the tensor, so that an exported graph has the parts
        return request @ matrix[:rows], item @ matrix[rows:]


def _weighted(rows: Tensor, weights: Tensor) -> Tensor:
    """[N]: the weighted sum of each row; by a product, whose order does not depend on where in memory the row lies."""
    return nn.functional.linear(rows, weights.unsqueeze(0)).squeeze(1)


def _added_up(rows: Tensor, width: int) -> Tensor:
    """[N]: the sum of each row [width], as `_weighted`."""
    return _weighted(rows, torch.ones(width, dtype=rows.dtype, device=rows.device))
