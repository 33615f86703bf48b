"""Smallest and largest value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from bedplate.aggregations.arithmetic import scalar
from bedplate.aggregations.base import OneInput, Output, Partial, Reduce, Reduction
from bedplate.batch import Column, Dense
from bedplate.types import Int64s, Type

_ORDERED = (Type.INT, Type.FLOAT, Type.TIME)


class _Extreme(OneInput):
    """What `Min` and `Max` share: one reduction of one ordered input, null without an event."""

    __slots__ = ()

    reduce: Reduce

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """One extreme."""
        return (Reduction(self.reduce, self.selection),)

    def outputs(self, types: Sequence[Type]) -> tuple[Output, ...]:
        """The type of the input."""
        self.require(_ORDERED, types[0])
        return (Output("", types[0]),)

    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        """The extreme where there was an event."""
        partial = scalar(partials[0])
        return (Dense(partial.values, partial.present),)


@final
class Min(_Extreme):
    """The smallest value of an expression. No event: null."""

    __slots__ = ()
    reduce = Reduce.MIN


@final
class Max(_Extreme):
    """The largest value of an expression. No event: null."""

    __slots__ = ()
    reduce = Reduce.MAX
