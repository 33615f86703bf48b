"""Boosting, round by round: judged while it goes on, ended early, and resumed to the very model of an unbroken run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import msgspec
import numpy as np

from bedplate.errors import DataError, StoreError
from bedplate.files import write_atomic
from bedplate.metrics.directions import sign_of
from bedplate.models.boosting import Boosted, Segment, bias_of
from bedplate.models.estimator import Estimator, Rows
from bedplate.models.prediction import Prediction
from bedplate.stopping import Stop
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.report import Log, RoundStatus, Show
from bedplate.training.result import TrainResult
from bedplate.training.stages import CHECKPOINT, FIT, PREPARE, VALIDATION, Lap, unlapped
from bedplate.types import Float64s, Int64s

PROGRESS = "rounds.json"
_FORMAT = 1


@final
class RoundProgress(msgspec.Struct, forbid_unknown_fields=True):
    """Where boosting stands at the end of a segment; the segments' trees are in files beside it.

    Attributes:
        identity: what must be the same to go on.
        format: the version of this layout.
        bias: the score that every row begins with.
        segments: how many rounds each has.
        finished: whether no more will be grown.
        best: the best value of the judged metric; None before the first validation.
        best_at: which validation it is of.
        best_rounds: how many rounds the model had then.
        history: the metrics of each validation.
    """

    identity: dict[str, str]
    format: int = _FORMAT
    bias: float = 0.0
    segments: list[int] = msgspec.field(default_factory=list[int])
    finished: bool = False
    best: float | None = None
    best_at: int = -1
    best_rounds: int = 0
    history: list[dict[str, float]] = msgspec.field(default_factory=list[dict[str, float]])

    @property
    def rounds(self) -> int:
        """How many there are in all segments."""
        return sum(self.segments)


@final
class Rounds:
    """Grows a model's trees.

    Args:
        model: without trees.
        metric: that a validation is judged by.
        identity: what must be the same to go on.
        folder: for the checkpoint; of this run only.
        interrupt: ends the work after a round.
        log: takes the metrics of each validation.
        show: takes the status after each round.
        lap: is told where the time goes.
    """

    def __init__(
        self,
        model: Boosted,
        metric: str,
        identity: dict[str, str],
        folder: Path,
        interrupt: Stop,
        log: Log,
        show: Show | None,
        lap: Lap = unlapped,
    ) -> None:
        self._model, self._metric, self._folder = model, metric, folder
        self._sign = sign_of(model.config.direction_of(metric))
        self._interrupt, self._log, self._show, self._lap = interrupt, log, show, lap
        self._progress = self._read(identity)
        self._grown: list[Segment] = [model.read(self._file(i).read_bytes()) for i in range(len(self._segments))]
        self._seconds, self._rows = 0.0, 0
        self._resumed = self._progress.rounds

    @property
    def _segments(self) -> list[int]:
        return self._progress.segments

    def run(self, rows: Callable[[], tuple[Rows, Rows]]) -> TrainResult[Boosted]:
        """Grows trees until there are enough, or no better ones come.

        Args:
            rows: gives those of training and of validation; not asked where all is grown already.

        Raises:
            TrainingInterruptedError: SIGINT or SIGTERM.
            DataError: there is nothing to learn, or the judged metric is not a number.
        """
        if not self._progress.finished:
            self._grow(*rows())
        p, c = self._progress, self._model.config
        self._model.bias, left = p.bias, p.best_rounds
        for segment, rounds in zip(self._grown, p.segments, strict=True):
            if left > 0:
                self._model.kept.append((segment, min(rounds, left)))
            left -= rounds
        rate = self._rows / self._seconds if self._seconds else 0.0
        stopped = p.rounds < c.rounds
        return TrainResult(
            self._model, p.history[p.best_at], p.best_at, p.history, p.rounds, rate, 0.0, self._resumed, stopped
        )

    def _grow(self, train: Rows, validation: Rows) -> None:
        model, progress = self._model, self._progress
        if not progress.segments and model.config.objective == "binary":
            progress.bias = 0.0
            progress.bias = bias_of(train, model.first_scores(train))
        model.bias = progress.bias
        data = model.open(train)
        scores, judged = model.first_scores(train), model.first_scores(validation)
        for segment in self._grown:
            scores += segment.margins(train.matrix, 0, segment.rounds)
            judged += segment.margins(validation.matrix, 0, segment.rounds)
        while not progress.finished:
            seed = np.random.SeedSequence([model.config.seed, len(self._grown)]).generate_state(1)[0] >> 1
            segment = model.segment(data, scores, int(seed))
            self._lap(PREPARE, 0)
            self._grow_segment(segment, len(train), validation, judged)
            kept = self._save(segment)
            self._lap(CHECKPOINT, 0)
            if kept is not None and not progress.finished:
                scores += kept.margins(train.matrix, 0, kept.rounds)
                judged += kept.margins(validation.matrix, 0, kept.rounds)

    def _grow_segment(self, segment: Segment, rows: int, validation: Rows, judged: Float64s) -> None:
        """Adds the rounds of one segment, whose validations begin with the scores `judged`."""
        c, progress, before = self._model.config, self._progress, self._progress.rounds
        for i in range(min(c.checkpoint_every, c.rounds - before)):
            if self._interrupt.asked:
                raise TrainingInterruptedError(
                    f"interrupted after round {before + i}; a checkpoint holds the first {before}",
                    where=str(self._folder / PROGRESS),
                    hint="run the same again to go on from there",
                )
            began = time.perf_counter()
            has_grown = segment.grow()
            self._seconds += time.perf_counter() - began
            self._rows += rows
            self._lap(FIT, rows)
            done = before + segment.rounds
            metrics: dict[str, float] | None = None
            if done % c.evaluate_every == 0 or done >= c.rounds or not has_grown:
                metrics = self._judge(segment, done, validation, judged)
                self._lap(VALIDATION, len(validation))
            if self._show is not None:
                rate = self._rows / max(self._seconds, 1e-9)
                self._show(RoundStatus("round", done, c.rounds, rate, metrics, self._metric))
            # Only a validation says that a round is no better: between two of them nothing is known.
            over = metrics is not None and done - progress.best_rounds >= c.early_stopping
            if over or not has_grown or done >= c.rounds:
                progress.finished = True
                return

    def _judge(self, segment: Segment, done: int, validation: Rows, judged: Float64s) -> dict[str, float]:
        model, progress = self._model, self._progress
        scores = model.linked(judged + segment.margins(validation.matrix, 0, segment.rounds))
        loss = segment.train_loss()
        metrics = ({} if loss is None else {"train_loss": loss}) | judged_metrics(model, scores, validation)
        value = metrics[self._metric]
        if math.isnan(value):
            raise DataError(
                f"the metric '{self._metric}' is not a number",
                where="validation",
                hint="the validation data may hold only one class",
            )
        progress.history.append(metrics)
        if progress.best is None or self._sign * value < self._sign * progress.best:
            progress.best, progress.best_at, progress.best_rounds = value, len(progress.history) - 1, done
        self._log(done, metrics)
        return metrics

    def _save(self, segment: Segment) -> Segment | None:
        """Writes a segment and then the progress; the segment as it will be read again, None if it has no rounds."""
        kept: Segment | None = None
        if segment.rounds:
            content = segment.content()
            write_atomic(self._file(len(self._grown)), content)
            kept = self._model.read(content)
            self._grown.append(kept)
            self._progress.segments.append(kept.rounds)
        write_atomic(self._folder / PROGRESS, msgspec.json.encode(self._progress))
        return kept

    def _file(self, number: int) -> Path:
        return self._folder / f"segment-{number:04}"

    def _read(self, identity: dict[str, str]) -> RoundProgress:
        path = self._folder / PROGRESS
        if not path.exists():
            return RoundProgress(identity)
        try:
            found = _decoded(path.read_bytes())
        except (OSError, msgspec.MsgspecError) as error:
            raise StoreError(
                f"the checkpoint can't be read: {error}", where=str(path), hint="delete it to start from the beginning"
            ) from error
        different = [name for name, value in identity.items() if found.identity.get(name) != value]
        if different or found.format != _FORMAT:
            raise StoreError(
                f"the checkpoint is of another {' and '.join(different) or 'format'}",
                where=str(path),
                hint="start a new run (bedplate train without --resume)",
            )
        return found


class _Written(msgspec.Struct):
    history: list[dict[str, float | None]] = []


def _decoded(content: bytes) -> RoundProgress:
    """The progress; JSON has no NaN, which a metric may be: it is written as null."""
    history = msgspec.json.decode(content, type=_Written).history
    plain: dict[str, Any] = msgspec.json.decode(content)
    plain["history"] = [{n: math.nan if v is None else v for n, v in metrics.items()} for metrics in history]
    return msgspec.convert(plain, RoundProgress)


def judged_metrics(model: Estimator, scores: Float64s, rows: Rows) -> dict[str, float]:
    """The metrics of scores [N] of validation rows, and `loss`."""
    none: Int64s = np.zeros(0, np.int64)
    prediction = Prediction(scores, {model.config.label: rows.labels}, rows.weights, rows.requests, none, none)
    return {"loss": model.loss(prediction), **model.metrics(prediction)}
