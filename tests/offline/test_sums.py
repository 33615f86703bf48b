"""Sums of floats keep their digits, whatever came before in the key's history."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.aggregations.arithmetic import Mean, Sum
from bedplate.batch import column_to_series
from bedplate.features.view import FeatureView
from bedplate.offline.history import IndexedHistory
from bedplate.offline.running import RESTS
from bedplate.sources.base import Source
from bedplate.testing.simulator import START, USER
from bedplate.types import MINUTE

FILES = "segments/*/0/reductions/*-sum/*.npy"


def sums(folder: Path, values: list[float], rows: int = 0) -> tuple[list[float], list[float]]:
    """Sums and means over the last five minutes after each of the values, which are five minutes apart."""
    times = START + 5 * MINUTE * np.arange(len(values))
    frame = pl.DataFrame({"user": 1, "time": times, "x": values})
    features = {"sum": Sum("x", windows="5m"), "mean": Mean("x", windows="5m")}
    view = FeatureView("v", USER, Source("e", frame, time="time"), features).compile()
    history = IndexedHistory(folder)
    history.build(view).run()
    asked = np.resize(times, max(rows, len(times))) + 1
    got = history.read(view, ["v.sum_5m", "v.mean_5m"], np.ones((len(asked), 1), np.int64), asked)
    lists = [column_to_series(got[n]).to_list()[: len(values)] for n in ("v.sum_5m", "v.mean_5m")]
    return lists[0], lists[1]


@pytest.mark.parametrize("rows", [0, 20_000], ids=["few", "many"])
@given(
    values=st.lists(
        st.one_of(
            st.floats(1e-8, 1e12), st.floats(-1e12, -1e-8), st.sampled_from([0.0, 1e12, -1e12, 0.01, 1e-8, 1 / 3])
        ),
        min_size=1,
        max_size=30,
    )
)
def test_a_small_value_after_a_large_one(rows, values):
    """The window at a value holds it and the one before: never more digits are lost than float32 has.

    A running sum has about 106 bits: over 20 orders of magnitude (67 bits) much more than those of a float32 are left.
    """
    with TemporaryDirectory() as folder:
        got, means = sums(Path(folder), values, rows)
    pairs = [values[max(0, i - 1) : i + 1] for i in range(len(values))]
    for value, mean, pair in zip(got, means, pairs, strict=True):
        assert value == pytest.approx(math.fsum(pair), rel=2**-24, abs=0)
        assert mean == pytest.approx(math.fsum(pair) / len(pair), rel=2**-24, abs=0)


def test_what_was_rounded_off_is_kept_where_it_is_needed(tmp_path):
    """Sums that are exact cost one number a row, the others a number more every `running.RESTS` rows."""
    for name, values, stored in (
        ("whole numbers", [1e12, 1.0, -5.0, 3.0], ["prefix"]),
        ("of like size", [0.1, 0.7, 41.3, 1000.1] * 100, ["prefix", "rests"]),
        ("far apart", [1e12, 0.01], ["prefix", "rests"]),
    ):
        sums(tmp_path / name, values)
        files = {p.stem: len(np.load(p)) for p in (tmp_path / name).glob(f"*/{FILES}")}
        assert files == {n: len(values) // (RESTS if n == "rests" else 1) for n in stored}, name


def test_sums_beyond_the_range_of_a_float_are_infinite(tmp_path):
    got, _ = sums(tmp_path, [1e308, 1e308, 1.0])
    assert got[:2] == [1e308, math.inf]
