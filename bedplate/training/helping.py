"""What the processes of a training do that neither write files nor show progress."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.written import WrittenDataset
from bedplate.errors import StoreError
from bedplate.features.encoder import Encoder
from bedplate.features.view import Feature
from bedplate.layers.embedding import without_rows
from bedplate.training.calling import model_of
from bedplate.training.checks import check_job
from bedplate.training.continuing import Continuation
from bedplate.training.evidence import definitions_of, fingerprint
from bedplate.training.inheritance import first_state
from bedplate.training.job import Job
from bedplate.training.joining import Connect
from bedplate.training.learner import require_library
from bedplate.training.run import ENCODER, batches_of
from bedplate.training.trainer import Trainer


def help_train(
    job: Job,
    dataset: LoadedDataset,
    features: Mapping[str, Feature],
    connect: Connect,
    *,
    continued: Continuation | None = None,
    files: WrittenDataset | None = None,
) -> None:
    """Trains with the process that runs `run.train` for the same job.

    Args:
        job: the job.
        dataset: its dataset over its data.
        features: definitions by full name.
        connect: connects with the other processes.
        continued: as for `run.train`.
        files: as for `run.train`.

    Raises:
        ConfigError: several processes can't train such a model.
        StoreError: the first process has other definitions, data or config.
        PeerLostError: another process is gone.
    """
    require_library(job, together=True)
    check_job(job, {job.dataset: dataset.compiled})
    if continued is not None:
        dataset = continued.dataset(dataset, files=files is not None)
    training, validation, _ = batches_of(dataset, files)
    own = fingerprint(job, definitions_of(job, dataset, features), dataset.snapshots)
    with connect() as exchange:
        theirs, folder = exchange.of_first((own, ""))
        if own != theirs:
            raise StoreError(
                "the process of rank 0 has other definitions, sources or settings",
                where=f"{job.place}, process of rank {exchange.rank}",
                hint="were files of the project or of a source changed just now? Run it again",
            )
        checkpoints = Path(folder)
        encoder = Encoder.load(checkpoints.parent / ENCODER)
        with without_rows() if exchange.shards else nullcontext():
            model = model_of(job.model, encoder.layout)
        state = first_state(model, checkpoints)
        Trainer(job.trainer, exchange=exchange).fit(model, encoder, training, validation, checkpoints, state)
