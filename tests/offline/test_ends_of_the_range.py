"""Values near the largest float, and booleans as numbers: the same in history, over segments, online, by definition."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from split_table import SplitTable

from bedplate.aggregations.arithmetic import Sum
from bedplate.aggregations.base import Aggregation
from bedplate.aggregations.moments import StdDev, Variance
from bedplate.aggregations.ratio import Ratio
from bedplate.aggregations.sketches import Quantile
from bedplate.batch import column_to_series
from bedplate.features.view import CompiledView, FeatureView
from bedplate.offline.history import IndexedHistory
from bedplate.offline.reference import Reference
from bedplate.sources.base import Source
from bedplate.testing.aggregation import filled, from_store
from bedplate.testing.simulator import START, USER
from bedplate.types import MINUTE

STEP = 5 * MINUTE
WINDOWS = ["5m", "15m", "1h"]


def answers(
    folder: Path, features: dict[str, Aggregation], values: list, cuts: list[int]
) -> dict[str, dict[str, list]]:
    """What each way to them gives for events five minutes apart, after each of the events; online after the last."""
    frame = pl.DataFrame({"user": 1, "time": START + STEP * np.arange(len(values)), "x": values})

    def view_of(rows: int, cuts: list[int]) -> CompiledView:
        return FeatureView("v", USER, Source("e", SplitTable(frame[:rows], cuts), time="time"), features).compile()

    view, times = view_of(len(values), cuts), frame["time"].to_numpy() + 1
    keys, found = np.ones((len(times), 1), np.int64), dict[str, dict[str, list]]()
    for name, bounds in (("one segment", []), ("segments", cuts)):
        for i, rows in enumerate([*bounds, len(values)]):
            whole, history = view_of(rows, bounds[:i]), IndexedHistory(folder / name)
            history.build(whole).run()
        assert len(history.reader(whole).segments) == len(bounds) + 1
        got = history.read(whole, list(view.features), keys, times)
        found[name] = {n: column_to_series(c).to_list() for n, c in got.items()}
    reference = Reference(view)
    rows = [reference.values((1,), time) for time in times.tolist()]
    found["by definition"] = {n: [row[n] for row in rows] for n in view.features}
    store, _ = filled(view, [frame[:1], frame[1:2], frame[2:]])
    found["online"] = {
        n: column_to_series(c).to_list() for n, c in from_store(view, store, np.array([1]), times[-1:]).items()
    }
    return found


SPREADS = {
    "variance": Variance("x", windows=WINDOWS),
    "deviation": StdDev("x", windows=WINDOWS),
    "of_all": Variance("x", sample=False),
}
LARGE = st.sampled_from([1e200, -1e200, 1e308, -1e308, 1e154, 1e153, 1.0, 0.0, 1e200 * (1 + 2**-52)])


@settings(max_examples=8)
@given(values=st.lists(LARGE, min_size=3, max_size=9), cut=st.integers(0, 3))
def test_a_variance_beyond_the_range_of_a_float_is_null(tmp_path_factory, values, cut):
    """Values of 1e200 that are equal, or next to it, have one all the same."""
    found = answers(tmp_path_factory.mktemp("index"), SPREADS, values, [cut, cut + 1])
    for name, expected in found["by definition"].items():
        for way in ("one segment", "segments"):
            assert found[way][name] == [v and pytest.approx(v, rel=1e-9) for v in expected], (way, name)
        assert found["online"][name] == [v and pytest.approx(v, rel=1e-9) for v in expected[-1:]], name


def test_which_variances_are_null(tmp_path):
    found = answers(tmp_path, SPREADS, [1e200, 1e200, 2e200, 1.0, 3.0], [1, 3])
    assert found["segments"]["v.variance_15m"] == [None, 0.0, None, None, None]
    assert found["segments"]["v.deviation_5m"] == [None, 0.0, None, None, pytest.approx(2**0.5)]
    assert found["online"]["v.of_all"] == [None]


def test_a_ratio_of_sums_beyond_the_range_of_a_float_is_null(tmp_path):
    numbers = [1.7e308, 1.7e308, 1.0]
    frame = pl.DataFrame({"user": 1, "time": START + STEP * np.arange(3), "x": numbers, "y": 1.0})
    features = {"same": Ratio(Sum("x"), Sum("x")), "other": Ratio(Sum("x"), Sum("y"))}
    view = FeatureView("v", USER, Source("e", frame, time="time"), features).compile()
    history, asked = IndexedHistory(tmp_path), frame["time"].to_numpy() + 1
    history.build(view).run()
    got = history.read(view, list(view.features), np.ones((3, 1), np.int64), asked)
    store, _ = filled(view, [frame[:1], frame[1:]])
    last = from_store(view, store, np.array([1]), asked[-1:])
    for name, expected in (("v.same", [1.0, None, None]), ("v.other", [1.7e308, math.inf, math.inf])):
        assert column_to_series(got[name]).to_list() == expected
        assert column_to_series(last[name]).to_list() == expected[-1:]


def test_quantiles_of_booleans(tmp_path):
    features: dict[str, Aggregation] = {
        "column": Quantile("x", [0, 0.5, 1], windows=WINDOWS),
        "all": Quantile(pl.col("x").not_(), 0.5, error=0.05),
    }
    found = answers(tmp_path, features, [True, False, None, True, True, False, True], [2, 4])
    assert found["by definition"]["v.column_1h_p50"][-1] == pytest.approx(1.0, rel=0.01)
    assert found["by definition"]["v.column_5m_p0"][1:3] == [0.0, 0.0]
    for name, expected in found["by definition"].items():
        for way in ("one segment", "segments"):
            assert found[way][name] == expected, (way, name)
        assert found["online"][name] == expected[-1:], name
