"""A study: the trials of a search in Optuna with SQLite storage, by any number of processes, resumable.

    <registry>/studies/<name>/<id>/study.sqlite   Optuna's storage
    <registry>/studies/<name>/<id>/encoder/       fitted once for all trials
    <registry>/studies/<name>/<id>/study.json     what was found: trials, importance, best against default

The id is of the job, the search, the definitions and the source snapshots: on other data it is another study. A trial
whose process is gone is gone on with, from its run's checkpoint, with the same settings.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import math
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeAlias, final

import msgspec

from bedplate.errors import BedplateError, StoreError
from bedplate.files import write_record
from bedplate.metrics.directions import sign_of
from bedplate.process import process_alive, process_token
from bedplate.training.comparison import Comparison
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.job import Job
from bedplate.training.report import Show
from bedplate.training.search import Choice, Int, Log, Range, Search
from bedplate.training.trial import Bench

_optuna: Any = importlib.import_module("optuna")

FILE = "study.json"
STORAGE = "study.sqlite"
_DEFAULT = "default"

Told: TypeAlias = Callable[[str], None]


@final
class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A trial of a study: its settings, its run, the judged metric of its best validation, and how it ended."""

    number: int
    state: str
    settings: list[str]
    run: str | None = None
    value: float | None = None
    validations: int = 0


@final
class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a study found.

    Attributes:
        name: of the search.
        id: of the study.
        job: the job's name.
        metric: of validation that was made better.
        lower_is_better: whether less of it is better.
        trials: all, in order.
        importance: how much of the metric's differences each choice explains, from 0 to 1 in all.
        best: the best trial; None: none came to its end.
        default: the run of the job's own choices, and its metric.
        difference: each metric of the best (`b`) and of the default (`a`), on the same validation requests. The best
            was chosen on these: it looks better there than it is. The test split was not looked at.
    """

    name: str
    id: str
    job: str
    metric: str
    lower_is_better: bool
    trials: list[Trial]
    importance: dict[str, float]
    best: Trial | None = None
    default: Trial | None = None
    difference: dict[str, Comparison] = {}

    @property
    def running(self) -> int:
        """How many trials have not ended: other processes run them."""
        return sum(trial.state == "running" for trial in self.trials)

    @property
    def improves(self) -> bool:
        """Whether the best trial is better than the job's own choices; False where one of them is not known."""
        if self.best is None or self.default is None or self.best.value is None or self.default.value is None:
            return False
        gain = self.best.value - self.default.value
        return gain < 0 if self.lower_is_better else gain > 0


