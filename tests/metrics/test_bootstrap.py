"""Intervals over requests drawn again: against drawing rows by hand, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from bedplate.errors import DataError
from bedplate.metrics.bootstrap import binary_sums, differences, estimates
from bedplate.metrics.report import BINARY_METRICS, binary_report

Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def drawn(requests: int, seed: int, noise: float = 1.0) -> Rows:
    """Rows of requests that share much: the rate of the label, and the error of the score."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, requests)
    of_row = np.repeat(np.arange(requests), sizes)
    truth = rng.normal(-0.5, 1, len(of_row)) + rng.normal(0, 1, requests)[of_row]
    labels = (rng.random(len(of_row)) < 1 / (1 + np.exp(-truth))).astype(np.float32)
    logits = truth + noise * rng.normal(0, 1, requests)[of_row]
    scores = np.clip(np.round(1 / (1 + np.exp(-logits)), 2), 0.02, 0.98)  # with ties
    return scores, labels, rng.choice([0.5, 1.0, 2.0], len(of_row)).astype(np.float32), of_row


def taken(rows: Rows, requests: np.ndarray) -> Rows:
    """The rows of these requests, each as often as it is named and as a request of its own."""
    at = [np.flatnonzero(rows[3] == r) for r in requests]
    own = np.repeat(np.arange(len(at)), [len(a) for a in at])
    index = np.concatenate(at)
    return rows[0][index], rows[1][index], rows[2][index], own


def test_each_metric_is_its_own_value_and_has_the_spread_of_rows_drawn_by_hand() -> None:
    rows = drawn(150, seed=1)
    found = estimates(binary_sums(*rows), resamples=4000)
    exact = binary_report(*rows)
    assert list(found) == [name for name in BINARY_METRICS if name != "expected_calibration_error"]
    rng = np.random.default_rng(2)
    by_hand = [binary_report(*taken(rows, rng.integers(0, 150, 150))) for _ in range(400)]
    for name, estimate in found.items():
        values = np.array([one[name] for one in by_hand])
        assert estimate.mean == pytest.approx(exact[name], rel=1e-9), name
        assert estimate.error == pytest.approx(values.std(ddof=1), rel=0.15), name
        low, high = np.quantile(values, [0.025, 0.975])
        assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.8 * estimate.error), name
        assert estimate.count == 150


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    everything = binary_report(*drawn(200_000, seed=3))
    held = dict.fromkeys(("auc", "request_auc", "log_loss", "normalised_entropy", "calibration"), 0)
    for seed in range(200):
        found = estimates(binary_sums(*drawn(300, seed=100 + seed)), confidence=0.9, resamples=300)
        for name, one in found.items():
            held[name] += one.low <= everything[name] <= one.high
    assert all(0.84 <= count / 200 <= 0.96 for count in held.values()), held


def test_a_difference_is_paired_and_far_narrower_than_the_two_apart() -> None:
    scores, labels, weights, requests = drawn(500, seed=4)
    other = np.clip(scores + np.random.default_rng(5).normal(0, 0.02, len(scores)), 0.02, 0.98)
    a, b = binary_sums(scores, labels, weights, requests), binary_sums(other, labels, weights, requests)
    for name, (first, second, difference) in differences(a, b).items():
        assert difference.mean == pytest.approx(second.mean - first.mean), name
        assert difference.error < 0.35 * np.hypot(first.error, second.error), name
        assert difference.low < difference.mean < difference.high, name
    same = differences(a, a)["auc"][2]
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)


def test_many_requests_are_drawn_in_groups_with_the_same_spread() -> None:
    rows = drawn(60_000, seed=6)
    sums = binary_sums(*rows)
    losses, masses = sums["log_loss"].parts.T
    found = estimates({"log_loss": sums["log_loss"]}, resamples=1500)["log_loss"]
    residual = (losses - found.mean * masses) / masses.mean()  # the delta method for a ratio of means
    assert found.error == pytest.approx(residual.std(ddof=1) / 60_000**0.5, rel=0.1)
    assert found.count == 60_000


def test_scores_that_are_no_probabilities_have_metrics_of_order_only() -> None:
    scores, labels, weights, requests = drawn(50, seed=7)
    assert list(binary_sums(scores * 9 - 4, labels, weights, requests)) == ["auc", "request_auc"]


def test_what_has_no_value_is_left_out() -> None:
    scores, labels, weights, requests = drawn(50, seed=8)
    found = estimates(binary_sums(scores, np.zeros_like(labels), weights, requests))
    assert list(found) == ["log_loss"]


def test_too_little_is_refused() -> None:
    rows = drawn(50, seed=9)
    sums = binary_sums(*rows)
    with pytest.raises(DataError, match="1 requests, expected at least two"):
        estimates(binary_sums(*(column[:1] for column in rows)))
    with pytest.raises(DataError, match=r"confidence 1\.0"):
        estimates(sums, confidence=1.0)
    with pytest.raises(DataError, match="expected the same ones"):
        differences(sums, binary_sums(*taken(rows, np.arange(40))))
