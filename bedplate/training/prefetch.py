"""Threads that read, join and encode the next batches while the model trains: in order, within a bound of memory."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self, final

from bedplate.config import parse_size
from bedplate.models.batch import TensorBatch
from bedplate.training.config import TrainerConfig
from bedplate.training.source import TensorBlock, TensorBlocks
from bedplate.training.tensors import bytes_of_tensors

_FIRST_ITEMS = 8192
"""Candidates of the first block, from which the memory of further ones is estimated."""

_WORKING = 4
"""How often a block's columns are in memory while it is made: themselves, what they are made of, and what was read."""


@final
class Waiting:
    """Seconds that the trainer waited for data."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0


@final
@dataclass(frozen=True, slots=True)
class Ahead:
    """How far threads may be ahead of the trainer; see `TrainerConfig`.

    Attributes:
        batches: encoded batches that wait at most.
        memory: bytes of them and of blocks that are being made; one block and one batch are always made.
        threads: how many make them.
    """

    batches: int = 128
    memory: int = 512 * 10**6
    threads: int = 2

    @classmethod
    def of(cls, config: TrainerConfig) -> Self:
        """As a config says."""
        memory = parse_size(config.prefetch_memory, "trainer: prefetch_memory")
        return cls(config.prefetch, memory, config.loader_threads)


@final
class _Slot:
    """The place of a block in the order: its batches that are ready, bytes a candidate of the first, how it ended."""

    __slots__ = ("ended", "error", "raw", "ready", "reserved")

    def __init__(self, reserved: int, error: BaseException | None = None) -> None:
        self.ready: deque[tuple[TensorBatch, int]] = deque()
        self.reserved, self.raw, self.error, self.ended = reserved, 0.0, error, error is not None


@final
class _Line:
    """Blocks in work, in order; `work` is what each thread does."""

    def __init__(self, blocks: TensorBlocks, ahead: Ahead) -> None:
        self._ahead = ahead
        self._blocks = blocks(self._room)
        self._turn, self._changed = threading.Lock(), threading.Condition()
        self._slots: deque[_Slot] = deque()
        self._exhausted = self._stopped = False
        self._batches = self._bytes = 0  # what waits and is being made, and the trainer's lot
        self._lot: deque[tuple[TensorBatch, int]] = deque()  # the trainer's next batches, taken at once
        self._lot_bytes = self._lot_batches = 0  # of the lot when it was taken
        self._hungry, self._blocked = False, 0  # whether the trainer waits, and how many threads do
        self._raw = self._encoded = 0.0  # bytes a candidate, the most that were seen; 0 before the first batch

    def work(self) -> None:
        """Makes blocks until there are no more."""
        while (taken := self._take()) is not None:
            slot, block = taken
            try:
                for batch, raw in block.make():
                    slot.raw = max(slot.raw, raw)
                    if not self._put(slot, batch):
                        return
            except BaseException as error:  # noqa: BLE001 - raised again by the consumer
                slot.error = error
            with self._changed:
                self._bytes -= slot.reserved
                slot.ended = True
                self._wake()

    def next(self) -> TensorBatch | None:
        """The next batch in order; None: there are no more. An error is raised where its batch would be."""
        if not self._lot and not self._take_lot():
            return None
        return self._lot.popleft()[0]

    def _take_lot(self) -> bool:
        """Takes the batches that are ready, a quarter of what may wait at most; False: there are no more.

        A lot counts as waiting until the next is taken. Threads are woken when half of what may wait is gone, so that
        they and the trainer do not take turns for single batches, each waiting for the interpreter.
        """
        with self._changed:
            self._batches, self._bytes = self._batches - self._lot_batches, self._bytes - self._lot_bytes
            self._lot_batches = self._lot_bytes = 0
            while True:
                news = self._has_news()
                if self._blocked and (not news or 2 * self._batches <= self._ahead.batches):
                    self._changed.notify_all()
                if not news:
                    self._hungry = True
                    self._changed.wait_for(self._has_news)
                    self._hungry = False
                if not self._slots:
                    return False
                slot = self._slots[0]
                if slot.ready:
                    self._fill_lot(slot.ready)
                    return True
                if slot.error is not None:
                    raise slot.error
                self._slots.popleft()

    def _fill_lot(self, ready: deque[tuple[TensorBatch, int]]) -> None:
        most, memory = max(self._ahead.batches // 4, 1), self._ahead.memory // 4
        while ready and self._lot_batches < most and (not self._lot or self._lot_bytes + ready[0][1] <= memory):
            self._lot.append(ready.popleft())
            self._lot_batches, self._lot_bytes = self._lot_batches + 1, self._lot_bytes + self._lot[-1][1]

    def stop(self) -> None:
        """Lets all threads end."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _wake(self) -> None:
        """Wakes who waits, if anybody does."""
        if self._hungry or self._blocked:
            self._changed.notify_all()

    def _wait_until(self, condition: Callable[[], bool]) -> bool:
        """Lets a thread that makes blocks wait; False: it is to end."""
        self._blocked += 1
        try:
            self._changed.wait_for(lambda: self._stopped or condition())
        finally:
            self._blocked -= 1
        return not self._stopped

    def _has_news(self) -> bool:
        return bool(self._slots[0].ready or self._slots[0].ended) if self._slots else self._exhausted

    def _take(self) -> tuple[_Slot, TensorBlock] | None:
        """The next block and its slot, when there is room for it; None: there is none."""
        with self._turn:
            if self._exhausted or self._stopped:
                return None
            error: BaseException | None = None
            block: TensorBlock | None = None
            try:
                block = next(self._blocks, None)
            except BaseException as raised:  # noqa: BLE001 - raised again by the consumer
                error = raised
            with self._changed:
                if block is None:
                    self._exhausted = True
                    if error is not None:
                        self._slots.append(_Slot(0, error))
                    self._changed.notify_all()
                    return None
                if self._stopped or not (self._fits(block) or self._wait_until(lambda: self._fits(block))):
                    return None
                slot = _Slot(self._estimate(block))
                self._bytes += slot.reserved
                self._slots.append(slot)
                return slot, block

    def _estimate(self, block: TensorBlock) -> int:
        return int(_WORKING * self._raw * block.items)

    def _fits(self, block: TensorBlock) -> bool:
        if not any(not slot.ended or slot.ready for slot in self._slots):
            return True
        known = self._raw > 0 and self._batches < self._ahead.batches
        return known and self._bytes + self._estimate(block) <= self._ahead.memory

    def _put(self, slot: _Slot, batch: TensorBatch) -> bool:
        """Lets a batch wait for the trainer; False: nobody wants it any more."""
        size = bytes_of_tensors(batch)
        with self._changed:
            self._raw = max(self._raw, slot.raw)
            self._encoded = max(self._encoded, size / max(batch.rows, 1))
            if self._stopped or not (
                self._may_wait(slot, size) or self._wait_until(lambda: self._may_wait(slot, size))
            ):
                return False
            slot.ready.append((batch, size))
            self._batches, self._bytes = self._batches + 1, self._bytes + size
            if self._hungry and slot is self._slots[0]:
                self._changed.notify_all()
            return True

    def _may_wait(self, slot: _Slot, size: int) -> bool:
        if slot is self._slots[0] and not slot.ready:
            return True  # the trainer's next batch
        return self._batches < self._ahead.batches and self._bytes + size <= self._ahead.memory

    def _room(self) -> int:
        """Candidates of the next block: each thread has one, and as much again waits."""
        if not self._raw:
            return _FIRST_ITEMS
        share = self._ahead.memory / (self._ahead.threads + 1)
        return int(share / (_WORKING * self._raw + self._encoded))


@contextmanager
def prefetched(blocks: TensorBlocks, ahead: Ahead, waiting: Waiting) -> Generator[Iterator[TensorBatch]]:
    """Prepares blocks by threads; gives their batches in order, and raises here what is raised there.

    Leaving the context ends the threads. Nothing that is drawn at random depends on a thread, so neither the batches
    nor their order depend on how many there are or which is faster.

    Args:
        blocks: `partial(source.blocks, stretch)` of a `source.TensorSource`, say.
        ahead: how far ahead.
        waiting: counts the time that the consumer waits.
    """
    line = _Line(blocks, ahead)

    def consume() -> Iterator[TensorBatch]:
        while True:
            began = time.perf_counter()
            batch = line.next()
            waiting.seconds += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    threads = [
        threading.Thread(target=line.work, name=f"bedplate-prefetch-{i}", daemon=True) for i in range(ahead.threads)
    ]
    for thread in threads:
        thread.start()
    try:
        yield consume()
    finally:
        line.stop()
        for thread in threads:
            thread.join()
