"""Metrics equal their definitions, written as loops, on whatever lists of numbers; and refuse what they are not of."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bedplate.errors import DataError
from bedplate.metrics.calibration import calibration, expected_calibration_error, reliability
from bedplate.metrics.classification import auc, log_loss, normalised_entropy, request_auc, request_aucs
from bedplate.metrics.intervals import Estimate, mean_interval, paired_difference
from bedplate.metrics.report import binary_report
from bedplate.metrics.retrieval import hits, ndcg_at_k, recall_at_k, top_k

probabilities = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]) | st.floats(0, 1)
weights = st.floats(0.01, 10)
row = st.tuples(probabilities, st.integers(0, 1), weights, st.integers(0, 4))
rows = st.lists(row, min_size=1, max_size=25)


def columns(given_rows):
    p, y, w, r = (np.array(c) for c in zip(*given_rows, strict=True))
    return p, y, w, r


@given(given_rows=rows)
def test_auc_is_the_share_of_pairs_in_order(given_rows):
    p, y, w, _ = columns(given_rows)
    won = total = 0.0
    for i, j in itertools.product(range(len(p)), repeat=2):
        if y[i] == 1 and y[j] == 0:
            total += w[i] * w[j]
            won += w[i] * w[j] * ((p[i] > p[j]) + (p[i] == p[j]) / 2)
    got = auc(p, y, w)
    assert math.isnan(got) if total == 0 else got == pytest.approx(won / total, abs=1e-9)


@given(given_rows=rows, scale=st.floats(0.5, 3), shift=st.floats(-2, 2))
def test_auc_depends_on_the_order_alone(given_rows, scale, shift):
    p, y, w, _ = columns(given_rows)
    moved = p * scale + shift
    assume(len(np.unique(moved)) == len(np.unique(p)))
    first, other = auc(p, y, w), auc(moved, y, w)
    assert first == pytest.approx(other, nan_ok=True)
    assert auc(-p, y, w) == pytest.approx(1 - first, nan_ok=True)


@given(given_rows=rows)
def test_the_auc_of_requests_is_that_of_each(given_rows):
    p, y, _, r = columns(given_rows)
    each = [auc(p[r == q], y[r == q]) for q in np.unique(r)]
    there = [a for a in each if not math.isnan(a)]
    np.testing.assert_allclose(request_aucs(p, y, r), there, atol=1e-9)
    assert request_auc(p, y, r) == pytest.approx(float(np.mean(there)) if there else math.nan, nan_ok=True)


@given(given_rows=rows)
def test_log_loss_is_the_mean_of_logs(given_rows):
    p, y, w, _ = columns(given_rows)
    near = [min(max(float(q), 1e-15), 1 - 1e-15) for q in p]
    expected = sum(-v * math.log(q if t else 1 - q) for q, t, v in zip(near, y, w, strict=True)) / w.sum()
    assert log_loss(p, y, w) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(given_rows=rows)
def test_normalised_entropy_of_the_mean_is_one(given_rows):
    _, y, w, _ = columns(given_rows)
    mean = np.full(len(y), (w * y).sum() / w.sum())
    got = normalised_entropy(np.clip(mean, 0, 1), y, w)
    assert math.isnan(got) if len(set(y.tolist())) == 1 else got == pytest.approx(1.0)


@given(given_rows=rows, bins=st.integers(1, 8))
def test_reliability_keeps_every_row_and_splits_no_tie(given_rows, bins):
    p, y, w, _ = columns(given_rows)
    table = reliability(p, y, w, bins)
    assert 1 <= len(table) <= bins
    assert sum(b.weight for b in table) == pytest.approx(w.sum())
    assert sum(b.weight * b.predicted for b in table) == pytest.approx((w * p).sum(), abs=1e-9)
    assert sum(b.weight * b.observed for b in table) == pytest.approx((w * y).sum(), abs=1e-9)
    assert (table[0].low, table[-1].high) == (p.min(), p.max())
    assert all(a.high < b.low for a, b in itertools.pairwise(table))
    for b in table:
        inside = (p >= b.low) & (p <= b.high)
        assert b.weight == pytest.approx(w[inside].sum())
    error = expected_calibration_error(p, y, w, bins)
    assert error == pytest.approx(sum(b.weight * abs(b.predicted - b.observed) for b in table) / w.sum(), abs=1e-9)
    assert 0 <= error <= 1 + 1e-12


@given(given_rows=rows)
def test_calibration_is_one_for_what_was_observed(given_rows):
    _, y, w, _ = columns(given_rows)
    got = calibration(y.astype(float), y, w)
    assert math.isnan(got) if not y.any() else got == pytest.approx(1.0)


@given(given_rows=rows)
def test_the_order_of_rows_and_the_unit_of_weights_do_not_matter(given_rows):
    p, y, w, r = columns(given_rows)
    order = np.random.default_rng(0).permutation(len(p))
    first, other = binary_report(p, y, w, r), binary_report(p[order], y[order], 3 * w[order], r[order])
    for name in set(first) - {"expected_calibration_error"}:  # whose bins end at the mass of the rows before
        assert first[name] == pytest.approx(other[name], nan_ok=True, rel=1e-6, abs=1e-9), name


WRONG = [
    (lambda: log_loss(np.array([1.5]), np.array([1])), "got the prediction 1.5, expected a probability"),
    (lambda: log_loss(np.array([-3.0, 0.5]), np.array([1, 0])), "got the prediction -3, expected a probability"),
    (lambda: calibration(np.array([2.0]), np.array([1])), "got the prediction 2"),
    (lambda: reliability(np.array([0.5, -0.1]), np.array([1, 0])), "got the prediction -0.1"),
    (lambda: normalised_entropy(np.array([7.0, 0.1]), np.array([1, 0])), "got the prediction 7"),
    (lambda: expected_calibration_error(np.array([0.5]), np.array([1]), bins=0), "got 0 bins, expected at least 1"),
    (lambda: log_loss(np.array([0.5]), np.array([2])), "got the label 2, expected 0 or 1"),
    (lambda: auc(np.array([0.5, 0.1]), np.array([-1, 1])), "got the label -1, expected 0 or 1"),
    (lambda: request_aucs(np.array([0.5]), np.array([3]), np.array([0])), "got the label 3"),
    (lambda: auc(np.array([0.5, 1.0]), np.array([0, 1]), np.array([1.0, -1.0])), "got weights below 0"),
    (lambda: log_loss(np.array([0.5]), np.array([1]), np.array([0.0])), "got weights below 0 or only zeros"),
    (lambda: request_aucs(np.array([0.5, 0.1]), np.array([1, 0]), np.array([0])), "got 1 requests of 2 rows"),
    (lambda: auc(np.array([0.5]), np.array([1, 0])), "expected one length above 0"),
    (lambda: auc(np.array([[0.5]]), np.array([1])), "expected one length above 0"),
    (lambda: auc(np.array([np.inf]), np.array([1])), "got 1 values that are not finite"),
    (lambda: auc(np.array([0.5]), np.array([np.nan])), "got 1 values that are not finite"),
    (lambda: top_k(np.zeros((1, 3)), 0), "got k=0, expected at least 1"),
    (lambda: recall_at_k(np.array([[1]]), np.array([1]), np.array([0, 1]), -1), "got k=-1"),
    (lambda: ndcg_at_k(np.array([[1]]), np.array([1]), np.array([0, 1]), 0), "got k=0"),
    (lambda: mean_interval(np.array([1.0, 2.0]), confidence=1.0), "got the confidence 1.0"),
    (lambda: mean_interval(np.array([1.0, np.nan])), "expected at least two finite numbers"),
    (lambda: paired_difference(np.zeros(3), np.ones(3), confidence=0), "got the confidence 0"),
    (lambda: paired_difference(np.zeros(3), np.ones(3), resamples=1), "got 1 resamples, expected at least 2"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[str(n) for n in range(len(WRONG))])
def test_what_a_metric_is_not_of_is_refused(make, message):
    with pytest.raises(DataError) as caught:
        make()
    assert message in caught.value.message
    assert caught.value.where == "metrics"


lists = st.lists(
    st.tuples(
        st.lists(st.integers(0, 9), unique=True, min_size=3, max_size=3),
        st.lists(st.integers(0, 12), min_size=1, max_size=5),
    ),
    min_size=1,
    max_size=5,
)


@given(requests=lists, k=st.integers(1, 5))
def test_recall_and_gain_are_those_of_each_request(requests, k):
    ranked = np.array([r for r, _ in requests])
    relevant = np.array([c for _, wanted in requests for c in wanted])
    offsets = np.cumsum([0, *(len(wanted) for _, wanted in requests)])
    found, recalls, gains = hits(ranked, relevant, offsets), [], []
    for i, (shown, wanted) in enumerate(requests):
        different = set(wanted)
        assert found[i].tolist() == [c in different for c in shown]
        recalls.append(sum(c in different for c in shown[:k]) / len(different))
        ideal = sum(1 / math.log2(n + 2) for n in range(min(k, len(different))))
        gains.append(sum(1 / math.log2(n + 2) for n, c in enumerate(shown[:k]) if c in different) / ideal)
    np.testing.assert_allclose(recall_at_k(ranked, relevant, offsets, k), recalls)
    np.testing.assert_allclose(ndcg_at_k(ranked, relevant, offsets, k), gains)


@given(scores=st.lists(st.integers(0, 4), min_size=1, max_size=9), k=st.integers(1, 12))
def test_the_best_come_first_and_ties_in_order(scores, k):
    (got,) = top_k(np.array([scores], float), k).tolist()
    assert got == sorted(range(len(scores)), key=lambda c: (-scores[c], c))[:k]


@given(values=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30), confidence=st.floats(0.5, 0.99))
def test_an_interval_is_about_its_mean_and_grows_with_confidence(values, confidence):
    x = np.array(values)
    narrow, wide = mean_interval(x, confidence), mean_interval(x, (1 + confidence) / 2)
    assert narrow.mean == pytest.approx(float(np.mean(x)), abs=1e-9)
    assert narrow.error == pytest.approx(float(np.std(x, ddof=1)) / math.sqrt(len(x)), abs=1e-9)
    assert narrow.mean - narrow.low == pytest.approx(narrow.high - narrow.mean, abs=1e-9)
    assert wide.low <= narrow.low + 1e-9
    assert narrow.high <= wide.high + 1e-9
    assert narrow.count == len(values)


@given(values=st.lists(st.floats(-5, 5), min_size=2, max_size=20), by=st.floats(-3, 3), seed=st.integers(0, 9))
def test_a_constant_difference_is_certain_and_the_sign_turns(values, by, seed):
    x = np.array(values)
    sure = paired_difference(x + by, x, resamples=50, seed=seed)
    assert (sure.mean, sure.low, sure.high) == (pytest.approx(by, abs=1e-9),) * 3
    y = np.random.default_rng(seed).normal(size=len(x))
    ab, ba = (paired_difference(*p, resamples=200, seed=seed) for p in ((x, y), (y, x)))
    assert ab.mean == pytest.approx(-ba.mean)
    assert (ab.low, ab.high) == (pytest.approx(-ba.high), pytest.approx(-ba.low))
    assert ab.low <= ab.high


def test_an_estimate_is_shown_with_its_interval():
    assert str(Estimate(0.123456, 0.1, 0.1, 0.2, 10)) == "0.1235 [0.1000, 0.2000]"
