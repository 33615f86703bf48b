"""A training of one process, which tells nobody anything."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, final

from torch import Tensor

from bedplate.models.base import Model
from bedplate.models.batch import TensorBatch
from bedplate.training.config import TrainerConfig
from bedplate.training.exchange import Exchange
from bedplate.training.optimizer import Optimizer
from bedplate.training.tables import Tables, WholeTables

_Value = TypeVar("_Value")


@final
class Alone(Exchange):
    """A training of one process."""

    def __init__(self) -> None:
        super().__init__(0, 1)

    def begin(self, model: Model, config: TrainerConfig, folder: Path) -> Tables:
        """Nothing to do."""
        return WholeTables(model, config)

    def draw(self, seed: int, step: int) -> None:
        """The generator goes on."""

    def whole(
        self, outputs: Mapping[str, Tensor], batch: TensorBatch, stop: bool
    ) -> tuple[Mapping[str, Tensor], TensorBatch, bool]:
        """What was given."""
        return outputs, batch, stop

    def merge(self, optimizer: Optimizer) -> None:
        """Nothing to do."""

    def of_first(self, value: _Value) -> _Value:
        """What was given."""
        return value

    def of_all(self, value: _Value) -> list[_Value]:
        """What was given."""
        return [value]

    def at_first(self, value: _Value) -> list[_Value]:
        """What was given."""
        return [value]

    def check_equal(self, state: Mapping[str, Any]) -> None:
        """Nothing to compare with."""


@contextmanager
def alone() -> Generator[Exchange]:
    """Connects with nobody."""
    yield Alone()
