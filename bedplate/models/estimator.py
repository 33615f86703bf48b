"""The contract of an estimator: a model of another library than torch, which learns from one matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from bedplate.metrics.report import BINARY_METRICS, binary_report, ranking_report
from bedplate.models.estimators import EstimatorConfig
from bedplate.models.matrix import MatrixColumn
from bedplate.models.nodes import Part
from bedplate.models.prediction import Prediction
from bedplate.types import Float32s, Float64s, Int64s


@final
@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a source in which the label is known.

    Attributes:
        matrix: [N, columns] float32, C-contiguous; it may be mapped from a file.
        labels: [N] float32, 0 or 1.
        weights: [N] float32.
        requests: [N] int64, equal for the candidates of one request, ascending.
        log_q: [N] float32, the log of the probability with which each candidate was drawn; None: not known.
    """

    matrix: Float32s
    labels: Float32s
    weights: Float32s
    requests: Int64s
    log_q: Float32s | None = None

    def __len__(self) -> int:
        """N."""
        return len(self.labels)


class Estimator(ABC):
    """A model of a binary label that learns from one matrix, a row a candidate.

    An estimator is a class with a `Config`, whose constructor takes a config and the columns of the matrix. A job that
    is given the config trains it: `fit` once, then `score` and `part`.

    Attributes:
        Config: all choices, a subclass of `models.estimators.EstimatorConfig`.
        library: the name of the distribution whose version a checkpoint is of.
        config: the choices of this one.
        columns: of the matrix.
    """

    Config: ClassVar[type[EstimatorConfig]]
    library: ClassVar[str] = "scikit-learn"

    def __init__(self, config: EstimatorConfig, columns: tuple[MatrixColumn, ...]) -> None:
        self.config = config
        self.columns = columns

    def __init_subclass__(cls, **options: Any) -> None:
        """Lets the class's own `Config` say which estimator it is of."""
        super().__init_subclass__(**options)
        config = cls.__dict__.get("Config")
        if config is not None and not config.__dict__.get("implemented_by"):
            config.implemented_by = cls

    def memory(self, rows: int) -> int:
        """Bytes that learning needs beside the matrix on disk: in float64 unless an estimator says else."""
        return rows * len(self.columns) * np.dtype(np.float64).itemsize

    @abstractmethod
    def score(self, matrix: Float32s) -> Float64s:
        """[N]: what the served graph gives, such as the probability of the label."""

    @abstractmethod
    def part(self) -> Part:
        """The nodes of the graph from `artifact.MATRIX` to `artifact.SCORE`, which computes what `score` does."""

    def judged(self, matrix: Float32s, log_q: Float32s | None) -> Float64s:
        """[N]: the scores that `metrics` gets, of candidates that were drawn; `score` unless an estimator says else."""
        return self.score(matrix)

    def loss(self, prediction: Prediction) -> float:
        """What a validation reports as `loss`: the weighted log loss, or 1 - NDCG where there are no probabilities."""
        found = self.metrics(prediction)
        return found["log_loss"] if "log_loss" in found else 1.0 - found["ndcg"]

    def metrics(self, prediction: Prediction) -> dict[str, float]:
        """What a validation reports, by name."""
        report = binary_report if self.config.reported() == BINARY_METRICS else ranking_report
        return report(*prediction.of(self.config.label))

    def importance(self) -> Mapping[str, Mapping[str, float]]:
        """How much each column counts, by the measure's name and the column's, largest first; empty: not known."""
        return {}


class Fitted(Estimator, ABC):
    """An estimator that learns in one step."""

    @abstractmethod
    def fit(self, train: Rows, validation: Rows) -> None:
        """Learns from the training rows; the validation rows may say when to stop.

        Raises:
            DataError: there is nothing to learn from, or not enough memory.
            ConfigError: the library refuses a parameter.
        """
