"""Charts: bounds, ticks, and what an SVG file holds."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.metrics.chart import Chart, Line, ticks
from bedplate.metrics.svg import HEIGHT, WIDTH, svg

SVG = "{http://www.w3.org/2000/svg}"
NAN = float("nan")


def chart(*lines: Line, diagonal: bool = False) -> Chart:
    return Chart("A <title> & more", "step", "loss", lines, diagonal)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 10))
def test_ticks_are_round_within_the_range_and_few(low: float, span: float, most: int) -> None:
    found = ticks(low, low + span, most)
    assert len(found) <= most + 1
    reach = (abs(low) + span) * 1e-9
    assert all(low - reach <= tick <= low + span + reach for tick in found)
    steps = {f"{b - a:.6e}" for a, b in itertools.pairwise(found)}
    assert len(steps) <= 1 or abs(low) > 1e6 * span, found


def test_a_line_goes_through_its_points_within_the_axes() -> None:
    root = ET.fromstring(svg(chart(Line("training", [0, 10, 20], [1.0, 0.5, 0.25]), Line("validation", [20], [0.5]))))
    texts = [e.text for e in root.iter(f"{SVG}text")]
    assert {"A <title> & more", "step", "loss", "training", "validation", "0.4", "10"} <= set(texts)
    for element in root.iter():
        for name in ("x", "x1", "x2", "cx"):
            assert 0 <= float(element.get(name, "0")) <= WIDTH
        for name in ("y", "y1", "y2", "cy"):
            assert 0 <= float(element.get(name, "0")) <= HEIGHT


def points(text: str) -> list[list[tuple[float, float]]]:
    lines = [e.get("points", "") for e in ET.fromstring(text).iter(f"{SVG}polyline")]
    return [[(float(x), float(y)) for x, y in (p.split(",") for p in line.split())] for line in lines]


def test_points_are_placed_by_value_and_gaps_are_left_open() -> None:
    (line,) = points(svg(chart(Line("a", [0, 10, 20], [1.0, 0.5, 0.0]))))
    (x0, y0), (x1, y1), (x2, y2) = line
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.02)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.02)
    assert y0 < y1, "more is higher"
    halves = points(svg(chart(Line("a", [0, 1, 2, 3, 4], [1.0, 0.5, NAN, 0.2, math.inf]))))
    assert [len(half) for half in halves] == [2, 1]


@pytest.mark.parametrize(
    "line", [Line("a", [], []), Line("a", [3], [7.0]), Line("a", [1, 2], [NAN, NAN]), Line("a", [1, 2], [0.0, 0.0])]
)
def test_charts_of_little_are_still_files(line: Line) -> None:
    text = svg(chart(line, diagonal=True))
    ET.fromstring(text)
    assert "nan" not in text
    assert "inf" not in text


def test_intervals_and_the_diagonal_are_drawn_and_dark_pages_have_colours_of_their_own() -> None:
    text = svg(chart(Line("a", [0.1, 0.9], [0.2, 0.8], [0.1, 0.7], [0.3, 0.9]), diagonal=True))
    assert len(re.findall(r'<line class="line0"', text)) == 2
    assert 'stroke-dasharray="5 4"' in text
    assert "prefers-color-scheme: dark" in text
