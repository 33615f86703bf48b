"""What charts hold and draw: the numbers of the run, at the places that the axes say."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kept import predicted

from bedplate.errors import DataError
from bedplate.metrics.chart import Chart, Line
from bedplate.metrics.svg import HEIGHT, WIDTH, svg
from bedplate.registry.manifest import Git
from bedplate.registry.run import Point, RunRecord
from bedplate.training.plots import calibration_chart, metric_charts

NAN = float("nan")


def elements(chart: Chart, tag: str, kind: str) -> list[ET.Element]:
    root = ET.fromstring(svg(chart))
    return [e for e in root.iter(f"{{http://www.w3.org/2000/svg}}{tag}") if e.get("class") == kind]


def drawn(chart: Chart, line: int = 0) -> list[list[tuple[float, float]]]:
    """The points of each stroke of a line, where they are on the page."""
    found = elements(chart, "polyline", f"line{line}")
    return [[(float(x), float(y)) for x, y in (p.split(",") for p in (e.get("points") or "").split())] for e in found]


def axes(chart: Chart) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift) of both axes, as the texts beside their ticks say."""
    texts = elements(chart, "text", "tick")
    ends = [t for t in texts if t.get("text-anchor") == "end"]
    below = [t for t in texts if t.get("text-anchor") == "middle"]
    x = np.polyfit([float(t.text or "") for t in below], [float(t.get("x") or 0) for t in below], 1)
    y = np.polyfit([float(t.text or "") for t in ends], [float(t.get("y") or 0) - 4 for t in ends], 1)
    return x, y


@given(
    points=st.lists(
        st.tuples(st.integers(0, 10_000), st.floats(-50, 50)), min_size=2, max_size=30, unique_by=lambda p: p[0]
    )
)
def test_points_are_where_the_ticks_say(points: list[tuple[int, float]]) -> None:
    points = sorted(points)
    xs, ys = [float(x) for x, _ in points], [y for _, y in points]
    if max(ys) - min(ys) < 0.1:
        ys[0] = max(ys) + 1.0
    chart = Chart("t", "step", "auc", [Line("auc", xs, ys)])
    (x_scale, x_shift), (y_scale, y_shift) = axes(chart)
    assert x_scale > 0 > y_scale
    (stroke,) = drawn(chart)
    for (x, y), value_x, value_y in zip(stroke, xs, ys, strict=True):
        assert x == pytest.approx(x_scale * value_x + x_shift, abs=0.1)
        assert y == pytest.approx(y_scale * value_y + y_shift, abs=0.1)
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT


def test_a_gap_parts_a_line_and_a_point_alone_is_a_dot() -> None:
    line = Line("auc", [0, 1, 2, 3, 4], [0.1, 0.2, NAN, 0.5, math.inf])
    assert [len(stroke) for stroke in drawn(Chart("t", "x", "y", [line]))] == [2, 1]
    many = Line("auc", list(range(100)), [*np.linspace(0, 1, 98), NAN, 0.5])
    assert [len(s) for s in drawn(Chart("t", "x", "y", [many]))] == [98, 1]
    assert len(elements(Chart("t", "x", "y", [many]), "circle", "dot0")) == 1, "of many points only one that is alone"
    assert drawn(Chart("t", "x", "y", [Line("auc", [1.0], [NAN])])) == []


def test_intervals_stand_at_their_points_and_the_diagonal_is_where_both_are_equal() -> None:
    line = Line("observed", [0.2, 0.4, 0.8], [0.3, 0.4, 0.6], [0.1, NAN, 0.5], [0.5, 0.6, 0.9])
    chart = Chart("t", "predicted", "observed", [line], diagonal=True)
    (x_scale, x_shift), (y_scale, y_shift) = axes(chart)
    bars = [tuple(float(e.get(a) or 0) for a in ("x1", "y1", "x2", "y2")) for e in elements(chart, "line", "line0")]
    assert len(bars) == 2, "an interval without an end is not drawn"
    for (x1, y1, x2, y2), (x, low, high) in zip(bars, [(0.2, 0.1, 0.5), (0.8, 0.5, 0.9)], strict=True):
        assert x1 == x2 == pytest.approx(x_scale * x + x_shift, abs=0.1)
        assert (y1, y2) == pytest.approx((y_scale * low + y_shift, y_scale * high + y_shift), abs=0.1)
    (equal,) = [e for e in elements(chart, "line", "axis") if e.get("stroke-dasharray")]
    for end in "12":
        x = (float(equal.get(f"x{end}") or 0) - x_shift) / x_scale
        y = (float(equal.get(f"y{end}") or 0) - y_shift) / y_scale
        assert x == pytest.approx(y, abs=0.005)


