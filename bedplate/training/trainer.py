"""The trainer: deterministic by seed, stopped early, resumed exactly."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import msgspec
import torch

from bedplate.canonical import digest
from bedplate.errors import ConfigError, DataError, StoreError, suggest
from bedplate.features.encoder import Encoder
from bedplate.files import remove_leftovers
from bedplate.metrics.classification import LOWER_IS_BETTER
from bedplate.models.base import Model, seeded
from bedplate.models.batch import TensorBatch
from bedplate.training.checkpoint import BEST, CHECKPOINT, Progress, load_state, save_state
from bedplate.training.config import MAY_CHANGE, TrainerConfig
from bedplate.training.evaluate import evaluate
from bedplate.training.interrupt import Interrupt, TrainingInterruptedError, noticed_interrupt
from bedplate.training.optimizer import Optimizer
from bedplate.training.report import Log, Show, Status
from bedplate.training.source import Batches, Waiting, prefetched


@final
@dataclass(frozen=True, slots=True)
class TrainResult:
    """What training gave.

    Attributes:
        model: with the weights of the best epoch, ready to predict.
        metrics: of the best epoch.
        best_epoch: from 0.
        history: the metrics of every epoch, `train_loss` among them.
        steps: batches trained on, in all.
        rows_per_second: candidates a second of training time (validation aside) in this process; 0 if nothing was left.
        wait_share: the share of that time spent waiting for data.
        resumed_step: the step of the checkpoint that this process went on from; 0 if it began.
        stopped_early: whether patience ended it before the last epoch.
    """

    model: Model
    metrics: dict[str, float]
    best_epoch: int
    history: list[dict[str, float]]
    steps: int
    rows_per_second: float
    wait_share: float
    resumed_step: int
    stopped_early: bool


@final
class Trainer:
    """Trains a model on a source of batches.

    Args:
        config: how.
        log: takes the metrics of each epoch, for example into a run.
        show: takes the status after each step (`report.on_stderr()` shows it).
    """

    def __init__(self, config: TrainerConfig, *, log: Log | None = None, show: Show | None = None) -> None:
        self.config = config
        self.log = log
        self.show = show

    def fit(self, model: Model, encoder: Encoder, train: Batches, validation: Batches, folder: Path) -> TrainResult:
        """Trains, or goes on from the checkpoint in `folder`.

        The weights after an interruption (a signal, a crash, kill -9) and another call are bit for bit those of a run
        that was never interrupted, on the same machine with the same number of threads.

        Args:
            model: with its first weights.
            encoder: fitted on training data.
            train: the training batches.
            validation: the batches that each epoch is judged on; the first epoch of this source.
            folder: for the checkpoint; made if missing, and of this run only.

        Raises:
            TrainingInterruptedError: SIGINT or SIGTERM; after the checkpoint was written.
            DataError: the loss or a gradient is not finite, or the judged metric is not a number.
            StoreError: the checkpoint can't be read or written, or is of another config, model or encoder.
            ConfigError: the model has no such metric as the config judges by.
        """
        if len(train) == 0:
            raise DataError("the training source has no batches", where="trainer")
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        with seeded(self.config.seed), noticed_interrupt() as interrupt:
            return _Run(self, model, encoder, train, validation, folder, interrupt).run()


@final
class _Run:
    """One call of `fit`: what changes while it runs."""

    def __init__(
        self,
        trainer: Trainer,
        model: Model,
        encoder: Encoder,
        train: Batches,
        validation: Batches,
        folder: Path,
        interrupt: Interrupt,
    ) -> None:
        self.config, self.log, self.show = trainer.config, trainer.log, trainer.show
        self.model, self.encoder, self.train, self.validation = model, encoder, train, validation
        self.folder, self.interrupt = folder, interrupt
        c = self.config
        self.optimizer = Optimizer(model, c.learning_rate, c.embedding_learning_rate, c.weight_decay, c.clip_norm)
        self.progress = Progress()
        self.waiting = Waiting()
        self.rows, self.seconds = 0, 0.0
        self.batches = len(train)
        self.identity = _identity(c, model, encoder, self.batches)

    def run(self) -> TrainResult:
        resumed = self._resume()
        while not self._finished():
            self._train_epoch()
            self._end_epoch()
        stopped = self.progress.epoch < self.config.epochs
        best = load_state(self.folder / BEST)
        self.model.load_state_dict(best["model"])
        self.model.eval()
        return TrainResult(
            model=self.model,
            metrics=self.progress.history[self.progress.best_epoch],
            best_epoch=self.progress.best_epoch,
            history=self.progress.history,
            steps=self.progress.step,
            rows_per_second=self.rows / self.seconds if self.seconds else 0.0,
            wait_share=self.waiting.seconds / self.seconds if self.seconds else 0.0,
            resumed_step=resumed,
            stopped_early=stopped,
        )

    def _finished(self) -> bool:
        done = self.progress.epoch
        waited = done - 1 - self.progress.best_epoch
        return done >= self.config.epochs or (done > 0 and waited >= self.config.patience)

    def _train_epoch(self) -> None:
        self.model.train()
        progress = self.progress
        source = self.train.epoch(self.config.seed, progress.epoch, progress.batch)
        began = time.perf_counter()
        with prefetched(source, self.encoder, self.config.prefetch, self.waiting) as ready:
            for batch in ready:
                loss = self._step(batch)
                progress.batch += 1
                progress.step += 1
                progress.loss_sum += loss * batch.rows
                progress.rows += batch.rows
                self.rows += batch.rows
                if self.interrupt.asked:
                    self._stop()
                if progress.step % self.config.checkpoint_every == 0:
                    self._save()
                now = time.perf_counter()
                self.seconds, began = self.seconds + now - began, now
                if self.show is not None:
                    self.show(self._status(None))
        if progress.batch != self.batches:
            raise DataError(
                f"epoch {progress.epoch} had {progress.batch} batches, expected {self.batches}",
                where="training source",
                hint="its length and its batches must not change while a run goes on",
            )

    def _step(self, batch: TensorBatch) -> float:
        self.optimizer.clear()
        loss = self.model.loss(self.model(batch), batch)
        value = loss.item()
        if not math.isfinite(value):
            raise self._not_finite(f"the loss is {value}", batch)
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        norm = self.optimizer.gradient_norm().item()
        if not math.isfinite(norm):
            raise self._not_finite(f"the loss is {value}, but its gradient's norm is {norm}", batch)
        self.optimizer.step()
        return value

    def _end_epoch(self) -> None:
        progress = self.progress
        metrics = {"train_loss": progress.loss_sum / max(progress.rows, 1)}
        metrics |= evaluate(
            self.model, self.encoder, self.validation, seed=self.config.seed, prefetch=self.config.prefetch
        )
        value = self._judged(metrics)
        progress.history.append(metrics)
        sign = 1.0 if self.config.metric in LOWER_IS_BETTER else -1.0
        if progress.best is None or sign * value < sign * progress.best:
            progress.best, progress.best_epoch = value, progress.epoch
            save_state(self.folder / BEST, {"model": self.model.state_dict()})
        if self.show is not None:
            self.show(self._status(metrics))
        if self.log is not None:
            self.log(progress.step, metrics)
        progress.epoch += 1
        progress.batch, progress.loss_sum, progress.rows = 0, 0.0, 0
        self._save()
        if self.interrupt.asked and not self._finished():
            self._stop()

    def _judged(self, metrics: dict[str, float]) -> float:
        if self.config.metric not in metrics:
            raise ConfigError(
                f"the model reports no '{self.config.metric}'",
                where="trainer: metric",
                hint=suggest(self.config.metric, metrics, "metrics"),
            )
        value = metrics[self.config.metric]
        if math.isnan(value):
            raise DataError(
                f"the metric '{self.config.metric}' is not a number",
                where="validation",
                hint="the validation data may hold only one class",
            )
        return value

    def _not_finite(self, what: str, batch: TensorBatch) -> DataError:
        found: list[str] = []
        for name, tensor in batch.inputs.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                finite = torch.isfinite(tensor).flatten(0, -2).all(dim=0)
                columns = self.encoder.columns_of(name)
                found.append(f"{name} ({', '.join(c for c, ok in zip(columns, finite, strict=True) if not ok)})")
        labels = [f"label {n}" for n, t in batch.labels.items() if not bool(torch.isfinite(t).all())]
        named = ", ".join([*found, *labels])
        return DataError(
            what + (f"; not finite: {named}" if named else "; all inputs and labels are finite"),
            where=f"training, step {self.progress.step}",
            hint="make such values null where the feature is defined"
            if named
            else "lower learning_rate or embedding_learning_rate, or set clip_norm",
        )

    def _save(self) -> None:
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise DataError(
                    f"the weights '{name}' are not finite; the checkpoint before is kept",
                    where=f"training, step {self.progress.step}",
                    hint="lower learning_rate or embedding_learning_rate, or set clip_norm",
                )
        state: dict[str, Any] = {
            "identity": self.identity,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "progress": msgspec.to_builtins(self.progress),
        }
        save_state(self.folder / CHECKPOINT, state)

    def _resume(self) -> int:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return 0
        state = load_state(path)
        different = [k for k, v in self.identity.items() if state["identity"].get(k) != v]
        if different:
            raise StoreError(
                f"the checkpoint is of another {' and '.join(different)}",
                where=str(path),
                hint="start a new run (bedplate train without --resume); a Trainer of one's own takes an empty folder",
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        self.progress = msgspec.convert(state["progress"], Progress)
        return self.progress.step

    def _stop(self) -> None:
        self._save()
        raise TrainingInterruptedError(
            f"interrupted after step {self.progress.step}; a checkpoint holds all that was done",
            where=str(self.folder / CHECKPOINT),
            hint="run the same again to go on from there",
        )

    def _status(self, metrics: dict[str, float] | None) -> Status:
        p, c = self.progress, self.config
        seconds = max(self.seconds, 1e-9)
        loss = p.loss_sum / max(p.rows, 1)
        speed, waited = self.rows / seconds, self.waiting.seconds / seconds
        return Status(p.epoch + 1, c.epochs, p.batch, self.batches, loss, speed, waited, metrics, c.metric)


def _identity(config: TrainerConfig, model: Model, encoder: Encoder, batches: int) -> dict[str, str]:
    """What must be the same to go on from a checkpoint; a run may be prolonged and checkpointed at another pace."""
    fixed = {k: v for k, v in msgspec.to_builtins(config).items() if k not in MAY_CHANGE}
    return {
        "trainer config": digest(fixed),
        "model": digest([model.config.title(), msgspec.to_builtins(model.config)]),
        "encoder": encoder.digest(),
        "number of batches": str(batches),
    }
