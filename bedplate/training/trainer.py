"""The trainer: deterministic by seed, stopped early, resumed exactly."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, final

import msgspec
import torch

from bedplate.canonical import digest
from bedplate.config import parse_size
from bedplate.datasets.blocks import Batches, Part, Stretch
from bedplate.errors import ConfigError, DataError, DefinitionError, StoreError, suggest
from bedplate.features.encoder import Encoder
from bedplate.files import remove_leftovers
from bedplate.metrics.directions import sign_of
from bedplate.models.base import Model, seeded
from bedplate.models.batch import TensorBatch
from bedplate.stopping import Stop, stop_signals
from bedplate.training.alone import Alone
from bedplate.training.average import Average
from bedplate.training.calling import backward, check_gradients, loss_of, loss_weight_of
from bedplate.training.checkpoint import BEST, CHECKPOINT, Progress, keep_best, load_state, next_best, save_state
from bedplate.training.config import TrainerConfig, may_change
from bedplate.training.evaluate import evaluate
from bedplate.training.exchange import Exchange
from bedplate.training.forensics import not_finite
from bedplate.training.forward import forward_pass
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.kept import Kept
from bedplate.training.optimizer import Optimizer
from bedplate.training.prefetch import Ahead, Waiting, prefetched
from bedplate.training.profile import Profile
from bedplate.training.rehearsal import rehearse
from bedplate.training.report import Log, Show, Status
from bedplate.training.result import TrainResult
from bedplate.training.schedule import factor
from bedplate.training.source import END, Encoded, TensorSource, one_after_another
from bedplate.training.stages import unwatched


@final
class Trainer:
    """Trains a model on a source of batches.

    Args:
        config: how.
        log: takes the metrics of each epoch, for example into a run.
        show: takes the status after each step (`report.on_stderr()` shows it).
        exchange: with the other processes that train the same model on the same batches; None where there are none.
        profile: is told where the time goes; None where nobody asks.
        exports: whether the model is to be exported, which is tried at the first batch.
    """

    def __init__(
        self,
        config: TrainerConfig,
        *,
        log: Log | None = None,
        show: Show | None = None,
        exchange: Exchange | None = None,
        profile: Profile | None = None,
        exports: bool = False,
    ) -> None:
        self.config = config
        self.log = log
        self.show = show
        self.exchange = Alone() if exchange is None else exchange
        self.profile = profile
        self.exports = exports

    def fit(
        self,
        model: Model,
        encoder: Encoder,
        train: Batches,
        validation: Batches,
        folder: Path,
        optimizer: Mapping[str, Any] | None = None,
    ) -> TrainResult[Model]:
        """Trains, or goes on from the checkpoint in `folder`.

        The weights after an interruption (a signal, a crash, kill -9) and another call are bit for bit those of a run
        that was never interrupted, on the same machine with the same number of threads and processes. With another
        number of processes they differ by the rounding of sums, and by what dropout draws.

        Args:
            model: with its first weights.
            encoder: fitted on training data.
            train: the training batches.
            validation: the batches that each epoch is judged on; the first epoch of this source.
            folder: for the checkpoint; made if missing, and of this run only.
            optimizer: the state that the optimiser begins with; None: it knows nothing yet.

        Raises:
            TrainingInterruptedError: SIGINT or SIGTERM; after the checkpoint was written.
            DataError: the loss or a gradient is not finite, or the judged metric is not a number.
            DefinitionError: the model's code fails, or gives something else than it should.
            StoreError: the checkpoint can't be read or written, or is of another config, model or encoder.
            ConfigError: the model has no such metric as the config judges by, or does not say whether a lower or a
                higher one is better; or it can't be trained by several processes.
            PeerLostError: another process is gone.
        """
        if len(train) == 0:
            raise DataError("the training source has no batches", where="trainer")
        if self.exchange.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
        with seeded(self.config.seed), stop_signals() as interrupt:
            run = _Run(self, model, encoder, train, validation, folder, interrupt)
            if optimizer is not None:
                run.optimizer.load_state_dict(dict(optimizer))
            return run.run()


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
        interrupt: Stop,
    ) -> None:
        self.config, self.log, self.show = trainer.config, trainer.log, trainer.show
        self.sign = sign_of(model.config.direction_of(trainer.config.metric))
        self.exchange, self.profile = trainer.exchange, trainer.profile
        # One process exports, and can try to where it has all weights.
        self.exports = trainer.exports and self.exchange.rank == 0 and not self.exchange.shards
        self.model, self.encoder = model, encoder
        self.train, self.validation = _prepared(trainer.config, encoder, train, validation)
        self.folder, self.interrupt = folder, interrupt
        c = self.config
        self.tables = self.exchange.begin(model, c, folder)
        self.optimizer = Optimizer(model, c, self.tables.optimizer)
        self.average = Average(self.optimizer.dense, c.average) if c.average else None
        self.forward = forward_pass(model, c)
        self.progress = Progress()
        self.ahead, self.waiting = Ahead.of(c), Waiting()
        self.rows, self.seconds = 0, 0.0
        self.grouped = 0.0  # what the losses count whose gradients the next update is of
        self.saved = 0  # the step of the last checkpoint
        self.stop = False  # whether any process is to stop
        self.batches = len(train)
        self.updates = -(-self.batches // c.accumulate)  # of an epoch
        self.identity = _identity(c, model, encoder, self.batches)

    def run(self) -> TrainResult[Model]:
        resumed = self._resume()
        if self.profile is not None:
            self.profile.begin()
        if not self._finished():
            watch = unwatched if self.profile is None else self.profile.prepared
            left = _left(self.progress, self.config, self.exchange.part)
            blocks = partial(one_after_another, self.train, left, watch=watch)
            with prefetched(blocks, self.ahead, self.waiting) as ready:
                while not self._finished():
                    if self._train_epoch(ready):
                        self._end_epoch()
        stopped = self.progress.epoch < self.config.epochs
        self.tables.close()
        if self.exchange.rank == 0:
            # What was too large for each process stays in the file, and is read where it is used.
            best = load_state(self.folder / BEST, mapped=self.exchange.shards)["model"]
            self.model.load_state_dict(best, assign=self.exchange.shards)
        self.model.eval()
        return TrainResult(
            model=self.model,
            metrics=self.progress.history[self.progress.best_at],
            best_at=self.progress.best_at,
            history=self.progress.history,
            steps=self.progress.step,
            rows_per_second=self.rows / self.seconds if self.seconds else 0.0,
            wait_share=self.waiting.seconds / self.seconds if self.seconds else 0.0,
            resumed_step=resumed,
            stopped_early=stopped,
        )

    def _finished(self) -> bool:
        return self.progress.epoch >= self.config.epochs or self._is_patience_over()

    def _is_patience_over(self) -> bool:
        done = len(self.progress.history)
        return done > 0 and done - 1 - self.progress.best_at >= self.config.patience

    def _train_epoch(self, ready: Iterator[TensorBatch]) -> bool:
        """Trains to the end of the epoch; False: patience ended before."""
        self.model.train()
        progress = self.progress
        began = time.perf_counter()
        for batch in ready:
            self._lap("waiting")
            if batch is END:
                break
            loss, weight, rows = self._gradients(batch)
            progress.batch += 1
            progress.step += 1
            progress.loss_sum += loss * weight
            progress.weight += weight
            self.rows += rows
            if self.profile is not None:
                self.profile.trained(batch.rows)
            is_update = progress.batch % self.config.accumulate == 0 or progress.batch == self.batches
            if is_update:
                self._update(loss, batch)
            now = time.perf_counter()
            self.seconds, began = self.seconds + now - began, now
            if is_update and self._pause():
                return False
            if self.show is not None:
                self.show(self._status(None))
            self._lap("other")
            began = time.perf_counter()
        if progress.batch != self.batches:
            raise DataError(
                f"epoch {progress.epoch} had {progress.batch} batches, expected {self.batches}",
                where="training source",
                hint="its length and its batches must not change while a run goes on",
            )
        return True

    def _pause(self) -> bool:
        """What is done between two updates: a validation, a checkpoint, an end; True: patience is over."""
        progress, every = self.progress, self.config.evaluate_every
        if every is not None and progress.step - progress.evaluated >= every and progress.batch < self.batches:
            self._evaluate()
            self._save()
            if self._is_patience_over():
                return True
        if self.stop:
            self._stop()
        if progress.step // self.config.checkpoint_every > self.saved // self.config.checkpoint_every:
            self._save()
        return False

    def _gradients(self, batch: TensorBatch) -> tuple[float, float, int]:
        """Adds the gradients of this process's part of a batch to those of the next update.

        Returns:
            The loss of the whole batch, what it counts beside that of others, and how many candidates it has.
        """
        if self.progress.batch % self.config.accumulate == 0:
            self._begin_update()
        try:
            loss, whole = self._loss(batch)
            value = loss.item()
        except (RuntimeError, DefinitionError) as error:
            explained = self.tables.explained(error)
            if explained is error:
                raise
            raise explained from error
        self._lap("forward")
        if not math.isfinite(value):
            raise self._not_finite(f"the loss is {value}", batch)
        weight = loss_weight_of(self.model, whole)
        if self.config.accumulate > 1 or self.exchange.count > 1:
            loss = loss * ((weight if self.config.accumulate > 1 else 1.0) / self.exchange.count)
        backward(self.model, loss, batch)
        self._lap("backward")
        self.grouped += weight
        return value, weight, whole.rows

    def _loss(self, batch: TensorBatch) -> tuple[torch.Tensor, TensorBatch]:
        """The loss of the whole batch of which this process has a part, and what it was taken of."""
        self.exchange.draw(self.config.seed, self.progress.step)
        self.tables.fetch(batch)
        self._lap("exchange" if self.exchange.count > 1 else "forward")
        own = self.forward(batch)
        self._lap("forward")
        if not self.rows and batch.rows:  # what comes to light with the first validation else, perhaps hours later
            began = time.perf_counter()
            rehearse(self.model, own, batch, exports=self.exports)
            self.seconds -= time.perf_counter() - began  # its time is none of the training's
            self._lap("rehearsal")
        outputs, whole, self.stop = self.exchange.whole(own, batch, self.interrupt.asked)
        self._lap("exchange" if self.exchange.count > 1 else "forward")
        return loss_of(self.model, outputs, whole), whole

    def _begin_update(self) -> None:
        """Forgets the gradients, and sets the rates of the update: sharded tables take them with a lookup."""
        self.optimizer.clear()
        c, done = self.config, self.progress.epoch * self.updates + self.progress.batch // self.config.accumulate
        if c.warmup or c.schedule != "constant":
            self.optimizer.set_rates(factor(c.schedule, c.warmup, c.epochs * self.updates, done))

    def _update(self, loss: float, batch: TensorBatch) -> None:
        try:
            self.exchange.merge(self.optimizer)
            self._lap("exchange" if self.exchange.count > 1 else "optimizer")
            if self.config.accumulate > 1:
                self.optimizer.scale_gradients(1.0 / (self.grouped or 1.0))
            norm = self.optimizer.clip_gradients()
        except RuntimeError:
            check_gradients(self.model, self.optimizer.dense)
            raise
        if not math.isfinite(norm):
            raise self._not_finite(f"the loss is {loss}, but its gradient's norm is {norm}", batch)
        left = self.optimizer.step()
        if left:
            raise self._not_finite(f"the loss is {loss}, but the gradient of {left:,} rows of embeddings is not", batch)
        if self.average is not None:
            self.average.update()
        self.grouped = 0.0
        self._lap("optimizer")

    def _evaluate(self) -> None:
        """Judges the weights, and keeps them where they are the best."""
        self._lap("other")
        with nullcontext() if self.average is None else self.average.in_place():
            self._judge()
        self.model.train()
        self._lap("validation")

    def _judge(self) -> None:
        progress = self.progress
        metrics = {"train_loss": progress.loss_sum / (progress.weight or 1.0)}
        seed, ahead, exchange = self.config.seed, self.ahead, self.exchange
        metrics |= evaluate(self.model, self.validation, seed=seed, ahead=ahead, exchange=exchange, tables=self.tables)
        value = self._judged(metrics)
        progress.history.append(metrics)
        if progress.best is None or self.sign * value < self.sign * progress.best:
            at = len(progress.history) - 1
            progress.waited = max(progress.waited, at - progress.best_at - 1)
            progress.best, progress.best_at = value, at
            weights = self.tables.weights()
            if self.exchange.rank == 0:
                save_state(next_best(self.folder, at), {"model": weights})
        if self.show is not None:
            self.show(self._status(metrics))
        if self.log is not None:
            self.log(progress.step, metrics)
        progress.evaluated, progress.loss_sum, progress.weight = progress.step, 0.0, 0.0

    def _end_epoch(self) -> None:
        progress = self.progress
        self._evaluate()
        progress.epoch += 1
        progress.batch = 0
        self._save()
        self.stop = any(self.exchange.of_all(self.interrupt.asked))
        if self.stop and not self._finished():
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
        """The error of the process whose part of the batch is the cause; each has noticed it, at the same step."""
        folder = self.folder / f"rank-{self.exchange.rank}" if self.exchange.rank else self.folder
        if self.config.accumulate > 1:
            what += f" (gradients are of {self.config.accumulate} batches: this one, or those just before it)"
        own = not_finite(what, self.progress.step, batch, self.model, self.encoder, folder)
        found = self.exchange.of_all((own.named, own.message, own.hint))
        named, message, hint = next((one for one in found if one[0]), found[0])
        if self.config.accumulate > 1 and not named:
            hint = f"{hint}; where that is no help, trainer.accumulate=1 finds the rows"
        return DataError(message, where=own.where, hint=hint)

    def _save(self) -> None:
        self._lap("other")
        weights = self.tables.weights()
        wrong = [name for name, t in weights.items() if not t.is_meta and t.is_floating_point() and not _is_finite(t)]
        for name in self.exchange.of_first(wrong):
            raise DataError(
                f"the weights '{name}' are not finite; the checkpoint before is kept",
                where=f"training, step {self.progress.step}",
                hint="lower learning_rate or embedding_learning_rate, or set clip_norm",
            )
        self.exchange.check_equal(self.model.state_dict())
        self.saved = self.progress.step
        optimizer = self.optimizer.state_dict()
        if self.exchange.rank:
            return
        state: dict[str, Any] = {
            "identity": self.identity,
            "model": weights,
            "optimizer": optimizer,
            "average": None if self.average is None else self.average.state_dict(),
            "random": torch.get_rng_state(),
            "progress": msgspec.to_builtins(self.progress),
        }
        save_state(self.folder / CHECKPOINT, state)
        keep_best(self.folder, self.progress.best_at)
        self._lap("checkpoint")

    def _lap(self, stage: str) -> None:
        if self.profile is not None:
            self.profile.lap(stage)

    def _resume(self) -> int:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return 0
        state = load_state(path, mapped=self.exchange.shards)
        different = [k for k, v in self.identity.items() if state["identity"].get(k) != v]
        if different:
            raise StoreError(
                f"the checkpoint is of another {' and '.join(different)}",
                where=str(path),
                hint="start a new run (bedplate train without --resume); a Trainer of one's own takes an empty folder",
            )
        self.tables.load(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        torch.set_rng_state(state["random"])
        self.progress = msgspec.convert(state["progress"], Progress)
        if self.exchange.rank == 0:
            keep_best(self.folder, self.progress.best_at)
        self.saved = self.progress.step
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
        loss = p.loss_sum / (p.weight or 1.0)
        speed, waited = self.rows / seconds, self.waiting.seconds / seconds
        return Status(p.epoch + 1, c.epochs, p.batch, self.batches, loss, speed, waited, metrics, c.metric)


def _prepared(
    config: TrainerConfig, encoder: Encoder, train: Batches, validation: Batches
) -> tuple[TensorSource, TensorSource]:
    """The batches of training and of validation as tensors, kept where each is read more than once and memory allows.

    The first of validation, which is smaller, and read whenever the model is judged.
    """
    memory = parse_size(config.keep_memory, "trainer: keep_memory")
    if config.epochs == 1 and config.evaluate_every is None:
        memory = 0
    judged = Kept.within(memory, validation, encoder, config.seed)
    memory = 0 if config.epochs == 1 else memory - (0 if judged is None else judged.nbytes)
    trained = Kept.within(memory, train, encoder, config.seed)
    return (
        Encoded(train, encoder) if trained is None else trained,
        Encoded(validation, encoder) if judged is None else judged,
    )


def _left(now: Progress, config: TrainerConfig, part: Part) -> list[Stretch]:
    """What is left of the epoch in which training goes on, and all later ones."""
    later = [Stretch(config.seed, epoch, part=part) for epoch in range(now.epoch + 1, config.epochs)]
    return [Stretch(config.seed, now.epoch, now.batch, part=part), *later]


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers are, looked at in pieces: the answers for a whole table would take its memory again."""
    flat, piece = tensor.reshape(-1), 1 << 22
    return all(bool(torch.isfinite(flat[at : at + piece]).all()) for at in range(0, len(flat), piece))


def _identity(config: TrainerConfig, model: Model, encoder: Encoder, batches: int) -> dict[str, str]:
    """What must be the same to go on from a checkpoint; a run may be prolonged and checkpointed at another pace."""
    fixed = {k: v for k, v in msgspec.to_builtins(config).items() if k not in may_change(msgspec.to_builtins(config))}
    return {
        "trainer config": digest(fixed),
        "model": digest([model.config.title(), msgspec.to_builtins(model.config)]),
        "encoder": encoder.digest(),
        "number of batches": str(batches),
    }
