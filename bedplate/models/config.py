"""The configs of the models: pure data, so that a project's jobs are read without torch."""

from __future__ import annotations

import msgspec


class DCNConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Choices of a `DCN`.

    Attributes:
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

    label: str
    embedding: int = 16
    cross_layers: int = 2
    rank: int = 32
    attention: int = 16
    layers: tuple[int, ...] = (128, 64)
    dropout: float = 0.0
    correct_sampling: bool = False
    seed: int = 0


class LogisticConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Choices of a `Logistic`.

    Attributes:
        label: the binary label that it predicts.
        correct_sampling: learn the log-odds of the label without the sampling of negatives; see `models.binary`.
        seed: of the first weights.
    """

    label: str
    correct_sampling: bool = False
    seed: int = 0


class TwoTowerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Choices of a `TwoTower`.

    Attributes:
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

    label: str
    embedding: int = 16
    layers: tuple[int, ...] = (128,)
    width: int = 64
    temperature: float = 0.1
    frequency_slots: int = 65_536
    frequency_rate: float = 0.05
    dropout: float = 0.0
    seed: int = 0
