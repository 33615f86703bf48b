from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from sklearn import metrics as sk

from bedplate.errors import DataError
from bedplate.metrics.calibration import calibration, expected_calibration_error, reliability
from bedplate.metrics.classification import auc, log_loss, normalised_entropy, request_auc, request_aucs
from bedplate.metrics.intervals import mean_interval, paired_difference
from bedplate.metrics.report import binary_report
from bedplate.metrics.retrieval import ndcg_at_k, recall_at_k, top_k


@pytest.fixture(params=[0, 1, 2])
def data(request):
    rng = np.random.default_rng(request.param)
    n = 500
    scores = np.round(rng.random(n), 1 if request.param else 6)  # rounded: many ties
    labels = (rng.random(n) < scores).astype(np.float32)
    return scores, labels, rng.integers(0, 60, n), rng.random(n) * 3


def test_auc_equals_sklearn_with_ties_and_weights(data):
    scores, labels, _, weights = data
    assert auc(scores, labels) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    expected = sk.roc_auc_score(labels, scores, sample_weight=weights)
    assert auc(scores, labels, weights) == pytest.approx(expected, abs=1e-12)


def test_request_auc_equals_the_count_of_pairs(data):
    scores, labels, requests, _ = data
    expected = []
    for r in np.unique(requests):
        s, y = scores[requests == r], labels[requests == r] > 0
        pairs = [(p > q) + (p == q) / 2 for p in s[y] for q in s[~y]]
        if pairs:
            expected.append(np.mean(pairs))
    np.testing.assert_allclose(request_aucs(scores, labels, requests), expected, atol=1e-12)
    assert request_auc(scores, labels, requests) == pytest.approx(np.mean(expected))


def test_auc_of_one_class_is_not_a_number():
    assert math.isnan(auc(np.array([0.1, 0.2]), np.array([1, 1])))
    assert math.isnan(request_auc(np.array([0.1, 0.2]), np.array([1, 0]), np.array([0, 1])))


def test_log_loss_equals_sklearn(data):
    scores, labels, _, weights = data
    scores = np.clip(scores, 0.01, 0.99)
    assert log_loss(scores, labels) == pytest.approx(sk.log_loss(labels, scores))
    assert log_loss(scores, labels, weights) == pytest.approx(sk.log_loss(labels, scores, sample_weight=weights))


def test_normalised_entropy_of_the_mean_is_one_and_of_knowledge_less(data):
    scores, labels, _, weights = data
    mean = np.full(len(labels), np.average(labels, weights=weights))
    assert normalised_entropy(mean, labels, weights) == pytest.approx(1.0)
    assert normalised_entropy(np.clip(scores, 0.01, 0.99), labels, weights) < 0.9
    assert math.isnan(normalised_entropy(scores, np.zeros(len(scores))))


def test_calibration_is_predicted_over_observed(data):
    scores, labels, _, weights = data
    expected = (scores * weights).sum() / (labels * weights).sum()
    assert calibration(scores, labels, weights) == pytest.approx(expected)
    assert math.isnan(calibration(scores, np.zeros(len(scores))))


def test_reliability_bins_have_equal_mass_and_do_not_split_ties(data):
    scores, labels, _, _ = data
    table = reliability(scores, labels, bins=5)
    assert sum(b.weight for b in table) == pytest.approx(len(scores))
    assert all(a.high < b.low for a, b in itertools.pairwise(table))
    for b in table:
        inside = (scores >= b.low) & (scores <= b.high)
        assert b.weight == inside.sum()
        assert b.predicted == pytest.approx(scores[inside].mean())
        assert b.observed == pytest.approx(labels[inside].mean())
    if len(np.unique(scores)) == len(scores):
        assert {b.weight for b in table} == {100.0}


def test_expected_calibration_error_finds_what_the_ratio_hides():
    labels = np.tile([0, 1], 500)
    probabilities = np.where(np.arange(1000) < 500, 0.2, 0.8)
    assert calibration(probabilities, labels) == pytest.approx(1.0)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.3)


def test_report_is_of_weighted_rows(data):
    scores, labels, requests, _ = data
    scores = np.clip(scores, 0.01, 0.99)
    twice = np.repeat(np.arange(len(scores)), 2)
    a = binary_report(scores, labels, np.full(len(scores), 2.0), requests)
    b = binary_report(scores[twice], labels[twice], np.ones(2 * len(scores)), requests[twice])
    assert a == pytest.approx(b)


