"""One trial of a search: a run that trains and validates with some settings, and registers nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.loader import Loader
from bedplate.features.encoder import Encoder
from bedplate.features.view import Feature
from bedplate.metrics.directions import Direction
from bedplate.models.prediction import Prediction
from bedplate.registry.registry import Registry
from bedplate.registry.run import SEARCHED, Run, StoredRun
from bedplate.training.comparison import Comparison, compare
from bedplate.training.continuing import Beginning
from bedplate.training.evidence import definitions_of, require_same, run_config
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.job import Job
from bedplate.training.learner import learner_of
from bedplate.training.own_metrics import metrics_of_job
from bedplate.training.predictions import read_predictions, write_predictions
from bedplate.training.report import Show

VALIDATION = "validation"
"""In a trial's run: the folder of what its model predicted for the validation split."""

Report = Callable[[int, float], bool]
"""Takes the judged metric of a validation and its step; whether the trial is to end."""


class _PrunedError(Exception):
    """Ends a trial that is no use."""


@final
@dataclass(frozen=True)
class Tried:
    """What came of a trial.

    Attributes:
        run: its run's id.
        value: the judged metric of its best validation; None where it was ended early.
    """

    run: str
    value: float | None


@final
class Bench:
    """What all trials of a search share: the data, the encoder, and where runs go.

    Args:
        dataset: the job's dataset over its data.
        features: the project's definitions by full name.
        registry: where runs go.
        root: the project's folder.
        encoder: fitted once for all trials, so that they see the same tensors.
        study: the id of the study.
    """

    def __init__(
        self,
        dataset: LoadedDataset,
        features: Mapping[str, Feature],
        registry: Registry,
        root: Path,
        encoder: Encoder,
        study: str,
    ) -> None:
        self._dataset, self._features, self._registry, self._root = dataset, features, registry, root
        self._encoder, self._study = encoder, study

    def begun(self, trial: str) -> StoredRun | None:
        """The run of a trial that an earlier process began."""
        mark = {"study": self._study, "trial": trial}
        found = (run for run in self._registry.runs() if run.record.config.get(SEARCHED) == mark)
        return next(found, None)

    def run(self, job: Job, trial: str, report: Report | None = None, show: Show | None = None) -> Tried:
        """Runs a trial, or goes on with it where an earlier process began.

        Args:
            job: with the trial's settings.
            trial: what the study calls it.
            report: told of each validation; None: nothing ends it early.
            show: takes the trainer's status after each step.

        Raises:
            TrainingInterruptedError: SIGINT or SIGTERM; the next call goes on.
            DataError: the loss is not finite, for example.
        """
        begun = self.begun(trial)
        if begun is not None and begun.status == "finished":
            return Tried(begun.id, self._kept(begun, job.trainer.metric, job.model.direction_of(job.trainer.metric)))
        with self._opened(job, trial, begun) as run:
            learner = learner_of(job, Beginning(None, self._registry, run.record.definitions))

            def log(step: int, metrics: dict[str, float]) -> None:
                run.log_metrics(step, metrics)
                if report is not None and report(step, metrics[job.trainer.metric]):
                    raise _PrunedError

            training, validation = Loader(self._dataset, "train"), Loader(self._dataset, "validation")
            try:
                result = learner.fit(self._encoder, training, validation, run.folder / "checkpoints", log, show)
            except TrainingInterruptedError as error:
                run.finish("interrupted")
                error.run, error.where = run.id, f"run '{run.id}'"
                raise
            except _PrunedError:
                return Tried(run.id, None)
            self._keep(run, learner.predict(result.model, self._encoder, validation))
            return Tried(run.id, result.metrics[job.trainer.metric])

    def compared(self, job: Job, a: str, b: str) -> dict[str, Comparison]:
        """Each metric of two trials on the same validation requests: the model's own where its label is not 0 or 1.

        Args:
            job: the job.
            a: the id of one's run.
            b: of the other's.
        """
        one, other = (read_predictions(self._registry.run(run).folder / VALIDATION) for run in (a, b))
        own = metrics_of_job(job, self._dataset.compiled, lambda: self._encoder)
        return compare(one, other, job.model.label, metrics=own)

    def _opened(self, job: Job, trial: str, begun: StoredRun | None) -> Run:
        definitions = definitions_of(job, self._dataset, self._features)
        if begun is not None:
            require_same(begun.record, job, definitions, self._dataset.snapshots)
            return self._registry.resume_run(begun.id)
        config: dict[str, Any] = run_config(job, None) | {SEARCHED: {"study": self._study, "trial": trial}}
        return self._registry.start_run(
            job.name, config, project=self._root, definitions=definitions, sources=self._dataset.snapshots
        )

    def _keep(self, run: Run, prediction: Prediction) -> None:
        rows, (first, last) = self._dataset.spine.rows, self._dataset.positions("validation")
        ids = rows.request_ids[first:last]
        order = np.argsort(ids)
        at = order[np.searchsorted(ids, prediction.request_ids, sorter=order)]
        (run.folder / VALIDATION).mkdir(exist_ok=True)
        write_predictions(run.folder / VALIDATION, prediction, rows.times[first:last][at])

    def _kept(self, run: StoredRun, metric: str, direction: Direction) -> float | None:
        """The best value of a run that is finished; None of one that was ended early."""
        if not (run.folder / VALIDATION).is_dir():
            return None
        values = [point.value for point in run.metrics()[metric]]
        return min(values) if direction == "lower" else max(values)
