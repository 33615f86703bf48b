"""Aggregations made of others: the ratio of two, and how often something happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast, final

import numpy as np

from bedplate.aggregations.arithmetic import scalar
from bedplate.aggregations.base import (
    Aggregation,
    ExpressionLike,
    Output,
    Partial,
    Reduce,
    Reduction,
)
from bedplate.aggregations.text import expression_text
from bedplate.aggregations.window import Window, WindowLike
from bedplate.batch import Column, Dense
from bedplate.errors import DefinitionError
from bedplate.types import Array, Bools, Int64s, Type, format_duration, parse_duration

_NUMBERS = (Type.INT, Type.FLOAT, Type.BOOL)


@final
class Ratio(Aggregation):
    """One aggregation over another, over the same windows: clicks over impressions, say. Either null, or over 0: null.

    So is one sum beyond the range of a float over another.

    State: that of both; what they share is kept once.

    Args:
        numerator: an aggregation that gives one number, without windows.
        denominator: the same.
        windows: as for `Aggregation`, for both.
        where: as for `Aggregation`: events for which it is not true count in neither.
        smoothing: `(a, b)` makes it `(numerator + a) / (denominator + b)`: with (1, 20) a rate of 5 % that weighs as
            much as 20 impressions stands in until there are more.

    >>> import polars as pl
    >>> from bedplate.aggregations.arithmetic import Count
    >>> Ratio(Count(where=pl.col("kind") == "click"), Count(), windows="7d", smoothing=(1, 20)).text
    'Ratio(Count() where col("kind") == "click" / Count(); smoothing=(1, 20))'
    """

    __slots__ = ("denominator", "numerator", "smoothing")

    def __init__(
        self,
        numerator: Aggregation,
        denominator: Aggregation,
        windows: WindowLike | Sequence[WindowLike] | None = None,
        where: ExpressionLike | None = None,
        smoothing: tuple[float, float] | None = None,
    ) -> None:
        for name, part in (("numerator", numerator), ("denominator", denominator)):
            if not isinstance(part, Aggregation):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise DefinitionError(
                    f"got the {name} {part!r}, expected an aggregation",
                    where="Ratio",
                    hint='for example Ratio(Sum("clicks"), Count(), windows="7d")',
                )
            if part.windows != (None,):
                raise DefinitionError(
                    f"the {name} has windows of its own, expected none", where="Ratio", hint="give them to the Ratio"
                )
        super().__init__([], windows, where)
        self.numerator, self.denominator = numerator, denominator
        self.smoothing = None if smoothing is None else _smoothing(smoothing)

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """Those of the numerator, then those of the denominator, of the events for which `where` is true too."""
        parts = (*self.numerator.reductions, *self.denominator.reductions)
        return tuple(
            Reduction(r.reduce, r.selection.narrowed(self.selection.where, "Ratio"), r.depth, r.half_life)
            for r in parts
        )

    @property
    def looks_back(self) -> bool:
        """Whether one of the two does."""
        return self.numerator.looks_back or self.denominator.looks_back

    def outputs(self, types: Sequence[Type]) -> tuple[Output, ...]:
        """One float."""
        known = dict(zip([str(s.form) for s in self.selections], self._split(types), strict=True))
        for name, part in (("numerator", self.numerator), ("denominator", self.denominator)):
            forms = [str(s.narrowed(self.selection.where, "Ratio").form) for s in part.selections]
            given = part.outputs([kind for form in forms for kind in known[form]])
            if len(given) != 1 or given[0].is_list or given[0].type not in _NUMBERS:
                shown = ", ".join(f"list of {o.type}" if o.is_list else o.type for o in given)
                raise DefinitionError(f"the {name} of a Ratio gives {shown}, expected one number")
        return (Output("", Type.FLOAT),)

    def _split(self, types: Sequence[Type]) -> list[Sequence[Type]]:
        """The types of the inputs of each selection."""
        result: list[Sequence[Type]] = []
        at = 0
        for selection in self.selections:
            result.append(types[at : at + len(selection.inputs)])
            at += len(selection.inputs)
        return result

    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        """The ratio where both are there and the denominator, smoothed, is not 0."""
        count = len(self.numerator.reductions)
        above, above_there = _number(self.numerator.finalize(partials[:count], times)[0])
        below, below_there = _number(self.denominator.finalize(partials[count:], times)[0])
        if self.smoothing is not None:
            above, below = above + self.smoothing[0], below + self.smoothing[1]
        present = (below != 0) & above_there & below_there
        with np.errstate(over="ignore", invalid="ignore"):  # of sums beyond the range of a float
            ratio = np.where(present, above, 0.0) / np.where(present, below, 1.0)
        is_number = ~np.isnan(ratio)
        return (Dense(np.where(is_number, ratio, 0.0), present & is_number),)

    def options(self) -> Mapping[str, Any]:
        """Both aggregations and the smoothing."""
        smoothing = None if self.smoothing is None else list(self.smoothing)
        return {"numerator": self.numerator.form(), "denominator": self.denominator.form(), "smoothing": smoothing}

    @property
    def text(self) -> str:
        """Both aggregations, each with its condition."""
        parts = " / ".join(
            p.text if p.selection.where is None else f"{p.text} where {expression_text(p.selection.where)}"
            for p in (self.numerator, self.denominator)
        )
        return f"Ratio({parts})" if self.smoothing is None else f"Ratio({parts}; smoothing={self.smoothing})"


def _smoothing(given: object) -> tuple[float, float]:
    pair = tuple(cast("Sequence[object]", given)) if isinstance(given, list | tuple) else ()
    numbers = [v for v in pair if isinstance(v, int | float) and not isinstance(v, bool) and np.isfinite(v)]
    if len(numbers) != 2 or len(pair) != 2:
        raise DefinitionError(
            f"got smoothing={given!r}, expected what is added to the numerator and to the denominator",
            where="Ratio",
            hint="for example smoothing=(1, 20)",
        )
    return numbers[0], numbers[1]


def _number(column: Column) -> tuple[Array, Bools]:
    """A column of numbers as floats, and which are there."""
    if not isinstance(column, Dense):
        raise DefinitionError(f"got a {type(column).__name__} column, expected numbers", where="Ratio")
    values = column.values.astype(np.float64)
    return values, np.ones(len(values), np.bool_) if column.present is None else column.present


@final
class Rate(Aggregation):
    """The number of events, or of those in which `expression` is not null, per unit of time. No event: 0.

    The unit is `per`; the time is what the window really covers, from `floor(t - w, hop)` to `t`: its length and up to
    one hop more. So the rate is right wherever in a hop the time asked for lies. A delay of the source takes nothing
    off that time, nor does a history that begins inside the window; an exact window counts at most its last `bound`
    events.

    State: 1 word of 8 bytes a tile; in history that of a count.

    Args:
        expression: what must not be null; None: every event counts.
        windows: one or more; a rate over all history has no length to divide by.
        where: as for `Aggregation`.
        per: the unit of time, such as `"1d"` for events a day.

    >>> Rate(windows="7d", per="1d").options()
    {'per': '1d'}
    """

    __slots__ = ("per",)

    def __init__(
        self,
        expression: ExpressionLike | None = None,
        windows: WindowLike | Sequence[WindowLike] | None = None,
        where: ExpressionLike | None = None,
        per: str = "1d",
    ) -> None:
        super().__init__([] if expression is None else [expression], windows, where)
        self.per = parse_duration(per, where="Rate: per", error=DefinitionError)
        if None in self.windows:
            raise DefinitionError(
                "got no windows, and all history has no length to divide by",
                where="Rate",
                hint='for example Rate(windows="7d", per="1d")',
            )

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """One count."""
        return (Reduction(Reduce.COUNT, self.selection),)

    def over(self, window: Window | None) -> Aggregation:
        """The rate over that window alone: it divides by its length."""
        if window is None:
            return self
        inputs = self.selection.inputs
        return Rate(inputs[0] if inputs else None, window, self.selection.where, format_duration(self.per))

    def outputs(self, types: Sequence[Type]) -> tuple[Output, ...]:
        """One float; any input type is accepted."""
        return (Output("", Type.FLOAT),)

    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        """The count over the time covered, always present; of a rate over one window, see `over`."""
        window = self.windows[0]
        if window is None or len(self.windows) > 1:
            raise DefinitionError(f"got {len(self.windows)} windows, expected one", where="Rate")
        starts = times - window.length
        if window.hop:
            starts = starts - starts % window.hop
        return (Dense(scalar(partials[0]).values * self.per / (times - starts)),)

    def options(self) -> Mapping[str, Any]:
        """The unit of time."""
        return {"per": format_duration(self.per)}
