"""A job's estimator: rows are read into one matrix, another library learns from it. Satisfies `learner.Learner`."""

from __future__ import annotations

import importlib.metadata
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import msgspec
import numpy as np

from bedplate.batch import Batch
from bedplate.canonical import digest
from bedplate.datasets.loaded import LoadedDataset
from bedplate.errors import ArtifactError, DataError
from bedplate.features.artifact import SCORE, compare
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import TensorSpec
from bedplate.files import remove_leftovers
from bedplate.models.boosting import Boosted
from bedplate.models.config import implementation
from bedplate.models.estimator import Estimator, Fitted, Rows
from bedplate.models.estimators import EstimatorConfig
from bedplate.models.matrix import MatrixLayout
from bedplate.models.nodes import inputs_of, to_file
from bedplate.models.prediction import Prediction
from bedplate.stopping import stop_signals
from bedplate.training.importance import write_importance
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.job import Job
from bedplate.training.matrix_rows import MatrixRows, log_q_of
from bedplate.training.memory import require_memory
from bedplate.training.packing import CatalogueVectors, Exported, Graph, Session
from bedplate.training.profile import Profile
from bedplate.training.report import Log, Show
from bedplate.training.result import TrainResult
from bedplate.training.rounds import Rounds, judged_metrics
from bedplate.training.stages import FIT, OTHER, VALIDATION, unlapped
from bedplate.types import Array

if TYPE_CHECKING:
    from bedplate.datasets.blocks import Batches

ROWS = "rows"
"""In the folder of the checkpoints: the matrix, until the estimator has learnt."""

_CHECKED = 65_536  # rows of the test split on which the graph is compared with the estimator


