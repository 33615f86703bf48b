"""A chart as plain data: lines of points with their axes, which `svg` writes to a file and the terminal draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import msgspec


@final
class Line(msgspec.Struct, frozen=True):
    """Points in ascending x, joined; those that are no numbers are gaps.

    Attributes:
        name: for the legend.
        x: [n].
        y: [n].
        low: [n], the lower end of each point's interval; empty: none.
        high: [n], the upper end.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()

    def points(self) -> list[tuple[float, float]]:
        """The points that are numbers."""
        return [(x, y) for x, y in zip(self.x, self.y, strict=True) if math.isfinite(x) and math.isfinite(y)]


@final
class Chart(msgspec.Struct, frozen=True):
    """Lines over one pair of axes.

    Attributes:
        title: what it shows.
        x_label: of the horizontal axis.
        y_label: of the vertical axis.
        lines: what is drawn, the most important first.
        diagonal: whether to draw where y is x.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    diagonal: bool = False

    def bounds(self) -> tuple[float, float, float, float]:
        """The least and greatest x and y of all points and intervals, never an empty range."""
        xs = [x for line in self.lines for x, _ in line.points()]
        ys = [y for line in self.lines for _, y in line.points()]
        ys += [e for line in self.lines for e in (*line.low, *line.high) if math.isfinite(e)]
        if self.diagonal:
            xs = ys = [*xs, *ys]
        return (*_range(xs), *_range(ys))


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low == high:
        reach = abs(low) * 0.05 or 0.5
        return low - reach, high + reach
    return low, high


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers within a range, at steps of 1, 2 or 5 times a power of ten.

    >>> ticks(0.13, 0.92), ticks(0, 2400)
    ([0.2, 0.4, 0.6, 0.8], [0.0, 500.0, 1000.0, 1500.0, 2000.0])
    """
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next((m * power for m in (1, 2, 5, 10) if span / (m * power) <= most), 10 * power)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [round(i * step, digits) for i in range(first, last + 1)]


def tick_text(value: float) -> str:
    """A tick for a person: no more digits than it has.

    >>> tick_text(0.30000000000000004), tick_text(1500.0), tick_text(2_000_000.0)
    ('0.3', '1500', '2e+06')
    """
    return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.3g}"
