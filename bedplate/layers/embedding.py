"""One embedding table for every categorical feature, and pooling over padded lists."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple, TypeAlias, final

import numpy as np
import torch
from torch import Tensor, nn

from bedplate.errors import ConfigError
from bedplate.layers import kernels

SPARSE_ROWS = 10_000
"""From so many rows on, gradients are sparse: to clear a dense one of this size costs more than to number the ids."""

Room: TypeAlias = "Callable[[tuple[int, int]], Tensor]"
"""Gives the weights of a table of so many rows and columns, of any values."""

_ROOM: ContextVar[Room] = ContextVar("room", default=torch.empty)


@contextmanager
def tables_in(room: Room) -> Generator[None]:
    """Lets tables be made whose weights are where the function has room for them, such as in a file.

    >>> with tables_in(lambda shape: torch.full(shape, 7.0)):
    ...     table = FusedEmbedding(rows=3, width=2)
    >>> table.weight[0].tolist(), bool((table.weight == 7).any())
    ([0.0, 0.0], False)
    """
    token = _ROOM.set(room)
    try:
        yield
    finally:
        _ROOM.reset(token)


def without_rows() -> AbstractContextManager[None]:
    """Lets tables be made without weights, by a process that will hold only some rows of each.

    >>> with without_rows():
    ...     table = FusedEmbedding(rows=10**9, width=64)
    >>> table.weight.is_meta, tuple(table.weight.shape)
    (True, (1000000000, 64))
    """
    return tables_in(partial(torch.empty, device="meta"))


class Window(NamedTuple):
    """The rows of a table that a batch needs, where the table itself is elsewhere.

    Attributes:
        ids: [k] int64, ascending, each once; the first one is 0.
        vectors: [k, width], whose gradient is added up over all lookups.
    """

    ids: Tensor
    vectors: Tensor

    def places(self, ids: Tensor) -> Tensor:
        """In which row of `vectors` each id is.

        Raises:
            ConfigError: one of them is not here.
        """
        found = torch.searchsorted(self.ids, ids).clamp_(max=len(self.ids) - 1)
        wrong = self.ids[found] != ids
        if bool(wrong.any()):
            raise ConfigError(
                f"the model looks up row {int(ids[wrong][0])} of a table, which no input of the batch names",
                where="training with sharded tables",
                hint="look up only ids of the batch as they are, or train without --sharding",
            )
        return found


@final
class FusedEmbedding(nn.Module):
    """A table [rows, width] that all fields share; ids come already shifted to their field's block of rows.

    One table makes one lookup of several fields and one optimiser step. Row 0 is padding: zeros, never trained.

    Attributes:
        weight: [rows, width]; on torch's device `meta` where the rows are elsewhere.
        sparse: whether gradients are of the rows that were looked up only.
        window: the rows that are here while the others are elsewhere; None: all are here.

    >>> table = FusedEmbedding(rows=10, width=4)
    >>> table(torch.tensor([[0, 3]])).shape, table(torch.tensor([0])).abs().sum().item()
    (torch.Size([1, 2, 4]), 0.0)
    """

    def __init__(self, rows: int, width: int, scale: float = 0.05) -> None:
        """Normal weights of standard deviation `scale`."""
        super().__init__()
        self.sparse = rows >= SPARSE_ROWS
        self.window: Window | None = None
        weight = _ROOM.get()((rows, width))
        if not weight.is_meta:
            weight.normal_().mul_(scale)
            weight[0] = 0.0
        self.weight = nn.Parameter(weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors [..., width] of ids [...] int64."""
        table, sparse = self.weight, self.sparse
        if self.window is not None:
            table, ids, sparse = self.window.vectors, self.window.places(ids), False
        if self.training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return _Rows.apply(table, ids, sparse)  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
        return nn.functional.embedding(ids, table, padding_idx=0, sparse=sparse)


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


def tables_of(model: nn.Module) -> dict[str, FusedEmbedding]:
    """A model's embedding tables by the names of their weights, in the order in which it has them."""
    untyped: Any = model
    return {f"{name}.weight": module for name, module in untyped.named_modules() if isinstance(module, FusedEmbedding)}


def table_names(model: nn.Module) -> list[str]:
    """The names of a model's embedding tables, in the order in which it has them."""
    return [*tables_of(model)]


def masked_mean(vectors: Tensor, ids: Tensor) -> Tensor:
    """[n, width]: the mean of vectors [n, length, width] whose id [n, length] is not 0; zeros where all are."""
    count = (ids != 0).sum(dim=1, keepdim=True).clamp(min=1)
    return vectors.sum(dim=1) / count.to(vectors.dtype)
