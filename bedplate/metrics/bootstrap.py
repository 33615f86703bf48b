"""Intervals of metrics over requests that were drawn again: of one model, and of two on the same requests.

The candidates of a request share its user and its time, so that requests, not rows, are what is independent. A metric
here is a function of sums over requests; a resample draws the requests anew (Efron and Tibshirani 1993, chapter 13) and
takes the function of the new sums. All metrics of one call, and both models, see the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TypeAlias, final

import numpy as np

from bedplate.errors import DataError
from bedplate.metrics.classification import as_columns, as_predictions, auc, request_aucs
from bedplate.metrics.intervals import Estimate
from bedplate.types import Array, Float64s, Int64s

RESAMPLES = 2000
"""How often the requests are drawn again."""

_GROUPS = 20_000
"""Requests beyond so many are drawn in random groups of about one size: the same spread, in bounded time."""

Formula: TypeAlias = Callable[[Float64s], Float64s]
"""Takes sums [..., k] to a metric's values [...]."""


@final
@dataclass(frozen=True, slots=True)
class Summed:
    """A metric as a function of sums over requests.

    Attributes:
        parts: [R, k] float64, what each request adds to each sum.
        formula: the metric of the sums.
    """

    parts: Float64s
    formula: Formula


def binary_sums(scores: Array, labels: Array, weights: Array, requests: Int64s) -> dict[str, Summed]:
    """The metrics of binary predictions as functions of sums over requests, in the order of `BINARY_METRICS`.

    Of scores that are no probabilities only `auc` and `request_auc`. The area under the curve of all rows is no such
    function: it is replaced by its linearisation, the sum of each request's structural components (DeLong et al. 1988,
    of clusters: Obuchowski 1997), whose mean it is. The expected calibration error is left out: resampled, it grows.

    Args:
        scores: [n].
        labels: [n], 0 or 1.
        weights: [n].
        requests: [n], equal for the candidates of one request.

    Raises:
        DataError: as for the metrics.
    """
    s, y, w = as_columns(scores, labels, weights)
    codes = np.unique(requests, return_inverse=True)[1]
    found = {
        "auc": Summed(_areas(s, y, w, codes), _ratio),
        "request_auc": Summed(_request_areas(s, y, codes), _ratio),
    }
    if not (s.min() >= 0 and s.max() <= 1):
        return found
    p, y, w = as_predictions(s, y, w)
    held = np.clip(p, 1e-15, 1 - 1e-15)
    loss = -(y * np.log(held) + (1 - y) * np.log1p(-held))
    losses, positives, masses = _by_request(codes, w * loss, w * y, w).T
    return found | {
        "log_loss": Summed(np.stack((losses, masses), 1), _ratio),
        "normalised_entropy": Summed(np.stack((losses, positives, masses), 1), _entropy),
        "calibration": Summed(_by_request(codes, w * p, w * y), _ratio),
    }


def estimates(
    metrics: Mapping[str, Summed], *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Estimate]:
    """Each metric with its percentile interval; `error` is the standard deviation of the resampled values.

    A metric that has no value (no positives, say) is left out.

    Args:
        metrics: functions of sums over the same requests.
        confidence: the share of the resampled values within the interval.
        resamples: how often the requests are drawn again.
        seed: of the draws.

    Raises:
        DataError: fewer than two requests, or an argument out of its range.
    """
    found = _resampled(list(metrics.values()), confidence, resamples, seed)
    return {name: _estimate(*one, confidence) for name, one in zip(metrics, found, strict=True) if isfinite(one[0])}


def differences(
    first: Mapping[str, Summed],
    second: Mapping[str, Summed],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, tuple[Estimate, Estimate, Estimate]]:
    """For each metric of both: the first, the second, and second minus first on the same draws of the same requests.

    An interval of the difference without 0 says that the two differ. Args and errors as in `estimates`.

    Raises:
        DataError: they are not of the same number of requests.
    """
    names = [name for name in first if name in second]
    sizes = {len(one[name].parts) for one in (first, second) for name in names}
    if len(sizes) > 1:
        raise DataError(f"got {sorted(sizes)} requests, expected the same ones", where="metrics")
    both = _resampled([one[name] for one in (first, second) for name in names], confidence, resamples, seed)
    found: dict[str, tuple[Estimate, Estimate, Estimate]] = {}
    for i, name in enumerate(names):
        (a, drawn_a, count), (b, drawn_b, _) = both[i], both[i + len(names)]
        if isfinite(a) and isfinite(b):
            parts = ((a, drawn_a), (b, drawn_b), (b - a, drawn_b - drawn_a))
            one, other, difference = (_estimate(value, drawn, count, confidence) for value, drawn in parts)
            found[name] = one, other, difference
    return found


