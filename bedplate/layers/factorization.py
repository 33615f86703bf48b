"""The second order of factorization machines (Rendle 2010, equation 5 and lemma 3.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def pair_sum(vectors: Tensor) -> Tensor:
    """The inner products of all pairs of a row's vectors, added up, in time that grows with their number only.

    As the half of (the square of the sum less the sum of the squares), whose gradient is the sum less the vector: it
    has that gradient of its own, which takes a third of the time of what autograd makes of the formula.

    Args:
        vectors: [n, fields, width].

    Returns:
        [n].

    >>> pair_sum(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])).tolist()  # 11 + 17 + 39
    [67.0]
    """
    if torch.is_grad_enabled() and vectors.requires_grad and not torch.compiler.is_compiling():
        return _PairSum.apply(vectors)  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
    return _pair_sum(vectors, vectors.sum(dim=1))


def _pair_sum(vectors: Tensor, total: Tensor) -> Tensor:
    squares = vectors.flatten(1)
    return 0.5 * ((total * total).sum(dim=1) - (squares * squares).sum(dim=1))


class _PairSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        total = vectors.sum(dim=1)
        ctx.save_for_backward(vectors, total)
        return _pair_sum(vectors, total)

    @staticmethod
    @torch.autograd.function.once_differentiable  # pyright: ignore[reportUntypedFunctionDecorator,reportUnknownMemberType]
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        [gradient], [vectors, total] = gradients, ctx.saved_tensors
        return (total.unsqueeze(1) - vectors) * gradient[:, None, None]
