"""Encoded rows that stay in memory: a request is joined and encoded once, and read from here in every later epoch.

The batches are those of the loader, bit for bit: the order of an epoch decides which requests a batch has, and the rows
of a request do not depend on those beside it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Self, TypeAlias, final

import numpy as np

from bedplate.batch import Batch, Dense, expand
from bedplate.datasets.blocks import Batches, Room, Stretch
from bedplate.datasets.loader import Loader
from bedplate.datasets.negatives import LOG_Q
from bedplate.datasets.slices import slice_batch
from bedplate.errors import ConfigError
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import OF_ITEM
from bedplate.models.batch import TensorBatch
from bedplate.training.source import TensorBlock
from bedplate.training.stages import ENCODE, LOAD, TRANSFER, Watch, unwatched
from bedplate.training.tensors import bytes_of_tensors, tensor_batch
from bedplate.types import Array, Int64s

_REQUESTS, _CANDIDATES, _WEIGHTS, _LABEL = "request ids", "candidates", "weights", "label "
"""What is kept beside the encoder's tensors, and what the names of labels begin with."""

_Arrays: TypeAlias = dict[str, Array]


@final
class Kept:
    """The batches of a loader, whose encoded rows stay in memory; a `source.TensorSource`.

    Requests that no epoch has needed yet are joined and encoded when their block is made, all other rows are copied.

    Args:
        loader: of the batches; it repeats.
        encoder: of them.
        seed: of the run.
        first: some rows as they are kept; they tell the shapes.
    """

    __slots__ = (
        "_counts",
        "_encoder",
        "_has",
        "_is_single",
        "_items",
        "_loader",
        "_names",
        "_requests",
        "_seed",
        "_starts",
    )

    def __init__(self, loader: Loader, encoder: Encoder, seed: int, first: _Rows) -> None:
        self._loader, self._encoder, self._seed = loader, encoder, seed
        sizes = loader.sizes
        self._starts = np.cumsum(sizes) - sizes
        self._counts, self._has = np.zeros(len(sizes), np.int64), np.zeros(len(sizes), np.bool_)
        self._is_single = not loader.draws and bool((sizes == 1).all())
        self._names = first.names
        self._requests = first.requests.empty(len(sizes))
        self._items = first.items.empty(int(sizes.sum()))

    @classmethod
    def within(cls, memory: int, source: Batches, encoder: Encoder, seed: int) -> Self | None:
        """A source's rows where they can be kept.

        Args:
            memory: bytes that they may take.
            source: of the batches.
            encoder: of them.
            seed: of the run.

        Returns:
            None: a request does not have the same rows in every epoch, or all rows would take more memory.
        """
        if memory <= 0 or not isinstance(source, Loader) or not source.repeats:
            return None
        first = _Rows.of(source.rows(np.arange(min(len(source.sizes), 1)), seed, 0), encoder)
        return cls(source, encoder, seed, first) if first.bytes_of(source.sizes) <= memory else None

    @property
    def nbytes(self) -> int:
        """The memory that all rows take; none is taken before a row is there."""
        places = self._starts.nbytes + self._counts.nbytes + self._has.nbytes
        return self._requests.nbytes + self._items.nbytes + places

    def blocks(self, stretch: Stretch, room: Room, watch: Watch = unwatched) -> Iterator[TensorBlock]:
        """See `source.TensorSource`; the seed is the one that the rows are of.

        Raises:
            ConfigError: it is another seed, or the epoch does not have these batches.
        """
        if stretch.seed != self._seed:
            raise ConfigError(f"the rows that are kept are of seed {self._seed}, got {stretch.seed}", where="training")
        cuts = self._loader.cuts(stretch, room)
        return (TensorBlock(items, partial(self._make, places, watch)) for items, places in cuts)

    def __len__(self) -> int:
        """See `source.TensorSource`."""
        return len(self._loader)

    def _make(self, chosen: list[Int64s], watch: Watch) -> Iterator[tuple[TensorBatch, float]]:
        missing = [places[~self._has[places]] for places in chosen]
        began = time.perf_counter()
        wanted = np.concatenate(missing)
        joined = self._loader.rows(wanted, self._seed, 0) if len(wanted) else None
        watch(LOAD, time.perf_counter() - began, 0 if joined is None else joined.items)
        raw = 0.0 if joined is None else joined.nbytes / max(joined.items, 1)
        base = 0
        for places, new in zip(chosen, missing, strict=True):
            rows = None
            if joined is not None and len(new):
                rows = self._keep(new, slice_batch(joined, base, base + len(new)), watch)
                base += len(new)
            began = time.perf_counter()
            batch = self._taken(places) if rows is None or len(new) < len(places) else rows.tensors()
            watch(TRANSFER, time.perf_counter() - began, batch.rows)
            yield batch, raw or bytes_of_tensors(batch) / max(batch.rows, 1)

    def _keep(self, places: Int64s, batch: Batch, watch: Watch) -> _Rows:
        """Encodes requests that were joined, and keeps a copy of their rows."""
        began = time.perf_counter()
        rows = _Rows.of(batch, self._encoder)
        self._counts[places] = np.diff(batch.offsets)
        self._requests.put(places, rows.requests)
        self._items.put(self._items_of(places)[0], rows.items)
        self._has[places] = True
        watch(ENCODE, time.perf_counter() - began, batch.items)
        return rows

    def _items_of(self, places: Int64s) -> tuple[Int64s, Int64s]:
        """Where the candidates of requests are, one request after the other, and which request each is of."""
        if self._is_single:
            return places, np.arange(len(places))
        counts, starts = self._counts[places], self._starts[places]
        offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
        of_item = expand(offsets)
        return (starts - offsets[:-1])[of_item] + np.arange(int(offsets[-1])), of_item

    def _taken(self, places: Int64s) -> TensorBatch:
        """A batch of requests that are all kept."""
        rows, of_item = self._items_of(places)
        return _Rows(self._names, self._requests.take(places), self._items.take(rows), of_item).tensors()