@final
class Estimating:
    """Trains the `Estimator` that a job's config is of.

    Args:
        job: the job.
        profile: is told where the time goes; None where nobody asks.
    """

    __slots__ = ("_config", "_job", "_kind", "_lap", "_profile", "_tested", "title")

    def __init__(self, job: Job, profile: Profile | None = None) -> None:
        assert isinstance(job.model, EstimatorConfig)
        self._job, self._config, self._kind = job, job.model, implementation(job.model)
        named = getattr(job.model, "estimator", "")
        self.title = named.rpartition(":")[2] or self._kind.__name__
        self._tested: list[dict[str, Array]] = []
        self._profile, self._lap = profile, unlapped if profile is None else profile.lap

    def encoder(self, fitted: Encoder) -> Encoder:
        """With numbers as they are, or as `Number` says, as the config wants it."""
        return fitted.unscaled() if self._config.numbers == "raw" else fitted

    def fit(
        self, encoder: Encoder, training: Batches, validation: Batches, folder: Path, log: Log, show: Show | None
    ) -> TrainResult[Estimator]:
        """Trains the estimator.

        Boosted trees go on from their last checkpoint. Others learn in one step, and begin it anew; the rows are kept.
        """
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        seed, label = self._job.trainer.seed, self._job.model.label
        model: Estimator = self._kind(self._job.model, MatrixLayout(encoder).columns)
        if self._profile is not None:
            self._profile.begin()

        with stop_signals() as interrupt:
            matrix = MatrixRows(encoder, label, folder / ROWS, interrupt, show, self._lap)

            def rows() -> tuple[Rows, Rows]:
                train = matrix.read("train", training, seed)
                require_memory(
                    model.memory(len(train)), f"learning from {len(train):,} rows", f"job '{self._job.name}'"
                )
                if self._profile is not None:
                    self._profile.trained(len(train))
                return train, matrix.read("validation", validation, seed)

            if isinstance(model, Boosted):
                identity = self._identity(model, encoder)
                grown = Rounds(model, self._job.trainer.metric, identity, folder, interrupt, log, show, self._lap)
                return self._done(grown.run(rows), folder)
            ready = rows()
        # Outside: a signal ends it at once, since it can't be asked to end.
        result = self._fit_at_once(model, *ready)
        log(result.steps, result.metrics)
        return self._done(result, folder)

    def _done(self, result: TrainResult[Any], folder: Path) -> TrainResult[Any]:
        write_importance(folder.parent, result.model.importance())
        shutil.rmtree(folder / ROWS, ignore_errors=True)
        self._lap(OTHER, 0)
        return result

    def _fit_at_once(self, model: Estimator, train: Rows, validation: Rows) -> TrainResult[Estimator]:
        assert isinstance(model, Fitted)
        began = time.perf_counter()
        try:
            model.fit(train, validation)
        except KeyboardInterrupt:
            raise TrainingInterruptedError(
                f"interrupted while {self.title} was fitted, of which nothing is kept; its rows are",
                where="training",
                hint="run the same again: it is fitted from the beginning",
            ) from None
        seconds = time.perf_counter() - began
        self._lap(FIT, len(train))
        metrics = judged_metrics(model, model.judged(validation.matrix, validation.log_q), validation)
        self._lap(VALIDATION, len(validation))
        return TrainResult(model, metrics, 0, [metrics], 1, len(train) / max(seconds, 1e-9), 0.0, 0, False)

    def predict(self, model: Estimator, encoder: Encoder, source: Batches) -> Prediction:
        """The scores over the first epoch of a source, in its order.

        Raises:
            DataError: the source has no candidates.
        """
        layout, first, checked = MatrixLayout(encoder), 0, 0
        parts: dict[str, list[Array]] = {name: [] for name in ("scores", "weights", "requests", "ids", "candidates")}
        labels: dict[str, list[Array]] = {}
        self._tested = []
        for batch in source.epoch(0, 0):
            if not batch.items:
                continue
            tensors = encoder.encode(batch)
            if checked < _CHECKED:
                self._tested.append(tensors)
                checked += batch.items
            parts["scores"].append(model.judged(layout.matrix(tensors), log_q_of(batch)))
            weights = np.ones(batch.items, np.float32) if batch.weights is None else batch.weights
            parts["weights"].append(np.asarray(weights, np.float32))
            parts["requests"].append(batch.request_of_item() + first)
            parts["ids"].append(batch.request_ids)
            parts["candidates"].append(batch.candidates)
            for name, values in batch.labels.items():
                labels.setdefault(name, []).append(np.asarray(values, np.float32))
            first += batch.requests
        if not parts["scores"]:
            raise DataError("the source has no candidates to score", where="test")
        joined = {name: np.concatenate(found) for name, found in parts.items()}
        known = {name: np.concatenate(found) for name, found in labels.items()}
        scored = Prediction(
            joined["scores"], known, joined["weights"], joined["requests"], joined["ids"], joined["candidates"]
        )
        return replace(scored, loss=model.loss(scored))

    def catalogue(
        self, model: Estimator, encoder: Encoder, batch: Callable[[], Batch], dataset: LoadedDataset
    ) -> CatalogueVectors | None:
        """None: an estimator gives no vectors."""
        return None

    def exported(self, model: Estimator, encoder: Encoder) -> Exported:
        """The estimator's graph, compared with it on rows of the test split.

        Raises:
            ArtifactError: the graph is too large for one file, or computes something else than the estimator.
        """
        layout = MatrixLayout(encoder)
        content = to_file(layout, model.part())
        if content is None:
            raise ArtifactError(
                "the graph takes more than 2 GB, which one ONNX file can't hold",
                where="export",
                hint="grow fewer or smaller trees",
            )
        graph = Graph(content, inputs_of(layout), (TensorSpec(SCORE, "float32", ("items",)),))

        def outputs(tensors: Mapping[str, Array]) -> dict[str, Array]:
            return {SCORE: model.score(layout.matrix(tensors)).astype(np.float32)}

        session = Session(content)
        for tensors in self._tested:
            taken = {t.name: tensors[t.name] for t in graph.tensors}
            compare(outputs(taken), session.run(taken), "export, rows of the test split")
        return Exported(graph, outputs)

    def _identity(self, model: Boosted, encoder: Encoder) -> dict[str, str]:
        return {
            "model config": digest([model.config.title(), msgspec.to_builtins(model.config)]),
            "encoder": encoder.digest(),
            "seed of the trainer": str(self._job.trainer.seed),
            f"version of {model.library}": _version(model.library),
        }


def _version(library: str) -> str:
    names = [library, f"{library}-cpu"]
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""
