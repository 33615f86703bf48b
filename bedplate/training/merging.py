"""Adding up the gradients of the processes of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def merge_dense(weights: Sequence[nn.Parameter]) -> None:
    """Gives each weight the sum of its gradients in all processes, by one collective operation.

    A weight that has none in any process has none then, as it would in one process: an optimiser leaves it alone.
    """
    total = sum(w.numel() for w in weights)
    message = torch.zeros(total + len(weights))
    first = 0
    for i, weight in enumerate(weights):
        if weight.grad is not None:
            message[first : first + weight.numel()] = weight.grad.reshape(-1)
            message[total + i] = 1.0
        first += weight.numel()
    dist.all_reduce(message)  # pyright: ignore[reportUnknownMemberType]
    there = [bool(flag) for flag in message[total:]]
    first = 0
    for weight, anywhere in zip(weights, there, strict=True):
        weight.grad = message[first : first + weight.numel()].view_as(weight) if anywhere else None
        first += weight.numel()


def merge_sparse(tables: Sequence[nn.Parameter]) -> None:
    """Gives each table the sum of its sparse gradients in all processes: only rows that have one are told.

    The rows of each process are added up before they are told, and in the same order in every process after.
    """
    if not tables:
        return
    own = [_rows_of(table) for table in tables]
    counts = torch.tensor([len(rows) for rows, _ in own])
    every = [torch.empty_like(counts) for _ in range(dist.get_world_size())]
    dist.all_gather(every, counts)  # pyright: ignore[reportUnknownMemberType]
    for i, (table, (rows, values)) in enumerate(zip(tables, own, strict=True)):
        sizes: list[int] = [int(one[i]) for one in every]
        if max(sizes):
            indices = torch.cat(_gathered(rows, sizes)).unsqueeze(0)
            untyped: Any = torch
            gradient = torch.cat(_gathered(values, sizes))
            merged = untyped.sparse_coo_tensor(indices, gradient, table.shape, check_invariants=False)
            table.grad = merged.coalesce()
        else:
            table.grad = None


def _rows_of(table: nn.Parameter) -> tuple[Tensor, Tensor]:
    """The rows of a table that have a gradient, and the gradients."""
    if table.grad is None:
        return torch.empty(0, dtype=torch.int64), torch.empty(0, table.shape[1])
    merged = table.grad.coalesce()
    return merged.indices()[0], merged.values()


def _gathered(own: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """The rows of each process, of so many each."""
    message = own.new_zeros((max(sizes), *own.shape[1:]))
    message[: len(own)] = own
    every = [torch.empty_like(message) for _ in sizes]
    dist.all_gather(every, message)  # pyright: ignore[reportUnknownMemberType]
    return [rows[:size] for rows, size in zip(every, sizes, strict=True)]
