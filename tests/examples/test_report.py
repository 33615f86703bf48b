"""The demo's report says by each metric which wins, also where it is a baseline."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import pytest
from small_retail import EXAMPLE

MODELS = {
    "retail_ranker": (0.72, 0.617, 0.891, 1.14),
    "retail_logistic": (0.721, 0.634, 0.915, 0.9),
    "retail_retrieval": None,
}


@pytest.fixture
def winners(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    return importlib.import_module("winners")


def estimate(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}


def found(winners: ModuleType, lead: float = 0.02) -> list[dict[str, Any]]:
    names = ("auc", "log_loss", "normalised_entropy", "calibration")
    models = {
        model: {"metrics": {f"test_{n}": v for n, v in zip(names, values or (), strict=values is not None)}}
        for model, values in MODELS.items()
    }
    table = {
        "two towers alone": {"ndcg@10": estimate(0.08), "recall@100": estimate(0.22)},
        "retrieval + DCN ranking": {"ndcg@10": estimate(0.28), "recall@100": estimate(0.45)},
        "the customer's own history": {"ndcg@10": estimate(0.25), "recall@100": estimate(0.47)},
        "popularity of the last 28 days": {"ndcg@10": estimate(0.07), "recall@100": estimate(0.26)},
    }
    leads = {"ndcg@10": estimate(0.03), "recall@100": estimate(lead)}
    return winners.winners(models, {"table": table, "leads": leads})


def test_each_metric_has_its_own_winner(winners: ModuleType) -> None:
    assert [(one["metric"], one["winner"], one["second"], one["baseline"]) for one in found(winners)] == [
        ("NDCG@10", "retrieval + DCN ranking", "the customer's own history", False),
        ("Recall@100", "the customer's own history", "retrieval + DCN ranking", True),
        ("AUC", "retail_logistic", "retail_ranker", True),
        ("log loss", "retail_ranker", "retail_logistic", False),
        ("normalised entropy", "retail_ranker", "retail_logistic", False),
        ("calibration", "retail_logistic", "retail_ranker", True),
    ]


def test_the_lines_name_winners_intervals_and_baselines_that_win(winners: ModuleType) -> None:
    told = winners.lines(found(winners))
    assert told[:4] == [
        "NDCG@10             retrieval + DCN ranking, 0.2800; next the customer's own history, 0.2500",
        "                    lead +0.0300 [+0.0200, +0.0400], clear",
        "Recall@100          the customer's own history (a baseline), 0.4700; next retrieval + DCN ranking, 0.4500",
        "                    lead +0.0200 [+0.0100, +0.0300], clear",
    ]
    assert [line for line in told if "loses" in line] == [
        "NDCG@10: two towers alone loses to the customer's own history.",
        "Recall@100: retrieval + DCN ranking loses to the customer's own history.",
        "Recall@100: two towers alone loses to the customer's own history, popularity of the last 28 days.",
        "AUC: retail_ranker loses to retail_logistic.",
        "calibration: retail_ranker loses to retail_logistic.",
    ]
    assert "not clear, the interval holds 0" in winners.lines(found(winners, lead=0.005))[3]


@pytest.mark.parametrize(("better", "worse"), [(0.95, 1.06), (1.02, 0.97), (1.5, 0.5)])
def test_calibration_is_best_at_one(winners: ModuleType, better: float, worse: float) -> None:
    good = winners.goodness("calibration")
    assert good(1.0) > good(better) > good(worse) > good(0.0)