@final
class Study:
    """One process's hand in a study.

    Args:
        folder: of the study; made if missing.
        search: what is tried.
        job: with its own choices, judged by the search's metric.
        bench: where trials are run.
        id: of the study.

    Raises:
        StoreError: the storage can't be opened.
    """

    def __init__(self, folder: Path, search: Search, job: Job, bench: Bench, id: str) -> None:
        self._folder, self._search, self._job, self._bench, self._id = folder, search, job, bench, id
        self._metric = job.trainer.metric
        self._sign = sign_of(job.model.direction_of(self._metric))
        _optuna.logging.set_verbosity(_optuna.logging.WARNING)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._alone():
                storage = _optuna.storages.RDBStorage(
                    f"sqlite:///{folder / STORAGE}", engine_kwargs={"connect_args": {"timeout": 60}}
                )
                self._study = _optuna.create_study(
                    storage=storage, study_name=search.name, direction="minimize", load_if_exists=True,
                    pruner=_pruner(search.pruner),
                )  # fmt: skip
        except (OSError, _optuna.exceptions.StorageInternalError) as error:
            raise StoreError(f"the study can't be opened: {error}", where=str(folder)) from error

    @contextlib.contextmanager
    def _alone(self) -> Generator[None]:
        """Holds the study's lock, which the system frees when the process ends, however it ends."""
        with (self._folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def run(self, trials: int, show: Show | None = None, told: Told = lambda _: None) -> Found:
        """Runs trials until the study has so many, those of other processes counted, and the default.

        Raises:
            TrainingInterruptedError: SIGINT or SIGTERM; the next call goes on with the trial.
        """
        self._run_default(show, told)
        while (trial := self._next(trials)) is not None:
            self._try(trial, show, told)
        found = self.found()
        with self._alone():
            write_record(self._folder / FILE, msgspec.json.encode(found), "what the study found")
        return found

    def _run_default(self, show: Show | None, told: Told) -> None:
        with (self._folder / "default.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another process does it
            begun = self._bench.begun(_DEFAULT)
            if begun is None or begun.status != "finished":
                told("the job's own choices")
            self._bench.run(self._job, _DEFAULT, show=show)

    def _next(self, trials: int) -> Any | None:
        """A trial to run: one whose process is gone, or else a new one; None: there are enough."""
        with self._alone():
            known = self._study.get_trials(deepcopy=False)
            for one in known:
                running = one.state == _optuna.trial.TrialState.RUNNING
                process = one.user_attrs.get("process")  # missing: it was killed before it could say
                if running and (process is None or not process_alive(process)):
                    trial = _optuna.trial.Trial(self._study, one._trial_id)
                    return self._taken(trial)
            if len(known) >= trials:
                return None
            # A sampler of its own for each trial: what is drawn does not depend on which process draws it.
            self._study.sampler = _optuna.samplers.TPESampler(seed=self._search.seed + len(known))
            return self._taken(self._study.ask())

    def _taken(self, trial: Any) -> Any:
        trial.set_user_attr("process", process_token())
        for path, values in self._search.space.items():
            _suggest(trial, path, values)
        return trial

    def _try(self, trial: Any, show: Show | None, told: Told) -> None:
        settings = self._settings(trial.params)
        told(f"trial {trial.number}: {' '.join(settings)}")

        def report(step: int, value: float) -> bool:
            if step not in trial.storage.get_trial(trial._trial_id).intermediate_values:
                trial.report(self._sign * value, step)
            return bool(trial.should_prune())

        try:
            tried = self._bench.run(self._job.with_settings(settings), str(trial.number), report, show)
        except TrainingInterruptedError:
            raise
        except BedplateError as error:
            told(f"trial {trial.number} failed: {error}")
            self._study.tell(trial, state=_optuna.trial.TrialState.FAIL)
            return
        trial.set_user_attr("run", tried.run)
        if tried.value is None or not math.isfinite(tried.value):
            self._study.tell(trial, state=_optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(trial, self._sign * tried.value)

    def _settings(self, params: dict[str, Any]) -> list[str]:
        space = self._search.space
        found: list[str] = []
        for path, value in params.items():
            values = space[path]
            plain = values.values[value] if isinstance(values, Choice) else value
            found.append(f"{path}={msgspec.json.encode(plain).decode()}")
        return found

    def found(self) -> Found:
        """What is known by now."""
        trials = [self._plain(one) for one in self._study.get_trials(deepcopy=False)]
        done = [t for t in trials if t.state == "complete" and t.value is not None]
        best = min(done, key=lambda t: self._sign * (t.value or 0.0), default=None)
        begun = self._bench.begun(_DEFAULT)
        default = None
        if begun is not None and begun.status == "finished":
            tried = self._bench.run(self._job, _DEFAULT)
            default = Trial(number=-1, state="complete", settings=[], run=begun.id, value=tried.value)
        found = Found(
            name=self._search.name, id=self._id, job=self._job.name, metric=self._metric,
            lower_is_better=self._sign > 0, trials=trials, importance=self._importance(len(done)), best=best,
            default=default,
        )  # fmt: skip
        if best is None or best.run is None or default is None or default.run is None:
            return found
        compared = self._bench.compared(self._job, default.run, best.run)
        return msgspec.structs.replace(found, difference=compared)

    def _plain(self, one: Any) -> Trial:
        complete = one.state == _optuna.trial.TrialState.COMPLETE
        return Trial(
            number=one.number,
            state=one.state.name.lower(),
            settings=self._settings(one.params),
            run=one.user_attrs.get("run"),
            value=self._sign * one.value if complete else None,
            validations=len(one.intermediate_values),
        )

    def _importance(self, done: int) -> dict[str, float]:
        """By PED-ANOVA (Watanabe et al. 2023); empty where the trials do not tell."""
        if done < 4:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is experimental in Optuna
            try:
                evaluator = _optuna.importance.PedAnovaImportanceEvaluator()
                shares = _optuna.importance.get_param_importances(self._study, evaluator=evaluator)
            except (RuntimeError, ValueError):
                return {}
        return {name: float(share) for name, share in shares.items()}


def _suggest(trial: Any, path: str, values: Range) -> None:
    if isinstance(values, Choice):
        trial.suggest_categorical(path, list(range(len(values.values))))
    elif isinstance(values, Int):
        trial.suggest_int(path, values.low, values.high, log=values.log)
    else:
        trial.suggest_float(path, values.low, values.high, log=isinstance(values, Log))


def _pruner(name: str) -> Any:
    if name == "median":
        return _optuna.pruners.MedianPruner(n_startup_trials=4)
    return _optuna.pruners.SuccessiveHalvingPruner() if name == "halving" else _optuna.pruners.NopPruner()
