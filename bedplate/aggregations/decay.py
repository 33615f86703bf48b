"""Exponentially decayed counts, sums and means: what an event adds is halved by every half-life after it.

The value at `t` is the sum of `x * 2 ** (-(t - time) / half_life)` over the events that count. A set of events is
reduced to that sum as of its last event, never later than that: so the numbers neither overflow nor vanish, however
many half-lives a history is long. Two sets merge by the older one decaying to the time of the newer one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from bedplate.aggregations.base import (
    Aggregation,
    Decayed,
    ExpressionLike,
    Output,
    Partial,
    Reduce,
    Reduction,
)
from bedplate.aggregations.window import WindowLike
from bedplate.batch import Column, Dense
from bedplate.errors import DefinitionError
from bedplate.types import Array, Int64s, Type, format_duration, parse_duration

_NUMBERS = (Type.INT, Type.FLOAT, Type.BOOL)


def decay(values: Any, elapsed: Any, half_life: Any) -> Any:
    """Values after so much time, both in microseconds; arithmetic alone, for arrays and compiled loops alike.

    >>> decay(8.0, 20, 10)
    2.0
    """
    return values * 2.0 ** (-(elapsed / half_life))


def decayed(partial: Partial) -> Decayed:
    """The partial as a decayed one."""
    if not isinstance(partial, Decayed):
        raise DefinitionError(f"got a {type(partial).__name__} partial, expected a decayed one")
    return partial


class _Decaying(Aggregation):
    """What the decayed aggregations share.

    Args:
        inputs: the row expressions.
        windows: as for `Aggregation`: what is before the window adds nothing.
        where: as for `Aggregation`.
        half_life: how long it takes for an event to count half, such as `"7d"`.

    Attributes:
        half_life: microseconds.
    """

    __slots__ = ("half_life",)

    def __init__(
        self,
        inputs: Sequence[ExpressionLike],
        windows: WindowLike | Sequence[WindowLike] | None,
        where: ExpressionLike | None,
        half_life: str,
    ) -> None:
        super().__init__(inputs, windows, where)
        self.half_life = parse_duration(half_life, where=f"{type(self).__name__}: half_life", error=DefinitionError)

    @property
    @final
    def looks_back(self) -> bool:
        """It does: what is in the future has not begun to decay."""
        return True

    @final
    def reduction(self, reduce: Reduce) -> Reduction:
        """A decayed reduction of the inputs."""
        return Reduction(reduce, self.selection, half_life=self.half_life)

    @final
    def now(self, partial: Partial, times: Int64s) -> Array:
        """The decayed sum [n] at the times asked for."""
        known = decayed(partial)
        elapsed = np.where(known.values == 0, 0, times - known.times)
        return decay(known.values, elapsed, self.half_life)

    @final
    def options(self) -> Mapping[str, Any]:
        """The half-life."""
        return {"half_life": format_duration(self.half_life)}


@final
class DecayedCount(_Decaying):
    """The number of events, each counting half as much after every half-life. No event: 0.

    State: 2 words of 8 bytes a tile, or over all history; in history half a byte an event. About 1,070 half-lives after
    the last event it is 0.

    >>> DecayedCount(half_life="7d").options()
    {'half_life': '7d'}
    """

    __slots__ = ()

    def __init__(
        self,
        expression: ExpressionLike | None = None,
        windows: WindowLike | Sequence[WindowLike] | None = None,
        where: ExpressionLike | None = None,
        *,
        half_life: str,
    ) -> None:
        super().__init__([] if expression is None else [expression], windows, where, half_life)

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """One decayed count."""
        return (self.reduction(Reduce.DECAYED_COUNT),)

    def outputs(self, types: Sequence[Type]) -> tuple[Output, ...]:
        """One float; any input type is accepted."""
        return (Output("", Type.FLOAT),)

    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        """The count as of the times, always present."""
        return (Dense(self.now(partials[0], times)),)


class _DecayedNumber(_Decaying):
    """A decaying aggregation of one numeric expression."""

    __slots__ = ()

    def __init__(
        self,
        expression: ExpressionLike,
        windows: WindowLike | Sequence[WindowLike] | None = None,
        where: ExpressionLike | None = None,
        *,
        half_life: str,
    ) -> None:
        super().__init__([expression], windows, where, half_life)

    @final
    def outputs(self, types: Sequence[Type]) -> tuple[Output, ...]:
        """One float."""
        self.require(_NUMBERS, types[0])
        return (Output("", Type.FLOAT),)


@final
class DecayedSum(_DecayedNumber):
    """The sum of a numeric expression, each event adding half as much after every half-life. No event: 0.

    State: as for `DecayedCount`.
    """

    __slots__ = ()

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """One decayed sum."""
        return (self.reduction(Reduce.DECAYED_SUM),)

    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        """The sum as of the times, always present."""
        return (Dense(self.now(partials[0], times)),)


@final
class DecayedMean(_DecayedNumber):
    """The mean of a numeric expression, each event weighing half as much after every half-life. No event: null.

    Only how far apart events are matters, so it does not change while nothing happens, and never vanishes. State: that
    of a `DecayedSum` and a `DecayedCount`.
    """

    __slots__ = ()

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """A decayed sum and a decayed count."""
        return self.reduction(Reduce.DECAYED_SUM), self.reduction(Reduce.DECAYED_COUNT)

    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        """Sum over count as of the last event, where there is one."""
        total, count = decayed(partials[0]), decayed(partials[1])
        present = count.values > 0
        elapsed = np.where(present & (total.values != 0), count.times - total.times, 0)
        sums = decay(total.values, elapsed, self.half_life)
        return (Dense(sums / np.where(present, count.values, 1.0), present),)
