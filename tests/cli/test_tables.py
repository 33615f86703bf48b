"""Text for people: tables stay aligned and numbers stay what they are, whatever is in them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.cli.tables import counted, elapsed, facts, moment, number, size, sparkline, table
from bedplate.types import DAY, HOUR, MINUTE, SECOND, to_micros

words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=9)
BARS = "▁▂▃▄▅▆▇█"


@given(data=st.data(), width=st.integers(1, 4), height=st.integers(0, 5))
def test_columns_begin_or_end_at_one_place(data, width, height):
    headers = data.draw(st.lists(words, min_size=width, max_size=width))
    rows = [data.draw(st.lists(words, min_size=width, max_size=width)) for _ in range(height)]
    right = data.draw(st.lists(st.integers(0, width - 1), unique=True))
    lines = table(headers, rows, right).split("\n")
    assert len(lines) == height + 1
    assert all(line == line.rstrip() for line in lines)
    widths = [max(len(r[i]) for r in [headers, *rows]) for i in range(width)]
    for line, cells in zip(lines, [[h.upper() for h in headers], *rows], strict=True):
        assert line.split() == cells
        start = 0
        for i, cell in enumerate(cells):
            field = line[start : start + widths[i]]
            assert field.strip() == cell
            assert field.endswith(cell) if i in right else field.startswith(cell)
            start += widths[i] + 2


@given(value=st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**14), 10**14).map(float))
def test_a_number_keeps_six_digits(value):
    shown = number(value)
    assert float(shown) == pytest.approx(value, rel=1e-5, abs=0)
    assert "." not in shown or not shown.endswith("0") or "e" in shown
    if value.is_integer() and abs(value) < 1e15:
        assert float(shown) == value


def test_numbers_that_are_none():
    assert [number(v) for v in (None, math.nan, math.inf, -math.inf)] == ["nan", "nan", "inf", "-inf"]


@given(micros=st.integers(0, 400 * DAY))
def test_a_duration_is_shown_in_two_units_at_most(micros):
    shown = elapsed(micros)
    units = {"h": HOUR, "m": MINUTE, "s": SECOND}
    parts = shown.split()
    assert 1 <= len(parts) <= 2
    total = sum(float(p[:-1]) * units[p[-1]] for p in parts)
    least = units[parts[-1][-1]]
    assert abs(total - micros) <= (0.05 * SECOND + 1 if len(parts) == 1 else least)


@pytest.mark.parametrize(
    ("micros", "shown"),
    [
        (0, "0.0s"),
        (MINUTE - 1, "60.0s"),
        (MINUTE, "1m 0s"),
        (HOUR - 1, "59m 59s"),
        (HOUR, "1h 0m"),
        (49 * HOUR, "49h 0m"),
    ],
)
def test_the_edges_of_durations(micros, shown):
    assert elapsed(micros) == shown


@given(micros=st.integers(0, to_micros("2199-12-31")))
def test_a_moment_is_a_whole_second(micros):
    assert to_micros(moment(micros)) == micros - micros % SECOND


@given(
    values=st.lists(st.floats(-1e9, 1e9) | st.just(math.nan) | st.just(math.inf), max_size=60), width=st.integers(1, 30)
)
def test_a_chart_has_a_mark_a_value_from_low_to_high(values, width):
    drawn = sparkline(values, width)
    assert len(drawn) == min(width, len(values))
    assert set(drawn) <= {*BARS, "·"}
    if len(values) <= width:
        assert [mark == "·" for mark in drawn] == [not math.isfinite(v) for v in values]
        finite = sorted((v, BARS.index(m)) for v, m in zip(values, drawn, strict=True) if m != "·")
        assert [m for _, m in finite] == sorted(m for _, m in finite)


@given(rows=st.lists(st.tuples(words, words), min_size=1, max_size=6))
def test_facts_are_aligned(rows):
    lines = facts(rows).split("\n")
    at = {
        line.rindex(text) if len(set(text)) > 1 and text not in name else None
        for line, (name, text) in zip(lines, rows, strict=True)
    }
    width = max(len(name) for name, _ in rows)
    assert at <= {width + 2, None}
    assert [line.split() for line in lines] == [list(row) for row in rows]


def test_no_facts_are_no_lines():
    assert facts([]) == ""


@given(count=st.integers(0, 10**16))
def test_a_size_is_within_a_twentieth(count):
    shown, unit = size(count).split()
    factor = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}[unit]
    assert abs(float(shown) * factor - count) <= 0.05 * factor + 1e-6 * count
    assert float(shown) <= 1000 or unit == "TB"


def test_things_are_counted_where_there_are_some():
    assert counted([(0, "view")]) == ""
    assert (
        counted([(1, "view"), (0, "label"), (2, "dataset"), (12_000, "column")]) == "1 view, 2 datasets, 12,000 columns"
    )
