"""The contract of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from types import new_class
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bedplate.errors import DefinitionError
from bedplate.features.artifact import QUERY, SCORE
from bedplate.features.encoding import Layout, Level
from bedplate.layers.axes import Axes
from bedplate.models.batch import TensorBatch
from bedplate.models.config import ModelConfig
from bedplate.models.prediction import Prediction


class Model(nn.Module, ABC):
    """A model on the tensors of an encoder.

    A model is a class with a `Config`, whose constructor takes a config and the encoder's `Layout` and draws the same
    weights for the same two. A job that is given the config trains the model.

    Attributes:
        Config: all choices, a subclass of `models.config.ModelConfig`. A class without one of its own has one with the
            choices of its parent.
        config: those of this model.
        layout: the tensors that it takes.
        served_levels: what the exported graph reads: of the request, of the candidates, or both.
    """

    Config: ClassVar[type[ModelConfig]]
    served_levels: ClassVar[tuple[Level, ...]] = ("request", "item")

    def __init__(self, config: ModelConfig, layout: Layout) -> None:
        super().__init__()
        self.config = config
        self.layout = layout

    def __init_subclass__(cls, **options: Any) -> None:
        """Lets a class have a `Config` that says which model it is of: its own, or one like that of its parent."""
        super().__init_subclass__(**options)
        config: type[ModelConfig] | None = getattr(cls, "Config", None)
        if config is None:
            return
        known = vars(config).get("implemented_by")
        if known is None:
            config.implemented_by = cls
        elif known not in (cls, f"{cls.__module__}:{cls.__qualname__}"):
            said = {"__module__": cls.__module__, "__qualname__": f"{cls.__qualname__}.Config", "implemented_by": cls}
            cls.Config = new_class("Config", (config,), {"frozen": True}, lambda body: body.update(said))

    @abstractmethod
    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name; `score` [N] orders the candidates of a request.

        Args:
            batch: the encoder's tensors of R requests and N candidates, by name.
        """

    def served(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs of the exported graph, the score unless a model says otherwise; the first size of each is R or N.

        Args:
            batch: the encoder's tensors of `served_levels`.
        """
        return {SCORE: self(batch)[SCORE]}

    @abstractmethod
    def loss(self, outputs: Mapping[str, Tensor], batch: TensorBatch) -> Tensor:
        """The mean loss of a batch, a scalar."""

    def loss_weight(self, batch: TensorBatch) -> Tensor:
        """What the loss of a batch counts beside that of others, a scalar: the sum of the weights that it is a mean by.

        The number of its candidates unless a model says otherwise. The loss of a split and accumulated gradients are
        means by it, so that they do not depend on how rows are cut into batches.
        """
        return torch.tensor(float(batch.rows))

    def judged(self, outputs: Mapping[str, Tensor], batch: TensorBatch) -> Tensor:
        """[N]: the scores that `metrics` gets; the outputs' own unless a model says otherwise."""
        return outputs[SCORE]

    def axes(self) -> Axes:
        """What the axes of the weights stand for that read or give the columns of the encoder's tensors, by name.

        With them a model goes on from one with other features (`training.warm_start`): weights are taken over by what
        they stand for, and those that read a new feature begin at 0. Tables of `FusedEmbedding` need none; the first
        axis of another weight that is looked up by ids is `layers.axes.ID_ROWS`, since rows move where ids are new.
        Without any, a model goes on only with the same features.
        """
        return {}

    @abstractmethod
    def metrics(self, prediction: Prediction) -> dict[str, float]:
        """What a validation reports, by name; the config says of each whether a lower or a higher value is better."""


class RetrievalModel(Model, ABC):
    """A model that gives requests and candidates vectors of one space, those of candidates computed ahead.

    A candidate's score is the larger, the greater the product of the two vectors is.
    """

    served_levels: ClassVar[tuple[Level, ...]] = ("request",)

    @abstractmethod
    def query(self, batch: Mapping[str, Tensor]) -> Tensor:
        """[R, width] vectors of the requests; reads nothing of the candidates."""

    @abstractmethod
    def item(self, batch: Mapping[str, Tensor]) -> Tensor:
        """[N, width] vectors of the candidates; reads nothing of the requests."""

    def served(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`query` [R, width]; the candidates' vectors are computed ahead, for the catalogue."""
        return {QUERY: self.query(batch)}


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
