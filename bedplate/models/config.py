"""The configs of the models: pure data, so that a project's jobs are read without torch.

A model of a project's own has its config inside, see `models.base.Model`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from bedplate.errors import ConfigError, suggest
from bedplate.features.checks import check_least, check_types
from bedplate.metrics.directions import DIRECTIONS, Direction
from bedplate.metrics.report import BINARY_METRICS


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the configs of all models have; each model's own adds its choices.

    Attributes:
        implemented_by: the model that the config is of, or "module:Class", which is imported when the model is made; a
            `Config` that is written inside its model is given the model.
        needs_binary: whether the label must be one of 0 and 1.
        metrics: the names of what its validation reports beside the loss.
        directions: whether a "lower" or a "higher" value is better, of those metrics that are the model's own; no
            epoch, trial or version is judged by one of which it is not said.
        label: that it predicts.
        seed: of the first weights.
    """

    implemented_by: ClassVar[str | type] = ""
    needs_binary: ClassVar[bool] = False
    metrics: ClassVar[tuple[str, ...]] = ()
    directions: ClassVar[Mapping[str, Direction]] = {}

    label: str
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the types.

        Raises:
            ConfigError: a value is of another type than its field, the label has no name, or the seed is below 0.
        """
        check_types(self, self.title())
        check_least(self, "seed", 0, self.title())
        if not self.label:
            raise ConfigError("got no label, expected the name of one", where=self.title())

    def reported(self) -> tuple[str, ...]:
        """The names of what a validation reports beside the loss, with these choices."""
        return type(self).metrics

    def direction_of(self, metric: str) -> Direction:
        """Whether a lower or a higher value of a metric is better.

        Raises:
            ConfigError: it is not known; the message says how to declare it.
        """
        found = DIRECTIONS.get(metric) or type(self).directions.get(metric)
        if found is not None:
            return found
        if metric not in self.reported():
            raise ConfigError(
                f"the model of {self.title()} reports no '{metric}'",
                where="trainer: metric",
                hint=suggest(metric, ("loss", *self.reported()), "metrics"),
            )
        raise ConfigError(
            f"{self.title()} doesn't say whether a lower or a higher '{metric}' is better",
            where="trainer: metric",
            hint=f'declare it beside metrics: directions: ClassVar = {{"{metric}": "lower"}}, or "higher"',
        )

    def check_directions(self) -> None:
        """Checks what the class says of its own metrics.

        Raises:
            ConfigError: a direction is of no metric of the model, is neither "lower" nor "higher", or contradicts that
                of a metric of Bedplate's.
        """
        place = f"{self.title()}: directions"
        for name, direction in type(self).directions.items():
            if name not in ("loss", *self.reported()):
                hint = suggest(name, self.reported(), "its metrics")
                raise ConfigError(f"the model reports no '{name}'", where=place, hint=hint)
            if direction not in ("lower", "higher"):
                raise ConfigError(f'\'{name}\' is {direction!r}, expected "lower" or "higher"', where=place)
            if DIRECTIONS.get(name, direction) != direction:
                raise ConfigError(
                    f"'{name}' is \"{direction}\", and a {DIRECTIONS[name]} '{name}' is better",
                    where=place,
                    hint="give a metric of your own another name",
                )

    @classmethod
    def title(cls) -> str:
        """What a message calls the config: `DCNConfig`, or `Wide.Config` where it is inside its model."""
        return cls.__qualname__.rpartition("<locals>.")[2]


class BinaryConfig(ModelConfig, frozen=True, forbid_unknown_fields=True):
    """What the configs of models of a binary label have; see `models.binary`.

    Attributes:
        correct_sampling: learn the log-odds of the label without the sampling of negatives.
    """

    needs_binary: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = BINARY_METRICS

    correct_sampling: bool = False


def implementation(config: ModelConfig) -> Any:
    """The model's class; imports what it is made with, such as torch."""
    known = config.implemented_by
    if isinstance(known, type):
        return known
    module, _, name = known.partition(":")
    return getattr(importlib.import_module(module), name)


class DCNConfig(BinaryConfig, frozen=True, forbid_unknown_fields=True):
    """Choices of a `DCN`.

    Attributes:
        embedding: the width of a category's vector.
        cross_layers: how many crosses; the degree of the highest is one more.
        rank: of the cross matrices; 0 for full ones.
        attention: the width of queries, keys and values.
        layers: widths of the deep part, which runs beside the crosses.
        dropout: after each layer of the deep part.
    """

    implemented_by: ClassVar[str | type] = "bedplate.models.dcn:DCN"

    embedding: int = 16
    cross_layers: int = 2
    rank: int = 32
    attention: int = 16
    layers: tuple[int, ...] = (128, 64)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Checks types and ranges.

        Raises:
            ConfigError: a value is of another type than its field, or out of its range.
        """
        super().__post_init__()
        check_least(self, "embedding cross_layers attention", 1, "DCNConfig")
        check_least(self, "rank", 0, "DCNConfig")
        if not self.layers:
            raise ConfigError("got no layers, expected at least one", where="DCNConfig")
        _check_layers(self.layers, self.dropout, "DCNConfig")


class LogisticConfig(BinaryConfig, frozen=True, forbid_unknown_fields=True):
    """Choices of a `Logistic`: those of every model of a binary label."""

    implemented_by: ClassVar[str | type] = "bedplate.models.logistic:Logistic"


class RetrievalConfig(ModelConfig, frozen=True, forbid_unknown_fields=True):
    """What the configs of models for retrieval have, which give requests and candidates vectors of one space.

    An input of the candidate may depend on the candidate's entity alone: its vectors are computed ahead.
    """

    metrics: ClassVar[tuple[str, ...]] = ("request_auc",)


class TwoTowerConfig(RetrievalConfig, frozen=True, forbid_unknown_fields=True):
    """Choices of a `TwoTower`.

    Candidates whose label is above 0 are the request's positives.

    Attributes:
        embedding: the width of a category's vector.
        layers: hidden widths of each tower.
        width: of the vectors.
        temperature: divides the cosine of two vectors.
        frequency_slots: a power of two; the size of the table that estimates how often a candidate is in a batch.
        frequency_rate: the weight of the newest gap in that estimate.
        dropout: after each hidden layer.
    """

    implemented_by: ClassVar[str | type] = "bedplate.models.two_tower:TwoTower"

    embedding: int = 16
    layers: tuple[int, ...] = (128,)
    width: int = 64
    temperature: float = 0.1
    frequency_slots: int = 65_536
    frequency_rate: float = 0.05
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Checks types and ranges.

        Raises:
            ConfigError: a value is of another type than its field, or out of its range.
        """
        place, slots = "TwoTowerConfig", self.frequency_slots
        super().__post_init__()
        check_least(self, "embedding width frequency_slots", 1, place)
        if slots & (slots - 1):
            raise ConfigError(f"frequency_slots is {slots}, expected a power of two", where=place)
        if not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature}, expected more than 0", where=place)
        if not 0 < self.frequency_rate <= 1:
            raise ConfigError(f"frequency_rate is {self.frequency_rate}, expected more than 0, at most 1", where=place)
        _check_layers(self.layers, self.dropout, place)


def _check_layers(layers: tuple[int, ...], dropout: float, place: str) -> None:
    if any(width < 1 for width in layers):
        raise ConfigError(f"layers is {layers}, expected widths of at least 1", where=place)
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout is {dropout}, expected at least 0 and below 1", where=place)
