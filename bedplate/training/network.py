"""A job's network: made with torch, trained by `trainer.Trainer`. Satisfies `learner.Learner`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import final

from bedplate.batch import Batch
from bedplate.datasets.blocks import Batches
from bedplate.datasets.loaded import LoadedDataset
from bedplate.features.encoder import Encoder
from bedplate.layers.embedding import tables_in
from bedplate.models.base import Model, RetrievalModel
from bedplate.models.prediction import Prediction
from bedplate.training.alone import alone
from bedplate.training.calling import model_of
from bedplate.training.continuing import Beginning
from bedplate.training.evaluate import predict
from bedplate.training.export import catalogue_vectors, exported_of
from bedplate.training.graph import check_size
from bedplate.training.inheritance import START, Inheritance
from bedplate.training.job import Job
from bedplate.training.joining import Join
from bedplate.training.packing import CatalogueVectors, Exported
from bedplate.training.prefetch import Ahead
from bedplate.training.profile import Profile
from bedplate.training.report import Log, Show
from bedplate.training.result import TrainResult
from bedplate.training.tables import in_file
from bedplate.training.trainer import Trainer


@final
class Network:
    """Trains the `Model` that a job's config is of.

    Args:
        job: the job.
        beginning: of the run.
        join: how to join with other processes that train it; None: there are none.
        profile: is told where the time goes; None where nobody asks.
    """

    __slots__ = ("_inheritance", "_job", "_join", "_profile", "title")

    def __init__(
        self, job: Job, beginning: Beginning, join: Join | None = None, profile: Profile | None = None
    ) -> None:
        self._job, self._join, self._profile, self.title = job, join, profile, job.model_class.__name__
        self._inheritance = Inheritance(beginning, job)

    def encoder(self, fitted: Encoder) -> Encoder:
        """The encoder itself, or of what a parent knows as the parent encodes it."""
        return self._inheritance.encoder(fitted)

    def fit(
        self, encoder: Encoder, training: Batches, validation: Batches, folder: Path, log: Log, show: Show | None
    ) -> TrainResult[Model]:
        """Trains the network; see `Trainer.fit`.

        Raises:
            ArtifactError: it is too large to be exported.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with alone() if self._join is None else self._join.connect() as exchange:
            with tables_in(partial(in_file, folder=folder)) if exchange.shards else nullcontext():
                model = model_of(self._job.model, encoder.layout)
                check_size(model)
                state = self._inheritance.weights(model, encoder, training, folder)
            if self._join is not None:
                exchange.of_first((self._join.fingerprint, str(folder)))
            trainer = Trainer(
                self._job.trainer, log=log, show=show, exchange=exchange, profile=self._profile, exports=True
            )
            result = trainer.fit(model, encoder, training, validation, folder, state)
        (folder / START).unlink(missing_ok=True)
        return result

    def predict(self, model: Model, encoder: Encoder, source: Batches) -> Prediction:
        """The scores over a source."""
        return predict(model, encoder, source, ahead=Ahead.of(self._job.trainer))

    def catalogue(
        self, model: Model, encoder: Encoder, batch: Callable[[], Batch], dataset: LoadedDataset
    ) -> CatalogueVectors | None:
        """The candidates' vectors of a model for retrieval, else None."""
        if not isinstance(model, RetrievalModel):
            return None
        return catalogue_vectors(model, encoder, [batch()], dataset.item_texts)

    def exported(self, model: Model, encoder: Encoder) -> Exported:
        """The network's graph, of the tensors that it reads."""
        return exported_of(model)