@final
class _Rows:
    """Encoded rows of requests and of their candidates.

    Attributes:
        names: the encoder's tensors, in its order.
        requests: a row for each request.
        items: a row for each candidate.
        of_item: the request of each candidate.
    """

    __slots__ = ("items", "names", "of_item", "requests")

    def __init__(self, names: tuple[str, ...], requests: _Table, items: _Table, of_item: Int64s) -> None:
        self.names, self.requests, self.items, self.of_item = names, requests, items, of_item

    @classmethod
    def of(cls, batch: Batch, encoder: Encoder) -> Self:
        """The rows of a batch."""
        encoded = encoder.encode(batch)
        names, lengths, longest = tuple(encoded), encoder.lengths(batch), encoder.longest()
        of_item = encoded.pop(OF_ITEM)
        of_requests = {t.name for t in encoder.layout.tensors() if t.shape[0] == "requests"}
        requests: _Arrays = {_REQUESTS: batch.request_ids}
        items: _Arrays = {_CANDIDATES: batch.candidates}
        items |= {f"{_LABEL}{name}": np.asarray(values, np.float32) for name, values in batch.labels.items()}
        if batch.weights is not None:
            items[_WEIGHTS] = batch.weights
        if isinstance(drawn := batch.item.get(LOG_Q), Dense):
            items[LOG_Q] = np.asarray(drawn.values, np.float32)
        for name, array in encoded.items():
            (requests if name in of_requests else items)[name] = array
        own, others = (_Table(arrays, _among(arrays, lengths), longest) for arrays in (requests, items))
        return cls(names, own, others, of_item)

    def tensors(self) -> TensorBatch:
        """The rows as a batch."""
        found = self.requests.arrays | self.items.arrays
        found[OF_ITEM] = self.of_item
        return tensor_batch(
            {name: found[name] for name in self.names},
            {name.removeprefix(_LABEL): values for name, values in found.items() if name.startswith(_LABEL)},
            found[_WEIGHTS] if _WEIGHTS in found else np.ones(len(self.of_item), np.float32),
            found[_CANDIDATES],
            found.get(LOG_Q),
            found[_REQUESTS],
        )

    def bytes_of(self, sizes: Int64s) -> int:
        """What `Kept.nbytes` is of so many candidates a request, [R]."""
        places = 2 * sizes.dtype.itemsize + 1
        return len(sizes) * (self.requests.row_bytes + places) + int(sizes.sum()) * self.items.row_bytes


def _among(arrays: _Arrays, lengths: Mapping[str, Int64s]) -> dict[str, Int64s]:
    return {name: values for name, values in lengths.items() if name in arrays}


@final
class _Table:
    """Arrays with as many rows; those of lists are as wide as the longest list may be, and 0 after its elements.

    Args:
        arrays: [n, ...] by name.
        lengths: [n] of the lists, by the name of their array.
        longest: the longest list of each.
    """

    __slots__ = ("_lengths", "_longest", "arrays")

    def __init__(self, arrays: _Arrays, lengths: Mapping[str, Int64s], longest: Mapping[str, int]) -> None:
        self.arrays, self._lengths, self._longest = arrays, lengths, longest

    def _shape(self, name: str) -> tuple[int, ...]:
        """The shape of a row."""
        shape = self.arrays[name].shape[1:]
        return (self._longest[name], *shape[1:]) if name in self._lengths else shape

    @property
    def row_bytes(self) -> int:
        """The memory of a row."""
        own = sum(int(np.prod(self._shape(n))) * array.itemsize for n, array in self.arrays.items())
        return own + sum(array.itemsize for array in self._lengths.values())

    @property
    def nbytes(self) -> int:
        """The memory of all arrays."""
        return sum(array.nbytes for part in (self.arrays, self._lengths) for array in part.values())

    def empty(self, rows: int) -> _Table:
        """As many arrays of the same kinds, of so many rows that are to be put; memory is taken when they are."""
        arrays = {name: np.zeros((rows, *self._shape(name)), array.dtype) for name, array in self.arrays.items()}
        return _Table(arrays, {name: np.zeros(rows, np.int64) for name in self._lengths}, self._longest)

    def put(self, rows: Int64s, values: _Table) -> None:
        """Puts rows [n] into their places."""
        for name, array in values.arrays.items():
            if name in self._lengths:
                self._lengths[name][rows] = values._lengths[name]
                self.arrays[name][rows, : array.shape[1]] = array
            else:
                self.arrays[name][rows] = array

    def take(self, rows: Int64s) -> _Table:
        """Rows [n], copied; lists as long as the longest of them, and 1 at least."""
        found: _Arrays = {}
        for name, array in self.arrays.items():
            widest = self._longest[name] if name in self._lengths else 0
            width = int(self._lengths[name][rows].max(initial=1)) if widest else 0
            # Whole rows are copied at once, several times as fast as their beginnings.
            found[name] = array.take(rows, axis=0) if width == widest else np.ascontiguousarray(array[:, :width][rows])
        return _Table(found, self._lengths, self._longest)
