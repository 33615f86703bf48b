"""By which metrics versions and trials of a job are compared: Bedplate's of labels 0 and 1, or the model's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from bedplate.datasets.dataset import CompiledDataset
from bedplate.features.encoder import Encoder
from bedplate.metrics.directions import DIRECTIONS, Direction
from bedplate.models.prediction import Prediction
from bedplate.registry.run import StoredRun
from bedplate.training.factors import FACTORS, job_of
from bedplate.training.job import Job
from bedplate.training.promotion import OF_BINARY, OF_PROBABILITIES
from bedplate.training.resampling import Metrics


def has_binary_label(job: Job, dataset: CompiledDataset) -> bool:
    """Whether the label of a job's model is one of 0 and 1, so that Bedplate's own metrics are of it."""
    return next(label.is_binary for label in dataset.labels if label.label.name == job.model.label)


def metrics_of_job(job: Job, dataset: CompiledDataset, encoder: Callable[[], Encoder]) -> Metrics | None:
    """The metrics of a job's model where its label is not one of 0 and 1; None: Bedplate's own are right.

    Args:
        job: the job.
        dataset: its dataset.
        encoder: gives that of the model, or of one with the same tensors.

    Raises:
        DefinitionError: the model can't be made.
    """
    if has_binary_label(job, dataset):
        return None
    from bedplate.training.calling import metrics_of, model_of

    return partial(_without_probabilities, partial(metrics_of, model_of(job.model, encoder().layout)))


def metrics_of_run(run: StoredRun, jobs: Iterable[Job]) -> Metrics:
    """The metrics of the model of a run, as its code is in a project.

    Args:
        run: the run.
        jobs: those of the project, by whose models the class is found.

    Raises:
        BedplateError: the project has no such model, or another one that the run's config does not fit, or the run has
            no encoder.
    """
    from bedplate.training.calling import metrics_of, model_of
    from bedplate.training.run import ENCODER

    kinds = {job.model.title(): type(job.model) for job in jobs}
    job = job_of(run.record.name, {"a": run.record.config}, dict.fromkeys(FACTORS, "a"), kinds, 0)
    return partial(metrics_of, model_of(job.model, Encoder.load(run.folder / ENCODER).layout))


def _without_probabilities(metrics: Metrics, prediction: Prediction) -> Mapping[str, float]:
    """A model may call something else by the name of a metric of probabilities, which rules know as that."""
    return {name: value for name, value in metrics(prediction).items() if name not in OF_PROBABILITIES}


def directions_of(job: Job) -> Mapping[str, Direction]:
    """Whether lower or higher is better, by metric, those of the job's model among them."""
    return {**type(job.model).directions, **DIRECTIONS}


def unjudgeable(job: Job, dataset: CompiledDataset) -> list[str]:
    """Why versions of a job can't be compared by its rules, whatever is trained; empty: they can.

    Args:
        job: the job.
        dataset: its dataset.
    """
    if has_binary_label(job, dataset):
        return []
    label, rules = f"label '{job.model.label}' is not one of 0 and 1", job.promotion
    wrong = [
        f"{label}, and '{name}' of the promotion rules is of such labels alone: leave it out"
        for name in dict.fromkeys(([rules.metric] if rules.metric else []) + list(rules.guards or {}))
        if name in OF_BINARY
    ]
    judged = job.trainer.metric
    if judged in ("loss", *OF_PROBABILITIES):
        wrong.append(
            f"{label}, so that versions are compared by a metric of the model's own, and the trainer's is '{judged}': "
            "set trainer.metric to one of them, or give the label a threshold (at_least=1)"
        )
    return wrong
