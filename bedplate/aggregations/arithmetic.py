"""Counts, sums and means: a window is the difference of two prefix sums in history, a sum of tiles online."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np

from bedplate.aggregations.base import (
    Aggregation,
    ExpressionLike,
    Finish,
    OneInput,
    Output,
    Partial,
    Reduce,
    Reduction,
    Scalar,
)
from bedplate.aggregations.window import WindowLike
from bedplate.batch import Column, Dense
from bedplate.errors import DefinitionError
from bedplate.types import Int64s, Type

_NUMBERS = (Type.INT, Type.FLOAT, Type.BOOL)


def scalar(partial: Partial) -> Scalar:
    """The partial as a scalar one, which counts, sums and extremes are."""
    if not isinstance(partial, Scalar):
        raise DefinitionError(f"got a {type(partial).__name__} partial, expected a scalar one")
    return partial


@final
class Count(Aggregation):
    """The number of events, or of events in which `expression` is not null. No event: 0.

    >>> Count(windows="7d").form()["windows"]
    [{'length': 604800000000, 'hop': 3600000000, 'bound': None}]
    """

    __slots__ = ()

    finish = Finish.NUMBER

    def __init__(
        self,
        expression: ExpressionLike | None = None,
        windows: WindowLike | Sequence[WindowLike] | None = None,
        where: ExpressionLike | None = None,
    ) -> None:
        super().__init__([] if expression is None else [expression], windows, where)

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """One count."""
        return (Reduction(Reduce.COUNT, self.selection),)

    def outputs(self, types: Sequence[Type]) -> tuple[Output, ...]:
        """One integer; any input type is accepted."""
        return (Output("", Type.INT),)

    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        """The count, always present."""
        return (Dense(scalar(partials[0]).values),)


@final
class Sum(OneInput):
    """The sum of a numeric expression: exact for integers, float64 for floats. No event: 0.

    >>> Sum("quantity", windows=["1d", "7d"]).outputs([Type.INT])
    (Output(suffix='', type=<Type.INT: 'int64'>, is_list=False),)
    """

    __slots__ = ()

    finish = Finish.NUMBER

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """One sum."""
        return (Reduction(Reduce.SUM, self.selection),)

    def outputs(self, types: Sequence[Type]) -> tuple[Output, ...]:
        """A float for a float, else an integer."""
        self.require(_NUMBERS, types[0])
        return (Output("", Type.FLOAT if types[0] is Type.FLOAT else Type.INT),)

    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        """The sum, always present."""
        return (Dense(scalar(partials[0]).values),)


@final
class Mean(OneInput):
    """The mean of a numeric expression over the events in which it is not null. No such event: null."""

    __slots__ = ()

    finish = Finish.RATIO

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """A sum and a count."""
        return (Reduction(Reduce.SUM, self.selection), Reduction(Reduce.COUNT, self.selection))

    def outputs(self, types: Sequence[Type]) -> tuple[Output, ...]:
        """One float."""
        self.require(_NUMBERS, types[0])
        return (Output("", Type.FLOAT),)

    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        """Sum over count where the count is above zero."""
        total, count = scalar(partials[0]).values, scalar(partials[1]).values
        return (Dense(total / np.maximum(count, 1), count > 0),)
