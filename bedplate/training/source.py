"""Where batches come from, and what they are as tensors."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Protocol, TypeAlias, TypeVar, final

import numpy as np
import torch
from torch import Tensor

from bedplate.batch import Batch, Column, Dense, Ragged
from bedplate.datasets.blocks import WHOLE, Block, Blocks, Part, Room
from bedplate.datasets.negatives import LOG_Q
from bedplate.features.encoder import Encoder
from bedplate.models.batch import TensorBatch
from bedplate.training.stages import ENCODE, LOAD, TRANSFER, Watch, unwatched
from bedplate.types import Array, Float32s, Int64s

_T = TypeVar("_T")

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
    """A batch and what an encoder made of it as tensors; see `tensor_batch`."""
    drawn = batch.item.get(LOG_Q)
    return tensor_batch(
        encoded,
        {n: np.asarray(v, np.float32) for n, v in batch.labels.items()},
        np.ones(batch.items, np.float32) if batch.weights is None else batch.weights,
        batch.candidates,
        np.asarray(drawn.values, np.float32) if isinstance(drawn, Dense) else None,
        batch.request_ids,
    )


def tensor_batch(
    inputs: Mapping[str, Array],
    labels: Mapping[str, Float32s],
    weights: Array,
    candidates: Int64s,
    log_q: Float32s | None,
    request_ids: Int64s,
) -> TensorBatch:
    """Arrays as tensors, which share their memory; arguments as the attributes of `TensorBatch`.

    Labels that are not known are NaN. Writable copies are made of arrays that are read-only (memory-mapped), which
    torch would warn of.
    """
    # A sum of squares is NaN where one of them is, and a quarter of the work of looking at each.
    unknown = {n: np.isnan(v) for n, v in labels.items() if math.isnan(np.dot(v, v))}
    if unknown:
        labels = {n: np.where(unknown[n], np.float32(0), v) if n in unknown else v for n, v in labels.items()}
    return TensorBatch(
        _tensors(inputs),
        _tensors(labels),
        _tensor(weights),
        _tensor(candidates),
        None if log_q is None else _tensor(log_q),
        _tensors({n: ~there for n, there in unknown.items()}) if unknown else {},
        request_ids,
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


@final
@dataclass(frozen=True, slots=True)
class TensorBlock:
    """Some batches of an epoch, one after the other, that are prepared together.

    Attributes:
        items: about how many candidates are in memory to prepare them.
        make: prepares the batches, each with the bytes a candidate of what it was made of; any thread may call it at
            any time, once.
    """

    items: int
    make: Callable[[], Iterator[tuple[TensorBatch, float]]]


TensorBlocks: TypeAlias = Callable[[Room], Iterator[TensorBlock]]
"""The blocks of an epoch, in order."""


END = TensorBatch({})
"""Comes after the batches of an epoch."""


class TensorSource(Protocol):
    """A source of batches as tensors."""

    def blocks(
        self, seed: int, epoch: int, start: int = 0, stop: int | None = None, *, part: Part = WHOLE, watch: Watch = ...
    ) -> TensorBlocks:
        """The blocks of an epoch.

        Args:
            seed: see `Batches`.
            epoch: see `Batches`.
            start: see `Batches`.
            stop: leaves out the batches from this one on; None: none.
            part: what is wanted of each batch.
            watch: is told where the time goes.
        """
        ...

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        ...


@final
class Encoded:
    """Batches of any source, encoded anew in every epoch; a `TensorSource`.

    Args:
        source: of the batches.
        encoder: of them.
    """

    __slots__ = ("_encoder", "_source")

    def __init__(self, source: Batches, encoder: Encoder) -> None:
        self._source, self._encoder = source, encoder

    def blocks(
        self,
        seed: int,
        epoch: int,
        start: int = 0,
        stop: int | None = None,
        *,
        part: Part = WHOLE,
        watch: Watch = unwatched,
    ) -> TensorBlocks:
        """See `TensorSource`."""
        blocks = blocks_of(self._source, seed, epoch, start, stop=stop, part=part)
        return encoded(blocks, self._encoder, watch)

    def __len__(self) -> int:
        """See `TensorSource`."""
        return len(self._source)


def one_after_another(
    source: TensorSource, seed: int, epochs: range, start: int = 0, *, part: Part = WHOLE, watch: Watch = unwatched
) -> TensorBlocks:
    """The blocks of some epochs, with `END` after each: who reads ahead goes on over the end of an epoch.

    Args:
        source: of the batches.
        seed: see `Batches`.
        epochs: their numbers.
        start: leaves out this many batches of the first.
        part: what is wanted of each batch.
        watch: is told where the time goes.
    """

    def of_epochs(room: Room) -> Iterator[TensorBlock]:
        for epoch in epochs:
            blocks = source.blocks(seed, epoch, start if epoch == epochs[0] else 0, part=part, watch=watch)
            yield from blocks(room)
            yield TensorBlock(0, lambda: iter([(END, 0.0)]))

    return of_epochs


def encoded(blocks: Callable[[Room], Iterator[Block]], encoder: Encoder, watch: Watch = unwatched) -> TensorBlocks:
    """Blocks whose batches are encoded when they are made."""

    def of_blocks(room: Room) -> Iterator[TensorBlock]:
        for block in _timed(blocks(room), watch):
            yield TensorBlock(block.items, partial(_encoded, block, encoder, watch))

    return of_blocks


def _encoded(block: Block, encoder: Encoder, watch: Watch) -> Iterator[tuple[TensorBatch, float]]:
    raw = 0.0
    for batch in _timed(block.make(), watch):
        began = time.perf_counter()
        arrays = encoder.encode(batch)
        between = time.perf_counter()
        made = tensors_of(batch, arrays)
        ended, items = time.perf_counter(), made.rows
        watch(ENCODE, between - began, items)
        watch(TRANSFER, ended - between, items)
        raw = raw or bytes_of(batch) / max(items, 1)
        yield made, raw


def _timed(values: Iterator[_T], watch: Watch) -> Iterator[_T]:
    if watch is unwatched:
        yield from values
        return
    while True:
        began = time.perf_counter()
        value = next(values, None)
        watch(LOAD, time.perf_counter() - began, value.items if isinstance(value, Batch) else 0)
        if value is None:
            return
        yield value


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
    lot, items, error = list[Batch](), 0, None
    began, most = time.perf_counter(), room()
    while error is None:
        try:
            if (batch := next(batches, None)) is None:
                break
            lot.append(part.of(batch))
            items += lot[-1].items
        except Exception as raised:  # noqa: BLE001 - raised again
            error = raised
        is_full = len(lot) == _LOT or items >= most
        if lot and (is_full or error is not None or time.perf_counter() - began > _LOT_SECONDS):
            yield Block(items, partial(iter, lot))
            lot, items, began, most = [], 0, time.perf_counter(), room()
    if error is not None:
        raise error
    if lot:
        yield Block(items, partial(iter, lot))
