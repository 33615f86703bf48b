"""Which model or baseline wins by each metric, said plainly, also where it is a baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bedplate.metrics.directions import DIRECTIONS

RANKINGS = {"ndcg@10": "NDCG@10", "recall@100": "Recall@100"}
"""The metrics of the whole catalogue, each with an interval over orders."""
PREDICTIONS = {
    "auc": "AUC",
    "log_loss": "log loss",
    "normalised_entropy": "normalised entropy",
    "calibration": "calibration",
}
"""The metrics of the test split, of models that give probabilities."""
BASELINES = frozenset(
    {
        "retrieval + logistic regression",
        "popularity of the last 28 days",
        "the customer's own history",
        "retail_logistic",
    }
)


def goodness(metric: str) -> Callable[[float], float]:
    """What is larger for a better value: calibration is best at 1, losses are best low."""
    if metric == "calibration":
        return lambda value: -abs(math.log(value)) if value > 0 else -math.inf
    return lambda value: -value if DIRECTIONS.get(metric) == "lower" else value


def winners(models: Mapping[str, Any], catalogue: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry a metric: its winner and whether that is a baseline, the second, and all values, the best first.

    Beside them the lead with its interval where there is one, and for each model the baselines that beat it.
    """
    found: list[dict[str, Any]] = []
    for metric, shown in (*RANKINGS.items(), *PREDICTIONS.items()):
        if metric in RANKINGS:
            values = {name: row[metric]["mean"] for name, row in catalogue["table"].items()}
        else:
            tested = {name: model["metrics"].get(f"test_{metric}") for name, model in models.items()}
            values = {name: value for name, value in tested.items() if value is not None}
        good = goodness(metric)
        order = sorted(values, key=lambda name: -good(values[name]))
        found.append(
            {
                "metric": shown,
                "winner": order[0],
                "second": order[1],
                "values": {name: values[name] for name in order},
                "lead": catalogue["leads"].get(metric),
                "baseline": order[0] in BASELINES,
                "beaten": {
                    name: [b for b in order[:place] if b in BASELINES and good(values[b]) > good(values[name])]
                    for place, name in enumerate(order)
                    if name not in BASELINES
                },
            }
        )
    return found


def lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A plain line for each metric and its lead where there is one, then one for each model that a baseline beats."""
    told: list[str] = []
    for one in found:
        first, second = one["winner"], one["second"]
        shown = f"{first} (a baseline)" if one["baseline"] else first
        told.append(
            f"{one['metric']:19} {shown}, {one['values'][first]:.4f}; next {second}, {one['values'][second]:.4f}"
        )
        lead = one["lead"]
        if lead is not None:
            clear = "clear" if lead["low"] > 0 else "not clear, the interval holds 0"
            told.append(f"{'':19} lead {lead['mean']:+.4f} [{lead['low']:+.4f}, {lead['high']:+.4f}], {clear}")
    for one in found:
        for name, by in one["beaten"].items():
            told += [f"{one['metric']}: {name} loses to {', '.join(by)}."] if by else []
    return told
