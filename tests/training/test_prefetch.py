"""Threads that are ahead of the trainer: in order, within their bounds, and gone at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import Source, make_batch

from bedplate.batch import Batch
from bedplate.datasets.blocks import Block, Stretch, batches_of, blocks_of
from bedplate.errors import ConfigError, DataError
from bedplate.models.config import DCNConfig
from bedplate.models.dcn import DCN
from bedplate.training.config import TrainerConfig
from bedplate.training.prefetch import Ahead, Waiting, prefetched
from bedplate.training.source import Encoded
from bedplate.training.tensors import bytes_of_tensors, to_tensors
from bedplate.training.trainer import Trainer

SMALL = 8  # requests of a batch


class Slow:
    """Blocks of some batches each; the time that one takes is drawn, and what is there at once is counted."""

    def __init__(self, sizes: list[int], pauses: list[float], fails: int | None = None) -> None:
        self.sizes, self.pauses, self.fails = sizes, pauses, fails
        self.lock, self.made, self.rooms = threading.Lock(), 0, []

    def __len__(self) -> int:
        return sum(self.sizes)

    def epoch(self, seed, epoch, start=0) -> Iterator[Batch]:
        return batches_of(self, Stretch(seed, epoch, start))

    def blocks(self, stretch, room) -> Iterator[Block]:
        first = 0
        for i, size in enumerate(self.sizes):
            self.rooms.append(room())
            yield Block(size * SMALL * 12, lambda i=i, first=first, size=size: self.make(i, first, size))
            first += size

    def make(self, block: int, first: int, size: int) -> Iterator[Batch]:
        for number in range(first, first + size):
            time.sleep(self.pauses[number % len(self.pauses)])
            if block == self.fails:
                raise DataError(f"block {block} is broken")
            with self.lock:
                self.made += 1
            yield make_batch(np.random.default_rng(number), SMALL)


def encoded(source, encoder, start: int = 0, stop: int | None = None) -> Callable:
    return partial(Encoded(source, encoder).blocks, Stretch(5, 1, start, stop))


def read(source, encoder, ahead, count=None):
    """The candidates of each batch, and how many were made ahead of each at most."""
    found, most = [], 0
    with prefetched(encoded(source, encoder), ahead, Waiting()) as ready:
        for batch in ready:
            found.append(batch.candidates.tolist())
            most = max(most, source.made - len(found))
            if len(found) == count:
                break
    return found, most


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    pauses=st.lists(st.sampled_from([0.0, 0.001, 0.004]), min_size=1, max_size=5),
    threads=st.integers(1, 4),
    batches=st.integers(1, 5),
    memory=st.sampled_from([1, 10**5, 10**9]),
)
def test_batches_are_in_order_whoever_makes_them(encoder, sizes, pauses, threads, batches, memory):
    found, most = read(Slow(sizes, pauses), encoder, Ahead(batches, memory, threads))
    assert found == [make_batch(np.random.default_rng(i), SMALL).candidates.tolist() for i in range(sum(sizes))]
    assert most <= batches + threads
    assert not [t for t in threading.enumerate() if t.name.startswith("bedplate-prefetch")]


def test_what_waits_keeps_within_the_memory(encoder):
    one = make_batch(np.random.default_rng(0), SMALL)
    raw, ready_bytes = one.nbytes, bytes_of_tensors(to_tensors(one, encoder))
    memory = 12 * (4 * raw + ready_bytes)
    source = Slow([1] * 40, [0.0])
    with prefetched(encoded(source, encoder), Ahead(1000, memory, 3), Waiting()) as ready:
        batch = next(ready)
        time.sleep(0.2)
        assert 2 <= source.made - 1 <= memory // ready_bytes
        assert batch.rows == SMALL * 12
        assert len(list(ready)) == 39
    assert source.rooms[0] == 8192  # nothing is known of its memory yet
    assert max(source.rooms[5:]) * (4 * raw + ready_bytes) / one.items * 4 <= memory * 1.01


def test_threads_make_blocks_at_the_same_time(encoder):
    both = threading.Barrier(2)

    class Meeting(Slow):
        def make(self, block, first, size):
            if block > 0:
                both.wait(timeout=30)  # ends only when another thread makes another block meanwhile
            yield from super().make(block, first, size)

    assert len(read(Meeting([1] * 5, [0.0]), encoder, Ahead(threads=2))[0]) == 5


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_comes_in_its_place(encoder, threads):
    found = []
    with (
        pytest.raises(DataError, match="block 2 is broken"),
        prefetched(
            encoded(Slow([1, 1, 1, 1], [0.01, 0.0], fails=2), encoder), Ahead(threads=threads), Waiting()
        ) as ready,
    ):
        found.extend(batch.rows for batch in ready)
    assert len(found) == 2


def test_a_source_without_blocks_is_read_by_one_thread_at_a_time(encoder):
    class Counting(Source):
        inside, most = 0, 0

        def epoch(self, seed, epoch, start=0):
            for batch in super().epoch(seed, epoch, start):
                self.inside += 1
                self.most = max(self.most, self.inside)
                time.sleep(0.001)
                self.inside -= 1
                yield batch

    source = Counting(8)
    with prefetched(encoded(source, encoder, 2, 7), Ahead(threads=4), Waiting()) as ready:
        got = [batch.candidates.tolist() for batch in ready]
    assert got == [b.candidates.tolist() for b in Source(8).epoch(5, 1, 2)][:5]
    assert source.most == 1


def test_tensors_share_the_memory_of_what_was_encoded(encoder, monkeypatch):
    made = []
    encode = type(encoder).encode
    monkeypatch.setattr(type(encoder), "encode", lambda self, batch: made.append(encode(self, batch)) or made[-1])
    tensors = to_tensors(make_batch(np.random.default_rng(0)), encoder)
    for name, array in made[0].items():
        assert np.shares_memory(array, tensors[name].numpy()), name


def test_wrong_bounds_are_named():
    with pytest.raises(ConfigError, match="trainer: prefetch_memory: got '5', expected a number and MB or GB"):
        TrainerConfig(prefetch_memory="5")
    with pytest.raises(ConfigError, match="loader_threads is 0, expected at least 1"):
        TrainerConfig(loader_threads=0)
    assert Ahead.of(TrainerConfig(prefetch_memory="2GB", loader_threads=3)) == Ahead(128, 2 * 10**9, 3)


class Pausing(Source):
    """Batches of which some take their time, and of which one can't be read."""

    def __init__(self, batches: int, pauses: dict[int, float], broken: int | None = None) -> None:
        super().__init__(batches)
        self.pauses, self.broken = pauses, broken

    def epoch(self, seed, epoch, start=0):
        for i, batch in enumerate(super().epoch(seed, epoch, start), start):
            time.sleep(self.pauses.get(i, 0.0))
            if i == self.broken:
                raise DataError(f"batch {i} is broken")
            yield batch


