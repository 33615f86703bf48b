"""Opening a study on a project's data: its folder, and what all its trials share."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import msgspec

from bedplate.canonical import digest
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.loader import Loader
from bedplate.errors import DataError
from bedplate.features.encoder import Encoder
from bedplate.features.fitting import fit
from bedplate.features.view import Feature
from bedplate.files import new_folder
from bedplate.registry.recovery import STUDIES
from bedplate.registry.registry import Registry
from bedplate.training.continuing import Beginning
from bedplate.training.evidence import definitions_of
from bedplate.training.fitness import check_fitness
from bedplate.training.job import Job
from bedplate.training.learner import learner_of
from bedplate.training.search import Choice, Search
from bedplate.training.study import Study
from bedplate.training.trial import Bench


def open_study(
    search: Search, job: Job, dataset: LoadedDataset, features: Mapping[str, Feature], registry: Registry, root: Path
) -> Study:
    """The study of a search on a job's data, begun or gone on with.

    Args:
        search: what is tried.
        job: whose choices are searched.
        dataset: its dataset over its data.
        features: the project's definitions by full name.
        registry: where the study and its runs go.
        root: the project's folder.

    Raises:
        DefinitionError: the job does not fit the dataset.
        ConfigError: a path of the space is of no choice of the job, or a value of another type.
        DataError: the data are not fit to be trained on, see `fitness.check_fitness`, or fewer than two validation
            requests have the label, of which no trial can be compared with another one.
    """
    if search.metric is not None:
        job = job.with_settings([f"trainer.metric={search.metric}"])
    for path, values in search.space.items():
        for value in values.values if isinstance(values, Choice) else (values.low, values.high):
            job.with_settings([f"{path}={msgspec.json.encode(value).decode()}"])
    check_fitness(job, dataset)
    known = dataset.labelled(job.model.label, "validation")
    if known < 2:
        raise DataError(
            f"got {known} validation requests with the label '{job.model.label}', expected at least two",
            where=f"search '{search.name}'",
            hint="trials are compared on them: have validation take more time, or learn a label that more have",
        )
    definitions = definitions_of(job, dataset, features)
    id = digest([job.form(), search.form(), definitions, dict(dataset.snapshots)])[:12]
    folder = registry.root / STUDIES / search.name / id
    encoder = _encoder(job, dataset, folder, Beginning(None, registry, definitions))
    return Study(folder, search, job, Bench(dataset, features, registry, root, encoder, id), id)


def _encoder(job: Job, dataset: LoadedDataset, folder: Path, beginning: Beginning) -> Encoder:
    """The study's encoder: fitted once, by whichever process comes first."""
    path = folder / "encoder"
    if not path.exists():
        training = Loader(dataset, "train").epoch(job.trainer.seed, 0)
        encoder = learner_of(job, beginning).encoder(fit(job.inputs, islice(training, job.fit_batches)))
        folder.mkdir(parents=True, exist_ok=True)
        with new_folder(path) as aside:
            encoder.save(aside)
    return Encoder.load(path)
