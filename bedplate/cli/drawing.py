"""Charts in a terminal: lines of braille dots, two across and four down in each character, between axes."""

from __future__ import annotations

from collections.abc import Sequence

import click

from bedplate.metrics.chart import Chart, tick_text, ticks

_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_COLOURS = ("cyan", "yellow", "green", "magenta")
_BLANK = 0x2800


def draw(chart: Chart, width: int = 60, height: int = 12) -> str:
    """A chart as lines of text; each line's name stands beside its last point.

    Args:
        chart: what to draw.
        width: of the area between the axes, in characters.
        height: of that area, in lines.
    """
    low_x, high_x, low_y, high_y = chart.bounds()
    across, down = width * 2 - 1, height * 4 - 1

    def place(x: float, y: float) -> tuple[int, int]:
        return round((x - low_x) / (high_x - low_x) * across), round((high_y - y) / (high_y - low_y) * down)

    cells: list[list[int]] = [[0] * width for _ in range(height)]
    owners: list[list[int | None]] = [[None] * width for _ in range(height)]
    names: dict[int, list[tuple[int, str]]] = {}
    if chart.diagonal:
        start, end = max(low_x, low_y), min(high_x, high_y)
        _stroke(cells, owners, None, place(start, start), place(end, end), every=4)
    for i, line in reversed(list(enumerate(chart.lines))):
        dots = [place(x, y) for x, y in line.points()]
        for before, after in zip(dots, dots[1:] or dots, strict=False):
            _stroke(cells, owners, i, before, after)
        if dots and len(chart.lines) > 1:
            names.setdefault(dots[-1][1] // 4, []).insert(0, (i, line.name))
    labels = {place(low_x, tick)[1] // 4: tick_text(tick) for tick in ticks(low_y, high_y, most=max(2, height // 2))}
    margin = max(map(len, labels.values()), default=1)
    rows = [click.style(chart.title, bold=True)]
    for y in range(height):
        drawn = "".join(_cell(cells[y][x], owners[y][x]) for x in range(width))
        beside = ", ".join(click.style(name, fg=_COLOURS[i % len(_COLOURS)]) for i, name in names.get(y, []))
        rows.append(f"{labels.get(y, '').rjust(margin)} {'┤' if y in labels else '│'}{drawn} {beside}".rstrip())
    return "\n".join([*rows, *_below(chart, width, margin, low_x, high_x)])


def _below(chart: Chart, width: int, margin: int, low: float, high: float) -> list[str]:
    """The horizontal axis: its line, the texts of its ticks, and what it is."""
    line, texts = ["─"] * width, [" "] * (width + 12)
    free = 0
    for tick in ticks(low, high, most=max(2, width // 12)):
        at = round((tick - low) / (high - low) * (width - 1))
        text = tick_text(tick)
        start = max(0, at - len(text) // 2)
        line[at] = "┬"
        if start >= free:
            texts[start : start + len(text)] = text
            free = start + len(text) + 1
    space = " " * (margin + 2)
    return [
        f"{' ' * margin} └{''.join(line)}",
        f"{space}{''.join(texts)}".rstrip(),
        f"{space}{chart.x_label:^{width}}".rstrip(),
    ]


def _stroke(
    cells: list[list[int]],
    owners: list[list[int | None]],
    owner: int | None,
    start: tuple[int, int],
    end: tuple[int, int],
    every: int = 1,
) -> None:
    """Sets the dots from one to another."""
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    for step in range(0, steps + 1, every):
        x = round(start[0] + (end[0] - start[0]) * step / steps)
        y = round(start[1] + (end[1] - start[1]) * step / steps)
        cells[y // 4][x // 2] |= _BITS[y % 4][x % 2]
        owners[y // 4][x // 2] = owner


def _cell(bits: int, owner: int | None) -> str:
    if not bits:
        return " "
    text = chr(_BLANK + bits)
    return text if owner is None else click.style(text, fg=_COLOURS[owner % len(_COLOURS)])


def draw_all(charts: Sequence[Chart]) -> str:
    """Charts below each other."""
    return "\n\n".join(draw(chart) for chart in charts)
