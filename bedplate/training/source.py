"""Where batches come from, and what they are as tensors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from bedplate.batch import Batch, Column, Dense, Ragged
from bedplate.datasets.blocks import WHOLE, Block, Blocks, Part, Room
from bedplate.datasets.negatives import LOG_Q
from bedplate.features.encoder import Encoder
from bedplate.models.batch import TensorBatch
from bedplate.types import Array

_LOT, _LOT_SECONDS = 8, 0.001
"""How many batches are read together at most, and how long reading more of them may have taken."""


class Batches(Protocol):
    """A source of batches whose every epoch is the same when read again."""

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch.

        Args:
            seed: of the order and of what is drawn (negatives, samples).
            epoch: from 0; each has its own order.
            start: leaves out this many batches, cheaply; what follows is as if they had been read.
        """
        ...

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        ...


def to_tensors(batch: Batch, encoder: Encoder) -> TensorBatch:
    """Encodes a batch; see `tensors_of`."""
    return tensors_of(batch, encoder.encode(batch))


def tensors_of(batch: Batch, encoded: Mapping[str, Array]) -> TensorBatch:
    """A batch and what an encoder made of it as tensors, which share the arrays' memory.

    Writable copies are made of arrays that are read-only (memory-mapped), which torch would warn of.
    """
    weights = np.ones(batch.items, np.float32) if batch.weights is None else batch.weights
    drawn = batch.item.get(LOG_Q)
    labels = {n: np.asarray(v, np.float32) for n, v in batch.labels.items()}
    unknown = {n: there for n, v in labels.items() if (there := np.isnan(v)).any()}
    if unknown:
        labels |= {n: np.where(there, np.float32(0), labels[n]) for n, there in unknown.items()}
    return TensorBatch(
        _tensors(encoded),
        _tensors(labels),
        _tensor(weights),
        _tensor(batch.candidates),
        _tensor(np.asarray(drawn.values, np.float32)) if isinstance(drawn, Dense) else None,
        _tensors({n: ~there for n, there in unknown.items()}) if unknown else {},
        batch.request_ids,
    )


def _tensors(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    return {name: _tensor(array) for name, array in arrays.items()}


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())  # pyright: ignore[reportUnknownMemberType]


def bytes_of(batch: Batch) -> int:
    """The memory of a batch's columns."""
    columns = [*batch.request.values(), *batch.item.values()]
    arrays = [batch.times, batch.request_ids, batch.candidates, *batch.labels.values(), *batch.keys.values()]
    return sum(map(_bytes_of_column, columns)) + sum(array.nbytes for array in arrays)


def _bytes_of_column(column: Column) -> int:
    if isinstance(column, Ragged):
        return _bytes_of_column(column.values) + column.offsets.nbytes
    return column.values.nbytes + (0 if column.present is None else column.present.nbytes)


def bytes_of_tensors(batch: TensorBatch) -> int:
    """The memory of a batch's tensors."""
    others = (batch.weights, batch.candidates, *batch.labels.values(), *batch.known.values())
    return sum(tensor.nbytes for tensor in (*batch.inputs.values(), *others))


def blocks_of(
    source: Batches, seed: int, epoch: int, start: int = 0, *, stop: int | None = None, part: Part = WHOLE
) -> Callable[[Room], Iterator[Block]]:
    """The blocks of an epoch of any source; one that has no blocks is read batch by batch, in order.

    Args:
        source: of the batches.
        seed: see `Batches`.
        epoch: see `Batches`.
        start: see `Batches`.
        stop: leaves out the batches from this one on; None: none.
        part: what is wanted of each batch.
    """

    def of_blocks(room: Room) -> Iterator[Block]:
        if isinstance(source, Blocks):
            return source.blocks(seed, epoch, start, stop, part=part, room=room)
        batches = source.epoch(seed, epoch, start)
        return in_lots(batches if stop is None else islice(batches, stop - start), part, room)

    return of_blocks


def in_lots(batches: Iterator[Batch], part: Part, room: Room) -> Iterator[Block]:
    """Blocks of batches that are read when their block is asked for: of several where reading takes no time.

    An error comes after the batches before it.
    """
    lot, error = list[Batch](), None
    began, most = time.perf_counter(), room()
    while error is None:
        try:
            if (batch := next(batches, None)) is None:
                break
            lot.append(part.of(batch))
        except Exception as raised:  # noqa: BLE001 - raised again
            error = raised
        is_full = len(lot) == _LOT or sum(b.items for b in lot) >= most
        if lot and (is_full or error is not None or time.perf_counter() - began > _LOT_SECONDS):
            yield Block(sum(b.items for b in lot), partial(iter, lot))
            lot, began, most = [], time.perf_counter(), room()
    if error is not None:
        raise error
    if lot:
        yield Block(sum(b.items for b in lot), partial(iter, lot))
