"""One embedding table for every categorical feature, and pooling over padded lists."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

SPARSE_ROWS = 200_000
"""From so many rows on, gradients are sparse: clearing a dense one of this size costs more than sorting the ids."""


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
        self.weight = nn.Parameter(torch.randn(rows, width) * scale)
        with torch.no_grad():
            self.weight[0] = 0.0

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors [..., width] of ids [...] int64."""
        return nn.functional.embedding(ids, self.weight, padding_idx=0, sparse=self.sparse)


def table_names(model: nn.Module) -> list[str]:
    """The names of a model's embedding tables, in the order in which it has them."""
    untyped: Any = model
    return [f"{name}.weight" for name, module in untyped.named_modules() if isinstance(module, FusedEmbedding)]


def masked_mean(vectors: Tensor, ids: Tensor) -> Tensor:
    """[n, width]: the mean of vectors [n, length, width] whose id [n, length] is not 0; zeros where all are."""
    count = (ids != 0).sum(dim=1, keepdim=True).clamp(min=1)
    return vectors.sum(dim=1) / count.to(vectors.dtype)
