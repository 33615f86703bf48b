"""Boosted trees, whichever library grows them: bias, segments of rounds, and the sum of both as the score.

Rounds come in segments of `checkpoint_every`. A segment starts from the scores of all rounds before it, with random
numbers of its own: so a run that goes on from a checkpoint grows the trees that it would have grown without a pause,
and nothing of a library's inner state must be kept.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import numpy as np

from bedplate.errors import ConfigError, DataError, suggest
from bedplate.models.estimator import Estimator, Rows
from bedplate.models.estimators import BoostedConfig
from bedplate.models.forest import Forest, concatenated, forest_part
from bedplate.models.matrix import MatrixColumn, named
from bedplate.models.nodes import Part
from bedplate.process import check_per_core
from bedplate.types import Array, Float32s, Float64s

BLOCK_ROWS = 65_536
"""Rows that are scored at once; bounds memory."""


class Segment(Protocol):
    """Rounds that one booster of the library grows, or has grown."""

    @property
    def rounds(self) -> int:
        """How many it has."""
        ...

    def grow(self) -> bool:
        """Adds a round; False: no split gains anything any more."""
        ...

    def margins(self, matrix: Float32s, first: int, last: int) -> Float64s:
        """[N]: the sum of the trees of the rounds `[first, last)`."""
        ...

    def train_loss(self) -> float | None:
        """The log loss of the training rows; None where it is not known."""
        ...

    def content(self) -> bytes:
        """What `Boosted.read` makes the same rounds of again."""
        ...

    def forest(self, last: int) -> Forest:
        """The trees of the rounds before `last`."""
        ...


class Boosted(Estimator, ABC):
    """Boosted trees of a library, which implements `open`, `segment` and `read`.

    Attributes:
        config: the choices.
        bias: the score that every row begins with.
        kept: the segments of the model, and how many rounds of each.
    """

    config: BoostedConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: BoostedConfig, columns: tuple[MatrixColumn, ...]) -> None:
        super().__init__(config, columns)
        self.bias = 0.0
        self.kept: list[tuple[Segment, int]] = []

    def memory(self, rows: int) -> int:
        """Bytes that learning needs beside the matrix on disk: bins of two bytes, and some numbers a row."""
        return rows * (2 * len(self.columns) + 64)

    @abstractmethod
    def open(self, train: Rows) -> Any:
        """The library's own form of the training rows.

        Raises:
            ConfigError: the library knows no such parameter.
        """

    @abstractmethod
    def segment(self, data: Any, scores: Float64s, seed: int) -> Segment:
        """A segment without rounds, which starts from the training rows' scores [N].

        Args:
            data: of `open`.
            scores: of all rounds before, the bias and the correction of sampling among them.
            seed: of its random numbers.
        """

    @abstractmethod
    def read(self, content: bytes) -> Segment:
        """The segment that `Segment.content` gave; it does not grow."""

    def first_scores(self, rows: Rows) -> Float64s:
        """[N]: what training begins with: the bias, less `log q` where sampling is corrected."""
        return np.full(len(rows), self.bias) + self._offsets(rows.log_q, len(rows))

    def _offsets(self, log_q: Float32s | None, count: int) -> Float64s:
        if not self.config.correct_sampling:
            return np.zeros(count)
        if log_q is None:
            raise DataError(
                "correct_sampling needs the probability of each candidate, which the batch does not have",
                where="estimator",
                hint="give the dataset negatives, or set correct_sampling=False",
            )
        return -np.asarray(log_q, np.float64)

    def margins(self, matrix: Float32s) -> Float64s:
        """[N]: bias and trees summed: the log of the odds, or what orders candidates."""
        out = np.full(len(matrix), self.bias)
        for start in range(0, len(matrix), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            for segment, rounds in self.kept:
                out[block] += segment.margins(matrix[block], 0, rounds)
        return out

    def score(self, matrix: Float32s) -> Float64s:
        """[N]: the probability of the label; the margin itself for `lambdarank`."""
        return self.linked(self.margins(matrix))

    def judged(self, matrix: Float32s, log_q: Float32s | None) -> Float64s:
        """[N]: the same among candidates that were drawn, where sampling is corrected."""
        return self.linked(self.margins(matrix) + self._offsets(log_q, len(matrix)))

    def linked(self, margins: Float64s) -> Float64s:
        """[N]: margins as scores."""
        return margins if self.config.objective == "lambdarank" else logistic(margins)

    def part(self) -> Part:
        """The bias and the trees."""
        return forest_part(self._forest(), self.bias, probability=self.config.objective == "binary")

    def importance(self) -> Mapping[str, Mapping[str, float]]:
        """The gain of all splits by each column, and their number."""
        gains, splits = self._forest().importance(len(self.columns))
        return {"gain": named(gains, self.columns), "splits": named(splits, self.columns)}

    def _forest(self) -> Forest:
        return concatenated([segment.forest(rounds) for segment, rounds in self.kept])


def logistic(margins: Float64s) -> Float64s:
    """The probability of a log-odds.

    >>> logistic(np.array([0.0, -800.0])).tolist()
    [0.5, 0.0]
    """
    grown = np.exp(-np.abs(margins))
    return np.where(margins >= 0, 1.0, grown) / (1.0 + grown)


def bias_of(rows: Rows, offsets: Float64s) -> float:
    """The log-odds that with these offsets predict the mean label: the best model without a tree, by Newton's method.

    Raises:
        DataError: all labels are equal.

    >>> rows = Rows(np.zeros((4, 1), np.float32), np.float32([0, 0, 0, 1]), np.ones(4, np.float32), np.arange(4))
    >>> round(bias_of(rows, np.zeros(4)), 6) == round(math.log(1 / 3), 6)
    True
    """
    weights = rows.weights.astype(np.float64)
    mean = float((weights * rows.labels).sum() / max(weights.sum(), 1e-300))
    if not 0.0 < mean < 1.0:
        raise DataError(
            f"the label is {mean:g} in all {len(rows):,} training rows, expected both 0 and 1", where="estimator"
        )
    bias = math.log(mean / (1.0 - mean)) - float((weights * offsets).sum() / weights.sum())
    for _ in range(50):
        p = logistic(bias + offsets)
        step = float((weights * (rows.labels - p)).sum() / max((weights * p * (1.0 - p)).sum(), 1e-300))
        bias += max(-1.0, min(1.0, step))
        if abs(step) < 1e-12:
            break
    return bias


def require_known(params: Mapping[str, Any], known: frozenset[str], place: str) -> None:
    """Checks that the library knows other parameters.

    Raises:
        ConfigError: it does not know one; the nearest is named.
    """
    for name in params:
        if name not in known:
            raise ConfigError(
                f"the library has no parameter '{name}'", where=f"{place}: params", hint=suggest(name, known)
            )


def check_threads(params: Mapping[str, Any], names: Collection[str], place: str) -> None:
    """Checks that parameters do not ask for far more threads than there are cores.

    Args:
        params: of the library; a number may be text.
        names: of those that say how many threads there are.
        place: of the config.

    Raises:
        ConfigError: they do.
    """
    for name in names:
        try:
            count = int(float(params.get(name, 0)))
        except (OverflowError, TypeError, ValueError):
            continue  # what is no number the library judges
        check_per_core(count, f"'{name}'", f"{place}: params")


def group_sizes(rows: Rows) -> Array:
    """How many rows each request has, in order.

    Raises:
        DataError: no request has candidates of both labels, so that there is no order to learn.
    """
    starts = np.flatnonzero(np.concatenate(([True], rows.requests[1:] != rows.requests[:-1])))
    most, least = np.maximum.reduceat(rows.labels, starts), np.minimum.reduceat(rows.labels, starts)
    if not (most > least).any():
        raise DataError(
            f"none of {len(starts):,} requests has candidates of both labels, so that there is no order to learn",
            where="lambdarank",
            hint="give the dataset negatives, or take objective='binary'",
        )
    return np.diff(np.append(starts, len(rows)))
