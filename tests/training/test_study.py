"""What a study does with its trials, on trials whose metric is a known function of their settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bedplate import DCNConfig, Job, Number, TrainerConfig
from bedplate.errors import DataError
from bedplate.training import study as studies
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.search import Choice, Int, Log, Search
from bedplate.training.study import Study
from bedplate.training.trial import Tried

Curve = Callable[[Job, int], float]
BAD = "trainer.learning_rate=1e-6"
SPACE: dict[str, Any] = {"trainer.learning_rate": Choice((0.02, 1e-6)), "model.rank": Int(2, 64)}


class Bench:
    """Trials of three validations each, whose metric a function of job and validation says."""

    def __init__(self, curve: Curve) -> None:
        self.curve, self.ran = curve, list[tuple[str, Job]]()

    def begun(self, trial: str) -> None:
        return None

    def run(self, job: Job, trial: str, report: Any = None, show: Any = None) -> Tried:
        self.ran.append((trial, job))
        values = [self.curve(job, step) for step in (1, 2, 3)]
        for step, value in enumerate(values, 1):
            if report is not None and report(step, value):
                return Tried(f"run-{trial}", None)
        return Tried(f"run-{trial}", values[-1])


@pytest.fixture(autouse=True)
def _in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage in memory for each folder; what survives a process is tested by `test_search`."""
    optuna, kept = studies._optuna, dict[str, Any]()
    memory = optuna.storages.InMemoryStorage
    storages = SimpleNamespace(RDBStorage=lambda url, **_: kept.setdefault(url, memory()))
    monkeypatch.setattr(studies, "_optuna", SimpleNamespace(**{**vars(optuna), "storages": storages}))


def job(metric: str) -> Job:
    inputs = {"a": Number()}
    return Job("ranker", dataset="d", model=DCNConfig("label"), inputs=inputs, trainer=TrainerConfig(metric=metric))


def study(folder: Path, bench: Bench, metric: str = "log_loss", **search: Any) -> Study:
    wanted = Search("s", job="ranker", **{"space": SPACE, "trials": 12, **search})
    return Study(folder, wanted, job(metric), bench, "id")  # pyright: ignore[reportArgumentType]


def is_good(one: Job) -> bool:
    return one.trainer.learning_rate > 1e-6


@pytest.mark.parametrize(("metric", "good", "bad"), [("auc", 0.9, 0.5), ("log_loss", 0.2, 0.7)])
@pytest.mark.parametrize("pruner", ["median", "none"])
def test_what_is_worse_by_the_metric_is_ended_early(
    tmp_path: Path, metric: str, good: float, bad: float, pruner: str
) -> None:
    bench = Bench(lambda one, step: (good if is_good(one) else bad) + step / 1000 + one.model.rank / 1e5)  # type: ignore[attr-defined]
    found = study(tmp_path, bench, metric, pruner=pruner).run(12)
    pruned = [t for t in found.trials if t.state == "pruned"]
    assert found.lower_is_better == (metric == "log_loss")
    assert bool(pruned) == (pruner == "median")
    for trial in pruned:
        assert (trial.value, trial.validations < 3) == (None, True)
    done = [t.value or 0.0 for t in found.trials if t.state == "complete"]
    assert found.best is not None
    assert found.best.value == (min(done) if found.lower_is_better else max(done))
    assert BAD not in found.best.settings
    assert min((t.number for t in pruned), default=4) >= 4, "the first four are what others are compared with"
    first, later = found.trials[:4], found.trials[4:]
    middle = sorted(t.value or 0.0 for t in first)[1:3]
    assert {t.state for t in first} == {"complete"}
    if pruner == "median" and (middle[0] < 0.6) == (middle[1] < 0.6) == found.lower_is_better:
        assert all(t.state == "pruned" for t in later if BAD in t.settings)


