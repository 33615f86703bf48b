"""When a comparison makes a champion, and when it refuses: only what an interval says, margins, guards."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bedplate.errors import ConfigError
from bedplate.metrics.intervals import Estimate
from bedplate.training.comparison import Comparison
from bedplate.training.promotion import PromotionRules, judge, judge_first


def point(mean: float, reach: float = 0.01) -> Estimate:
    return Estimate(mean, reach / 2, mean - reach, mean + reach, 500)


def change(was: float, by: float, reach: float = 0.01) -> Comparison:
    return Comparison(point(was), point(was + by), point(by, reach))


def decided(compared: dict[str, Comparison], requests: int = 500, **rules: Any) -> tuple[str, str]:
    """With a calibration as good as can be, where there are probabilities and no other is given."""
    usual = {"calibration": change(1.0, 0.0)} if "log_loss" in compared else {}
    verdict = judge(PromotionRules(**rules), "loss", usual | compared, requests)
    return verdict.decision, "; ".join(verdict.reasons)


@pytest.mark.parametrize(
    ("metric", "by", "rules", "decision"),
    [
        ("log_loss", -0.02, {}, "promote"),
        ("log_loss", 0.005, {}, "promote"),  # worse, but not clearly
        ("log_loss", 0.02, {}, "refuse"),
        ("log_loss", 0.02, {"margin": 0.015}, "promote"),
        ("log_loss", 0.03, {"margin": 0.015}, "refuse"),
        ("auc", -0.02, {}, "refuse"),
        ("auc", 0.02, {}, "promote"),
        ("auc", 0.005, {"must_win": True}, "refuse"),
        ("auc", 0.02, {"must_win": True}, "promote"),
    ],
)
def test_what_is_clearly_worse_is_refused(metric: str, by: float, rules: dict[str, Any], decision: str) -> None:
    got, reasons = decided({metric: change(0.5, by)}, metric=metric, **rules)
    assert got == decision
    assert reasons.startswith(f"{metric} {0.5 + by:.4f}, champion 0.5000, difference {by:+.4f} [")


def test_guards_and_calibration_are_looked_at_too() -> None:
    better = change(0.5, -0.1)
    assert decided({"log_loss": better, "calibration": change(1.02, 0.04)})[0] == "promote"
    got, reasons = decided({"log_loss": better, "calibration": change(1.02, 0.2)})
    assert (got, "guard calibration 1.2200, champion 1.0200" in reasons) == ("refuse", True)
    assert decided({"log_loss": better, "calibration": change(1.3, -0.28)})[0] == "promote"  # nearer to 1
    assert decided({"log_loss": better, "calibration": change(0.8, -0.1)})[0] == "refuse"  # further below it
    assert decided({"log_loss": better, "calibration": change(1.02, 0.2)}, guards={})[0] == "promote"
    got, reasons = decided({"log_loss": better, "calibration": change(1.9, 0.0)})
    assert (got, "further from 1 than 0.5" in reasons) == ("refuse", True)
    got, reasons = decided({"log_loss": better, "auc": change(0.7, -0.1)}, guards={"auc": 0.05})
    assert (got, "guard auc" in reasons) == ("refuse", True)


def test_too_few_requests_and_no_metric_are_refused() -> None:
    got, reasons = decided({"log_loss": change(0.5, -0.1)}, requests=99)
    assert (got, "only 99 requests to compare on, expected at least 100" in reasons) == ("refuse", True)
    assert decided({})[0] == "refuse"


def test_a_first_champion_must_know_more_than_the_mean_label() -> None:
    good = {"log_loss": point(0.4), "normalised_entropy": point(0.9), "calibration": point(1.1)}
    assert judge_first(PromotionRules(), "loss", good, 500).reasons == [
        "the first champion: log_loss 0.4000 [0.3900, 0.4100]"
    ]
    for wrong in ({"normalised_entropy": point(1.1)}, {"calibration": point(1.6)}):
        assert judge_first(PromotionRules(), "loss", good | wrong, 500).decision == "refuse"
    assert judge_first(PromotionRules(), "loss", good, 50).decision == "refuse"


def test_rules_are_checked() -> None:
    for wrong in (
        {"margin": -1.0},
        {"confidence": 1.0},
        {"minimum_requests": 1},
        {"must_win": 3},
        {"largest_label_change": 0.5},
    ):
        with pytest.raises((ConfigError, msgspec.ValidationError)):
            PromotionRules(**wrong)


@pytest.mark.parametrize("wrong", [{"metric": "aucc"}, {"guards": {"expected_calibration_error": 0.1}}])
def test_what_no_comparison_has_can_t_be_asked_for(wrong: dict[str, Any]) -> None:
    name = next(iter(wrong["guards"])) if "guards" in wrong else wrong["metric"]
    with pytest.raises(ConfigError, match=f"no comparison has the metric '{name}'"):
        PromotionRules(**wrong)


@pytest.mark.parametrize(
    ("low", "high", "rules", "decision"),
    [
        (0.0, 0.0, {}, "promote"),  # equal to the last digit
        (0.0, 0.0, {"must_win": True}, "refuse"),
        (0.0, 0.02, {"must_win": True}, "refuse"),  # the interval touches 0
        (1e-9, 0.02, {"must_win": True}, "promote"),
        (-0.02, 0.0, {}, "promote"),
        (-0.02, -1e-9, {}, "refuse"),
        (-0.02, -0.01, {"margin": 0.01}, "promote"),  # as much worse as it may be
        (-0.02, -0.0101, {"margin": 0.01}, "refuse"),
        (-0.02, 0.5, {"margin": 0.0, "must_win": True}, "refuse"),
    ],
)
@pytest.mark.parametrize("metric", ["auc", "log_loss"])
def test_where_an_interval_ends_decides(
    low: float, high: float, rules: dict[str, Any], decision: str, metric: str
) -> None:
    """`low` and `high` are of the gain: what a metric of which less is better loses."""
    sign = 1 if metric == "auc" else -1
    ends = sorted((sign * low, sign * high))
    difference = Estimate((ends[0] + ends[1]) / 2, 0.01, *ends, 500)
    compared = {metric: Comparison(point(0.5), point(0.5 + difference.mean), difference)}
    assert decided(compared, metric=metric, guards={}, **rules)[0] == decision


def test_calibration_may_come_from_either_side_and_its_interval_may_hold_one() -> None:
    better = change(0.5, -0.1)

    def guarded(was: float, by: float, reach: float) -> str:
        return decided({"log_loss": better, "calibration": change(was, by, reach)}, guards={"calibration": 0.05})[0]

    assert guarded(1.0, 0.04, 0.001) == "promote"
    assert guarded(1.0, 0.06, 0.001) == "refuse"
    assert guarded(1.0, -0.06, 0.001) == "refuse"
    assert guarded(1.0, 0.06, 0.02) == "promote", "the interval begins within the margin"
    assert guarded(1.0, 0.06, 0.07) == "promote", "the interval holds 1"
    assert guarded(1.3, -0.6, 0.001) == "promote", "as far on the other side"
    assert guarded(0.7, -0.06, 0.001) == "refuse"


def test_as_many_requests_as_are_asked_for_are_enough() -> None:
    better = {"log_loss": change(0.5, -0.1)}
    assert decided(better, requests=100)[0] == "promote"
    assert decided(better, requests=40, minimum_requests=40)[0] == "promote"
    assert decided(better, requests=39, minimum_requests=40)[0] == "refuse"
    got, reasons = decided({"log_loss": change(0.5, 0.1), "calibration": change(1.0, 0.9)}, requests=3)
    assert got == "refuse"
    for one in ("only 3 requests", "log_loss 0.6000", "guard calibration 1.9000", "further from 1 than 0.5"):
        assert one in reasons, "all that is wrong is said"


def test_a_metric_that_no_comparison_has_is_judged_by_the_nearest() -> None:
    both = {"log_loss": change(0.5, 0.1), "auc": change(0.7, 0.1), "calibration": change(1.0, 0.0)}

    def by(metric: str, compared: dict[str, Comparison]) -> str:
        return judge(PromotionRules(guards={}), metric, compared, 500).decision

    assert by("auc", both) == "promote"
    assert by("log_loss", both) == "refuse"
    assert by("ndcg", both) == "refuse", "log_loss stands for it"
    assert by("ndcg", {"auc": both["auc"]}) == "promote"
    verdict = judge(PromotionRules(), "ndcg", {}, 500)
    assert (verdict.decision, "'ndcg' has no value on these requests" in verdict.reasons[0]) == ("refuse", True)


ONE_CLASS = {"log_loss": change(0.5, -0.4)}
"""What a comparison gives on rows whose labels are all 0: a model that was trained on such has a lower loss."""


@pytest.mark.parametrize(
    ("metric", "rules", "reasons"),
    [
        ("log_loss", {}, ["guard calibration has no value on these requests: it takes a positive"]),
        ("log_loss", {"guards": {}}, ["calibration has no value on these requests: it takes a positive"]),
        ("log_loss", {"guards": {"auc": 0.1}}, ["guard auc has no value on these requests: it takes positives and"]),
        ("auc", {}, ["auc has no value on these requests: it takes positives and negatives", "guard calibration has"]),
        ("loss", {"metric": "request_auc"}, ["request_auc has no value on these requests: it takes a request with"]),
    ],
)
def test_what_can_t_be_computed_is_refused(metric: str, rules: dict[str, Any], reasons: list[str]) -> None:
    verdict = judge(PromotionRules(**rules), metric, ONE_CLASS, 500)
    assert verdict.decision == "refuse"
    for wanted, got in zip(reasons, verdict.reasons, strict=False):
        assert got.startswith(wanted)


def test_calibration_does_not_guard_scores_that_are_no_probabilities_unless_it_is_asked_to() -> None:
    better = {"auc": change(0.7, 0.1), "request_auc": change(0.7, 0.1)}
    assert judge(PromotionRules(), "request_auc", better, 500).decision == "promote"
    verdict = judge(PromotionRules(guards={"calibration": 0.1}), "request_auc", better, 500)
    assert verdict.reasons == [
        "guard calibration has no value on these requests: it takes scores that are probabilities"
    ]


def test_a_first_champion_is_not_made_of_one_class() -> None:
    verdict = judge_first(PromotionRules(), "log_loss", {"log_loss": point(0.0)}, 500)
    assert verdict.decision == "refuse"
    assert "whether it beats the mean label is not known" in verdict.reasons[0]
    assert "calibration has no value on these requests" in verdict.reasons[1]
    verdict = judge_first(PromotionRules(), "auc", {"log_loss": point(0.0)}, 500)
    assert "auc has no value on these requests" in verdict.reasons[-1]
    assert judge_first(PromotionRules(), "request_auc", {"request_auc": point(0.7)}, 500).decision == "promote"
