"""Where the rows of a model's embedding tables are while it is trained, and what updates them."""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from bedplate.errors import StoreError
from bedplate.models.base import Model
from bedplate.models.batch import TensorBatch
from bedplate.training.config import TrainerConfig
from bedplate.training.optimizer import TableOptimizer, table_optimizer


class Tables(ABC):
    """The embedding tables of a model that is trained.

    Every process of a training calls every method but `load`, in the same order.

    Attributes:
        model: whose tables.
        optimizer: updates them.
    """

    def __init__(self, model: Model, optimizer: TableOptimizer) -> None:
        self.model, self.optimizer = model, optimizer

    @abstractmethod
    def fetch(self, batch: TensorBatch | None) -> None:
        """Lets the model look up the ids of a batch, or of none; a gradient goes to them where torch takes gradients.

        Raises:
            PeerLostError: another process is gone.
        """

    @abstractmethod
    def weights(self) -> Mapping[str, Tensor]:
        """The model's state with whole tables, in the first process.

        Raises:
            PeerLostError: another process is gone.
            StoreError: there is no room on the disk to put them together.
        """

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Takes over a state with whole tables.

        Args:
            weights: by name, as `weights` gives them.
        """
        load_here(self.model, weights)

    def explained(self, error: Exception) -> Exception:
        """The error that says why a forward pass or a loss failed, if that is because of these tables; else itself."""
        return error

    @abstractmethod
    def close(self) -> None:
        """Gives the model of the first process whole tables again, of no values yet; the others have none."""


Operation: TypeAlias = Callable[[], AbstractContextManager[None]]
"""The context of what one process does with the others; it raises `PeerLostError` where one of them is gone."""

Sharding: TypeAlias = "Callable[[Model, TrainerConfig, Path, Operation], Tables]"
"""Spreads the tables of a model over the processes of its training.

Args of it: the model, with weights in the first process; how it is trained; a folder for files without a name; the
context of each operation with the other processes.
"""


@final
class WholeTables(Tables):
    """Each process has every table.

    Args:
        model: whose tables.
        config: how they are updated.
    """

    def __init__(self, model: Model, config: TrainerConfig) -> None:
        super().__init__(model, table_optimizer(model, config))

    def fetch(self, batch: TensorBatch | None) -> None:
        """Nothing to do."""

    def weights(self) -> Mapping[str, Tensor]:
        """The model's state."""
        return self.model.state_dict()

    def close(self) -> None:
        """Nothing to do."""


def load_here(model: Model, weights: Mapping[str, Tensor]) -> None:
    """Gives a model its weights, except those whose rows are elsewhere."""
    elsewhere = {name: own for name, own in model.state_dict().items() if own.is_meta}
    model.load_state_dict({**weights, **elsewhere})


def in_file(shape: Sequence[int], folder: Path) -> Tensor:
    """A tensor of float32 in a file that is gone with it, for which the system needs no memory while others want it.

    Args:
        shape: of the tensor.
        folder: where the file is, without a name.

    Raises:
        StoreError: there is no room for it on the disk.
    """
    size = int(np.prod(shape)) * 4
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # A full disk is an error here; when the memory is written, it would be the end of the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            return torch.from_numpy(np.memmap(file, np.float32, "r+", shape=tuple(shape)))  # pyright: ignore[reportUnknownMemberType]
    except OSError as error:
        raise StoreError(
            f"no room for {size / 1e9:.2f} GB of an embedding table: {error}",
            where=str(folder),
        ) from error
