"""Where batches come from, and a thread that reads and encodes the next ones while the model trains."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from bedplate.batch import Batch, Dense
from bedplate.datasets.negatives import LOG_Q
from bedplate.features.encoder import Encoder
from bedplate.models.batch import TensorBatch
from bedplate.types import Array


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
    """Encodes a batch; the tensors share the arrays' memory.

    Writable copies are made of arrays that are read-only (memory-mapped), which torch would warn of.
    """
    weights = np.ones(batch.items, np.float32) if batch.weights is None else batch.weights
    drawn = batch.item.get(LOG_Q)
    labels = {n: np.asarray(v, np.float32) for n, v in batch.labels.items()}
    unknown = {n: there for n, v in labels.items() if (there := np.isnan(v)).any()}
    labels |= {n: np.where(there, np.float32(0), labels[n]) for n, there in unknown.items()}
    return TensorBatch(
        _tensors(encoder.encode(batch)),
        _tensors(labels),
        _tensor(weights),
        _tensor(batch.candidates),
        _tensor(np.asarray(drawn.values, np.float32)) if isinstance(drawn, Dense) else None,
        _tensors({n: ~there for n, there in unknown.items()}),
        batch.request_ids,
    )


def _tensors(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    return {name: _tensor(array) for name, array in arrays.items()}


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())  # pyright: ignore[reportUnknownMemberType]


@final
class Waiting:
    """Seconds that the trainer waited for data."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0


_Queued: TypeAlias = "TensorBatch | BaseException | None"


@contextmanager
def prefetched(
    batches: Iterator[Batch], encoder: Encoder, depth: int, waiting: Waiting
) -> Generator[Iterator[TensorBatch]]:
    """Reads and encodes batches in a thread, at most `depth` ahead, in order; what it raises is raised here.

    Leaving the context ends the thread. Nothing is drawn at random in the thread, so the order of threads can't matter.
    """
    buffer: queue.Queue[_Queued] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(item: _Queued) -> bool:
        while not stop.is_set():
            try:
                buffer.put(item, timeout=0.05)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not put(to_tensors(batch, encoder)):
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - raised again by the consumer
            put(error)

    def consume() -> Iterator[TensorBatch]:
        while True:
            began = time.perf_counter()
            item = buffer.get()
            waiting.seconds += time.perf_counter() - began
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=work, name="bedplate-prefetch", daemon=True)
    thread.start()
    try:
        yield consume()
    finally:
        stop.set()
        thread.join()
