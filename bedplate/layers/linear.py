"""Dense layers that compute the request's share once per request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from bedplate.layers.axes import Axes, Axis


@final
class SplitLinear(nn.Module):
    """A linear layer on [request | item], equal to `nn.Linear` on the expanded rows: `W x = Wr r + Wi i + b`.

    `Wr r` is computed on R rows and only its result is expanded to N.
    """

    def __init__(self, request_width: int, item_width: int, width: int) -> None:
        """Draws both parts like one `nn.Linear` of their joint width."""
        super().__init__()
        joint = nn.Linear(request_width + item_width, width)
        self.request = nn.Parameter(joint.weight.detach()[:, :request_width].clone())
        self.item = nn.Parameter(joint.weight.detach()[:, request_width:].clone())
        self.bias = nn.Parameter(joint.bias.detach().clone())

    @staticmethod
    def axes(request: Axis, item: Axis, out: Axis | None = None) -> Axes:
        """What its weights' axes are; see `Model.axes`."""
        return {"request": (out, request), "item": (out, item), "bias": (out,)}

    def forward(self, request: Tensor, item: Tensor, request_of_item: Tensor) -> Tensor:
        """[N, width] of request [R, request_width] and item [N, item_width]."""
        shared = nn.functional.linear(request, self.request, self.bias)
        return nn.functional.linear(item, self.item) + shared.index_select(0, request_of_item)


@final
class MLP(nn.Module):
    """Linear layers with ReLU and dropout after each.

    >>> MLP(8, (16, 4))(torch.zeros(3, 8)).shape
    torch.Size([3, 4])
    """

    def __init__(self, width: int, layers: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for size in layers:
            steps += [nn.Linear(width, size), nn.ReLU()]
            if dropout:
                steps.append(nn.Dropout(dropout))
            width = size
        self.steps = nn.Sequential(*steps)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """[n, last width] of x [n, width]."""
        return self.steps(x)


@final
class SplitMLP(nn.Module):
    """An `MLP` on [request | item] whose first layer is a `SplitLinear`."""

    def __init__(self, request_width: int, item_width: int, layers: Sequence[int], dropout: float = 0.0) -> None:
        """At least one layer."""
        super().__init__()
        self.first = SplitLinear(request_width, item_width, layers[0])
        self.dropout = nn.Dropout(dropout)
        self.rest = MLP(layers[0], layers[1:], dropout)
        self.width = self.rest.width

    def forward(self, request: Tensor, item: Tensor, request_of_item: Tensor) -> Tensor:
        """[N, last width]."""
        return self.rest(self.dropout(torch.relu(self.first(request, item, request_of_item))))
