"""What training gives, whichever library did it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar, final

ModelT = TypeVar("ModelT")


@final
@dataclass(frozen=True, slots=True)
class TrainResult(Generic[ModelT]):
    """What training gave.

    Attributes:
        model: that of the best validation, ready to predict.
        metrics: of the best validation.
        best_at: which validation it is, from 0; with `evaluate_every` unset they are the epochs.
        history: the metrics of every validation, `train_loss` since the one before among them.
        steps: batches trained on, in all; for an estimator that is trained by rounds, the rounds.
        rows_per_second: candidates a second of training time (validation aside) in this process; 0 if nothing was left.
        wait_share: the share of that time spent waiting for data.
        resumed_step: the step of the checkpoint that this process went on from; 0 if it began.
        stopped_early: whether patience ended it before the last epoch.
    """

    model: ModelT
    metrics: dict[str, float]
    best_at: int
    history: list[dict[str, float]]
    steps: int
    rows_per_second: float
    wait_share: float
    resumed_step: int
    stopped_early: bool
