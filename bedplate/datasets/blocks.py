"""Sources of batches, and blocks of their batches: of which, of which part of each, and made by any thread."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Protocol, TypeAlias, final, runtime_checkable

import msgspec
import numpy as np

from bedplate.batch import Batch
from bedplate.datasets.slices import slice_batch
from bedplate.errors import ConfigError
from bedplate.types import Int64s


@final
class Part(msgspec.Struct, frozen=True):
    """The share that one of several processes has of every batch: some of its requests, next to each other.

    The batches themselves do not depend on how many processes there are. One that has fewer requests than there are
    parts leaves the last parts of it empty.

    Attributes:
        index: from 0.
        count: how many parts there are.

    Raises:
        ConfigError: the index is not within the count.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        """Checks the range."""
        if not 0 <= self.index < self.count:
            raise ConfigError(f"got part {self.index} of {self.count}, expected 0 to {self.count - 1}", where="loader")

    def cut(self, before: Int64s, bounds: Int64s) -> tuple[Int64s, Int64s]:
        """The requests `[first, stop)` that this part has of each batch, with about an equal share of its candidates.

        Args:
            before: [R + 1] int64, ascending: how many candidates there are before each request.
            bounds: [B + 1] int64: where each batch begins among the requests.

        >>> Part(1, 2).cut(np.array([0, 10, 20, 90, 100]), np.array([0, 2, 4]))
        (array([1, 3]), array([2, 4]))
        """
        return self._edge(self.index, before, bounds), self._edge(self.index + 1, before, bounds)

    def _edge(self, number: int, before: Int64s, bounds: Int64s) -> Int64s:
        """[B]: where the part of a number begins in each batch."""
        first, stop = bounds[:-1], bounds[1:]
        if number in (0, self.count):
            return stop if number else first
        wanted = before[first] + (before[stop] - before[first]) * number // self.count
        # Each part gets a request before one gets two, as far as they go.
        least = first + np.minimum(number, stop - first)
        most = stop - np.minimum(self.count - number, stop - first)
        return np.maximum(np.minimum(np.searchsorted(before, wanted), most), least)

    def of(self, batch: Batch) -> Batch:
        """What this part has of a batch, as views."""
        if self.count == 1:
            return batch
        (first,), (stop,) = self.cut(batch.offsets, np.array([0, batch.requests]))
        return slice_batch(batch, int(first), int(stop))


WHOLE = Part()
"""All of a batch."""


@final
class Stretch(msgspec.Struct, frozen=True):
    """Some batches of an epoch, next to each other, and the part that is wanted of each.

    Attributes:
        seed: of the order and of what is drawn.
        epoch: from 0.
        start: leaves out this many batches.
        stop: leaves out the batches from this one on; None: none.
        part: what is wanted of each batch.
    """

    seed: int
    epoch: int
    start: int = 0
    stop: int | None = None
    part: Part = WHOLE

    def within(self, length: int, where: str) -> range:
        """The numbers of its batches in an epoch of so many.

        Args:
            length: the number of batches of an epoch.
            where: the source, for the message.

        Raises:
            ConfigError: the epoch does not have these batches.

        >>> Stretch(seed=0, epoch=1, start=2).within(5, "loader")
        range(2, 5)
        """
        if not 0 <= self.start <= length:
            raise ConfigError(f"got start={self.start}, expected 0 to {length}", where=where)
        stop = length if self.stop is None else self.stop
        if not self.start <= stop <= length:
            raise ConfigError(f"got stop={stop}, expected {self.start} to {length}", where=where)
        return range(self.start, stop)


@final
@dataclass(frozen=True, slots=True)
class Block:
    """Some batches of an epoch, one after the other, that are made together.

    Attributes:
        items: about how many candidates are in memory to make them.
        make: makes the batches; any thread may call it at any time, once.
    """

    items: int
    make: Callable[[], Iterator[Batch]]


Room: TypeAlias = Callable[[], int]
"""Says how many candidates the next block may have at most; it has one batch at least."""


def unbounded() -> int:
    """Room for blocks as large as their source makes them."""
    return sys.maxsize


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


@runtime_checkable
class Blocks(Batches, Protocol):
    """A source whose batches are made block by block."""

    def blocks(self, stretch: Stretch, room: Room) -> Iterator[Block]:
        """The blocks of a stretch, in order; their batches are those of `epoch`.

        Args:
            stretch: which batches.
            room: asked before each block.

        Raises:
            ConfigError: the epoch does not have these batches.
        """
        ...


def batches_of(source: Blocks, stretch: Stretch) -> Iterator[Batch]:
    """The batches of a stretch, block after block."""
    return (batch for block in source.blocks(stretch, unbounded) for batch in block.make())


def blocks_of(source: Batches, stretch: Stretch, room: Room) -> Iterator[Block]:
    """The blocks of a stretch of any source; one that has no blocks is read batch by batch, in order.

    Args:
        source: of the batches.
        stretch: which batches.
        room: asked before each block.
    """
    if isinstance(source, Blocks):
        return source.blocks(stretch, room)
    batches = source.epoch(stretch.seed, stretch.epoch, stretch.start)
    wanted = batches if stretch.stop is None else islice(batches, stretch.stop - stretch.start)
    return _in_lots(wanted, stretch.part, room)


_LOT, _LOT_SECONDS = 8, 0.001
"""How many batches are read together at most, and how long reading more of them may have taken."""


def _in_lots(batches: Iterator[Batch], part: Part, room: Room) -> Iterator[Block]:
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
