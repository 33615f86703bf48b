"""The loader: batches of a split, joined while they are read. No wide table is ever written.

Which requests a batch has and which negatives they get depends on seed, epoch and request alone, so that any batch can
be made by itself, and an epoch can be entered at any batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import numpy as np

from bedplate.batch import Batch
from bedplate.datasets.counter import shuffled
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.slices import slice_batch
from bedplate.errors import ConfigError, DataError
from bedplate.types import Int64s, format_time

BLOCK_ITEMS = 65_536
"""Candidate rows that are joined at once, then handed out in batches."""


@final
class Loader:
    """Batches of one split of a dataset.

    Training requests are shuffled anew each epoch and get new negatives. Validation and test come in order of time and
    have the same negatives in every epoch, so that their metrics can be compared.

    Args:
        dataset: the dataset over its data.
        split: train, validation or test.
        block_items: candidate rows that are joined at once; memory grows with it.

    Raises:
        NotFoundError: there is no such split.
        DataError: the split has no requests.
    """

    __slots__ = ("_block_items", "_dataset", "_first", "_last", "_length", "_shuffles", "_sizes")

    def __init__(self, dataset: LoadedDataset, split: str, *, block_items: int = BLOCK_ITEMS) -> None:
        self._dataset, self._block_items = dataset, block_items
        self._first, self._last = dataset.positions(split)
        self._shuffles = split == "train"
        if self._first == self._last:
            first, last = dataset.split.bounds()[split]
            raise DataError(
                f"the split '{split}' has no requests that are not censored between {format_time(first)} and "
                f"{format_time(last)}",
                where=dataset.compiled.dataset.place,
                hint="choose other times for the split",
            )
        self._sizes = dataset.sizes()[self._first : self._last]
        definition = dataset.compiled.dataset
        requests = self._last - self._first
        if definition.batch_requests is not None:
            self._length = -(-requests // definition.batch_requests)
        else:
            self._length = min(requests, max(1, -(-int(self._sizes.sum()) // (definition.batch_items or 1))))

    def __len__(self) -> int:
        """The number of batches in an epoch, every epoch."""
        return self._length

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch.

        Args:
            seed: of the run.
            epoch: its number.
            start: how many batches to skip; nothing is computed for them.

        Raises:
            ConfigError: `start` is not within the epoch.
        """
        if not 0 <= start <= len(self):
            raise ConfigError(f"got start={start}, expected 0 to {len(self)}", where="loader")
        return self._batches(seed, epoch if self._shuffles else 0, start)

    def _batches(self, seed: int, epoch: int, start: int) -> Iterator[Batch]:
        chosen = self._order(seed, epoch)
        sizes = self._sizes[chosen - self._first]
        bounds = self._bounds(sizes)
        ends = np.concatenate(([0], np.cumsum(sizes)))[bounds]
        while start < len(self):
            stop = max(start + 1, int(np.searchsorted(ends, ends[start] + self._block_items, side="right")) - 1)
            base = int(bounds[start])
            block = self._dataset.sample(chosen[base : bounds[stop]], seed, epoch)
            for i in range(start, stop):
                yield slice_batch(block, int(bounds[i]) - base, int(bounds[i + 1]) - base)
            start = stop

    def _order(self, seed: int, epoch: int) -> Int64s:
        if not self._shuffles:
            return np.arange(self._first, self._last)
        return self._first + shuffled(seed, epoch, self._dataset.spine.rows.request_ids[self._first : self._last])

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
