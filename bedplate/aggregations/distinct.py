"""The exact number of different values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from bedplate.aggregations.arithmetic import scalar
from bedplate.aggregations.base import OneInput, Output, Partial, Reduce, Reduction
from bedplate.batch import Column, Dense
from bedplate.types import Int64s, Type


@final
class CountDistinct(OneInput):
    """The number of different values of an expression, exact. No event: 0.

    Online a key keeps each value once, with the time it was last seen: 16 bytes a value seen in the longest window.
    """

    __slots__ = ()

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """One distinct count."""
        return (Reduction(Reduce.DISTINCT, self.selection),)

    def outputs(self, types: Sequence[Type]) -> tuple[Output, ...]:
        """One integer."""
        self.require((Type.INT, Type.STRING, Type.BOOL, Type.TIME), types[0])
        return (Output("", Type.INT),)

    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        """The count, always present."""
        return (Dense(scalar(partials[0]).values),)
