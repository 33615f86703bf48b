"""Whether a model may take the champion's place: rules over a comparison on the same rows, pure data in a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, final

import msgspec

from bedplate.errors import ConfigError, suggest
from bedplate.features.checks import check_least, check_types
from bedplate.metrics.classification import NOT_FOR_JUDGING
from bedplate.metrics.directions import DIRECTIONS, Direction
from bedplate.metrics.intervals import Estimate
from bedplate.training.config import override

GUARDS: Mapping[str, float] = {"calibration": 0.05}
"""What is guarded where the rules do not say, of models that give probabilities."""

_NEEDS: Mapping[str, str] = {
    "auc": "positives and negatives",
    "request_auc": "a request with both a positive and a negative",
    "log_loss": "scores that are probabilities",
    "normalised_entropy": "positives and negatives",
    "calibration": "a positive",
}
"""What a comparison measures, and what each of it takes to have a value; see `metrics.bootstrap.binary_sums`."""
OF_BINARY = frozenset(_NEEDS)
"""The metrics of a comparison of models of a label that is 0 or 1."""
OF_PROBABILITIES = ("log_loss", "normalised_entropy", "calibration")
"""Those of them that need probabilities."""


class PromotionRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a new model must fulfil to become the champion.

    A model is refused where an interval says that it is worse, not where it might be: with few requests the intervals
    are wide, which `minimum_requests` is for. What is to be judged and has no value on the rows is refused too.

    Attributes:
        metric: that is judged: `auc`, `request_auc`, `log_loss`, `normalised_entropy` or `calibration`; empty: the
            trainer's, or the nearest to it. Of a label that is not 0 or 1 always the trainer's.
        margin: how much worse it may be: refused where the whole interval of the difference is beyond that.
        must_win: refuse where the interval does not say that it is better, too.
        guards: other metrics by name, and how much worse each may be, calibration by its distance from 1; None:
            `GUARDS`.
        largest_miscalibration: the largest distance of calibration from 1, also for a first champion.
        minimum_requests: of the comparison: that have the label, all later than what either model knows.
        confidence: of the intervals.
        largest_missing: by how much the share of nulls of an input may have risen from training to test; and in which
            share of the rows of validation or test an input may be something else that is null, or the same, in all
            training rows.
        largest_shift: by how many standard deviations the mean of a number may have moved from training to test.
        largest_label_change: by which factor the share of positives, or of negatives, may have changed to the test rows
            from the training rows, and from those that the champion was trained on.
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
    largest_label_change: float = 2.0

    def with_settings(self, settings: Sequence[str]) -> PromotionRules:
        """The rules with settings such as `margin=0.01`; a guard by name, `guards.auc=0.01`, is beside the usual ones.

        Raises:
            ConfigError: a setting is not of the form, names nothing, or is out of its range.

        >>> PromotionRules().with_settings(["guards.auc=0.01"]).guards
        {'calibration': 0.05, 'auc': 0.01}
        >>> PromotionRules().with_settings(['guards={"auc":0.01}']).guards
        {'auc': 0.01}
        """
        named = any(setting.strip().startswith("guards.") for setting in settings)
        rules = msgspec.structs.replace(self, guards=dict(GUARDS)) if named and self.guards is None else self
        return override(rules, settings, "promotion")

    def __post_init__(self) -> None:
        """Checks types and ranges.

        Raises:
            ConfigError: a value is of another type than its field or out of its range, or no comparison has such a
                metric.
        """
        check_types(self, "promotion")
        check_least(self, "margin largest_miscalibration largest_missing largest_shift", 0, "promotion")
        check_least(self, "minimum_requests", 2, "promotion")
        check_least(self, "largest_label_change", 1, "promotion")
        if not 0 < self.confidence < 1:
            raise ConfigError(f"confidence is {self.confidence}, expected above 0 and below 1", where="promotion")
        for name, margin in (self.guards or {}).items():
            if not margin >= 0:
                raise ConfigError(f"the guard of '{name}' is {margin}, expected at least 0", where="promotion: guards")
        for part, names in (("metric", [self.metric] if self.metric else []), ("guards", self.guards or {})):
            for name in names:
                if name not in _NEEDS:
                    raise ConfigError(
                        f"{part}: no comparison has the metric '{name}'",
                        where="promotion",
                        hint=suggest(name, _NEEDS, "metrics"),
                    )


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
    """The metric of a comparison to judge by: the one that is wanted, or the nearest to one that none has.

    None where it has no value on these rows: another one in its place would hide that.

    >>> judged_metric("loss", {"auc": 1, "log_loss": 1}), judged_metric("ndcg", {"auc": 1})
    ('log_loss', 'auc')
    >>> judged_metric("auc", {"log_loss": 1}) is None
    True
    """
    if wanted in _NEEDS or wanted in offered:
        return wanted if wanted in offered else None
    return next((m for m in ("log_loss", "request_auc", "auc") if m in offered), None)


def judge(
    rules: PromotionRules,
    metric: str,
    compared: Mapping[str, Compared],
    requests: int,
    directions: Mapping[str, Direction] = DIRECTIONS,
) -> Verdict:
    """Judges a challenger by its comparison with the champion.

    Args:
        rules: of the job.
        metric: that the job's trainer judges by.
        compared: each metric of both on the same rows.
        requests: of the comparison that have the label.
        directions: whether a lower or a higher value of a metric is better.
    """
    wrong: list[str] = []
    judged = judged_metric(rules.metric or metric, compared)
    if requests < rules.minimum_requests:
        wrong.append(_too_few(requests, rules))
    if judged is None:
        wrong.append(_without_value(rules.metric or metric, compared))
    else:
        gain = _gain(judged, compared[judged], directions)
        if gain.high < -rules.margin:
            wrong.append(f"{_said(judged, compared[judged])}: clearly worse than the champion" + _by(rules.margin))
        elif rules.must_win and gain.low <= 0:
            wrong.append(f"{_said(judged, compared[judged])}: not clearly better than the champion (must_win)")
    for name, margin in _guards(rules, compared).items():
        if name not in compared:
            wrong.append(f"guard {_without_value(name, compared)}")
        elif _gain(name, compared[name], directions).high < -margin:
            wrong.append(f"guard {_said(name, compared[name])}: clearly worse than the champion" + _by(margin))
    wrong += _miscalibrated({name: one.b for name, one in compared.items()}, rules)
    if wrong or judged is None:
        return Verdict("refuse", wrong)
    return Verdict("promote", [_said(judged, compared[judged])])


def judge_first(rules: PromotionRules, metric: str, metrics: Mapping[str, Estimate], requests: int) -> Verdict:
    """Judges a model that there is no champion to compare with.

    Args:
        rules: of the job.
        metric: that the job's trainer judges by.
        metrics: its own on the test split.
        requests: of the test split that have the label.
    """
    wrong = [_too_few(requests, rules)] if requests < rules.minimum_requests else []
    entropy = metrics.get("normalised_entropy")
    if entropy is not None and entropy.low > 1:
        wrong.append(f"normalised_entropy {entropy}: worse than predicting the mean label")
    elif entropy is None and _has_probabilities(metrics):
        wrong.append(f"{_without_value('normalised_entropy', metrics)}: whether it beats the mean label is not known")
    wrong += _miscalibrated(metrics, rules)
    judged = judged_metric(rules.metric or metric, metrics)
    if judged is None:
        wrong.append(_without_value(rules.metric or metric, metrics))
    if wrong or judged is None:
        return Verdict("refuse", wrong)
    return Verdict("promote", [f"the first champion: {judged} {metrics[judged]}"])


def _has_probabilities(offered: Mapping[str, object]) -> bool:
    return "log_loss" in offered  # which has a value on any rows


def _guards(rules: PromotionRules, offered: Mapping[str, object]) -> Mapping[str, float]:
    """The guards of the rules, else the usual ones where the scores are such that they apply."""
    if rules.guards is not None:
        return rules.guards
    return GUARDS if _has_probabilities(offered) else {}


def _without_value(name: str, offered: Mapping[str, object]) -> str:
    """That a metric has no value on the rows, and why."""
    needs = _NEEDS.get(name)
    if needs is None:
        return f"'{name}' has no value on these requests, nor has another metric"
    if name in OF_PROBABILITIES and not _has_probabilities(offered):
        needs = _NEEDS["log_loss"]
    return f"{name} has no value on these requests: it takes {needs}"


def _gain(metric: str, compared: Compared, directions: Mapping[str, Direction]) -> Estimate:
    """By how much the challenger is better, with its interval."""
    d = compared.difference
    if metric in NOT_FOR_JUDGING:  # best at 1: the change of the distance from it, at both ends of the interval
        was = abs(compared.a.mean - 1)
        ends = [was - abs(compared.a.mean + end - 1) for end in (d.low, d.mean, d.high)]
        crosses = min(compared.a.mean + d.low, compared.a.mean + d.high) <= 1 <= compared.a.mean + d.high
        return Estimate(ends[1], d.error, min(ends), was if crosses else max(ends), d.count)
    if directions[metric] == "higher":
        return d
    return Estimate(-d.mean, d.error, -d.high, -d.low, d.count)


def _said(metric: str, compared: Compared) -> str:
    d = compared.difference
    difference = f"{d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}]"
    return f"{metric} {compared.b.mean:.4f}, champion {compared.a.mean:.4f}, difference {difference}"


def _by(margin: float) -> str:
    return f", by more than {margin:g}" if margin else ""


def _too_few(requests: int, rules: PromotionRules) -> str:
    return f"only {requests:,} requests to compare on, expected at least {rules.minimum_requests:,} (minimum_requests)"


def _miscalibrated(measured: Mapping[str, Estimate], rules: PromotionRules) -> list[str]:
    """What is wrong with the calibration of a model that gives probabilities."""
    if not _has_probabilities(measured):
        return []
    if "calibration" not in measured:
        return [_without_value("calibration", measured)]
    calibration = measured["calibration"].mean
    if abs(calibration - 1) <= rules.largest_miscalibration:
        return []
    return [f"calibration {calibration:.3f}: further from 1 than {rules.largest_miscalibration:g}"]
