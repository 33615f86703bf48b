"""The loader: batches of a split, joined while they are read. No wide table is ever written.

Which requests a batch has and which negatives they get depends on seed, epoch and request alone, so that any batch can
be made by itself, by any thread or process, and an epoch can be entered at any batch.

The order of training is a permutation of all requests, each order as probable as any other: as good as a shuffle can
be, whatever the size of the data, for features stay in the mapped files of their indexes until their batch is joined.
While an epoch is ordered that takes 24 bytes a request. Reading in random order is made cheap by blocks: the rows of
many batches are looked up together, in order of their keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import final

import numpy as np

from bedplate.batch import Batch
from bedplate.datasets.blocks import Block, Part, Room, Stretch, batches_of
from bedplate.datasets.counter import shuffled
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.shard import Shard
from bedplate.datasets.slices import slice_batch
from bedplate.errors import DataError
from bedplate.types import Int64s, format_time

BLOCK_ITEMS = 65_536
"""Candidate rows that are joined at once, then handed out in batches."""


def require_requests(dataset: LoadedDataset, split: str) -> None:
    """Checks that there is something to read.

    Args:
        dataset: the dataset over its data.
        split: train, validation or test.

    Raises:
        NotFoundError: there is no such split.
        DataError: it has no requests.
    """
    first, last = dataset.positions(split)
    if first < last:
        return
    begin, end = dataset.split.bounds()[split]
    raise DataError(
        f"the split '{split}' has no requests that are not censored between {format_time(begin)} and "
        f"{format_time(end)}",
        where=dataset.compiled.dataset.place,
        hint="choose other times for the split",
    )


@final
class Loader:
    """Batches of one split of a dataset.

    Training requests are shuffled anew each epoch and get new negatives. Validation and test come in order of time and
    have the same negatives in every epoch, so that their metrics can be compared.

    Args:
        dataset: the dataset over its data.
        split: train, validation or test.
        block_items: candidate rows that are joined at once; memory grows with it.
        shard: the requests that are read; None for all.

    Raises:
        NotFoundError: there is no such split.
        DataError: the split, or the shard of it, has no requests.
        ConfigError: the shard is by an entity that requests do not have.
    """

    __slots__ = ("_block_items", "_dataset", "_length", "_positions", "_shuffles", "_sizes")

    def __init__(
        self, dataset: LoadedDataset, split: str, *, block_items: int = BLOCK_ITEMS, shard: Shard | None = None
    ) -> None:
        self._dataset, self._block_items = dataset, block_items
        first, last = dataset.positions(split)
        self._shuffles = split == "train"
        require_requests(dataset, split)
        self._positions = np.arange(first, last)
        if shard is not None:
            self._positions = self._positions[shard.holds(dataset.spine.rows)[first:last]]
            if not len(self._positions):
                raise DataError(
                    f"shard {shard.index} of {shard.count} has none of the {last - first:,} requests of '{split}'",
                    where=dataset.compiled.dataset.place,
                    hint="make fewer shards",
                )
        self._sizes = dataset.sizes()[self._positions]
        definition = dataset.compiled.dataset
        requests = len(self._positions)
        if definition.batch_requests is not None:
            self._length = -(-requests // definition.batch_requests)
        else:
            self._length = min(requests, max(1, -(-int(self._sizes.sum()) // (definition.batch_items or 1))))

    def __len__(self) -> int:
        """The number of batches in an epoch, every epoch."""
        return self._length

    @property
    def sizes(self) -> Int64s:
        """[R] how many candidates each request has; where it `draws`, at most: some negatives may not be found."""
        return self._sizes

    @property
    def draws(self) -> bool:
        """Whether requests get negatives that are drawn at random."""
        return self._dataset.compiled.negatives is not None

    @property
    def repeats(self) -> bool:
        """Whether every epoch of a seed has the same rows of a request: no negatives are drawn anew."""
        return not (self._shuffles and self.draws)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch.

        Args:
            seed: of the run.
            epoch: its number.
            start: how many batches to skip; nothing is computed for them.

        Raises:
            ConfigError: `start` is not within the epoch.
        """
        return batches_of(self, Stretch(seed, epoch, start))

    def blocks(self, stretch: Stretch, room: Room) -> Iterator[Block]:
        """The blocks of a stretch; see `blocks.Blocks`."""
        cuts = self.cuts(stretch, room)
        return (Block(items, partial(self._make, places, stretch.seed, stretch.epoch)) for items, places in cuts)

    def cuts(self, stretch: Stretch, room: Room) -> Iterator[tuple[int, list[Int64s]]]:
        """Which requests each batch of a block has, and how many candidates the block has; arguments as `blocks`.

        A request is named by its place: its number among those of the split and the shard, in order of time.

        Raises:
            ConfigError: the epoch does not have these batches.
        """
        batches = stretch.within(len(self), "loader")
        return self._cuts(self._order(stretch.seed, stretch.epoch), batches, stretch.part, room)

    def _cuts(self, order: Int64s, batches: range, part: Part, room: Room) -> Iterator[tuple[int, list[Int64s]]]:
        before = np.concatenate(([0], np.cumsum(self._sizes[order])))
        firsts, stops = part.cut(before, self._bounds(self._sizes[order]))
        items = np.concatenate(([0], np.cumsum(before[stops] - before[firsts])))
        start, end = batches.start, batches.stop
        while start < end:
            most = min(self._block_items, room())
            stop = max(start + 1, int(np.searchsorted(items, items[start] + most, side="right")) - 1)
            stop = min(stop, end)
            chosen = [order[a:b] for a, b in zip(firsts[start:stop].tolist(), stops[start:stop].tolist(), strict=True)]
            yield int(items[stop] - items[start]), chosen
            start = stop

    def rows(self, places: Int64s, seed: int, epoch: int) -> Batch:
        """The rows of some requests, joined.

        Args:
            places: [r] int64; see `cuts`.
            seed: of the run.
            epoch: of the run.
        """
        return self._dataset.sample(self._positions[places], seed, epoch if self._shuffles else 0)

    def _make(self, chosen: list[Int64s], seed: int, epoch: int) -> Iterator[Batch]:
        """Joins the rows of some batches together, and hands them out."""
        block = self.rows(np.concatenate(chosen), seed, epoch)
        base = 0
        for places in chosen:
            yield slice_batch(block, base, base + len(places))
            base += len(places)

    def _order(self, seed: int, epoch: int) -> Int64s:
        """[R]: the places of the requests in the order of an epoch."""
        if not self._shuffles:
            return np.arange(len(self._positions))
        return shuffled(seed, epoch, self._dataset.spine.rows.request_ids[self._positions])

    def _bounds(self, sizes: Int64s) -> Int64s:
        """[batches + 1]: where each batch begins among the requests of the epoch; no batch is empty."""
        requests, batches = len(sizes), len(self)
        per_batch = self._dataset.compiled.dataset.batch_requests
        if per_batch is not None:
            return np.minimum(np.arange(batches + 1) * per_batch, requests)
        before = np.cumsum(sizes) - sizes
        target = np.arange(batches + 1) * (int(sizes.sum()) / batches)
        steps = np.arange(batches + 1)
        bounds = np.searchsorted(before, target)
        bounds[-1] = requests
        # A request larger than a batch fills several targets: each batch still gets one request at least.
        bounds = np.maximum.accumulate(bounds - steps) + steps
        return np.minimum(bounds, requests - batches + steps)
