"""Whether a model may take the champion's place: rules over a comparison on the same rows, pure data in a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, final

import msgspec

from bedplate.errors import ConfigError
from bedplate.features.checks import check_least, check_types
from bedplate.metrics.classification import LOWER_IS_BETTER, NOT_FOR_JUDGING
from bedplate.metrics.intervals import Estimate

GUARDS: Mapping[str, float] = {"calibration": 0.05}
"""What is guarded where the rules do not say."""


class PromotionRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a new model must fulfil to become the champion.

    A model is refused where an interval says that it is worse, not where it might be: with few requests the intervals
    are wide, which `minimum_requests` is for.

    Attributes:
        metric: that is judged; empty: the trainer's.
        margin: how much worse it may be: refused where the whole interval of the difference is beyond that.
        must_win: refuse where the interval does not say that it is better, too.
        guards: other metrics by name, and how much worse each may be, calibration by its distance from 1; None:
            `GUARDS`.
        largest_miscalibration: the largest distance of calibration from 1, also for a first champion.
        minimum_requests: of the comparison, all later than what either model knows.
        confidence: of the intervals.
        largest_missing: by how much the share of nulls of an input may have risen from training to test.
        largest_shift: by how many standard deviations the mean of a number may have moved from training to test.
    """

    metric: str = ""
    margin: float = 0.0
    must_win: bool = False
    guards: dict[str, float] | None = None
    largest_miscalibration: float = 0.5
    minimum_requests: int = 100
    confidence: float = 0.95
    largest_missing: float = 0.3
    largest_shift: float = 3.0

    def __post_init__(self) -> None:
        """Checks types and ranges.

        Raises:
            ConfigError: a value is of another type than its field, or out of its range.
        """
        check_types(self, "promotion")
        check_least(self, "margin largest_miscalibration largest_missing largest_shift", 0, "promotion")
        check_least(self, "minimum_requests", 2, "promotion")
        if not 0 < self.confidence < 1:
            raise ConfigError(f"confidence is {self.confidence}, expected above 0 and below 1", where="promotion")


class Compared(Protocol):
    """A metric of two models on the same rows (`comparison.Comparison`)."""

    @property
    def a(self) -> Estimate:
        """Of the champion."""
        ...

    @property
    def b(self) -> Estimate:
        """Of the challenger."""
        ...

    @property
    def difference(self) -> Estimate:
        """The challenger's minus the champion's."""
        ...


@final
class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether a model may become the champion, and why.

    Attributes:
        decision: what is to be done.
        reasons: what speaks for it: of a refusal everything that is wrong.
    """

    decision: Literal["promote", "refuse"]
    reasons: list[str]


def judged_metric(wanted: str, offered: Mapping[str, object]) -> str | None:
    """The metric of a comparison to judge by: the one that is wanted, where it is there, or the nearest to it.

    >>> judged_metric("loss", {"auc": 1, "log_loss": 1}), judged_metric("recall", {"auc": 1})
    ('log_loss', 'auc')
    """
    return next((m for m in (wanted, "log_loss", "request_auc", "auc") if m in offered), None)


def judge(rules: PromotionRules, metric: str, compared: Mapping[str, Compared], requests: int) -> Verdict:
    """Judges a challenger by its comparison with the champion.

    Args:
        rules: of the job.
        metric: that the job's trainer judges by.
        compared: each metric of both on the same rows.
        requests: of the comparison.
    """
    wrong: list[str] = []
    judged = judged_metric(rules.metric or metric, compared)
    if requests < rules.minimum_requests:
        wrong.append(_too_few(requests, rules))
    if judged is None:
        wrong.append(f"'{rules.metric or metric}' has no value on these requests, nor has another metric")
        return Verdict("refuse", wrong)
    gain = _gain(judged, compared[judged])
    if gain.high < -rules.margin:
        wrong.append(f"{_said(judged, compared[judged])}: clearly worse than the champion" + _by(rules.margin))
    elif rules.must_win and gain.low <= 0:
        wrong.append(f"{_said(judged, compared[judged])}: not clearly better than the champion (must_win)")
    for name, margin in (GUARDS if rules.guards is None else rules.guards).items():
        if name in compared and _gain(name, compared[name]).high < -margin:
            wrong.append(f"guard {_said(name, compared[name])}: clearly worse than the champion" + _by(margin))
    if "calibration" in compared:
        wrong += _miscalibrated(compared["calibration"].b.mean, rules)
    return Verdict("refuse", wrong) if wrong else Verdict("promote", [_said(judged, compared[judged])])


def judge_first(rules: PromotionRules, metric: str, metrics: Mapping[str, Estimate], requests: int) -> Verdict:
    """Judges a model that there is no champion to compare with.

    Args:
        rules: of the job.
        metric: that the job's trainer judges by.
        metrics: its own on the test split.
        requests: of the test split.
    """
    wrong = [_too_few(requests, rules)] if requests < rules.minimum_requests else []
    if "normalised_entropy" in metrics and metrics["normalised_entropy"].low > 1:
        wrong.append(f"normalised_entropy {metrics['normalised_entropy']}: worse than predicting the mean label")
    if "calibration" in metrics:
        wrong += _miscalibrated(metrics["calibration"].mean, rules)
    judged = judged_metric(rules.metric or metric, metrics)
    if judged is None:
        wrong.append(f"'{rules.metric or metric}' has no value on these requests, nor has another metric")
    if wrong or judged is None:
        return Verdict("refuse", wrong)
    return Verdict("promote", [f"the first champion: {judged} {metrics[judged]}"])


def _gain(metric: str, compared: Compared) -> Estimate:
    """By how much the challenger is better, with its interval."""
    d = compared.difference
    if metric in NOT_FOR_JUDGING:  # best at 1: the change of the distance from it, at both ends of the interval
        was = abs(compared.a.mean - 1)
        ends = [was - abs(compared.a.mean + end - 1) for end in (d.low, d.mean, d.high)]
        crosses = min(compared.a.mean + d.low, compared.a.mean + d.high) <= 1 <= compared.a.mean + d.high
        return Estimate(ends[1], d.error, min(ends), was if crosses else max(ends), d.count)
    return Estimate(-d.mean, d.error, -d.high, -d.low, d.count) if metric in LOWER_IS_BETTER else d


def _said(metric: str, compared: Compared) -> str:
    d = compared.difference
    difference = f"{d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}]"
    return f"{metric} {compared.b.mean:.4f}, champion {compared.a.mean:.4f}, difference {difference}"


def _by(margin: float) -> str:
    return f", by more than {margin:g}" if margin else ""


def _too_few(requests: int, rules: PromotionRules) -> str:
    return f"only {requests:,} requests to compare on, expected at least {rules.minimum_requests:,} (minimum_requests)"


def _miscalibrated(calibration: float, rules: PromotionRules) -> list[str]:
    if abs(calibration - 1) <= rules.largest_miscalibration:
        return []
    return [f"calibration {calibration:.3f}: further from 1 than {rules.largest_miscalibration:g}"]
