"""One embedding table for every categorical feature, and pooling over padded lists."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from bedplate.layers import kernels

SPARSE_ROWS = 10_000
"""From so many rows on, gradients are sparse: to clear a dense one of this size costs more than to number the ids."""


@final
class FusedEmbedding(nn.Module):
    """A table [rows, width] that all fields share; ids come already shifted to their field's block of rows.

    One table makes one lookup of several fields and one optimiser step. Row 0 is padding: zeros, never trained.

    >>> table = FusedEmbedding(rows=10, width=4)
    >>> table(torch.tensor([[0, 3]])).shape, table(torch.tensor([0])).abs().sum().item()
    (torch.Size([1, 2, 4]), 0.0)
    """

    def __init__(self, rows: int, width: int, scale: float = 0.05) -> None:
        """Normal weights of standard deviation `scale`."""
        super().__init__()
        self.sparse = rows >= SPARSE_ROWS
        self.weight = nn.Parameter(torch.randn(rows, width).mul_(scale))
        with torch.no_grad():
            self.weight[0] = 0.0

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors [..., width] of ids [...] int64."""
        if self.training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return _Rows.apply(self.weight, ids, self.sparse)  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
        return nn.functional.embedding(ids, self.weight, padding_idx=0, sparse=self.sparse)


class _Rows(torch.autograd.Function):
    """`nn.functional.embedding` with row 0 for padding, whose gradient is added up several times faster.

    That of torch runs through the ids once a thread, and a sparse one sorts them all; this adds rows in the order of
    the ids, so that it is the same whatever the number of threads.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, sparse: bool) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(ids)
        ctx.rows, ctx.sparse = len(weight), sparse
        return weight.index_select(0, ids.reshape(-1)).view(*ids.shape, weight.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        [gradient], [ids] = gradients, ctx.saved_tensors
        width, ids = gradient.shape[-1], ids.reshape(-1)
        values = gradient.reshape(-1, width)
        if not ctx.sparse:
            dense = _added(ids, values, ctx.rows)
            dense[0] = 0.0
            return dense, None, None
        rows, merged = summed_rows(ids, values)
        merged[rows == 0] = 0.0
        return _coalesced(rows, merged, ctx.rows), None, None


def summed_rows(ids: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending ids, each once, and the sum of the values [n, width] of each, added in their order.

    >>> rows, sums = summed_rows(torch.tensor([7, 2, 7]), torch.tensor([[1.0], [2.0], [3.0]]))
    >>> rows.tolist(), sums.tolist()
    ([2, 7], [[2.0], [4.0]])
    """
    if ids.device.type != "cpu":
        untyped: Any = torch
        rows: Tensor
        rows, of_id = untyped.unique(ids, return_inverse=True)
        return rows, _added(of_id, values, len(rows))
    bits = max(2 * len(ids), 2).bit_length()
    places, found = np.empty(len(ids), np.int32), np.empty(len(ids), np.int64)
    count = int(kernels.number_ids(ids.contiguous().numpy(), np.full(1 << bits, -1, np.int32), bits, places, found))
    order = np.argsort(found[:count])
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count)
    numbers = torch.from_numpy(rank[places])  # pyright: ignore[reportUnknownMemberType]
    return torch.from_numpy(found[order]), _added(numbers, values, count)  # pyright: ignore[reportUnknownMemberType]


def _added(places: Tensor, values: Tensor, count: int) -> Tensor:
    """[count, width]: the values [n, width] added up by their place."""
    out = values.new_zeros(count, values.shape[1])
    if values.device.type == "cpu" and values.dtype == torch.float32:
        kernels.add_rows(places.contiguous().numpy(), values.detach().contiguous().numpy(), out.numpy())
        return out
    return out.index_add_(0, places, values)


def _coalesced(rows: Tensor, values: Tensor, count: int) -> Tensor:
    """[count, width]: the sparse tensor of rows in ascending order."""
    return torch.sparse_coo_tensor(  # pyright: ignore[reportUnknownMemberType]
        rows.unsqueeze(0), values, (count, values.shape[1]), is_coalesced=True, check_invariants=False
    )


def table_names(model: nn.Module) -> list[str]:
    """The names of a model's embedding tables, in the order in which it has them."""
    untyped: Any = model
    return [f"{name}.weight" for name, module in untyped.named_modules() if isinstance(module, FusedEmbedding)]


def masked_mean(vectors: Tensor, ids: Tensor) -> Tensor:
    """[n, width]: the mean of vectors [n, length, width] whose id [n, length] is not 0; zeros where all are."""
    count = (ids != 0).sum(dim=1, keepdim=True).clamp(min=1)
    return vectors.sum(dim=1) / count.to(vectors.dtype)