def test_lines_are_named_in_their_colours_and_texts_are_escaped() -> None:
    lines = [Line("a<b", [0, 1], [0, 1]), Line("validation & test", [0, 1], [1, 2])]
    chart = Chart('Loss "of" <all>', "step", "loss", lines)
    for i, line in enumerate(lines):
        (name,) = elements(chart, "text", f"name{i}")
        (stroke,) = elements(chart, "polyline", f"line{i}")
        assert (name.text, name.get("fill")) == (line.name, stroke.get("stroke"))
    assert elements(chart, "text", "title")[0].text == chart.title
    assert elements(Chart("t", "x", "y", lines[:1]), "text", "name0") == [], "a line alone is named by its axis"


def test_a_runs_metrics_become_the_charts_that_show_something() -> None:
    def at(*values: float) -> list[Point]:
        return [Point(step * 10, value, 0) for step, value in enumerate(values, 1)]

    logged = {"train_loss": at(0.9, 0.8), "loss": at(0.7), "auc": at(0.5, NAN, 0.7), "test_auc": at(0.5, 0.6)}
    logged |= {"once": at(1.0), "never": at(NAN, NAN), "hit@10/a b": at(1, 2), "calibration": at(1.0, 1.1)}
    found = metric_charts(logged)
    assert set(found) == {"loss", "auc", "hit_10_a_b", "calibration_by_step"}
    assert [(line.name, list(line.x), list(line.y)) for line in found["loss"].lines] == [
        ("training", [10, 20], [0.9, 0.8]),
        ("validation", [10], [0.7]),
    ]
    assert found["auc"].lines[0].points() == [(10, 0.5), (30, 0.7)]
    assert found["hit_10_a_b"].y_label == "hit@10/a b"
    assert metric_charts({}) == {}


def record(**model: str) -> RunRecord:
    config = {"model": model}
    return RunRecord(
        id="r", name="n", status="finished", config=config, git=Git(), started=0, host="", pid=0, process=""
    )


def test_the_interval_of_a_rate_has_the_ends_at_which_a_test_of_it_just_fails() -> None:
    chart = calibration_chart(record(label="liked"), predicted(400))
    assert chart is not None
    (line,) = chart.lines
    rows = len(predicted(400).scores)
    assert list(line.x) == sorted(line.x)
    for observed, low, high in zip(line.y, line.low, line.high, strict=True):
        count = rows / len(line.x)  # bins of equal mass, up to a row or so
        for end in (low, high):
            if 0 < end < 1:  # Wilson's score: the rates from which the observed one is 1.96 errors away
                assert abs(observed - end) / math.sqrt(end * (1 - end) / count) == pytest.approx(1.96, rel=0.03)
        assert 0 <= low < high <= 1


def test_there_is_no_calibration_of_what_is_no_probability_or_of_no_known_label() -> None:
    one = predicted(50)
    assert calibration_chart(record(label="liked"), replace(one, scores=one.scores + 1)) is None
    assert calibration_chart(record(label="liked"), replace(one, scores=one.scores - 1)) is None
    assert calibration_chart(record(), one) is None, "two labels, and none is named"
    only = replace(one, labels={"liked": one.labels["liked"]})
    titled = calibration_chart(record(label="bought"), only)
    assert titled is not None
    assert re.search("'liked' on the test split", titled.title)
    with pytest.raises(DataError):
        calibration_chart(record(), replace(one, labels={"stars": one.labels["liked"] * 5}))
    # The rows whose label is not known are in no bin, and a weight of 2 counts as two rows.
    doubled = replace(only, weights=only.weights * 2)
    first, second = calibration_chart(record(), only), calibration_chart(record(), doubled)
    assert first is not None
    assert second is not None
    assert list(first.lines[0].y) == pytest.approx(list(second.lines[0].y))
    # What a weight is measured in says nothing of how many rows there are.
    assert list(first.lines[0].low) == pytest.approx(list(second.lines[0].low))