def test_importance_is_of_what_matters_and_needs_four_trials(tmp_path: Path) -> None:
    bench = Bench(lambda one, _: 0.2 if is_good(one) else 0.7)
    few = study(tmp_path, bench, pruner="none").run(3)
    assert few.importance == {}
    found = study(tmp_path, bench, pruner="none").run(16)
    assert sum(found.importance.values()) == pytest.approx(1.0)
    assert found.importance["trainer.learning_rate"] > found.importance["model.rank"]
    assert [t.settings for t in found.trials[:3]] == [t.settings for t in few.trials]


def test_settings_depend_on_the_seed_and_not_on_who_draws_them(tmp_path: Path) -> None:
    def settings(name: str, parts: list[int], seed: int = 0) -> list[list[str]]:
        found: Any = None
        for trials in parts:  # each by a hand of its own
            bench = Bench(lambda one, _: one.trainer.learning_rate)
            found = study(tmp_path / name, bench, space={"trainer.learning_rate": Log(1e-4, 1e-1)}, seed=seed).run(
                trials
            )
        return [t.settings for t in found.trials]

    whole = settings("whole", [6])
    assert settings("parts", [1, 3, 6]) == whole
    assert settings("other", [6], seed=9) != whole
    assert len({tuple(s) for s in whole}) == 6


def test_a_trial_that_fails_is_told_and_the_next_goes_on(tmp_path: Path) -> None:
    def curve(one: Job, step: int) -> float:
        if not is_good(one):
            raise DataError("the loss is nan")
        return 0.5

    told: list[str] = []
    found = study(tmp_path, Bench(curve), pruner="none").run(8, told=told.append)
    states = [t.state for t in found.trials]
    assert set(states) == {"fail", "complete"}
    assert states.count("fail") == sum("failed: the loss is nan" in line for line in told)
    assert found.best is not None
    assert all((BAD in t.settings) == (t.state == "fail") for t in found.trials)


def test_a_metric_that_is_no_number_never_is_the_best(tmp_path: Path) -> None:
    found = study(tmp_path, Bench(lambda one, _: 0.5 if is_good(one) else math.inf), "auc", pruner="none").run(8)
    by_state = {t.state: t for t in found.trials}
    assert set(by_state) == {"complete", "pruned"}
    assert BAD in by_state["pruned"].settings
    assert found.best is not None
    assert found.best.value == 0.5


def test_a_trial_whose_process_is_gone_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(Bench):
        def run(self, job: Job, trial: str, report: Any = None, show: Any = None) -> Tried:
            if trial == "1":
                self.ran.append((trial, job))
                report(1, 0.4)
                raise TrainingInterruptedError("stopped")
            return super().run(job, trial, report, show)

    first = Stopped(lambda *_: 0.5)
    with pytest.raises(TrainingInterruptedError):
        study(tmp_path, first, pruner="none").run(4)
    # While its process lives it is left alone, and counts.
    bench = Bench(lambda *_: 0.5)
    waiting = study(tmp_path, bench, pruner="none").run(4)
    assert [t.state for t in waiting.trials] == ["complete", "running", "complete", "complete"]
    assert "1" not in [trial for trial, _ in bench.ran]
    monkeypatch.setattr(studies, "process_alive", lambda _: False)
    bench = Bench(lambda *_: 0.5)
    found = study(tmp_path, bench, pruner="none").run(4)
    assert [t.state for t in found.trials] == ["complete"] * 4
    assert [trial for trial, _ in bench.ran] == ["default", "1"]
    again = dict(bench.ran)["1"]
    assert (again.model, again.trainer) == (dict(first.ran)["1"].model, dict(first.ran)["1"].trainer)
    assert found.trials[1].validations == 3, "what it said of a step before is not said twice"


def test_a_trial_whose_process_was_killed_before_it_could_say_so_is_gone_on_with(tmp_path: Path) -> None:
    hand = study(tmp_path, Bench(lambda *_: 0.5), pruner="none")
    hand._study.ask()
    bench = Bench(lambda *_: 0.5)
    found = study(tmp_path, bench, pruner="none").run(2)
    assert [trial for trial, _ in bench.ran] == ["default", "0", "1"]
    assert [t.state for t in found.trials] == ["complete"] * 2
    assert all(len(t.settings) == len(SPACE) for t in found.trials)
