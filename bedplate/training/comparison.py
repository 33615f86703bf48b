"""Whether one model is better than another on the same rows, with intervals; and how sure the metrics of one are."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import final

import msgspec
import numpy as np

from bedplate.errors import DataError, NotFoundError, suggest
from bedplate.metrics.bootstrap import Summed, binary_sums, contrast, differences, estimates
from bedplate.metrics.directions import DIRECTIONS, Direction
from bedplate.metrics.intervals import Estimate
from bedplate.models.prediction import Prediction
from bedplate.training.resampling import Metrics, resampled
from bedplate.types import Array


@final
class Comparison(msgspec.Struct, frozen=True):
    """A metric of two models on the same rows.

    Attributes:
        a: of the first.
        b: of the second.
        difference: b minus a, over the same draws of requests: far narrower than the two intervals apart.
    """

    a: Estimate
    b: Estimate
    difference: Estimate

    @property
    def differs(self) -> bool:
        """Whether the interval of the difference leaves out 0."""
        return self.difference.low > 0 or self.difference.high < 0

    def better(self, metric: str, direction: Direction | None = None) -> str | None:
        """`a` or `b`, whichever is better by this metric; None where they don't differ, or it can't judge.

        Args:
            metric: its name.
            direction: whether lower or higher is better, of a metric of a model's own.
        """
        known = DIRECTIONS.get(metric, direction)
        if known is None or not self.differs:
            return None
        return "b" if (self.difference.mean > 0) == (known == "higher") else "a"


def compare(
    a: Prediction,
    b: Prediction,
    label: str,
    confidence: float = 0.95,
    seed: int = 0,
    metrics: Metrics | None = None,
) -> dict[str, Comparison]:
    """Each metric of two models on the same rows; metrics of probabilities where both gave probabilities.

    Requests are drawn again, both models on the same draws (see `metrics.bootstrap`); no metric comes from a model
    unless `metrics` does.

    Args:
        a: predictions of the first.
        b: predictions of the second.
        label: the name of the label.
        confidence: of the intervals.
        seed: of the draws.
        metrics: what is compared, of a label of any kind; None: the metrics of labels that are 0 or 1.

    Raises:
        DataError: the rows differ: other requests or candidates, other labels or weights; fewer than two requests.
        NotFoundError: there is no such label.
    """
    problem = rows_differ(a, b, label)
    if problem is not None:
        raise DataError(
            f"the two can't be compared row by row: {problem}",
            where="comparison",
            hint="score the same requests with both, or compare each model's own interval",
        )
    if metrics is not None:
        terms = {"a": ((1.0, a),), "b": ((1.0, b),), "difference": ((1.0, b), (-1.0, a))}
        parts = resampled(terms, metrics, label, confidence, seed)
        shared = [name for name in parts["difference"] if name in parts["a"] and name in parts["b"]]
        return {name: Comparison(*(parts[term][name] for term in terms)) for name in shared}
    found = differences(_sums(a, label), _sums(b, label), confidence=confidence, seed=seed)
    return {name: Comparison(*parts) for name, parts in found.items()}


def measure(
    prediction: Prediction, label: str, confidence: float = 0.95, seed: int = 0, metrics: Metrics | None = None
) -> dict[str, Estimate]:
    """Each metric of one model with its interval over requests.

    Args:
        prediction: of the model.
        label: the name of the label.
        confidence: of the intervals.
        seed: of the draws.
        metrics: what is measured, of a label of any kind; None: the metrics of labels that are 0 or 1.

    Raises:
        DataError: fewer than two requests have the label, or labels that are not 0 or 1.
        NotFoundError: there is no such label.
    """
    if metrics is not None:
        _require_label(prediction, label)
        return resampled({"own": ((1.0, prediction),)}, metrics, label, confidence, seed)["own"]
    return estimates(_sums(prediction, label), confidence=confidence, seed=seed)


def combine(
    terms: Sequence[tuple[float, Prediction]],
    label: str,
    confidence: float = 0.95,
    seed: int = 0,
    metrics: Metrics | None = None,
) -> dict[str, Estimate]:
    """The sum of `weight * metric` over predictions, for each metric of all: of differences, and of means of them.

    Predictions of the same rows share their draws. Those of other rows are independent: their errors add up in squares,
    and the interval is the normal one.

    Args:
        terms: a weight and what a model predicted, each.
        label: the name of the label.
        confidence: of the intervals.
        seed: of the draws.
        metrics: what is combined, of a label of any kind; None: the metrics of labels that are 0 or 1.

    Raises:
        DataError: fewer than two requests have the label, or labels that are not 0 or 1.
        NotFoundError: there is no such label.
    """
    groups: list[list[tuple[float, Prediction]]] = []
    for weight, one in terms:
        own = next((g for g in groups if g[0][1] is one or rows_differ(g[0][1], one, label) is None), None)
        if own is None:
            groups.append([(weight, one)])
        else:
            own.append((weight, one))
    parts = [_combined(group, label, confidence, seed + i, metrics) for i, group in enumerate(groups)]
    if len(parts) == 1:
        return parts[0]
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: _added([part[name] for part in parts], confidence) for name in names}


def _combined(
    terms: Sequence[tuple[float, Prediction]], label: str, confidence: float, seed: int, metrics: Metrics | None
) -> dict[str, Estimate]:
    """The sum over predictions of the same rows."""
    if metrics is not None:
        return resampled({"sum": tuple(terms)}, metrics, label, confidence, seed)["sum"]
    return contrast([(w, _sums(p, label)) for w, p in terms], confidence=confidence, seed=seed)


def _added(parts: Sequence[Estimate], confidence: float) -> Estimate:
    """The sum of independent estimates."""
    mean, error = sum(p.mean for p in parts), sum(p.error**2 for p in parts) ** 0.5
    reach = NormalDist().inv_cdf(0.5 + confidence / 2) * error
    return Estimate(mean, error, mean - reach, mean + reach, min(p.count for p in parts))


def rows_differ(a: Prediction, b: Prediction, label: str) -> str | None:
    """How the rows of two predictions differ; None: they are the same, in the same order, with the same label.

    Raises:
        NotFoundError: there is no such label.
    """
    _require_label(a, label)
    _require_label(b, label)
    if not np.array_equal(a.request_ids, b.request_ids):
        shared = len(np.intersect1d(a.request_ids, b.request_ids))
        if shared == len(a.request_ids) == len(b.request_ids):
            return "the requests come in another order"
        return f"{len(a.request_ids):,} and {len(b.request_ids):,} requests, of which {shared:,} are in both"
    if not (np.array_equal(a.requests, b.requests) and np.array_equal(a.candidates, b.candidates)):
        return f"other candidates for the same requests ({_first(a, b)})"
    for what, one, other in (("labels", a.labels[label], b.labels[label]), ("weights", a.weights, b.weights)):
        wrong = np.flatnonzero(~((one == other) | (np.isnan(one) & np.isnan(other))))
        if len(wrong):
            where = f"the first is row {wrong[0]:,}: {one[wrong[0]]:g} and {other[wrong[0]]:g}"
            return f"other {what} in {len(wrong):,} of {len(one):,} rows ({where})"
    return None


def _first(a: Prediction, b: Prediction) -> str:
    """The first request whose candidates differ."""
    sizes = [np.bincount(p.requests, minlength=len(p.request_ids)) for p in (a, b)]
    rows = min(len(a.candidates), len(b.candidates))
    different = np.flatnonzero((a.candidates[:rows] != b.candidates[:rows]) | (a.requests[:rows] != b.requests[:rows]))
    at = int(a.requests[different[0]]) if len(different) else int(np.flatnonzero(sizes[0] != sizes[1])[0])
    return f"request_id {a.request_ids[at]} is the first, with {sizes[0][at]} and {sizes[1][at]} candidates"


def _require_label(prediction: Prediction, label: str) -> None:
    if label not in prediction.labels:
        raise NotFoundError(
            f"there is no label '{label}'", where="predictions", hint=suggest(label, prediction.labels, "labels")
        )


def _sums(prediction: Prediction, label: str) -> dict[str, Summed]:
    _require_label(prediction, label)
    rows: tuple[Array, ...] = prediction.of(label)
    return binary_sums(*rows)
