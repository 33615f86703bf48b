"""Running a job: from a dataset to a registered model version, resumable at any point."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias, final

import numpy as np

from bedplate.datasets.audit import audit
from bedplate.datasets.loaded import LoadedDataset, select_requests, with_candidates
from bedplate.datasets.loader import Loader
from bedplate.datasets.split import SPLITS
from bedplate.datasets.written import WrittenDataset
from bedplate.errors import DataError, NotFoundError, StoreError
from bedplate.features.encoder import Encoder
from bedplate.features.fitting import fit
from bedplate.features.view import Feature
from bedplate.files import new_folder
from bedplate.metrics.report import warnings_of
from bedplate.models.base import Model, RetrievalModel
from bedplate.registry.manifest import gather
from bedplate.registry.registry import Registry
from bedplate.registry.run import Run
from bedplate.registry.version import ModelVersion
from bedplate.training.checks import check_job
from bedplate.training.evaluate import predict
from bedplate.training.evidence import SETTINGS, definitions_of, fingerprint, models_behind, require_same
from bedplate.training.exchange import Connect, WorkerError, alone
from bedplate.training.export import CatalogueVectors, GoldenBatch, catalogue_vectors, export
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.job import Job
from bedplate.training.prefetch import Ahead
from bedplate.training.report import Show
from bedplate.training.source import Batches
from bedplate.training.trainer import Trainer, TrainResult
from bedplate.types import Int64s

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
    """

    version: ModelVersion
    run_id: str
    result: TrainResult
    encoder: Encoder
    metrics: Mapping[str, float]
    catalogue: CatalogueVectors | None

    @property
    def warnings(self) -> Sequence[str]:
        """What speaks against using the model; see `metrics.report.warnings_of`."""
        return warnings_of(self.metrics)


def train(
    job: Job,
    dataset: LoadedDataset,
    features: Mapping[str, Feature],
    registry: Registry,
    root: Path,
    *,
    resume: str | None = None,
    files: WrittenDataset | None = None,
    show: Show | None = None,
    progress: Progress = lambda _: None,
    connect: Connect = alone,
) -> Trained:
    """Trains a job's model, evaluates it on the test split, exports it and registers the version.

    Args:
        job: the job.
        dataset: its dataset over its data.
        features: definitions by full name.
        registry: where the run and the version go.
        root: the project's folder, whose git state is recorded.
        resume: the id of an interrupted run of this job to go on with; None starts a new one.
        files: the dataset in files, to read batches of instead of joining them; the model is the same.
        show: takes the trainer's status after each step.
        progress: told each step that begins.
        connect: connects with other processes that train with this one, in `help_train`.

    Raises:
        DefinitionError: the job does not fit the dataset, see `checks.check_job`.
        DataError: training rows know what the served model can't (`datasets.leaks`), or the files are of other data.
        TrainingInterruptedError: SIGINT or SIGTERM; a checkpoint was written and the run can be resumed.
        NotFoundError: the run to resume is not there.
        StoreError: the run to resume began with other definitions, data or config; or it is not there to be resumed.
        WorkerError: another process has ended; the last checkpoint is whole, and the run can be resumed.
    """
    check_job(job, {job.dataset: dataset.compiled})
    _check_labelled(job, dataset)
    training, validation, testing = _batches(dataset, files)
    audit(dataset).require()
    definitions = definitions_of(job, dataset, features)
    if resume is None:
        config = job.form() | ({SETTINGS: list(job.settings)} if job.settings else {})
        run = registry.start_run(job.name, config, project=root, definitions=definitions, sources=dataset.snapshots)
    else:
        require_same(registry.run(resume).record, job, definitions, dataset.snapshots)
        run = registry.resume_run(resume)
    with run:
        encoder = _encoder(job, training, run.folder, progress)
        model = job.model_class(job.model, encoder.layout)
        progress(f"train {job.model_class.__name__} on {len(training):,} batches an epoch, run {run.id}")
        with _resumable(run), connect() as exchange:
            exchange.of_first((fingerprint(job, definitions, dataset.snapshots), str(run.folder)))
            trainer = Trainer(job.trainer, log=run.log_metrics, show=show, exchange=exchange)
            result = trainer.fit(model, encoder, training, validation, run.folder / CHECKPOINTS)
        progress("evaluate on the test split")
        test = predict(result.model, encoder, testing, ahead=Ahead.of(job.trainer))
        metrics = result.metrics | {f"test_{k}": v for k, v in result.model.metrics(test).items()}
        run.log_metrics(result.steps, metrics)
        progress("export, and reproduce the golden requests")
        return _register(job, dataset, features, registry, root, run, result, encoder, metrics)


