"""Charts as SVG files (https://www.w3.org/TR/SVG11): no library, readable on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape

from bedplate.metrics.chart import Chart, Line, tick_text, ticks

WIDTH, HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 20, 66, 56
_LIGHT = ("#0072b2", "#d55e00", "#009e73", "#a6488a")
_DARK = ("#56b4e9", "#ffa65c", "#3fd3a6", "#e7a0cf")
_DOTS = 40
"""Lines of up to so many points show them."""

_Place = Callable[[float], float]


def svg(chart: Chart) -> str:
    """The text of an SVG file. Colours are those of Okabe and Ito (2008), which can be told apart by all."""
    low_x, high_x, low_y, high_y = chart.bounds()
    pad = (high_y - low_y) * 0.05

    def x_of(value: float) -> float:
        return round(_LEFT + (value - low_x) / (high_x - low_x) * (WIDTH - _LEFT - _RIGHT), 2)

    def y_of(value: float) -> float:
        return round(
            HEIGHT - _BOTTOM - (value - low_y + pad) / (high_y - low_y + 2 * pad) * (HEIGHT - _TOP - _BOTTOM), 2
        )

    body = [
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(_LEFT, 26, chart.title, "title", size=16, weight="600"),
        *_grid(chart, (low_x, high_x), (low_y - pad, high_y + pad), x_of, y_of),
        *_legend([line.name for line in chart.lines]),
    ]
    if chart.diagonal:
        start, end = max(low_x, low_y), min(high_x, high_y)
        places = (x_of(start), y_of(start), x_of(end), y_of(end))
        body.append(_stroke("axis", "#6b6b6b", *places, dash="5 4"))
    for i, line in reversed(list(enumerate(chart.lines))):
        body += _line(line, i, x_of, y_of)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    label = escape(chart.title, quote=True)
    return "\n".join([f'{head} role="img" aria-label="{label}">', _style(), *body, "</svg>"]) + "\n"


def _style() -> str:
    colours = [f".line{i}{{stroke:{c}}}.dot{i}{{fill:{c}}}.name{i}{{fill:{c}}}" for i, c in enumerate(_DARK)]
    dark = ".page{fill:#15181c}.title,.label,.tick{fill:#e3e5e8}.grid{stroke:#32373d}.axis{stroke:#9aa0a6}"
    return (
        "<style>text{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}"
        f"@media (prefers-color-scheme: dark){{{dark}{''.join(colours)}}}</style>"
    )


def _grid(chart: Chart, xs: tuple[float, float], ys: tuple[float, float], x_of: _Place, y_of: _Place) -> Iterator[str]:
    left, right, top, bottom = _LEFT, WIDTH - _RIGHT, _TOP, HEIGHT - _BOTTOM
    for tick in ticks(*ys):
        yield _stroke("grid", "#e2e4e7", left, y_of(tick), right, y_of(tick))
        yield _text(left - 8, y_of(tick) + 4, tick_text(tick), "tick", anchor="end")
    for tick in ticks(*xs, most=8):
        yield _stroke("axis", "#6b6b6b", x_of(tick), bottom, x_of(tick), bottom + 5)
        yield _text(x_of(tick), bottom + 20, tick_text(tick), "tick", anchor="middle")
    yield _stroke("axis", "#6b6b6b", left, bottom, right, bottom)
    yield _stroke("axis", "#6b6b6b", left, top, left, bottom)
    yield _text((left + right) / 2, HEIGHT - 12, chart.x_label, "label", anchor="middle")
    middle = (top + bottom) / 2
    turned = f' transform="rotate(-90 18 {middle})"'
    yield _text(18, middle, chart.y_label, "label", anchor="middle", more=turned)


def _legend(names: Sequence[str]) -> Iterator[str]:
    if len(names) < 2:
        return
    at = float(_LEFT)
    for i, name in enumerate(names):
        colour = _LIGHT[i % len(_LIGHT)]
        yield _stroke(f"line{i % len(_LIGHT)}", colour, at, 45, at + 18, 45, width=3)
        yield _text(at + 24, 49, name, f"name{i % len(_LIGHT)}", fill=colour)
        at += 44 + 7.2 * len(name)


def _line(line: Line, i: int, x_of: _Place, y_of: _Place) -> Iterator[str]:
    colour, kind = _LIGHT[i % len(_LIGHT)], i % len(_LIGHT)
    for x, low, high in zip(line.x, line.low, line.high, strict=False):
        if math.isfinite(low) and math.isfinite(high):
            yield _stroke(f"line{kind}", colour, x_of(x), y_of(low), x_of(x), y_of(high))
    for run in _runs(line):
        points = " ".join(f"{x_of(x)},{y_of(y)}" for x, y in run)
        yield (
            f'<polyline class="line{kind}" points="{points}" fill="none" stroke="{colour}" stroke-width="2" '
            'stroke-linejoin="round"/>'
        )
        if len(line.x) <= _DOTS or len(run) == 1:
            yield from (
                f'<circle class="dot{kind}" cx="{x_of(x)}" cy="{y_of(y)}" r="3" fill="{colour}"/>' for x, y in run
            )


def _runs(line: Line) -> Iterator[list[tuple[float, float]]]:
    """The points between gaps."""
    run: list[tuple[float, float]] = []
    for x, y in zip(line.x, line.y, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            run.append((x, y))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _stroke(
    kind: str, colour: str, x1: float, y1: float, x2: float, y2: float, width: float = 1, dash: str = ""
) -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    ends = f'x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"'
    return f'<line class="{kind}" {ends} stroke="{colour}" stroke-width="{width}"{dashes}/>'


def _text(
    x: float,
    y: float,
    text: str,
    kind: str,
    *,
    size: int = 12,
    anchor: str = "start",
    weight: str = "400",
    fill: str = "#24292f",
    more: str = "",
) -> str:
    return (
        f'<text class="{kind}" x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{fill}"{more}>{escape(text)}</text>'
    )
