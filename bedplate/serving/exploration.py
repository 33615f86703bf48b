"""Exploration: the probabilities with which a policy takes each of the candidates left for the next position.

The position is then drawn by these very probabilities, so that the one in the answer is the one that was used.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from bedplate.serving.steps import Epsilon, Exploration, Softmax
from bedplate.types import Array, Float64s

Policy: TypeAlias = Callable[[Float64s], Float64s]
"""Of the values [m] of candidates, larger is better, the probability [m] of each to be taken; they sum to 1."""

_POINTS = 256
_BOUND = 8.0


def policy(definition: Exploration) -> tuple[Policy, int | None]:
    """The policy of a definition, and among how many of the best candidates it takes one; None: among all.

    >>> take, best = policy(Epsilon(0.5))
    >>> take(np.array([1.0, 3.0])).tolist(), best
    ([0.25, 0.75], None)
    """
    if isinstance(definition, Epsilon):
        return lambda values: epsilon(values, definition.probability), definition.best
    if isinstance(definition, Softmax):
        return lambda values: softmax(values, definition.temperature), definition.best
    return lambda values: thompson(values, definition.deviation), definition.best


def epsilon(values: Float64s, probability: float) -> Float64s:
    """The best, the first of those that are equal; any with a probability."""
    found = np.full(len(values), probability / len(values))
    found[np.argmax(values)] += 1.0 - probability
    return found


def softmax(values: Float64s, temperature: float) -> Float64s:
    """In proportion to exp(value / temperature).

    >>> softmax(np.array([0.0, 0.0, -1e9]), 1.0).tolist()
    [0.5, 0.5, 0.0]
    """
    powers = np.exp((values - values.max()) / temperature)
    return powers / powers.sum()


def thompson(values: Float64s, deviation: float) -> Float64s:
    """The probability that a candidate is the best after normal noise of a standard deviation was added to each value.

    P(i) is the integral over x of f((x - v_i) / s) / s times the product over j other than i of F((x - v_j) / s), f and
    F the normal density and distribution function; by the trapezoid rule on the part of x where the best one lies.

    >>> thompson(np.array([0.0, 0.0, -50.0]), 1.0).round(6).tolist()
    [0.5, 0.5, 0.0]
    """
    scaled: Float64s = (values - values.max()) / deviation
    x: Float64s = np.linspace(-_BOUND, _BOUND, _POINTS)
    z: Array = x[:, None] - scaled  # [points, m]; far out where a value is hopeless
    below: Array = np.interp(z, *_log_normal(), right=0.0)
    density: Array = np.exp(-0.5 * z * z + (below.sum(1, keepdims=True) - below))
    found: Float64s = density.sum(0)
    return found / found.sum()


@functools.cache
def _log_normal() -> tuple[Float64s, Float64s]:
    """A grid, and the logarithm of the normal distribution function on it."""
    grid: Float64s = np.linspace(-_BOUND, _BOUND, 4097)
    return grid, np.log(np.array([0.5 * math.erfc(-x / math.sqrt(2.0)) for x in grid.tolist()]))
