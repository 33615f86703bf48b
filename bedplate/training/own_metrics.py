"""By which metrics versions and trials of a job are compared: Bedplate's of labels 0 and 1, or the model's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from bedplate.datasets.dataset import CompiledDataset
from bedplate.features.encoder import Encoder
from bedplate.metrics.directions import DIRECTIONS, Direction
from bedplate.models.prediction import Prediction
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
