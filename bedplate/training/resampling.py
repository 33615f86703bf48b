"""Intervals of whatever metrics a function gives of a prediction: of the same requests, drawn again, it is asked anew.

Bedplate's own metrics are functions of sums (`metrics.bootstrap`), thousands of draws of which cost little. A model's
own may be anything, so the function is called for each draw: a standard error takes 200 of them (Efron and Tibshirani
1993, chapter 6), and the interval is the normal one around the value of all requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from statistics import NormalDist
from typing import TypeAlias, final

import numpy as np

from bedplate.errors import BedplateError, DataError
from bedplate.metrics.intervals import Estimate
from bedplate.models.prediction import Prediction
from bedplate.types import Int64s

DRAWS = 200
"""How often the requests are drawn again."""

Metrics: TypeAlias = Callable[[Prediction], Mapping[str, float]]
"""Gives metrics of a prediction by name, such as a model's own; raises a `BedplateError` where it can't."""


def resampled(
    terms: Mapping[str, tuple[tuple[float, Prediction], ...]],
    metrics: Metrics,
    label: str,
    confidence: float,
    seed: int,
) -> dict[str, dict[str, Estimate]]:
    """The sum of `weight * metric` of each term, by term and metric, all on the same draws of the same requests.

    Drawn are the requests that have the label: where few have it, a draw of all might hold none. A metric that has no
    value in one of the predictions, or in fewer than half of the draws, is left out: of few requests a draw may be such
    that there is none, as where all its labels are equal, and `metrics` may fail there.

    Args:
        terms: weights and predictions of the same requests, in the same order.
        metrics: of a prediction.
        label: the name of the label that requests must have.
        confidence: of the intervals, between 0 and 1.
        seed: of the draws.

    Raises:
        DataError: fewer than two requests have the label.
        BedplateError: `metrics` fails on a whole prediction.
    """
    every = list({id(p): p for parts in terms.values() for _, p in parts}.values())
    known = every[0].requests_with(label)
    if len(known) < 2:
        raise DataError(f"got {len(known)} requests with the label '{label}', expected at least two", where="metrics")
    whole, drawing = {id(p): metrics(p) for p in every}, {id(p): _Drawing(p) for p in every}
    rng = np.random.default_rng(seed)
    drawn: list[dict[int, Mapping[str, float]]] = []
    for _ in range(DRAWS):
        chosen = rng.choice(known, len(known))
        drawn.append({key: _values(metrics, one.of(chosen)) for key, one in drawing.items()})
    names = [name for name in whole[id(every[0])] if all(isfinite(one.get(name, np.nan)) for one in whole.values())]
    reach = NormalDist().inv_cdf(0.5 + confidence / 2)
    found: dict[str, dict[str, Estimate]] = {term: {} for term in terms}
    for name in names:
        for term, parts in terms.items():
            mean = sum(weight * whole[id(p)][name] for weight, p in parts)
            values = np.array([sum(w * one[id(p)].get(name, np.nan) for w, p in parts) for one in drawn])
            values = values[np.isfinite(values)]
            if 2 * len(values) >= DRAWS:
                error = float(values.std(ddof=1))
                found[term][name] = Estimate(mean, error, mean - reach * error, mean + reach * error, len(known))
    return found


def _values(metrics: Metrics, drawn: Prediction) -> Mapping[str, float]:
    """The metrics of a draw; empty where there are none, of requests all of which do have some."""
    try:
        return metrics(drawn)
    except BedplateError:
        return {}


@final
class _Drawing:
    """A prediction whose requests are drawn again many times."""

    def __init__(self, prediction: Prediction) -> None:
        self._prediction, self._order = prediction, np.argsort(prediction.requests, kind="stable")
        self._sizes = np.bincount(prediction.requests, minlength=len(prediction.request_ids))
        self._starts = np.cumsum(self._sizes) - self._sizes

    def of(self, chosen: Int64s) -> Prediction:
        """The prediction of these requests, one that was drawn twice as two."""
        prediction, taken = self._prediction, self._sizes[chosen]
        within = np.arange(int(taken.sum())) - np.repeat(np.cumsum(taken) - taken, taken)
        rows = self._order[np.repeat(self._starts[chosen], taken) + within]
        return Prediction(
            scores=prediction.scores[rows],
            labels={name: values[rows] for name, values in prediction.labels.items()},
            weights=prediction.weights[rows],
            requests=np.repeat(np.arange(len(chosen)), taken),
            request_ids=prediction.request_ids[chosen],
            candidates=prediction.candidates[rows],
            loss=prediction.loss,
        )
