"""Running a job: from a dataset to a registered model version, resumable at any point."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, final

import numpy as np

from bedplate.batch import Batch
from bedplate.datasets.loaded import LoadedDataset, select_requests, with_candidates
from bedplate.datasets.loader import Loader
from bedplate.datasets.split import SPLITS
from bedplate.datasets.written import WrittenDataset
from bedplate.errors import NotFoundError
from bedplate.features.encoder import Encoder
from bedplate.features.fitting import fit
from bedplate.features.view import Feature
from bedplate.files import new_folder
from bedplate.metrics.rates import LabelRate
from bedplate.metrics.report import warnings_of
from bedplate.registry.environment import keep_environment
from bedplate.registry.manifest import gather
from bedplate.registry.registry import Registry
from bedplate.registry.run import Run, RunRecord, StoredRun
from bedplate.registry.version import ModelVersion
from bedplate.training.choices import check_choices
from bedplate.training.continuing import Beginning, Continuation
from bedplate.training.evidence import (
    definitions_of,
    fingerprint,
    models_behind,
    require_same,
    resumed_config,
    run_config,
)
from bedplate.training.fitness import check_fitness
from bedplate.training.inputs import Watcher, read_summary
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.job import Job
from bedplate.training.joining import Connect, Join, WorkerError
from bedplate.training.learner import Learner, learner_of, reached, require_reachable
from bedplate.training.packing import CatalogueVectors, GoldenBatch, check_place, write_artifact
from bedplate.training.plots import write_plots
from bedplate.training.predictions import TEST, keep_predictions
from bedplate.training.profile import Profile
from bedplate.training.report import Show
from bedplate.training.result import TrainResult
from bedplate.training.unlearnt import Unlearnt, samples, suspects, unlearnt
from bedplate.types import Int64s

if TYPE_CHECKING:
    from bedplate.datasets.blocks import Batches

Progress: TypeAlias = Callable[[str], None]
"""Told each step that begins."""

CHECKPOINTS = "checkpoints"
ENCODER = "encoder"


@final
@dataclass(frozen=True, slots=True)
class Trained:
    """What a job made.

    Attributes:
        version: the registered model version.
        run_id: the run that made it.
        result: what the trainer gave; its model has the best epoch's weights.
        encoder: fitted on training data.
        metrics: of validation, and of test with the prefix `test_`.
        catalogue: the candidates' vectors of a retrieval model, else None.
        unlearnt: inputs of which nothing could be learnt, and which rows of validation or test have.
    """

    version: ModelVersion
    run_id: str
    result: TrainResult[Any]
    encoder: Encoder
    metrics: Mapping[str, float]
    catalogue: CatalogueVectors | None
    unlearnt: Sequence[Unlearnt] = ()

    @property
    def warnings(self) -> Sequence[str]:
        """What speaks against using the model: `unlearnt`, and what `metrics.report.warnings_of` says."""
        return [*map(str, self.unlearnt), *warnings_of(self.metrics)]


def train(
    job: Job,
    dataset: LoadedDataset,
    features: Mapping[str, Feature],
    registry: Registry,
    root: Path,
    *,
    resume: str | None = None,
    continued: Continuation | None = None,
    retraining: str | None = None,
    files: WrittenDataset | None = None,
    show: Show | None = None,
    progress: Progress = lambda _: None,
    connect: Connect | None = None,
    profile: Profile | None = None,
) -> Trained:
    """Trains a job's model, evaluates it on the test split, exports it and registers the version.

    Args:
        job: the job.
        dataset: its dataset over its data.
        features: definitions by full name.
        registry: where the run and the version go.
        root: the project's folder, whose git state is recorded.
        resume: the id of an interrupted run of this job to go on with; None starts a new one.
        continued: from which version it goes on, and on which rows; None: from nothing, or as the run to resume began.
        retraining: the id of the retraining that a new run is of, which its config keeps.
        files: the dataset in files, to read batches of instead of joining them; the model is the same.
        show: takes the trainer's status after each step.
        progress: told each step that begins.
        profile: is told where the time of the training goes; None where nobody asks.
        connect: connects with other processes that train with this one, by `helping.help_train`; None: there are none.

    Raises:
        MissingExtraError, ConfigError: the model's library is missing, or does not know a choice (`check_choices`).
        DefinitionError: the job does not fit the dataset, see `checks.check_job`.
        DataError: training rows know what the served model can't (`datasets.leaks`), or the files are of other data.
        TrainingInterruptedError: SIGINT or SIGTERM; a checkpoint was written and the run can be resumed.
        NotFoundError, StoreError: the run to resume is not there, or of another job, or further (`check_reachable`).
        WorkerError: another process has ended; the last checkpoint is whole, and the run can be resumed.
    """
    began = None if resume is None else registry.run(resume).record
    continued = continued if began is None else Continuation.began(began)
    check_choices(job, continued, registry, together=connect is not None)
    whole, dataset = dataset, dataset if continued is None else continued.dataset(dataset, files=files is not None)
    rates = check_fitness(job, dataset)
    training, validation, testing = batches_of(dataset, files)
    beginning = Beginning(continued, registry, definitions_of(job, dataset, features))
    beginning.check(dataset.split)
    with _opened(job, began, beginning, dataset, len(training), retraining, root) as run, _resumable(run):
        join = None if connect is None else Join(connect, fingerprint(job, beginning.definitions, dataset.snapshots))
        learner = learner_of(job, beginning, join, profile)
        encoder = _encoder(job, learner, dataset, training, run.folder, progress)
        noticed = _noticed(job, whole, run.folder, progress)
        progress(f"train {learner.title} on {len(training):,} batches an epoch, run {run.id}")
        result = learner.fit(encoder, training, validation, run.folder / CHECKPOINTS, run.log_metrics, show)
        _examined(profile, job, result.model, encoder, training, run.folder, progress)
        metrics = _tested(learner, result, encoder, testing, dataset, run, progress)
        facts = _Facts(run, result, encoder, metrics, beginning, rates, noticed)
        return _register(job, learner, dataset, features, registry, root, facts, progress)


def _noticed(job: Job, dataset: LoadedDataset, folder: Path, progress: Progress) -> Sequence[Unlearnt]:
    """The inputs of which nothing can be learnt; said before the training, which may take long.

    Args:
        job: the job.
        dataset: with all training rows, also those that only a parent has learnt from.
        folder: of the run, which has noted what passed when its encodings were fitted.
        progress: told what is found.
    """
    inputs = suspects(read_summary(folder), job.inputs)
    found = unlearnt(samples(dataset), inputs) if inputs else []
    for one in found:
        progress(f"warning: {one}")
    return found


def _opened(
    job: Job,
    began: RunRecord | None,
    beginning: Beginning,
    dataset: LoadedDataset,
    batches: int,
    retraining: str | None,
    root: Path,
) -> Run:
    """A new run, or the one to go on with, whose epochs have so many batches."""
    registry = beginning.registry
    if began is not None:
        require_same(began, job, beginning.definitions, dataset.snapshots)
        require_reachable(registry.run(began.id).folder / CHECKPOINTS, job, batches)
        registry.run(began.id).metrics()  # one that is damaged is said before the run goes on
        run = registry.resume_run(began.id, resumed_config(began, job))
        step = reached(run.folder / CHECKPOINTS, job)
        if step is not None:
            run.take_back(step)
        return run
    config = run_config(job, retraining) | beginning.form
    return registry.start_run(
        job.name, config, project=root, definitions=beginning.definitions, sources=dataset.snapshots
    )


def _tested(
    learner: Learner,
    result: TrainResult[Any],
    encoder: Encoder,
    testing: Batches,
    dataset: LoadedDataset,
    run: Run,
    progress: Progress,
) -> dict[str, float]:
    """The metrics of validation and test; the run keeps them, the predictions, and plots of it all."""
    progress("evaluate on the test split")
    test = learner.predict(result.model, encoder, testing)
    keep_predictions(run.folder, test, dataset)
    tested = {f"{TEST}{name}": value for name, value in result.model.metrics(test).items()}
    metrics = result.metrics | tested
    # Each validation was logged at its own step, the best among them: the last step was another one, perhaps.
    run.log_metrics(result.steps, tested)
    run.conclude(metrics)
    write_plots(StoredRun(run.folder, run.record))
    return metrics


def _examined(
    profile: Profile | None,
    job: Job,
    model: Any,
    encoder: Encoder,
    training: Batches,
    folder: Path,
    progress: Progress,
) -> None:
    """Writes the report of a profile, if one is wanted, into the run's folder."""
    if profile is not None:
        progress("say where the time went")
        profile.examine(job.trainer, model, encoder, training, folder)


