"""A batch as tensors: what a model reads, and what its outputs are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from torch import Tensor

from bedplate.errors import DataError, suggest
from bedplate.types import Int64s


@final
@dataclass(frozen=True, slots=True, eq=False)
class TensorBatch(Mapping[str, Tensor]):
    """R requests with N candidates: the encoder's tensors by name, and the labels.

    Attributes:
        inputs: the encoder's tensors; the batch itself is a mapping of them.
        labels: [N] float32 each, by label name; 0 where the label is not known.
        weights: [N] float32.
        candidates: [N] int64, the keys of the candidates.
        log_q: [N] float32, the log of the probability with which each was drawn, or would have been; None: not known.
        known: [N] bool each, in which rows a label is known (not censored), by label name; those of which all are known
            are not here.
        request_ids: [R] int64.

    >>> batch = TensorBatch({"item_dense": torch.zeros(2, 3)}, {"clicked": torch.ones(2)}, torch.ones(2))
    >>> batch["item_dense"].shape, batch.label("clicked").tolist(), batch.rows
    (torch.Size([2, 3]), [1.0, 1.0], 2)
    """

    inputs: Mapping[str, Tensor]
    labels: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    weights: Tensor = field(default_factory=lambda: torch.ones(0))
    candidates: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    log_q: Tensor | None = None
    known: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    request_ids: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def rows(self) -> int:
        """N, the number of candidates."""
        return self.weights.shape[0]

    def label(self, name: str) -> Tensor:
        """A label's values; 0 where it is not known, see `weights_of`.

        Raises:
            DataError: the batch has no such label.
        """
        if name not in self.labels:
            raise DataError(f"the batch has no label '{name}'", where="model", hint=suggest(name, self.labels))
        return self.labels[name]

    def weights_of(self, name: str) -> Tensor:
        """[N]: the weights of the rows for a label; 0 where it is not known."""
        return self.weights * self.known[name] if name in self.known else self.weights

    def __getitem__(self, name: str) -> Tensor:
        """One of the encoder's tensors."""
        return self.inputs[name]

    def __iter__(self) -> Iterator[str]:
        """The names of the encoder's tensors."""
        return iter(self.inputs)

    def __len__(self) -> int:
        """How many tensors the encoder gave."""
        return len(self.inputs)
