"""The configs of the models: pure data, so that a project's jobs are read without torch."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from bedplate.errors import ConfigError
from bedplate.features.checks import check_least, check_types
from bedplate.metrics.report import BINARY_METRICS


class DCNConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Choices of a `DCN`.

    Attributes:
        needs_binary: whether the label must be one of 0 and 1.
        metrics: the names of what its validation reports beside the loss.
        label: the binary label that it predicts.
        embedding: the width of a category's vector.
        cross_layers: how many crosses; the degree of the highest is one more.
        rank: of the cross matrices; 0 for full ones.
        attention: the width of queries, keys and values.
        layers: widths of the deep part, which runs beside the crosses.
        dropout: after each layer of the deep part.
        correct_sampling: learn the log-odds of the label without the sampling of negatives; see `models.binary`.
        seed: of the first weights.
    """

    needs_binary: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = BINARY_METRICS

    label: str
    embedding: int = 16
    cross_layers: int = 2
    rank: int = 32
    attention: int = 16
    layers: tuple[int, ...] = (128, 64)
    dropout: float = 0.0
    correct_sampling: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks types and ranges.

        Raises:
            ConfigError: a value is of another type than its field, or out of its range.
        """
        _check(self, "DCNConfig")
        check_least(self, "embedding cross_layers attention", 1, "DCNConfig")
        check_least(self, "rank", 0, "DCNConfig")
        if not self.layers:
            raise ConfigError("got no layers, expected at least one", where="DCNConfig")
        _check_layers(self.layers, self.dropout, "DCNConfig")


class LogisticConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Choices of a `Logistic`.

    Attributes:
        needs_binary: whether the label must be one of 0 and 1.
        metrics: the names of what its validation reports beside the loss.
        label: the binary label that it predicts.
        correct_sampling: learn the log-odds of the label without the sampling of negatives; see `models.binary`.
        seed: of the first weights.
    """

    needs_binary: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = BINARY_METRICS

    label: str
    correct_sampling: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the types.

        Raises:
            ConfigError: a value is of another type than its field, or the label has no name.
        """
        _check(self, "LogisticConfig")


class TwoTowerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Choices of a `TwoTower`.

    Attributes:
        needs_binary: whether the label must be one of 0 and 1.
        metrics: the names of what its validation reports beside the loss.
        label: candidates where it is above 0 are the request's positives.
        embedding: the width of a category's vector.
        layers: hidden widths of each tower.
        width: of the vectors.
        temperature: divides the cosine of two vectors.
        frequency_slots: a power of two; the size of the table that estimates how often a candidate is in a batch.
        frequency_rate: the weight of the newest gap in that estimate.
        dropout: after each hidden layer.
        seed: of the first weights.
    """

    needs_binary: ClassVar[bool] = False
    metrics: ClassVar[tuple[str, ...]] = ("request_auc",)

    label: str
    embedding: int = 16
    layers: tuple[int, ...] = (128,)
    width: int = 64
    temperature: float = 0.1
    frequency_slots: int = 65_536
    frequency_rate: float = 0.05
    dropout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks types and ranges.

        Raises:
            ConfigError: a value is of another type than its field, or out of its range.
        """
        place, slots = "TwoTowerConfig", self.frequency_slots
        _check(self, place)
        check_least(self, "embedding width frequency_slots", 1, place)
        if slots & (slots - 1):
            raise ConfigError(f"frequency_slots is {slots}, expected a power of two", where=place)
        if not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature}, expected more than 0", where=place)
        if not 0 < self.frequency_rate <= 1:
            raise ConfigError(f"frequency_rate is {self.frequency_rate}, expected more than 0, at most 1", where=place)
        _check_layers(self.layers, self.dropout, place)


def _check(config: DCNConfig | LogisticConfig | TwoTowerConfig, place: str) -> None:
    check_types(config, place)
    check_least(config, "seed", 0, place)
    if not config.label:
        raise ConfigError("got no label, expected the name of one", where=place)


def _check_layers(layers: tuple[int, ...], dropout: float, place: str) -> None:
    if any(width < 1 for width in layers):
        raise ConfigError(f"layers is {layers}, expected widths of at least 1", where=place)
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout is {dropout}, expected at least 0 and below 1", where=place)