@contextmanager
def _resumable(run: Run) -> Generator[None]:
    """Lets what ends a training early say which run can be resumed."""
    try:
        try:
            yield
        except KeyboardInterrupt:  # outside the trainer, which ends by itself: before it, or after its last epoch
            raise TrainingInterruptedError("interrupted; the run holds all that was done", where="training") from None
    except (TrainingInterruptedError, WorkerError) as error:
        if isinstance(error, TrainingInterruptedError):
            run.finish("interrupted")
        error.run, error.where = run.id, f"run '{run.id}'"
        raise


def batches_of(dataset: LoadedDataset, files: WrittenDataset | None) -> Sequence[Batches]:
    """The batches of training, validation and test, joined or read.

    Every model is tested on the negatives of seed 0, whatever its own seed; files of another one do not hold them.
    """
    if files is None:
        return [Loader(dataset, split) for split in SPLITS]
    files.check(dataset)
    others = [] if files.manifest.plan.seed == 0 else ["test"]
    return [Loader(dataset, split) if split in others else files.loader(split) for split in SPLITS]


def _encoder(
    job: Job, learner: Learner, dataset: LoadedDataset, training: Batches, folder: Path, progress: Progress
) -> Encoder:
    """The run's encoder: fitted once, then the same one for every resumption."""
    if (folder / ENCODER).exists():
        return Encoder.load(folder / ENCODER)
    progress(f"fit encodings of {len(job.inputs)} inputs on {min(job.fit_batches, len(training))} batches")
    keep_environment(folder)
    watcher = Watcher(job.inputs, min(job.fit_batches, len(training)))
    batches = watcher.watch(islice(training.epoch(job.trainer.seed, 0), job.fit_batches))
    encoder = learner.encoder(fit(job.inputs, batches))
    watcher.write(folder, dataset)
    with new_folder(folder / ENCODER) as aside:
        encoder.save(aside)
    return encoder


