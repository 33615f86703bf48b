"""How a bisection attributes a change, on predictions whose metric is a known sum of effects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kept import predicted

from bedplate.errors import ConfigError, DataError, NotFoundError
from bedplate.models.prediction import Prediction
from bedplate.registry.manifest import Git
from bedplate.registry.run import RunRecord
from bedplate.training.bisect import Experiment, Made, bisect, experiments
from bedplate.training.factors import Factor, config_factors, job_of, same_result
from bedplate.training.interrupt import TrainingInterruptedError

BASE = predicted(200)
UNIT = len(BASE.scores) / float(BASE.labels["liked"].sum())
"""What a score that is 1 higher everywhere adds to the calibration, which is linear in scores."""
ALONE = {"model": 0.05, "trainer": -0.02, "inputs": 0.01}
TOGETHER = {frozenset({"model", "trainer"}): 0.04, frozenset({"model", "trainer", "inputs"}): 0.03}


class Laboratory:
    """Makes predictions of known calibration, and remembers what was asked for."""

    def __init__(self, names: tuple[str, ...], lost: frozenset[str] = frozenset()) -> None:
        self.factors = [Factor(name, ()) for name in names]
        self.lost, self.asked = lost, list[Experiment]()

    def made(self, *swapped: str) -> Made:
        return self._made(Experiment(frozenset(swapped)))

    def _made(self, experiment: Experiment) -> Made:
        moved = sum(ALONE[name] for name in experiment.swapped)
        moved += sum(value for group, value in TOGETHER.items() if group <= experiment.swapped)
        moved += 0.001 * experiment.shift
        scores = np.clip(BASE.scores * 0.5 + 0.2, 0, 1) + moved
        return Made(f"run of {sorted(experiment.swapped)} {experiment.shift}", replace(BASE, scores=scores))

    def make(self, experiment: Experiment) -> Made:
        self.asked.append(experiment)
        if experiment.swapped & self.lost and not self.lost <= experiment.swapped:
            raise NotFoundError("it is gone")
        return self._made(experiment)


def test_effects_are_the_mean_of_both_ends_and_the_remainder_is_what_all_do_together() -> None:
    lab = Laboratory(("model", "trainer", "inputs"))
    found = bisect(lab.made(), lab.made(*ALONE), lab.factors, "liked", lab.make, seeds=2)
    both, three = TOGETHER.values()
    one = {e.factor.name: e for e in found.effects}
    assert one["model"].forward["calibration"].mean == pytest.approx(0.05 * UNIT)
    assert one["model"].backward["calibration"].mean == pytest.approx((0.05 + both + three) * UNIT)
    assert one["model"].effect["calibration"].mean == pytest.approx((0.05 + (both + three) / 2) * UNIT)
    assert one["inputs"].effect["calibration"].mean == pytest.approx((0.01 + three / 2) * UNIT)
    assert found.total["calibration"].mean == pytest.approx((0.04 + both + three) * UNIT)
    # Each of three factors takes half of what all three do together; the pair's own is shared out whole.
    assert found.remainder["calibration"].mean == pytest.approx(-three / 2 * UNIT)
    for effect in found.effects:
        interval = effect.effect["calibration"]
        assert interval.low <= interval.mean <= interval.high
    assert len(lab.asked) == len(set(lab.asked)) == 6 + 2
    spread = np.std([0, 0.001 * UNIT, 0.002 * UNIT], ddof=1)
    assert found.noise["calibration"] == pytest.approx(4.303 * 2**0.5 * spread)  # Student's t of two degrees of freedom
    assert len(found.noise_runs) == 2


def test_two_factors_leave_nothing_and_one_needs_no_training() -> None:
    lab = Laboratory(("model", "trainer"))
    found = bisect(lab.made(), lab.made("model", "trainer"), lab.factors, "liked", lab.make, seeds=0)
    assert found.remainder.get("calibration") is None or abs(found.remainder["calibration"].mean) < 1e-12
    assert found.noise == {}
    assert "no training with another seed" in found.noise_reason
    single = Laboratory(("model",))
    alone = bisect(single.made(), single.made("model"), single.factors, "liked", single.make, seeds=0)
    assert single.asked == []
    assert alone.effects[0].effect == alone.total


def test_what_cannot_be_made_is_said_and_left_to_the_remainder() -> None:
    lab = Laboratory(("model", "trainer", "inputs"), lost=frozenset({"trainer", "inputs"}))
    found = bisect(lab.made(), lab.made(*ALONE), lab.factors, "liked", lab.make, seeds=0)
    one = {e.factor.name: e for e in found.effects}
    assert one["model"].effect
    assert one["model"].reasons == ()
    assert one["trainer"].effect == {}
    assert one["trainer"].reasons == ("A with trainer of B: it is gone", "B with trainer of A: it is gone")
    expected = found.total["calibration"].mean - one["model"].effect["calibration"].mean
    assert found.remainder["calibration"].mean == pytest.approx(expected)


def test_other_rows_are_taken_as_independent() -> None:
    lab = Laboratory(("model",))
    other = predicted(150, seed=3)
    found = bisect(lab.made(), Made("b", other), lab.factors, "liked", lab.make, seeds=0)
    total = found.total["calibration"]
    apart = [p.scores.sum() / p.labels["liked"].sum() for p in (lab.made().prediction, other)]
    assert total.mean == pytest.approx(apart[1] - apart[0])
    assert total.high - total.mean == pytest.approx(total.mean - total.low)
    assert total.error > 0.01


def stars(made: Made) -> Made:
    labels = {"stars": made.prediction.labels["liked"] * 4 + 1}
    return Made(made.run, replace(made.prediction, labels=labels))


def test_of_a_label_that_is_not_0_or_1_metrics_of_its_own_are_attributed() -> None:
    def own(p: Prediction) -> dict[str, float]:
        return {"bias": float((p.scores - p.labels["stars"]).mean())}

    lab = Laboratory(("model", "trainer", "inputs"))
    ends = stars(lab.made()), stars(lab.made(*ALONE))
    found = bisect(*ends, lab.factors, "stars", lambda e: stars(lab.make(e)), seeds=2, metrics=own)
    both, three = TOGETHER.values()
    one = {e.factor.name: e for e in found.effects}
    assert one["model"].forward["bias"].mean == pytest.approx(0.05)
    assert one["model"].effect["bias"].mean == pytest.approx(0.05 + (both + three) / 2)
    assert one["model"].effect["bias"].error == pytest.approx(0, abs=1e-9), "all are of the same draws"
    assert found.total["bias"].mean == pytest.approx(0.04 + both + three)
    assert found.remainder["bias"].mean == pytest.approx(-three / 2)
    assert found.noise["bias"] == pytest.approx(4.303 * 2**0.5 * 0.001)
    other = Made("b", replace(predicted(150, seed=3), labels={"stars": predicted(150).labels["liked"] * 4 + 1}))
    apart = bisect(ends[0], other, lab.factors, "stars", lambda e: stars(lab.make(e)), seeds=0, metrics=own)
    assert apart.total["bias"].mean == pytest.approx(own(other.prediction)["bias"] - own(ends[0].prediction)["bias"])
    assert apart.total["bias"].error > 0.1, "other rows are drawn on their own"


def test_what_can_not_be_judged_is_refused_before_anything_is_made() -> None:
    lab = Laboratory(("model", "trainer"))
    ends = stars(lab.made()), stars(lab.made("model", "trainer"))
    with pytest.raises(DataError, match="got the label 5, expected 0 or 1"):
        bisect(*ends, lab.factors, "stars", lambda e: stars(lab.make(e)))
    assert lab.asked == []


def test_an_interrupt_ends_the_bisection() -> None:
    def stopped(experiment: Experiment) -> Made:
        raise TrainingInterruptedError("stopped")

    lab = Laboratory(("model", "trainer"))
    with pytest.raises(TrainingInterruptedError):
        bisect(lab.made(), lab.made("model", "trainer"), lab.factors, "liked", stopped)


def test_experiments_are_named_by_the_end_that_they_are_near() -> None:
    factors = [Factor(name, ()) for name in ALONE]
    names = [e.text(factors) for e in experiments(factors, 1)]
    assert names == [
        *(f"A with {name} of B" for name in ALONE), *(f"B with {name} of A" for name in ALONE), "A, seeds + 1",
    ]  # fmt: skip


def record(**parts: object) -> RunRecord:
    trainer = {"epochs": 2, "seed": 1, "prefetch": 4, "metric": "auc"} | parts.pop("trainer", {})  # type: ignore[operator]
    model = {"class": "LogisticConfig", "label": "liked", "seed": 0} | parts.pop("model", {})  # type: ignore[operator]
    config = {"dataset": "pages", "model": model, "inputs": {"u.n": {"kind": "number"}}, "trainer": trainer}
    config |= {"fit_batches": 8, "golden": 2} | parts
    return RunRecord(
        id="r", name="n", status="finished", config=config, git=Git(), started=0, host="", pid=0, process=""
    )


def test_the_factors_of_two_configs_and_a_job_made_of_both() -> None:
    a = record()
    b = record(trainer={"epochs": 3, "seed": 2, "prefetch": 9}, inputs={"u.n": {"kind": "number", "log": True}})
    factors = {f.name: [c.name for c in f.changes] for f in config_factors(a, b)}
    assert factors == {"inputs": ["u.n.log"], "trainer": ["epochs"], "seed": ["trainer.seed"]}
    assert same_result(a.config, record(trainer={"prefetch": 9}, golden=7).config)
    assert not same_result(a.config, b.config)
    sides = Experiment(frozenset({"inputs", "seed"})).sides()
    job = job_of("n", {"a": a.config, "b": b.config}, sides, {}, shift=3)
    assert job.inputs["u.n"].log
    assert job.trainer.epochs == 2
    assert (job.trainer.seed, job.model.seed) == (2 + 3, 0 + 3)
    with pytest.raises(ConfigError, match="no model with the config 'Gone'"):
        job_of("n", {"a": record(model={"class": "Gone"}).config}, Experiment(frozenset()).sides(), {}, 0)
    with pytest.raises(ConfigError, match="does not fit the code"):
        job_of("n", {"a": record(model={"gone": 1}).config}, Experiment(frozenset()).sides(), {}, 0)
    with pytest.raises(ConfigError, match="made again from its job alone: continued"):
        config_factors(a, record(continued={"from": "n:1"}))
