"""Checks of a job's choices that need the libraries and the registry, and no data: before any is read."""

from __future__ import annotations

from bedplate.errors import ConfigError
from bedplate.models.config import implementation
from bedplate.models.estimators import EstimatorConfig
from bedplate.registry.registry import Registry
from bedplate.registry.version import ModelVersion
from bedplate.training.config import check_sharded
from bedplate.training.continuing import Continuation
from bedplate.training.job import Job
from bedplate.training.learner import require_library


def check_choices(
    job: Job,
    continued: Continuation | None = None,
    registry: Registry | None = None,
    *,
    together: bool = False,
    sharded: bool = False,
) -> None:
    """Checks that the libraries know what a job chooses, and that it can go on from a version.

    Args:
        job: the job.
        continued: from which version it is to go on; None: from nothing.
        registry: where that version is.
        together: whether several processes are to train it.
        sharded: whether its embedding tables are to be spread over them.

    Raises:
        MissingExtraError: the model's library is not installed.
        ConfigError: a library knows no such class, parameter or backend; an estimator should go on from a version, or a
            network from that of an estimator; several processes can't train such a model.
        NotFoundError: there is no such version.
    """
    require_library(job, together=together)
    if sharded:
        check_sharded(job.trainer)
    if continued is not None:
        check_continues(job, None if registry is None else registry.get(continued.parent))
    if not isinstance(job.model, EstimatorConfig):
        if job.trainer.compile is not None:
            from bedplate.training.forward import require_backend

            require_backend(job.trainer.compile)
        return
    kind = implementation(job.model)
    if kind.__module__.partition(".")[0] == "bedplate":  # one of a project's own may need its columns
        from bedplate.models.matrix import MatrixColumn

        kind(job.model, (MatrixColumn("number"),))


def check_continues(job: Job, parent: ModelVersion | None) -> None:
    """Checks that a job can go on from a version.

    Args:
        job: the job.
        parent: the version; None: it is not there yet.

    Raises:
        ConfigError: an estimator should go on from a version, or a network from that of an estimator.
    """
    if isinstance(job.model, EstimatorConfig):
        raise ConfigError(
            f"a {job.model.title()} is trained from the beginning, and should go on from "
            + ("its champion" if parent is None else f"'{parent}'"),
            where=job.place,
            hint="leave --continue out; bedplate retrain trains estimators too, without it",
        )
    kind = None if parent is None else parent.manifest.config.get("model", {}).get("class")
    if kind in _estimators(EstimatorConfig):
        raise ConfigError(
            f"'{parent}' is an estimator, of {kind}: it has no weights that the network of "
            f"{job.model.title()} could begin with",
            where=job.place,
            hint="continue from a version of a network, or leave --continue out",
        )


def _estimators(kind: type[EstimatorConfig]) -> set[str]:
    """The titles of the configs of all estimators that are loaded, those of the project among them."""
    return {kind.title()}.union(*(_estimators(one) for one in kind.__subclasses__()))
