"""Sums of floats over several segments are as exact as over one, however the segments cancel each other."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from split_table import SplitTable

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.ratio import Ratio
from bedplate.aggregations.window import Window
from bedplate.batch import column_to_series
from bedplate.errors import DataError
from bedplate.features.view import CompiledView, FeatureView
from bedplate.offline import memory
from bedplate.offline.history import IndexedHistory
from bedplate.offline.lookup import BLOCK
from bedplate.offline.reference import Reference
from bedplate.sources.base import Source
from bedplate.testing.simulator import START, USER
from bedplate.types import MINUTE

STEP = 5 * MINUTE
WINDOWS = ["5m", "25m", "11h", Window.of("1h", hop="exact", bound=4)]
FEATURES = {
    "sum": Sum("x", windows=WINDOWS),
    "all": Sum("x"),
    "mean": Mean("x", windows=WINDOWS),
    "some": Sum("x", windows=WINDOWS, where=pl.col("flag")),
    "ratio": Ratio(Sum("x"), Count(), windows=WINDOWS),
    "n": Count(windows=WINDOWS, where=pl.col("flag")),
}


def view_of(frame: pl.DataFrame, cuts: list[int], available: str | None = None) -> CompiledView:
    source = Source("e", SplitTable(frame, cuts), time="time", available=available)
    return FeatureView("v", USER, source, FEATURES).compile()


def built(
    folder: Path, frame: pl.DataFrame, cuts: list[int], available: str | None = None
) -> tuple[IndexedHistory, CompiledView]:
    """An index with a segment for each piece of a frame."""
    for i, cut in enumerate(cuts):
        IndexedHistory(folder).build(view_of(frame[:cut], cuts[:i], available)).run()
    history, view = IndexedHistory(folder), view_of(frame, cuts, available)
    history.build(view).run()
    assert len(history.reader(view).segments) == len(cuts) + 1
    return history, view


@settings(max_examples=15)
@given(
    values=st.lists(st.sampled_from([1e15, -1e15, 0.01, -0.01, 1 / 3, 1e-6, 1e12]), min_size=4, max_size=40),
    rows=st.sampled_from([40, 700]),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=3, unique=True),
    late=st.booleans(),
    rows_asked=st.sampled_from([0, BLOCK + 500]),
    is_short=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_sums_over_segments_equal_the_oracle(values, rows, shares, late, rows_asked, is_short, seed):
    """Long keys too, few rows and many, rows in flight, little memory, windows whose edges cut large values away."""
    draw = np.random.default_rng(seed)
    times = START + STEP * np.arange(rows)
    frame = pl.DataFrame(
        {
            "user": draw.choice([1, 1, 1, 2], rows),
            "time": times,
            "x": np.resize(values, rows),
            "flag": draw.random(rows) < 0.7,
            "known": times + draw.choice([0, 0, STEP, 3 * STEP], rows),
        }
    )
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory.Budget, "holds", lambda self, size: not is_short)
        history, view = built(Path(folder), frame, sorted(int(s * rows) for s in shares), "known" if late else None)
        count = 25
        keys, asked = draw.integers(1, 3, (max(count, rows_asked), 1)), draw.choice(times, max(count, rows_asked)) + 1
        got = history.read(view, list(view.features), keys, asked)
    reference = Reference(view)
    for row in range(count):
        for name, expected in reference.values((int(keys[row, 0]),), int(asked[row])).items():
            found = column_to_series(got[name].take(np.array([row]))).to_list()[0]
            # Twice the digits of a float, of the largest running sum, are 1e-15.
            assert found == (expected and pytest.approx(expected, rel=2**-24, abs=1e-14)), (name, row)


@pytest.mark.parametrize("rows", [1, BLOCK + 1])
def test_a_small_value_between_segments_that_cancel_each_other(tmp_path, rows):
    frame = pl.DataFrame({"user": 1, "time": START + STEP * np.arange(3), "x": [1e15, 0.01, -1e15], "flag": True})
    history, view = built(tmp_path, frame, [1, 2])
    keys, asked = np.ones((rows, 1), np.int64), np.full(rows, START + 3 * STEP)
    got = history.read(view, list(view.features), keys, asked)
    for name, expected in (("sum_25m", 0.01), ("all", 0.01), ("mean_25m", 0.01 / 3), ("ratio_25m", 0.01 / 3)):
        assert got[f"v.{name}"].values == pytest.approx(expected, rel=1e-15), name


@pytest.mark.parametrize("rows", [1, BLOCK + 1])
def test_what_is_beyond_the_range_of_a_float_is_infinite_in_its_windows_alone(tmp_path, rows):
    values = [1e308, 1e308, 1.0, 2.0, 3.0, 4.0]
    frame = pl.DataFrame({"user": 1, "time": START + STEP * np.arange(6), "x": values, "flag": True})
    for name, cuts in (("one", []), ("several", [1, 4])):
        history, view = built(tmp_path / name, frame, cuts)
        for number, expected in ((2, math.inf), (4, 3.0), (6, 7.0)):
            keys, asked = np.ones((rows, 1), np.int64), np.full(rows, START + STEP * (number - 1) + 1)
            got = history.read(view, ["v.sum_5m", "v.all"], keys, asked)
            assert set(got["v.sum_5m"].values.tolist()) == {expected}, (name, number)
            assert set(got["v.all"].values.tolist()) == {math.inf}, (name, number)


@pytest.mark.parametrize("rows", [1, BLOCK + 1])
def test_a_sum_of_whole_numbers_over_segments_is_exact_or_an_error(tmp_path, rows):
    features = {"sum": Sum("x", windows="25m"), "last": Sum("x", windows="10m"), "all": Sum("x")}
    frame = pl.DataFrame({"user": 1, "time": START + STEP * np.arange(4), "x": [1, 2**62, 2**62 - 1, -5]})
    for i in (1, 2, 4):
        table = SplitTable(frame[:i], [c for c in (1, 2) if c < i])
        view = FeatureView("v", USER, Source("e", table, time="time"), features).compile()
        history = IndexedHistory(tmp_path)
        history.build(view).run()
    keys, asked = np.ones((rows, 1), np.int64), np.full(rows, START + 3 * STEP)
    assert set(history.read(view, ["v.last_10m"], keys, asked)["v.last_10m"].values.tolist()) == {2**63 - 1}
    assert set(history.read(view, ["v.all"], keys, asked + 1)["v.all"].values.tolist()) == {2**63 - 5}
    with pytest.raises(DataError, match=r"a sum of whole numbers is beyond 64 bits, it reaches about 9.2e\+18"):
        history.read(view, ["v.sum_25m"], keys, asked)
