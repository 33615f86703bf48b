"""The contract of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, final

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from bedplate.errors import DataError, DefinitionError, suggest
from bedplate.features.encoding import Layout, Level
from bedplate.types import Float32s, Float64s, Int64s


@final
@dataclass(frozen=True, slots=True)
class Targets:
    """What a batch's scores are compared with.

    Attributes:
        labels: [N] float32 each, by label name; 0 where the label is not known.
        weights: [N] float32.
        candidates: [N] int64, the keys of the candidates.
        log_q: [N] float32, the log of the probability with which each was drawn, or would have been; None: not known.
        known: [N] bool each, in which rows a label is known (not censored), by label name; those of which all are known
            are not here.
    """

    labels: Mapping[str, Tensor]
    weights: Tensor
    candidates: Tensor
    log_q: Tensor | None = None
    known: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

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


@final
@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's scores over a whole source, with what they are compared with.

    Attributes:
        scores: [N] float64.
        labels: [N] float32 each, by name; NaN where the label is not known.
        weights: [N] float32.
        requests: [N] int64, equal for the candidates of one request; counted from 0 in the order of the source.
        request_ids: [R] int64.
        candidates: [N] int64.
        loss: the mean loss over batches, weighted by their candidates.
    """

    scores: Float64s
    labels: Mapping[str, Float32s]
    weights: Float32s
    requests: Int64s
    request_ids: Int64s
    candidates: Int64s
    loss: float = field(default=float("nan"))

    def of(self, label: str) -> tuple[Float64s, Float32s, Float32s, Int64s]:
        """The scores, labels, weights and requests of the rows in which a label is known."""
        known = ~np.isnan(self.labels[label])
        return self.scores[known], self.labels[label][known], self.weights[known], self.requests[known]


class Model(nn.Module, ABC):
    """A model on an encoder's tensors.

    Its constructor takes a frozen config (a `msgspec.Struct` with a `seed`) and the encoder's `Layout`, and draws the
    same weights for the same two.

    Attributes:
        config: all choices.
        layout: the tensors that it takes.
        served_levels: what the exported graph reads: of the request, of the candidates, or both.
    """

    served_levels: ClassVar[tuple[Level, ...]] = ("request", "item")

    def __init__(self, config: msgspec.Struct, layout: Layout) -> None:
        super().__init__()
        self.config = config
        self.layout = layout

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name; `score` [N] orders the candidates of a request.

        Args:
            inputs: the encoder's tensors of R requests and N candidates.
        """

    @abstractmethod
    def served(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs of the exported graph; the first size of each is R or N.

        Args:
            inputs: the encoder's tensors of `served_levels`.
        """

    @abstractmethod
    def loss(self, outputs: Mapping[str, Tensor], targets: Targets) -> Tensor:
        """The mean loss of a batch, a scalar."""

    def judged(self, outputs: Mapping[str, Tensor], targets: Targets) -> Tensor:
        """[N]: the scores that `metrics` gets; the outputs' own unless a model says otherwise."""
        return outputs["score"]

    @abstractmethod
    def metrics(self, prediction: Prediction) -> dict[str, float]:
        """What a validation reports, by name."""


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Draws from a generator of its own seed inside, and leaves torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
        yield


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """`sum(w x) / sum(w)`; 0 where all weights are 0."""
    return (values * weights).sum() / weights.sum().clamp(min=torch.finfo(values.dtype).tiny)


def require(condition: bool, message: str, model: str, hint: str | None = None) -> None:
    """Checks a config.

    Raises:
        DefinitionError: the condition does not hold.
    """
    if not condition:
        raise DefinitionError(message, where=model, hint=hint)