@pytest.mark.parametrize("bad", [np.array([np.nan, 1.0]), np.array([1.0])])
def test_bad_columns_are_refused(bad):
    with pytest.raises(DataError):
        auc(bad, np.array([0, 1]))
    with pytest.raises(DataError):
        auc(np.zeros(0), np.zeros(0))


def retrieval_case(seed):
    rng = np.random.default_rng(seed)
    scores = np.round(rng.random((20, 30)), 1)
    relevant = [rng.choice(30, rng.integers(1, 12), replace=False) for _ in range(20)]
    offsets = np.concatenate(([0], np.cumsum([len(r) for r in relevant])))
    return scores, relevant, offsets


@pytest.mark.parametrize("k", [1, 5, 30])
def test_recall_and_ndcg_equal_brute_force(k):
    scores, relevant, offsets = retrieval_case(k)
    ranked = top_k(scores, 30)
    recalls, gains = [], []
    for i, wanted in enumerate(relevant):
        order = sorted(range(30), key=lambda c: (-scores[i, c], c))[:k]
        recalls.append(sum(c in wanted for c in order) / len(wanted))
        dcg = sum(1 / math.log2(rank + 2) for rank, c in enumerate(order) if c in wanted)
        gains.append(dcg / sum(1 / math.log2(rank + 2) for rank in range(min(k, len(wanted)))))
    flat = np.concatenate(relevant)
    np.testing.assert_allclose(recall_at_k(ranked, flat, offsets, k), recalls)
    np.testing.assert_allclose(ndcg_at_k(ranked, flat, offsets, k), gains)


def test_ndcg_equals_sklearn_without_ties():
    rng = np.random.default_rng(4)
    scores = rng.random((15, 25))
    truth = rng.random((15, 25)) < 0.2
    truth[:, 0] = True
    requests, relevant = np.nonzero(truth)
    offsets = np.concatenate(([0], np.cumsum(np.bincount(requests, minlength=15))))
    got = ndcg_at_k(top_k(scores, 10), relevant, offsets, 10).mean()
    assert got == pytest.approx(sk.ndcg_score(truth, scores, k=10))


def test_a_relevant_candidate_named_twice_counts_once():
    ranked = np.array([[4, 5]])
    assert recall_at_k(ranked, np.array([4, 4, 9]), np.array([0, 3]), 2).tolist() == [0.5]
    assert ndcg_at_k(ranked, np.array([4, 4]), np.array([0, 2]), 2).tolist() == [1.0]


def test_wrong_rankings_are_refused():
    with pytest.raises(DataError, match="ranked twice"):
        recall_at_k(np.array([[4, 4]]), np.array([4]), np.array([0, 1]), 2)
    with pytest.raises(DataError, match="request 1 has nothing relevant"):
        recall_at_k(np.array([[4], [5]]), np.array([4]), np.array([0, 1, 1]), 1)
    with pytest.raises(DataError, match="got"):
        recall_at_k(np.array([[4], [5]]), np.array([4]), np.array([0, 1]), 1)


def test_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [mean_interval(rng.normal(1, 2, 50)) for _ in range(400)]
    covered = np.mean([i.low <= 1 <= i.high for i in intervals])
    assert 0.91 < covered < 0.98


def test_paired_difference_sees_what_two_intervals_hide():
    rng = np.random.default_rng(0)
    base = rng.normal(0.5, 0.3, 300)
    better = base + rng.normal(0.02, 0.05, 300)
    a, b = mean_interval(base), mean_interval(better)
    assert a.high > b.low
    found = paired_difference(better, base)
    assert 0 < found.low < 0.02 < found.high
    assert found.error == pytest.approx(mean_interval(better - base).error, rel=0.1)
    assert paired_difference(better, base) == found
    same = paired_difference(base, rng.permutation(base))
    assert same.low < 0 < same.high


def test_intervals_refuse_what_has_no_spread():
    with pytest.raises(DataError):
        mean_interval(np.array([1.0]))
    with pytest.raises(DataError, match="pairs"):
        paired_difference(np.array([1.0, 2.0]), np.array([1.0]))
