"""Sources of batches as tensors, block by block."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias, TypeVar, final

from bedplate.batch import Batch
from bedplate.datasets.blocks import Batches, Block, Room, Stretch, blocks_of
from bedplate.features.encoder import Encoder
from bedplate.models.batch import TensorBatch
from bedplate.training.stages import ENCODE, LOAD, TRANSFER, Watch, unwatched
from bedplate.training.tensors import tensors_of

_T = TypeVar("_T")


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
"""Gives blocks, in order, and asks for room before each."""


END = TensorBatch({})
"""Comes after the batches of an epoch."""


class TensorSource(Protocol):
    """A source of batches as tensors."""

    def blocks(self, stretch: Stretch, room: Room, watch: Watch = unwatched) -> Iterator[TensorBlock]:
        """The blocks of a stretch, in order.

        Args:
            stretch: which batches.
            room: asked before each block.
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

    def blocks(self, stretch: Stretch, room: Room, watch: Watch = unwatched) -> Iterator[TensorBlock]:
        """See `TensorSource`; nothing is done before the first block is asked for."""
        for block in _timed(blocks_of(self._source, stretch, room), watch):
            yield TensorBlock(block.items, partial(_encoded, block, self._encoder, watch))

    def __len__(self) -> int:
        """See `TensorSource`."""
        return len(self._source)


def one_after_another(
    source: TensorSource, stretches: Iterable[Stretch], room: Room, watch: Watch = unwatched
) -> Iterator[TensorBlock]:
    """The blocks of some stretches, with `END` after each: who reads ahead goes on over the end of an epoch.

    Args:
        source: of the batches.
        stretches: which batches.
        room: asked before each block.
        watch: is told where the time goes.
    """
    for stretch in stretches:
        yield from source.blocks(stretch, room, watch)
        yield TensorBlock(0, lambda: iter([(END, 0.0)]))


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
        raw = raw or batch.nbytes / max(items, 1)
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
