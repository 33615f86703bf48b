"""Choosing an answer of scored candidates, position by position: diversity, quotas, exploration.

Each position looks at the candidates that are left and that the quotas allow. Their values are the scores, or with
diversity what is left of them beside those above; a policy takes one, without a policy the best. The probability of
each position is that of the candidate taken there, given those above: their product is that of the whole answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import final

import numpy as np

from bedplate.serving.diversity import Similarity
from bedplate.serving.exploration import Policy
from bedplate.types import Bools, Float32s, Float64s, Int64s


@final
@dataclass(frozen=True, slots=True)
class Chosen:
    """An answer.

    Attributes:
        order: [k] positions of candidates, the first one on top.
        propensities: [k] with which probability each was taken where it is, given those above.
        is_late: whether the time was over before all were chosen; the rest is in the order of the scores.
    """

    order: Int64s
    propensities: Float64s
    is_late: bool = False


@final
@dataclass(frozen=True, slots=True)
class Rules:
    """By what to choose.

    Attributes:
        similarity: of the candidates to one taken; None: no diversity.
        weight: of the similarity, from 0 to 1.
        quotas: of each, a number [n] for each candidate's value (-1: none) and how many of a value there may be.
        policy: takes one by the values; None: the best.
        best: among how many of the best the policy takes one; None: among all.
    """

    similarity: Similarity | None = None
    weight: float = 0.0
    quotas: Sequence[tuple[Int64s, int]] = ()
    policy: Policy | None = None
    best: int | None = None


def choose(
    scores: Float32s | Float64s,
    count: int,
    rules: Rules,
    rng: np.random.Generator | None = None,
    until: float | None = None,
) -> Chosen:
    """The best candidates by the rules.

    Candidates whose score is NaN or infinite come after all others, in their order.

    Args:
        scores: [n], larger is better.
        count: how many at most.
        rules: by what to choose.
        rng: draws for the policy.
        until: when to stop, of the monotonic clock; the rest then comes in the order of the scores, by the quotas.

    >>> choose(np.array([0.1, 0.9, 0.5]), 2, Rules(quotas=[(np.array([0, 1, 1]), 1)])).order.tolist()
    [1, 0]
    """
    state = _State(scores, rules)
    order: list[int] = []
    propensities: list[float] = []
    is_late = False
    while len(order) < count and not is_late:
        left = np.flatnonzero(state.left & state.scored)
        if not len(left):
            break
        if until is not None and monotonic() >= until:
            is_late = True
            break
        taken, probability = _take(left, state.values(left), rules, rng)
        order.append(taken)
        propensities.append(probability)
        state.take(taken)
    for candidate in state.by_score() if len(order) < count else ():
        if len(order) == count:
            break
        if state.left[candidate]:
            order.append(candidate)
            propensities.append(1.0)
            state.take(candidate)
    return Chosen(np.array(order, np.int64), np.array(propensities), is_late)


def _take(left: Int64s, values: Float64s, rules: Rules, rng: np.random.Generator | None) -> tuple[int, float]:
    """Which of the candidates is taken, and with which probability."""
    if rules.policy is None or rng is None:
        return int(left[np.argmax(values)]), 1.0
    if rules.best is not None and rules.best < len(left):
        best = np.sort(np.argsort(-values, kind="stable")[: rules.best])
        left, values = left[best], values[best]
    probabilities = rules.policy(values)
    edges: Float64s = np.cumsum(probabilities)
    drawn = np.array([rng.random() * float(edges[-1])])
    at = min(int(np.searchsorted(edges, drawn, side="right")[0]), len(left) - 1)
    return int(left[at]), float(probabilities[at])


@final
class _State:
    """What is left while an answer is chosen.

    Attributes:
        left: [n] which candidates may still be taken.
        scored: [n] which of them have a score.
    """

    __slots__ = ("_nearest", "_relevance", "_rules", "_scores", "_taken", "left", "scored")

    def __init__(self, scores: Float32s | Float64s, rules: Rules) -> None:
        self._rules = rules
        self._scores = np.asarray(scores, np.float64)
        self.scored: Bools = np.isfinite(self._scores)
        self._relevance = self._scores = np.where(self.scored, np.clip(self._scores, -1e30, 1e30), np.nan)
        if rules.similarity is not None and self.scored.any():
            low, high = float(self._scores[self.scored].min()), float(self._scores[self.scored].max())
            self._relevance = (self._scores - low) / (high - low) if high > low else np.zeros(len(scores))
        self.left: Bools = np.ones(len(scores), np.bool_)
        self._nearest: Float64s | None = None
        self._taken: list[dict[int, int]] = [{} for _ in rules.quotas]

    def values(self, left: Int64s) -> Float64s:
        """The values of candidates beside those that were taken."""
        if self._rules.similarity is None:
            return self._scores[left]
        weight = self._rules.weight
        relevance = (1.0 - weight) * self._relevance[left]
        return relevance if self._nearest is None else relevance - weight * self._nearest[left]

    def take(self, candidate: int) -> None:
        """This candidate is taken."""
        self.left[candidate] = False
        for (codes, most), taken in zip(self._rules.quotas, self._taken, strict=True):
            code = int(codes[candidate])
            if code >= 0:
                taken[code] = taken.get(code, 0) + 1
                if taken[code] == most:
                    self.left &= codes != code
        if self._rules.similarity is not None:
            similar = self._rules.similarity(candidate)
            self._nearest = similar if self._nearest is None else np.maximum(self._nearest, similar)

    def by_score(self) -> list[int]:
        """All candidates, the largest score first, those without one last."""
        return np.argsort(-self._scores, kind="stable").tolist()