@final
@dataclass(frozen=True, slots=True)
class _Facts:
    """What a version is registered with: its run, and what came of it."""

    run: Run
    result: TrainResult[Any]
    encoder: Encoder
    metrics: Mapping[str, float]
    beginning: Beginning
    rates: Mapping[str, LabelRate]
    unlearnt: Sequence[Unlearnt]


def _register(
    job: Job,
    learner: Learner,
    dataset: LoadedDataset,
    features: Mapping[str, Feature],
    registry: Registry,
    root: Path,
    facts: _Facts,
    progress: Progress,
) -> Trained:
    progress("export, and reproduce the golden requests")
    run, result, encoder, metrics = facts.run, facts.result, facts.encoder, facts.metrics
    catalogue = learner.catalogue(result.model, encoder, partial(_whole_catalogue, dataset), dataset)
    artifact = run.artifact / job.name
    shutil.rmtree(artifact, ignore_errors=True)  # of an attempt that was interrupted before it was registered
    golden = _golden(dataset, job.golden)
    check_place(artifact, golden)
    write_artifact(
        learner.exported(result.model, encoder),
        encoder,
        artifact,
        features={f.name: f for f in dataset.compiled.selected.features} | dict(features),
        golden=golden,
        catalogue=catalogue,
        models=models_behind(job, dataset),
    )
    learnt, trained = facts.beginning.until(dataset.learnt_until, dataset.trained_until)
    manifest = gather(
        root,
        definitions=run.record.definitions,
        sources=run.record.sources,
        config=job.form() | facts.beginning.form,
        seeds={"trainer": job.trainer.seed, "model": job.model.seed},
        metrics=metrics,
        parents=sorted({*models_behind(job, dataset).values(), *facts.beginning.parents}),
        learnt_until=learnt,
        trained_until=trained,
        label_rates=facts.rates,
    )
    version = registry.register(job.name, artifact, manifest=manifest, run_id=run.id)
    return Trained(version, run.id, result, encoder, metrics, catalogue, facts.unlearnt)


def _golden(dataset: LoadedDataset, count: int) -> list[GoldenBatch]:
    """The first requests of the test split with their positives and negatives, one batch each."""
    first, last = dataset.positions("test")
    rows = dataset.spine.rows
    return [
        GoldenBatch(
            dataset.sample(np.array([at]), 0, 0), {n: keys[at : at + 1] for n, keys in rows.request_keys.items()}
        )
        for at in range(first, min(last, first + count))
    ]


def catalogue_candidates(dataset: LoadedDataset) -> Int64s:
    """Every candidate of a request before the test split, ascending: what can be known when serving starts there."""
    rows = dataset.spine.rows
    return np.unique(rows.candidates[: rows.offsets[dataset.positions("test")[0]]])


def _whole_catalogue(dataset: LoadedDataset) -> Batch:
    """A batch of every candidate as of the test split's first request."""
    first, last = dataset.positions("test")
    if first == last:
        raise NotFoundError("the test split has no requests", where=dataset.compiled.dataset.place)
    known = catalogue_candidates(dataset)
    one = select_requests(dataset.spine.rows, np.array([first]))
    return dataset.assemble(with_candidates(one, known, np.array([0, len(known)])), labels=False)
