"""The outputs and labels of a whole batch, from the parts that the processes of a training have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Any, final

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from bedplate.errors import ConfigError, DataError
from bedplate.features.encoding import OF_ITEM
from bedplate.models.batch import TensorBatch

_ALIGNED = 8  # bytes


@final
class _Placed(torch.autograd.Function):
    """A process's own rows between those of the others, which no gradient goes to.

    Each process takes the same loss of all rows. Its gradient for its own rows is whole then, and that for weights
    which the loss itself reads is there in each process: the loss is divided by their number, the gradient of the rows
    multiplied, and the sum over processes is right for both.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, rows: list[Tensor], rank: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        first = sum(len(part) for part in rows[:rank])
        ctx.place, ctx.count = slice(first, first + len(own)), len(rows)
        return torch.cat([*rows[:rank], own, *rows[rank + 1 :]])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.place] * ctx.count, None, None


@final
class _WholeInputs(Mapping[str, Tensor]):
    """Of a whole batch no process has the inputs."""

    def __init__(self, request_of_item: Tensor) -> None:
        self._known = {OF_ITEM: request_of_item}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._known:
            raise ConfigError(
                f"the loss reads the input '{name}', which no process has of the whole batch",
                where="training by several processes",
                hint=f"let forward return it among the outputs, or train by one process; '{OF_ITEM}' is there",
            )
        return self._known[name]

    def __iter__(self) -> Any:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def whole_batch(
    outputs: Mapping[str, Tensor], batch: TensorBatch, stop: bool
) -> tuple[Mapping[str, Tensor], TensorBatch, bool]:
    """See `exchange.Exchange.whole`: two collective operations, of the sizes and of the rows."""
    rank, count = dist.get_rank(), dist.get_world_size()
    named = _named(outputs, batch)
    names, tensors = list(named), list(named.values())
    sizes = _sizes([int(stop), *(len(t) for t in tensors)], count)
    parts = _rows(tensors, [s[1:] for s in sizes], rank)
    every = {name: [rows[i] for rows in parts] for i, name in enumerate(names)}
    requests = [0, *accumulate(len(part) for part in every["ids"])]
    for of_item, before in zip(every[f"in {OF_ITEM}"], requests[:-1], strict=True):
        of_item.add_(before)
    whole = {name: torch.cat(rows) for name, rows in every.items()}
    placed: dict[str, Tensor] = {}
    untyped: Any = _Placed
    for name, own in outputs.items():
        if name == OF_ITEM:
            placed[name] = whole[f"in {OF_ITEM}"]
        elif own.requires_grad:
            placed[name] = untyped.apply(own, every[f"out {name}"], rank)
        else:
            placed[name] = whole[f"out {name}"]
    return placed, _batch(whole, batch), any(s[0] for s in sizes)


def _named(outputs: Mapping[str, Tensor], batch: TensorBatch) -> dict[str, Tensor]:
    """All that is told to the others, in an order that is the same everywhere."""
    found = {f"out {name}": outputs[name].detach() for name in sorted(outputs) if name != OF_ITEM}
    for name, tensor in found.items():
        if tensor.ndim == 0 or len(tensor) not in (batch.rows, len(batch.request_ids)):
            shape = tuple(tensor.shape)
            raise ConfigError(
                f"the output '{name[4:]}' has the shape {shape}, expected a row for each of {batch.rows} candidates or "
                f"{len(batch.request_ids)} requests: outputs of parts of a batch are put together by rows",
                where="training by several processes",
                hint="compute it in loss, from such outputs; or train by one process",
            )
    found |= {f"label {name}": batch.labels[name] for name in sorted(batch.labels)}
    everywhere = torch.ones(batch.rows, dtype=torch.bool)
    found |= {f"known {name}": batch.known.get(name, everywhere) for name in sorted(batch.labels)}
    found |= {"weights": batch.weights, "candidates": batch.candidates, f"in {OF_ITEM}": batch[OF_ITEM]}
    found |= {} if batch.log_q is None else {"log_q": batch.log_q}
    return found | {"ids": torch.from_numpy(np.ascontiguousarray(batch.request_ids))}  # pyright: ignore[reportUnknownMemberType]


def _batch(whole: Mapping[str, Tensor], own: TensorBatch) -> TensorBatch:
    known = {name: whole[f"known {name}"] for name in own.labels}
    return TensorBatch(
        _WholeInputs(whole[f"in {OF_ITEM}"]),
        {name: whole[f"label {name}"] for name in own.labels},
        whole["weights"],
        whole["candidates"],
        whole.get("log_q"),
        {name: there for name, there in known.items() if not bool(there.all())},
        whole["ids"].numpy(),
    )


def _sizes(own: list[int], count: int) -> list[list[int]]:
    """The numbers of each process."""
    mine = torch.tensor(own, dtype=torch.int64)
    every = [torch.empty_like(mine) for _ in range(count)]
    try:
        dist.all_gather(every, mine)  # pyright: ignore[reportUnknownMemberType]
    except ValueError as error:
        raise DataError(f"processes have other outputs or labels than each other: {error}", where="training") from error
    return [[int(number) for number in one] for one in every]


def _rows(tensors: list[Tensor], sizes: list[list[int]], rank: int) -> list[list[Tensor]]:
    """The rows of each tensor in each process, packed into one message each."""
    spans = [[_span(t, rows) for t, rows in zip(tensors, one, strict=True)] for one in sizes]
    buffers = list(torch.zeros((len(sizes), max(map(sum, spans))), dtype=torch.uint8).unbind())
    message = torch.zeros_like(buffers[0])
    for tensor, at in zip(tensors, accumulate(spans[rank], initial=0), strict=False):
        if tensor.nbytes:
            message[at : at + tensor.nbytes] = tensor.contiguous().view(-1).view(torch.uint8)
    dist.all_gather(buffers, message)  # pyright: ignore[reportUnknownMemberType]
    return [
        [
            _unpacked(buffer[at : at + rows * _bytes_of_row(t)], t, rows)
            for t, rows, at in zip(tensors, one, accumulate(span, initial=0), strict=False)
        ]
        for buffer, one, span in zip(buffers, sizes, spans, strict=True)
    ]


def _bytes_of_row(tensor: Tensor) -> int:
    return tensor.element_size() * math.prod(tensor.shape[1:])


def _span(tensor: Tensor, rows: int) -> int:
    return -(-rows * _bytes_of_row(tensor) // _ALIGNED) * _ALIGNED


def _unpacked(message: Tensor, like: Tensor, rows: int) -> Tensor:
    return message.view(like.dtype).view(rows, *like.shape[1:])
