"""What stands between a job's batches and its artifact: a network, or an estimator of another library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bedplate.batch import Batch
from bedplate.datasets.loaded import LoadedDataset
from bedplate.errors import ConfigError, missing_extra
from bedplate.features.encoder import Encoder
from bedplate.models.config import implementation
from bedplate.models.estimators import EstimatorConfig
from bedplate.models.prediction import Prediction
from bedplate.training.continuing import Beginning
from bedplate.training.job import Job
from bedplate.training.joining import Join
from bedplate.training.packing import CatalogueVectors, Exported
from bedplate.training.profile import Profile
from bedplate.training.report import Log, Show
from bedplate.training.result import TrainResult

if TYPE_CHECKING:
    from bedplate.datasets.blocks import Batches


class Learner(Protocol):
    """Trains a job's model, and knows what to do with it afterwards.

    Attributes:
        title: what a message calls what it trains.
    """

    title: str

    def encoder(self, fitted: Encoder) -> Encoder:
        """The encoder as the model reads it, of one that was fitted on training data."""
        ...

    def fit(
        self, encoder: Encoder, training: Batches, validation: Batches, folder: Path, log: Log, show: Show | None
    ) -> TrainResult[Any]:
        """Trains, or goes on from what an interrupted call left in the folder.

        Raises:
            TrainingInterruptedError: SIGINT or SIGTERM.
            DataError: what is learnt from holds values that are not finite.
            StoreError: the folder holds what another job left.
        """
        ...

    def predict(self, model: Any, encoder: Encoder, source: Batches) -> Prediction:
        """The scores of a trained model over a source."""
        ...

    def catalogue(
        self, model: Any, encoder: Encoder, batch: Callable[[], Batch], dataset: LoadedDataset
    ) -> CatalogueVectors | None:
        """The candidates' vectors of a model for retrieval, else None; `batch` has every candidate."""
        ...

    def exported(self, model: Any, encoder: Encoder) -> Exported:
        """The graph of a trained model, which takes tensors of the encoder.

        Raises:
            ArtifactError: it is too large for one file, or computes something else than the model.
        """
        ...


def learner_of(job: Job, beginning: Beginning, join: Join | None = None, profile: Profile | None = None) -> Learner:
    """What trains a job's model; imports the library that it is made with.

    Args:
        job: the job.
        beginning: what the run begins with.
        join: how to join with other processes that train the same model, see `require_library`; None: there are none.
        profile: is told where the time goes; None where nobody asks.
    """
    if isinstance(job.model, EstimatorConfig):
        from bedplate.training.estimating import Estimating

        return Estimating(job, profile)
    from bedplate.training.network import Network

    return Network(job, beginning, join, profile)


def require_reachable(folder: Path, job: Job, batches: int) -> None:
    """Checks that going on from what is in a folder ends as the job alone would; see `checkpoint.check_reachable`.

    Args:
        folder: of the checkpoints.
        job: that is gone on with.
        batches: of an epoch.

    Raises:
        StoreError: it does not.
    """
    if not isinstance(job.model, EstimatorConfig):
        from bedplate.training.checkpoint import check_reachable

        check_reachable(folder, job.trainer, batches)


def reached(folder: Path, job: Job) -> int | None:
    """The step of the checkpoint of a network that a run goes on from; None: there is none.

    Args:
        folder: of the checkpoints.
        job: that is gone on with.

    Raises:
        StoreError: it can't be read.
    """
    if isinstance(job.model, EstimatorConfig):
        return None
    from bedplate.training.checkpoint import step_of

    return step_of(folder)


def require_library(job: Job, *, together: bool = False) -> None:
    """Imports the library that a job's model is made with.

    Args:
        job: the job.
        together: whether several processes are to train it.

    Raises:
        MissingExtraError: it is not installed.
        ConfigError: several processes can't train it.
    """
    if together and isinstance(job.model, EstimatorConfig):
        raise ConfigError(
            f"the estimator of {job.model.title()} is trained by the threads of one process",
            where=f"{job.place}: training by several processes",
            hint="leave --processes out",
        )
    try:
        implementation(job.model)
    except ModuleNotFoundError as error:
        raise missing_extra(error) or error from error
