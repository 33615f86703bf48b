"""What the processes of one training tell each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from bedplate.datasets.blocks import Part
from bedplate.models.base import Model
from bedplate.models.batch import TensorBatch
from bedplate.training.config import TrainerConfig
from bedplate.training.optimizer import Optimizer
from bedplate.training.tables import Tables

_Value = TypeVar("_Value")


class Exchange(ABC):
    """What the processes of one training tell each other.

    Each has the same weights (of embedding tables perhaps only some rows) and the same progress. Each computes the
    outputs of its part of a batch; all then know the outputs of the whole batch, take the loss of it, and add up their
    gradients. Every process calls every method, in the same order.

    Attributes:
        rank: of this process, from 0; the one of rank 0 writes files and shows progress.
        count: how many processes there are.
        shards: whether each process has some rows of the embedding tables, and not the whole.
    """

    def __init__(self, rank: int, count: int, *, shards: bool = False) -> None:
        self.rank, self.count, self.shards = rank, count, shards

    @property
    def part(self) -> Part:
        """The share of each batch that this process has."""
        return Part(self.rank, self.count)

    def share(self, length: int) -> tuple[int, int]:
        """The share `[first, stop)` of so many batches that this process has, next to each other."""
        return length * self.rank // self.count, length * (self.rank + 1) // self.count

    def largest_share(self, length: int) -> int:
        """How many of so many batches the process has that has most."""
        return -(-length // self.count)

    @abstractmethod
    def begin(self, model: Model, config: TrainerConfig, folder: Path) -> Tables:
        """Gives the model of every process the weights of the first one.

        Args:
            model: the model.
            config: how it is trained.
            folder: of the run's checkpoints.

        Returns:
            the model's tables, whole or in part.

        Raises:
            ConfigError: the model can't be trained by several processes.
        """

    @abstractmethod
    def draw(self, seed: int, step: int) -> None:
        """Prepares torch's generator for a step, where what it draws is not simply what follows."""

    @abstractmethod
    def whole(
        self, outputs: Mapping[str, Tensor], batch: TensorBatch, stop: bool
    ) -> tuple[Mapping[str, Tensor], TensorBatch, bool]:
        """The outputs of the whole batch, what a loss reads of it, and whether any process is to stop.

        The loss of the result gives gradients that `merge` adds up to those of the whole batch.

        Raises:
            ConfigError: outputs that do not belong to requests or candidates.
        """

    @abstractmethod
    def merge(self, optimizer: Optimizer) -> None:
        """Puts the sum of the gradients of all processes into each."""

    @abstractmethod
    def of_first(self, value: _Value) -> _Value:
        """The value that the first process gave."""

    @abstractmethod
    def of_all(self, value: _Value) -> list[_Value]:
        """The values of all processes, by rank."""

    @abstractmethod
    def at_first(self, value: _Value) -> list[_Value]:
        """The values of all processes by rank, in the first process; empty in the others."""

    @abstractmethod
    def check_equal(self, state: Mapping[str, Any]) -> None:
        """Checks that tensors are the same in all processes.

        Raises:
            DataError: one is not.
        """
