"""Text for people: aligned tables, short numbers, times, and small charts of a row of values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bedplate.types import HOUR, MINUTE, SECOND, format_time

if TYPE_CHECKING:
    from bedplate.metrics.intervals import Estimate

_BARS = "▁▂▃▄▅▆▇█"
_GAP = "·"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Lines of columns that are as wide as their widest cell, two spaces apart.

    Args:
        headers: the name of each column.
        rows: the cells of each row.
        right: the columns that are aligned to the right (numbers).

    >>> print(table(["model", "versions"], [["ranker", "12"], ["tower", "3"]], right=[1]))
    MODEL   VERSIONS
    ranker        12
    tower          3
    """
    lines = [[header.upper() for header in headers], *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    columns = range(len(headers))
    aligned = (
        [line[i].rjust(widths[i]) if i in right else line[i].ljust(widths[i]) for i in columns] for line in lines
    )
    return "\n".join("  ".join(line).rstrip() for line in aligned)


def number(value: float | None) -> str:
    """At most six significant digits; null is a number that isn't one.

    >>> number(0.123456789), number(3.0), number(1234567.0), number(None)
    ('0.123457', '3', '1234567', 'nan')
    """
    if value is None or math.isnan(value):
        return "nan"
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def interval(estimate: Estimate) -> str:
    """A difference with its interval.

    >>> from bedplate.metrics.intervals import Estimate
    >>> interval(Estimate(0.5, 0.1, 0.3, 0.7, 9))
    '+0.50000 [+0.30000, +0.70000]'
    """
    return f"{estimate.mean:+.5f} [{estimate.low:+.5f}, {estimate.high:+.5f}]"


def moment(micros: int) -> str:
    """A time to the second, UTC.

    >>> moment(1323388800123456)
    '2011-12-09T00:00:00Z'
    """
    return format_time(micros - micros % SECOND)


def elapsed(micros: int) -> str:
    """A duration for people: two units at most.

    >>> elapsed(1_500_000), elapsed(95_000_000), elapsed(7_320_000_000)
    ('1.5s', '1m 35s', '2h 2m')
    """
    if micros < MINUTE:
        return f"{micros / SECOND:.1f}s"
    if micros < HOUR:
        return f"{micros // MINUTE}m {micros % MINUTE // SECOND}s"
    return f"{micros // HOUR}h {micros % HOUR // MINUTE}m"


def counted(counts: Sequence[tuple[int, str]]) -> str:
    """Numbers of things, those that are there.

    >>> counted([(1, "timeline"), (0, "column"), (12000, "reduction")])
    '1 timeline, 12,000 reductions'
    """
    return ", ".join(f"{n:,} {what}{'' if n == 1 else 's'}" for n, what in counts if n)


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """A row of bars from the lowest value to the highest; a dot where there is no number.

    Of more than `width` values, each bar shows the last of an equal share of them.

    >>> sparkline([4.0, 3.0, 2.0, 1.0]), sparkline([1.0, float("nan"), 2.0]), sparkline([5.0, 5.0])
    ('█▆▃▁', '▁·█', '▁▁')
    """
    count = min(width, len(values))
    shown = [values[(i + 1) * len(values) // count - 1] for i in range(count)]
    finite = [value for value in shown if math.isfinite(value)]
    low, span = min(finite, default=0.0), max(finite, default=0.0) - min(finite, default=0.0)
    top = len(_BARS) - 1
    return "".join(
        _BARS[round((value - low) / span * top) if span > 0 else 0] if math.isfinite(value) else _GAP for value in shown
    )


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Lines of a name and what it is, aligned.

    >>> print(facts([("run", "r1"), ("status", "finished")]))
    run     r1
    status  finished
    """
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name.ljust(width)}  {text}".rstrip() for name, text in rows)


def size(count: int) -> str:
    """Bytes for a person, in decimal units.

    >>> size(512), size(2_816_095), size(1_500_000_000)
    ('512 B', '2.8 MB', '1.5 GB')
    """
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