@pytest.mark.parametrize("broken", [0, 1, 7, 8, 13])
def test_batches_before_one_that_cannot_be_read_are_given(encoder, broken):
    found = []
    with (
        pytest.raises(DataError, match=f"batch {broken} is broken"),
        prefetched(encoded(Pausing(20, {}, broken), encoder), Ahead(), Waiting()) as ready,
    ):
        found.extend(batch.candidates.tolist() for batch in ready)
    assert found == [b.candidates.tolist() for b in Source(20).epoch(5, 1)][:broken]


def test_batches_are_read_together_only_where_reading_takes_no_time_and_there_is_room(monkeypatch):
    monkeypatch.setattr("bedplate.datasets.blocks._LOT_SECONDS", 0.25)  # more than this machine may stand still
    items = 16 * 12

    def sizes(source, room):
        return [block.items // items for block in blocks_of(source, Stretch(5, 0), lambda: room)]

    assert sizes(Source(20), 10**6) == [8, 8, 4]
    assert sizes(Source(7), 3 * items) == [3, 3, 1]
    assert sizes(Source(2), 1) == [1, 1]
    assert sizes(Pausing(4, {1: 0.3, 2: 0.3}), 10**6) == [2, 1, 1]


def test_the_trainers_lot_counts_as_waiting(encoder):
    source = Slow([4] * 20, [0.0])
    with prefetched(encoded(source, encoder), Ahead(16, 10**9, 1), Waiting()) as ready:
        for taken in range(1, 30):
            next(ready)
            until = time.monotonic() + 0.02
            while time.monotonic() < until and source.made < taken + 16:
                time.sleep(0.001)
            assert source.made - taken <= 16 + 1  # one more is made already and finds no place
        assert source.made > taken + 4  # threads went on meanwhile
        assert len(list(ready)) == 80 - 29


def test_the_next_epoch_is_prepared_while_one_is_judged(encoder, tmp_path):
    source, begun = Source(4), threading.Event()

    class Noticed(Source):
        def epoch(self, seed, epoch, start=0):
            if epoch == 1:
                begun.set()
            return source.epoch(seed, epoch, start)

    def show(status):
        if status.metrics is not None and status.epoch == 1:
            assert begun.wait(timeout=30)

    model = DCN(DCNConfig("label", layers=(8,), rank=4, cross_layers=1), encoder.layout)
    result = Trainer(TrainerConfig(epochs=2, patience=9), show=show).fit(
        model, encoder, Noticed(4), Source(2, salt=1), tmp_path
    )
    assert (result.steps, len(result.history)) == (8, 2)


@pytest.mark.parametrize("given", [3, 5])
def test_an_epoch_of_another_length_than_was_said_is_refused(encoder, tmp_path, given):
    class Other(Source):
        def __len__(self):
            return 4

    model = DCN(DCNConfig("label", layers=(8,), rank=4, cross_layers=1), encoder.layout)
    with pytest.raises(DataError, match=f"epoch 0 had {given} batches, expected 4"):
        Trainer(TrainerConfig(epochs=2)).fit(model, encoder, Other(given), Source(2, salt=1), tmp_path)
