"""Variance and standard deviation, at full precision whatever the mean and the range of the values.

A set of values is reduced to its count, its mean and the sum of squared deviations from the mean, which merge without
any subtraction of large sums: "Updating formulae and a pairwise algorithm for computing sample variances" (Chan, Golub,
LeVeque 1979). The mean has twice the digits of a float, so that the difference of two means has all of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from bedplate.aggregations.base import (
    ExpressionLike,
    Moments,
    OneInput,
    Output,
    Partial,
    Reduce,
    Reduction,
)
from bedplate.aggregations.window import WindowLike
from bedplate.batch import Column, Dense
from bedplate.errors import DefinitionError
from bedplate.types import Int64s, Type

_NUMBERS = (Type.INT, Type.FLOAT, Type.BOOL)


def merge_moments(
    count: Any, mean: Any, rest: Any, squares: Any, number: Any, other: Any, other_rest: Any, other_squares: Any
) -> Any:
    """The mean, its rest and the squared deviations of two disjoint sets of values, from those of each.

    Arithmetic alone, so that it is the formula of arrays and of compiled loops alike. A set of one value has that value
    as its mean and nothing else; an empty one has zeros. Sums that are to be exact are as in Knuth's theorem B (TAOCP
    2, 4.2.2).

    >>> [float(x) for x in merge_moments(1, 1e9, 0.0, 0.0, 1, 1e9 + 2, 0.0, 0.0)]
    [1000000001.0, 0.0, 2.0]
    """
    # The difference of the means, exact to twice the digits, then rounded.
    gap = other - mean
    part = gap + mean
    apart = gap + ((other - part) - (mean - (part - gap)) + (other_rest - rest))
    share = number / np.maximum(count + number, 1)
    step = apart * share
    total = mean + step
    part = total - mean
    low = (mean - (total - part)) + (step - part) + rest
    high = total + low
    return high, low - (high - total), squares + other_squares + apart * (step * count)


def moments(partial: Partial) -> Moments:
    """The partial as one of moments."""
    if not isinstance(partial, Moments):
        raise DefinitionError(f"got a {type(partial).__name__} partial, expected moments")
    return partial


class _Spread(OneInput):
    """What `Variance` and `StdDev` share.

    Where the squared deviations add up to more than the largest float, 1.8e308, both are null.

    Args:
        expression: the row expression: a number; integers beyond 2^53 are taken as the nearest float.
        windows: as for `Aggregation`.
        where: as for `Aggregation`.
        sample: whether the events are a sample, so that deviations are divided by one less than their number; else they
            are all there is.
    """

    __slots__ = ("sample",)

    def __init__(
        self,
        expression: ExpressionLike,
        windows: WindowLike | Sequence[WindowLike] | None = None,
        where: ExpressionLike | None = None,
        sample: bool = True,
    ) -> None:
        if not isinstance(sample, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"got sample={sample!r}, expected True or False", where=type(self).__name__)
        super().__init__(expression, windows, where)
        self.sample = sample

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """The moments."""
        return (Reduction(Reduce.MOMENTS, self.selection),)

    def outputs(self, types: Sequence[Type]) -> tuple[Output, ...]:
        """One float."""
        self.require(_NUMBERS, types[0])
        return (Output("", Type.FLOAT),)

    def options(self) -> Mapping[str, Any]:
        """Whether it is of a sample."""
        return {"sample": self.sample}

    @final
    def variance(self, partials: Sequence[Partial]) -> Dense:
        """The squared deviations over their number, or one less of it; null where they are no finite number."""
        partial = moments(partials[0])
        number = partial.counts - self.sample
        present = (number > 0) & np.isfinite(partial.squares)
        return Dense(np.where(present, partial.squares, 0.0) / np.maximum(number, 1), present)


@final
class Variance(_Spread):
    """The variance of a numeric expression. Fewer than two events, or none where `sample=False`: null.

    Where the squared deviations add up to more than a float can hold (values that differ by 1e154 and more): null.

    State: 4 words of 8 bytes a tile, or over all history; in history 1.6 bytes an event and the value itself.

    >>> Variance("price", windows="7d").outputs([Type.INT])[0].type
    <Type.FLOAT: 'float64'>
    """

    __slots__ = ()

    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        """The variance where there are enough events."""
        return (self.variance(partials),)


@final
class StdDev(_Spread):
    """The standard deviation of a numeric expression. Fewer than two events, or none where `sample=False`: null.

    As for `Variance` it is null where the squared deviations are beyond the range of a float.

    State: as for `Variance`.
    """

    __slots__ = ()

    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        """The root of the variance where there are enough events."""
        variance = self.variance(partials)
        return (Dense(np.sqrt(variance.values), variance.present),)