@contextmanager
def _resumable(run: Run) -> Generator[None]:
    """Lets what ends a training early say which run can be resumed."""
    try:
        yield
    except (TrainingInterruptedError, WorkerError) as error:
        if isinstance(error, TrainingInterruptedError):
            run.finish("interrupted")
        error.run, error.where = run.id, f"run '{run.id}'"
        raise


def help_train(
    job: Job,
    dataset: LoadedDataset,
    features: Mapping[str, Feature],
    connect: Connect,
    *,
    files: WrittenDataset | None = None,
) -> None:
    """Trains with the process that runs `train` for the same job, and leaves files and progress to that one.

    Args:
        job: the job.
        dataset: its dataset over its data.
        features: definitions by full name.
        connect: connects with the other processes.
        files: as for `train`.

    Raises:
        StoreError: the first process has other definitions, data or config.
        PeerLostError: another process is gone.
    """
    check_job(job, {job.dataset: dataset.compiled})
    training, validation, _ = _batches(dataset, files)
    own = fingerprint(job, definitions_of(job, dataset, features), dataset.snapshots)
    with connect() as exchange:
        theirs, folder = exchange.of_first((own, ""))
        if own != theirs:
            raise StoreError(
                "the process of rank 0 has other definitions, sources or settings",
                where=f"{job.place}, process of rank {exchange.rank}",
                hint="were files of the project or of a source changed just now? Run it again",
            )
        encoder = Encoder.load(Path(folder) / ENCODER)
        model = job.model_class(job.model, encoder.layout)
        Trainer(job.trainer, exchange=exchange).fit(model, encoder, training, validation, Path(folder) / CHECKPOINTS)


def _batches(dataset: LoadedDataset, files: WrittenDataset | None) -> Sequence[Batches]:
    """The batches of training, validation and test, joined or read."""
    if files is None:
        return [Loader(dataset, split) for split in SPLITS]
    files.check(dataset)
    return [files.loader(split) for split in SPLITS]


def _check_labelled(job: Job, dataset: LoadedDataset) -> None:
    """Raises `DataError` where a split has requests, and none of them has the label of the model."""
    for split in SPLITS:
        first, last = dataset.positions(split)
        if first < last and not dataset.labelled(job.model.label, split):
            raise DataError(
                f"label '{job.model.label}' is known for none of the {last - first:,} requests of the split '{split}'",
                where=f"{job.place}: dataset '{job.dataset}'",
                hint="its horizon, with its maturity, runs past the end of the data or into the next split: choose "
                "other times for the split",
            )


def _encoder(job: Job, training: Batches, folder: Path, progress: Progress) -> Encoder:
    """The run's encoder: fitted once, then the same one for every resumption."""
    if (folder / ENCODER).exists():
        return Encoder.load(folder / ENCODER)
    progress(f"fit encodings of {len(job.inputs)} inputs on {min(job.fit_batches, len(training))} batches")
    encoder = fit(job.inputs, islice(training.epoch(job.trainer.seed, 0), job.fit_batches))
    with new_folder(folder / ENCODER) as aside:
        encoder.save(aside)
    return encoder


def _register(
    job: Job,
    dataset: LoadedDataset,
    features: Mapping[str, Feature],
    registry: Registry,
    root: Path,
    run: Run,
    result: TrainResult,
    encoder: Encoder,
    metrics: Mapping[str, float],
) -> Trained:
    catalogue = _catalogue(dataset, result.model, encoder)
    artifact = run.artifact / job.name
    shutil.rmtree(artifact, ignore_errors=True)  # of an attempt that was interrupted before it was registered
    export(
        result.model,
        encoder,
        artifact,
        features={f.name: f for f in dataset.compiled.selected.features} | dict(features),
        golden=_golden(dataset, job.golden),
        catalogue=catalogue,
        models=models_behind(job, dataset),
    )
    manifest = gather(
        root,
        definitions=run.record.definitions,
        sources=run.record.sources,
        config=job.form(),
        seeds={"trainer": job.trainer.seed, "model": job.model.seed},
        metrics=metrics,
        parents=sorted(set(models_behind(job, dataset).values())),
        trained_until=dataset.trained_until,
    )
    version = registry.register(job.name, artifact, manifest=manifest, run_id=run.id)
    return Trained(version, run.id, result, encoder, metrics, catalogue)


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


def _catalogue(dataset: LoadedDataset, model: Model, encoder: Encoder) -> CatalogueVectors | None:
    """The candidates' vectors as of the test split's first request; None for a model that is not for retrieval."""
    if not isinstance(model, RetrievalModel):
        return None
    first, last = dataset.positions("test")
    if first == last:
        raise NotFoundError("the test split has no requests", where=dataset.compiled.dataset.place)
    known = catalogue_candidates(dataset)
    one = select_requests(dataset.spine.rows, np.array([first]))
    batch = dataset.assemble(with_candidates(one, known, np.array([0, len(known)])), labels=False)
    return catalogue_vectors(model, encoder, [batch], dataset.item_texts)
