"""How sure a mean over requests is, and whether one model is better than another on the same requests."""

from __future__ import annotations

from typing import final

import msgspec
import numpy as np

from bedplate.errors import DataError
from bedplate.types import Array, Float64s

_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""What Student's t stays below 97.5 times of 100, with 1, 2, ... degrees of freedom."""


@final
class Estimate(msgspec.Struct, frozen=True):
    """A mean with its standard error and confidence interval, over `count` requests."""

    mean: float
    error: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        """The mean and the interval."""
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def mean_interval(values: Array, confidence: float = 0.95) -> Estimate:
    """The mean of independent values, with `error = sd / sqrt(n)` (sd with n - 1) and the normal interval.

    Raises:
        DataError: fewer than two values, or one that is not finite.

    >>> mean_interval(np.array([0.0, 1.0, 1.0, 0.0])).error.__round__(4)
    0.2887
    """
    x = _checked(values)
    _check_confidence(confidence)
    mean, error = float(x.mean()), float(x.std(ddof=1)) / len(x) ** 0.5
    reach = _normal_below(0.5 + confidence / 2) * error
    return Estimate(mean, error, mean - reach, mean + reach, len(x))


def paired_difference(
    first: Array, second: Array, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """The mean of `first - second` over the same requests, with the percentile bootstrap over requests.

    Efron and Tibshirani 1993, chapter 13. An interval without 0 says that the two differ. `error` is the standard
    deviation of the resampled means.

    Args:
        first: [n], one value a request.
        second: [n], of the same requests in the same order.
        confidence: the share of resampled means within the interval.
        resamples: how often the requests are drawn again.
        seed: of the draws.

    Raises:
        DataError: different lengths, fewer than two values, or one that is not finite.

    >>> d = paired_difference(np.array([1.0, 0.8, 0.9]), np.array([0.5, 0.5, 0.5]))
    >>> round(d.mean, 3), d.low > 0
    (0.4, True)
    """
    if len(first) != len(second):
        raise DataError(f"got {len(first)} and {len(second)} values, expected pairs", where="metrics")
    x = _checked(np.asarray(first, np.float64) - np.asarray(second, np.float64))
    _check_confidence(confidence)
    if resamples < 2:
        raise DataError(f"got {resamples} resamples, expected at least 2", where="metrics")
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [x[rng.integers(0, len(x), (size, len(x)))].mean(axis=1) for size in _chunks(resamples, len(x))]
    )
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(float(x.mean()), float(means.std(ddof=1)), float(low), float(high), len(x))


def two_apart(values: Array) -> float:
    """How far two more values like these lie apart at most, 95 times of 100, where they are normally distributed.

    Their spread is known from these values alone: of few values it may be much larger than they show, by Student's t.

    Args:
        values: [n], independent of each other.

    Raises:
        DataError: fewer than two values, or one that is not finite.

    >>> [round(two_apart(np.array([0.0, 1.0] * n)), 1) for n in (1, 2, 50)]
    [12.7, 2.6, 1.4]
    """
    x = _checked(values)
    free = len(x) - 1
    z = _normal_below(0.975)
    # Beyond the table the expansion in powers of 1 / free is right to three digits (Abramowitz and Stegun 26.7.5).
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return (_T[free - 1] if free <= len(_T) else t) * 2**0.5 * float(x.std(ddof=1))


def _chunks(resamples: int, width: int) -> list[int]:
    """Resamples in parts of at most about 32 MB of draws."""
    size = max(1, 4_000_000 // width)
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def _normal_below(probability: float) -> float:
    """What a normal variable stays below with a probability."""
    from statistics import NormalDist  # of no use to a server, which loads what defines jobs too

    return NormalDist().inv_cdf(probability)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise DataError(f"got the confidence {confidence}, expected above 0 and below 1", where="metrics")


def _checked(values: Array) -> Float64s:
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
        raise DataError(f"got values of shape {x.shape}, expected at least two finite numbers", where="metrics")
    return x
