"""Parity compares every kind of column, and says what differs."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.ordered import LastN
from bedplate.batch import Dense, Embedding, Ids, Ragged
from bedplate.errors import ProofError
from bedplate.features.derived import DerivedFeature
from bedplate.features.entity import Entity
from bedplate.features.graph import FeatureGraph, Selected
from bedplate.features.view import FeatureView
from bedplate.health.parity import ParityReport, equal_rows
from bedplate.offline.reference import Reference
from bedplate.sources.base import Source
from bedplate.testing.simulator import START


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (Dense(np.array([1, 2])), Dense(np.array([1, 3])), [True, False]),
        (Dense(np.array([2**53, 5])), Dense(np.array([2**53 + 1, 5])), [False, True]),
        (Dense(np.array([1e6])), Dense(np.array([1e6 + 0.5])), [True]),
        (Dense(np.array([1e6])), Dense(np.array([1e6 + 2])), [False]),
        (Dense(np.array([1e9, 1e-12])), Dense(np.array([1e9, 0.0])), [True, True]),
        (Dense(np.array([1e9, 2.0])), Dense(np.array([1e9, 0.0])), [True, False]),
        (Dense(np.array([1.0, 2.0]), np.array([True, False])), Dense(np.array([1.0, 2.0])), [True, False]),
        (
            Dense(np.array([1.0, 7.0]), np.array([True, False])),
            Dense(np.array([1.0, 8.0]), np.array([True, False])),
            [True, True],
        ),
        (Ids(np.array([4, 5])), Ids(np.array([4, 6])), [True, False]),
        (
            Ragged(Dense(np.array([1.0, 2.0, 3.0])), np.array([0, 1, 1, 3])),
            Ragged(Dense(np.array([1.0, 2.0, 4.0])), np.array([0, 1, 1, 3])),
            [True, True, False],
        ),
        (
            Ragged(Ids(np.array([1, 2, 3])), np.array([0, 2, 3])),
            Ragged(Ids(np.array([1, 3])), np.array([0, 1, 2])),
            [False, True],
        ),
        (
            Embedding(np.array([[1, 2], [3, 4]], np.float32)),
            Embedding(np.array([[1, 2], [3, 5]], np.float32)),
            [True, False],
        ),
    ],
)
def test_equal_rows(one, other, expected):
    assert equal_rows(one, other).tolist() == expected


def reference(x: list[float]) -> tuple:
    frame = pl.DataFrame({"user": [1, 1, 2], "time": [START, START + 1, START], "x": x})
    features = {"n": Count(), "x": Sum("x"), "last": LastN("x", 2)}
    view = FeatureView("v", Entity("user", key="user"), Source("e", frame, time="time"), features).compile()
    return view, Reference(view)


def test_a_difference_is_counted_by_feature_and_named():
    view, history = reference([1.0, 2.0, 3.0])
    online = reference([1.0, 2.0, 4.0])[1]
    keys, times = np.array([[1], [2], [3]]), np.full(3, START + 5)
    report = ParityReport()
    report.compare(view, keys, times, online, history)
    assert report.rows == {"v.n": 3, "v.x": 3, "v.last": 3}
    assert report.mismatches == {"v.n": 0, "v.x": 1, "v.last": 1}
    with pytest.raises(ProofError, match=r"v\.x of key \(2,\) at 2024-03-01T00:00:00.000005Z: online 4.0, history 3.0"):
        report.require()


def test_equal_answers_prove_parity():
    view, history = reference([1.0, 2.0, 3.0])
    report = ParityReport()
    report.compare(view, np.array([[1], [2]]), np.full(2, START + 5), history, history)
    report.require()
    assert (report.values, report.total_mismatches) == (6, 0)


def selected(x: list[float], expression: pl.Expr) -> tuple[Selected, Reference]:
    view, reader = reference(x)
    graph = FeatureGraph([view.view], [DerivedFeature("ratio", expression)])
    return graph.select(list(graph.features)), reader


def test_derived_features_are_compared_each_side_from_its_own_values():
    chosen, history = selected([1.0, 2.0, 3.0], pl.col("v.x") / pl.col("v.n"))
    _, online = selected([1.0, 2.0, 4.0], pl.col("v.x") / pl.col("v.n"))
    keys, times = {"user": np.array([1, 2])}, np.full(2, START + 5)
    report = ParityReport()
    report.compare_features(chosen, keys, times, online, history)
    assert report.mismatches == {"v.n": 0, "v.x": 1, "v.last": 1, "ratio": 1}
    assert report.rows == dict.fromkeys(report.mismatches, 2)
    with pytest.raises(ProofError, match=r"ratio of key \(2,\) at \S+: online 4.0, history 3.0"):
        report.require()
    equal = ParityReport()
    equal.compare_features(chosen, keys, times, history, history)
    equal.require()
    assert equal.values == 8


def test_sides_that_do_not_match_are_no_proof():
    one, two = Dense(np.array([1.0])), Dense(np.array([1.0, 2.0]))
    report = ParityReport(proven="the batch", truth="the oracle")
    with pytest.raises(ProofError, match=r"only one side has the features \['b'\]"):
        report.add({"a": one, "b": one}, {"a": one}, np.array([[1]]), np.array([1]))
    with pytest.raises(ProofError, match=r"got columns of \[1, 2\] rows, expected 1"):
        report.add({"a": one}, {"a": two}, np.array([[1]]), np.array([1]))
    report.add({"a": two}, {"a": Dense(np.array([1.0, 3.0]))}, np.array([[1], [2]]), np.array([1, 1]))
    with pytest.raises(ProofError, match="1 of 2 values differ between the batch and the oracle"):
        report.require()
