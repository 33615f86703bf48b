"""The report of binary predictions: its names, and when it speaks against a model."""

from __future__ import annotations

import numpy as np
import pytest

from bedplate.metrics.report import BINARY_METRICS, binary_report, warnings_of


def report(probabilities: list[float]) -> dict[str, float]:
    labels, requests = np.array([0, 1, 0, 1, 1]), np.array([0, 0, 1, 1, 1])
    return binary_report(np.array(probabilities), labels, np.ones(5), requests)


def test_the_names_are_those_that_are_reported() -> None:
    assert tuple(report([0.1, 0.9, 0.2, 0.8, 0.7])) == BINARY_METRICS


@pytest.mark.parametrize(
    ("probabilities", "worse"),
    [([0.1, 0.9, 0.2, 0.8, 0.7], False), ([0.6] * 5, False), ([0.9, 0.1, 0.9, 0.9, 0.9], True)],
)
def test_a_model_is_doubted_where_the_mean_label_is_better(probabilities: list[float], worse: bool) -> None:
    found = report(probabilities)
    assert (found["normalised_entropy"] > 1) is worse
    said = warnings_of(found | {f"test_{name}": value for name, value in report([0.6] * 5).items()})
    assert [text[:18] for text in said] == (["on the validation "] if worse else [])


def test_nothing_is_said_of_a_split_of_one_class() -> None:
    assert warnings_of({"normalised_entropy": float("nan"), "request_auc": 0.1}) == []
