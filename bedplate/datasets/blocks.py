"""What an epoch is made of: blocks of batches, each of which any thread can make, and parts of several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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


@runtime_checkable
class Blocks(Protocol):
    """A source of batches that are made block by block."""

    def blocks(
        self, seed: int, epoch: int, start: int = 0, stop: int | None = None, *, part: Part = WHOLE, room: Room
    ) -> Iterator[Block]:
        """The blocks of an epoch, in order; their batches are those of `epoch`.

        Args:
            seed: of the order and of what is drawn.
            epoch: from 0.
            start: leaves out this many batches.
            stop: leaves out the batches from this one on; None: none.
            part: what is wanted of each batch.
            room: asked before each block.
        """
        ...

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        ...