def contrast(
    terms: Sequence[tuple[float, Mapping[str, Summed]]],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Estimate]:
    """For each metric of all terms, the sum of `weight * metric` on the same draws of the same requests.

    Args:
        terms: a weight and the metrics of one model each.
        confidence: as in `estimates`.
        resamples: as in `estimates`.
        seed: as in `estimates`.

    Raises:
        DataError: they are not of the same number of requests, or as for `estimates`.
    """
    names = [name for name in terms[0][1] if all(name in metrics for _, metrics in terms)]
    if len({len(metrics[name].parts) for _, metrics in terms for name in names}) > 1:
        raise DataError("got other numbers of requests, expected the same ones", where="metrics")
    drawn = _resampled([metrics[name] for _, metrics in terms for name in names], confidence, resamples, seed)
    found: dict[str, Estimate] = {}
    for i, name in enumerate(names):
        parts = [(weight, *drawn[i + j * len(names)]) for j, (weight, _) in enumerate(terms)]
        value = sum(weight * one for weight, one, _, _ in parts)
        if isfinite(value):
            total = np.sum([weight * values for weight, _, values, _ in parts], axis=0)
            found[name] = _estimate(value, total, parts[0][3], confidence)
    return found


def _estimate(value: float, drawn: Float64s, count: int, confidence: float) -> Estimate:
    known = drawn[np.isfinite(drawn)]  # a resample may hold no positive
    low, high = np.quantile(known, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(value, float(known.std(ddof=1)), float(low), float(high), count)


def _resampled(
    metrics: Sequence[Summed], confidence: float, resamples: int, seed: int
) -> list[tuple[float, Float64s, int]]:
    """Each metric's value, its values of the resamples, and the number of requests."""
    if not 0 < confidence < 1 or resamples < 2:
        raise DataError(
            f"got the confidence {confidence} and {resamples} resamples, expected one between 0 and 1, and at least 2",
            where="metrics",
        )
    requests = len(metrics[0].parts) if metrics else 2
    if requests < 2:
        raise DataError(f"got {requests} requests, expected at least two", where="metrics")
    rng = np.random.default_rng(seed)
    parts = _grouped(np.concatenate([m.parts for m in metrics], axis=1), rng) if metrics else np.zeros((2, 0))
    drawn = np.concatenate([counts @ parts for counts in _draws(len(parts), resamples, rng)])
    total, found, at = parts.sum(axis=0), list[tuple[float, Float64s, int]](), 0
    with np.errstate(divide="ignore", invalid="ignore"):
        for metric in metrics:
            own = slice(at, at + metric.parts.shape[1])
            found.append((float(metric.formula(total[own])), metric.formula(drawn[:, own]), requests))
            at = own.stop
    return found


def _grouped(parts: Float64s, rng: np.random.Generator) -> Float64s:
    """[at most _GROUPS, k]: the sums of random groups of requests, whose sizes differ by one at most."""
    if len(parts) <= _GROUPS:
        return parts
    starts = np.linspace(0, len(parts), _GROUPS, endpoint=False).astype(np.int64)
    return np.add.reduceat(parts[rng.permutation(len(parts))], starts, axis=0)


def _draws(size: int, resamples: int, rng: np.random.Generator) -> Iterator[Float64s]:
    """How often each of `size` things is drawn, [resamples, size] in parts of at most about 8 MB."""
    step = max(1, 1_000_000 // size)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, size, (rows, size)) + np.arange(rows)[:, None] * size
        yield np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)


def _by_request(codes: Int64s, *columns: Float64s) -> Float64s:
    """[R, k]: the sum of each column over the rows of each request."""
    return np.stack([np.bincount(codes, column).astype(np.float64) for column in columns], 1)


def _areas(s: Float64s, y: Float64s, w: Float64s, codes: Int64s) -> Float64s:
    """[R, 2]: what each request adds to the linearised area, and 1."""
    order = np.argsort(s, kind="stable")
    ordered = s[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    sizes = np.diff(np.append(starts, len(s)))
    positive, negative = (w * y)[order], (w * (1 - y))[order]
    positives, negatives = np.add.reduceat(positive, starts), np.add.reduceat(negative, starts)
    below = np.repeat(np.cumsum(negatives) - negatives / 2, sizes)
    above = positives.sum() - np.repeat(np.cumsum(positives) - positives / 2, sizes)
    parts = _by_request(codes[order], positive * below + negative * above, positive, negative)
    requests, area = len(parts), auc(s, y, w)
    p, q = parts[:, 1].sum(), parts[:, 2].sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        linear = parts[:, 0] / (p * q) - area * (parts[:, 1] / p + parts[:, 2] / q)
    return np.stack((area + requests * linear, np.ones(requests)), 1)


def _request_areas(s: Float64s, y: Float64s, codes: Int64s) -> Float64s:
    """[R, 2]: the area within each request that has a positive and a negative and 1, or zeros."""
    positives, negatives = _by_request(codes, y, 1 - y).T
    both = (positives > 0) & (negatives > 0)
    parts = np.zeros((len(both), 2))
    parts[both, 0], parts[both, 1] = request_aucs(s, y, codes), 1.0
    return parts


def _ratio(sums: Float64s) -> Float64s:
    return np.asarray(sums[..., 0] / sums[..., 1])


def _entropy(sums: Float64s) -> Float64s:
    loss, mean = sums[..., 0] / sums[..., 2], sums[..., 1] / sums[..., 2]
    return np.asarray(loss / -(mean * np.log(mean) + (1 - mean) * np.log1p(-mean)))
