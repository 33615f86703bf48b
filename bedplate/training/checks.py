"""Checking a job against the project's datasets and features, without data and without torch."""

from __future__ import annotations

from collections.abc import Mapping

from bedplate.datasets.dataset import CompiledDataset
from bedplate.errors import DefinitionError, suggest
from bedplate.features.assemble import Join
from bedplate.features.encoding import TAKES, Bag, Category, Encoding, Number, Sequence, Vector
from bedplate.features.fitting import check_encodings
from bedplate.features.graph import THE_REQUEST
from bedplate.features.view import Feature
from bedplate.models.config import RetrievalConfig
from bedplate.models.estimators import EstimatorConfig
from bedplate.training.job import Job
from bedplate.types import Type


def check_job(job: Job, datasets: Mapping[str, CompiledDataset]) -> None:
    """Checks that a job can be run on what the project defines.

    Args:
        job: the job.
        datasets: the project's datasets by name.

    Raises:
        DefinitionError: no dataset of this name, an input that is not a feature of it or does not suit its encoding, a
            label that it does not have or that is not binary where the model needs one, sampling to be corrected where
            nothing is sampled, or an input that a two-tower model can't have.
    """
    dataset = datasets.get(job.dataset)
    if dataset is None:
        raise DefinitionError(
            f"no dataset is named '{job.dataset}'", where=job.place, hint=suggest(job.dataset, datasets, "datasets")
        )
    job.check_inputs(dataset.selected.names)
    _check_label(job, dataset)
    if getattr(job.model, "correct_sampling", False) and dataset.negatives is None:
        raise DefinitionError(
            f"correct_sampling is set, and dataset '{job.dataset}' samples no negatives",
            where=f"{job.place}: model",
            hint="leave it out, or give the dataset negatives",
        )
    try:
        check_encodings(job.inputs)
    except DefinitionError as error:
        error.where = f"{job.place}: {error.where}"
        raise
    levels = Join(dataset.selected, dataset.dataset.spine.item.name).levels
    features = {f.name: f for f in dataset.selected.features}
    for name, encoding in job.inputs.items():
        wrong = _unsuited(encoding, features.get(name), of_request=levels.get(name, False))
        if wrong is not None:
            raise DefinitionError(
                f"'{name}' is {wrong}, which {type(encoding).__name__} does not take",
                where=f"{job.place}: inputs",
                hint=TAKES,
            )
    _check_columns(job)
    check_towers(job, dataset)


def _check_columns(job: Job) -> None:
    """Raises `DefinitionError` where an estimator, which reads one matrix, gets a list."""
    if not isinstance(job.model, EstimatorConfig):
        return
    for name, encoding in job.inputs.items():
        if isinstance(encoding, Sequence | Bag):
            raise DefinitionError(
                f"'{name}' is a list, and {job.model.title()} reads one matrix, whose columns are numbers, categories "
                "and elements of vectors",
                where=f"{job.place}: inputs",
                hint="make a number of it where the feature is defined, such as a count, a mean or whether the "
                "candidate is in it",
            )


def _check_label(job: Job, dataset: CompiledDataset) -> None:
    """Raises `DefinitionError` unless the dataset has the model's label, binary where the model needs it."""
    labels = {label.label.name: label for label in dataset.labels}
    name = job.model.label
    if name not in labels:
        raise DefinitionError(
            f"dataset '{job.dataset}' has no label '{name}'",
            where=f"{job.place}: model",
            hint=suggest(name, labels, "its labels"),
        )
    if job.model.needs_binary and not labels[name].is_binary:
        raise DefinitionError(
            f"label '{name}' of dataset '{job.dataset}' is not binary but the value of a "
            f"{type(labels[name].label.aggregation).__name__}; the model of {job.model.title()} predicts "
            "whether it is 0 or 1",
            where=f"{job.place}: model",
            hint=f"give it a threshold: Label('{name}', ..., at_least=1)",
        )


def check_towers(job: Job, dataset: CompiledDataset) -> None:
    """Checks that the item tower of a retrieval model reads nothing of the request.

    The vectors of the catalogue are computed ahead, of all candidates as of one time, for whatever request will come:
    an input of the candidate may depend on the candidate's entity, and on `request.time`, which then is that time (as
    it is for the windows of the candidate's views).

    Args:
        job: the job; one of another model is right.
        dataset: its dataset, which has its inputs.

    Raises:
        DefinitionError: an input of the candidate depends on another entity too.
    """
    if not isinstance(job.model, RetrievalConfig):
        return
    item, about = dataset.dataset.spine.item.name, dataset.selected.about
    for name in job.inputs:
        entities = about.get(name, ())
        if item in entities and len(entities) > 1:
            named = " and ".join(e if e == THE_REQUEST else f"'{e}'" for e in entities)
            raise DefinitionError(
                f"'{name}' is about {named}, expected an input about '{item}' alone "
                "or about the request alone: a retrieval model's vectors of candidates are computed ahead, for no "
                "request",
                where=f"{job.place}: inputs",
                hint="leave it out here and give it to the ranking model; features of the request go to the model as "
                "inputs of their own",
            )


def _unsuited(encoding: Encoding, feature: Feature | None, *, of_request: bool) -> str | None:
    """What a feature is (None: the candidate's own key) where its encoding does not take that."""
    if feature is None:
        return None if isinstance(encoding, Category) else "the candidate's key"
    element = encoding.of if isinstance(encoding, Sequence) else encoding
    shown = f"a list of {feature.type}" if feature.is_list else f"a {feature.type}"
    takes_list = isinstance(encoding, Sequence | Bag)
    if isinstance(encoding, Vector) or feature.type.width:
        return None if isinstance(encoding, Vector) and feature.type.width else shown
    takes_type = feature.type is not Type.STRING if isinstance(element, Number) else feature.type is not Type.FLOAT
    if takes_list is not feature.is_list or not takes_type:
        return shown
    return f"{shown} of the candidate" if isinstance(encoding, Sequence) and not of_request else None
