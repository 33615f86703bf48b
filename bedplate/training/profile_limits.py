"""What each stage of a training does alone on this machine, measured on a few batches after the training."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import final

import msgspec
import numpy as np

from bedplate.batch import Batch
from bedplate.datasets.blocks import Batches, Blocks, Stretch, blocks_of
from bedplate.datasets.loader import BLOCK_ITEMS
from bedplate.datasets.slices import slice_batch
from bedplate.features.encoder import Encoder
from bedplate.models.base import Model, seeded
from bedplate.models.batch import TensorBatch
from bedplate.training.config import TrainerConfig
from bedplate.training.forward import forward_pass
from bedplate.training.optimizer import Optimizer
from bedplate.training.profile_advice import Limits, unread_columns
from bedplate.training.tensors import tensors_of, to_tensors

SECONDS = 0.5
"""For about how long each thing is measured."""

_BATCHES = 8
"""How many batches are measured with."""


def limits_of(config: TrainerConfig, model: Model, encoder: Encoder, training: Batches) -> Limits:
    """Measures the loader, the encoder and a copy of the model, one after the other.

    Needs as much memory again as the model with its gradients and the optimiser's state.

    Args:
        config: that the model was trained with.
        model: stays as it is.
        encoder: of its batches.
        training: its batches.
    """
    batches, load = _loaded(config, training)
    first = time.perf_counter()
    arrays = [encoder.encode(batch) for batch in batches]
    second = time.perf_counter()
    ready = [tensors_of(batch, encoded) for batch, encoded in zip(batches, arrays, strict=True)]
    third = time.perf_counter()
    halves = [to_tensors(slice_batch(b, 0, b.requests // 2), encoder) for b in batches if b.requests > 1]
    rows = sum(batch.rows for batch in ready)
    with seeded(config.seed):
        steps = _Steps(copy.deepcopy(model), config)
        forward, backward, update = steps.seconds(ready)
        moved = steps.update_bytes()
        half = sum(steps.seconds(halves)) / len(halves) if halves else 0.0
        reduced = None
        if config.precision == "float32":
            lower = _Steps(steps.model, msgspec.structs.replace(config, precision="bfloat16"))
            reduced = (forward + backward) / sum(lower.seconds(ready)[:2])
    return Limits(
        load=load,
        encode=rows / (second - first),
        transfer=rows / (third - second),
        forward=rows / forward,
        backward=rows / backward,
        optimizer=rows / update,
        half_batch=half * len(ready) / (forward + backward + update),
        bfloat16=reduced,
        bandwidth=_bandwidth(),
        update_bytes=moved,
        unread=unread_columns(batches[0], encoder),
    )


def _loaded(config: TrainerConfig, training: Batches) -> tuple[Sequence[Batch], float]:
    """Some batches with candidates, and candidates a second of making them."""
    kept: list[Batch] = []
    rows, seconds = 0, 0.0
    began = time.perf_counter()
    for block in blocks_of(training, Stretch(config.seed, 0), lambda: BLOCK_ITEMS):
        if isinstance(training, Blocks):
            began = time.perf_counter()  # before its first block all of the epoch is ordered
        made = list(block.make())
        now = time.perf_counter()
        seconds, began = seconds + now - began, now
        rows += sum(batch.items for batch in made)
        kept += [batch for batch in made if batch.items]
        if len(kept) >= _BATCHES or seconds > SECONDS:
            break
    return kept[:_BATCHES], rows / seconds


@final
class _Steps:
    """Steps of training on tensors that are there."""

    def __init__(self, model: Model, config: TrainerConfig) -> None:
        self.model, self.forward = model, forward_pass(model, config)
        self.optimizer = Optimizer(model, config)
        model.train()

    def seconds(self, ready: Sequence[TensorBatch]) -> tuple[float, float, float]:
        """The seconds of forward, backward and update over all batches: the median of some rounds."""
        for batch in ready[:2]:
            self._step(batch)
        rounds: list[list[float]] = []
        until = time.perf_counter() + SECONDS
        while len(rounds) < 3 or (time.perf_counter() < until and len(rounds) < 50):
            rounds.append([sum(part) for part in zip(*map(self._step, ready), strict=True)])
        forward, backward, update = (float(np.median(part)) for part in zip(*rounds, strict=True))
        return forward, backward, update

    def _step(self, batch: TensorBatch) -> tuple[float, float, float]:
        first = time.perf_counter()
        self.optimizer.clear()
        loss = self.model.loss(self.forward(batch), batch)
        loss.item()
        second = time.perf_counter()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        third = time.perf_counter()
        self.optimizer.clip_gradients()
        self.optimizer.step()
        return second - first, third - second, time.perf_counter() - third

    def update_bytes(self) -> int:
        """What the update after the last step had to move at least, 4 bytes a number.

        AdamW reads a weight, its gradient and two moments, and writes all but the gradient; Adagrad reads the gradient
        twice and reads and writes the weight, of rows that have one.
        """
        dense = sum(weights.numel() for weights in self.optimizer.dense)
        tables = [table.grad for table in self.optimizer.adagrad.parameters]
        touched = sum((g.values() if g.is_sparse else g).numel() for g in tables if g is not None)
        return 4 * (7 * dense + 4 * touched)


def _bandwidth(size: int = 64 * 2**20) -> float:
    """Bytes a second that a copy reads and writes: the best of some."""
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    return 2 * size / min(_seconds(lambda: np.copyto(target, source)) for _ in range(5))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
