"""Progress on standard error, one line that is written over."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TypeAlias, final

import msgspec

Log: TypeAlias = Callable[[int, dict[str, float]], None]
"""Takes a step's number and its metrics, for example into a run."""


@final
class Status(msgspec.Struct, frozen=True):
    """How training stands after a step.

    Attributes:
        epoch: from 1.
        epochs: at most.
        batch: how many of the epoch are done.
        batches: of the epoch.
        loss: the mean of the epoch so far.
        rows_per_second: candidates a second of training time since this process began or resumed.
        wait_share: the share of that time spent waiting for data.
        metrics: `train_loss` and those of the validation, where one has just been: at an epoch's end or between.
        judged: the name of the metric that epochs are judged by.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    rows_per_second: float
    wait_share: float
    metrics: Mapping[str, float] | None = None
    judged: str = "loss"


@final
class RoundStatus(msgspec.Struct, frozen=True):
    """How the training of an estimator stands: rows are read, then rounds are grown.

    Attributes:
        what: is counted, such as "round".
        done: how many of it.
        total: at most.
        rows_per_second: candidates a second since this process began or resumed.
        metrics: those of a validation, where one has just been.
        judged: the name of the metric that rounds are judged by.
    """

    what: str
    done: int
    total: int
    rows_per_second: float
    metrics: Mapping[str, float] | None = None
    judged: str = "loss"


Show: TypeAlias = Callable[[Status | RoundStatus], None]
"""Takes the status after every step."""


def round_line(status: RoundStatus) -> str:
    """The status for a person.

    >>> round_line(RoundStatus("round", 20, 80, 51234.4, {"auc": 0.71}, "auc"))
    'round 20/80  validation auc 0.7100  51,234 rows/s'
    """
    found = "" if status.metrics is None else f"validation {status.judged} {status.metrics[status.judged]:.4f}  "
    return f"{status.what} {status.done}/{status.total}  {found}{status.rows_per_second:,.0f} rows/s"


def line(status: Status | RoundStatus) -> str:
    """The status for a person: of a step, or of a validation with the metric that it is judged by.

    >>> line(Status(1, 5, 20, 80, 0.5, 51234.4, 0.02))
    'epoch 1/5  batch 20/80  loss 0.5000  51,234 rows/s  2 % waiting for data'
    >>> line(Status(1, 5, 80, 80, 0.5, 51234.4, 0.02, {"train_loss": 0.5, "loss": 0.45, "auc": 0.71}, "auc"))
    'epoch 1/5  train loss 0.5000  validation auc 0.7100  51,234 rows/s  2 % waiting for data'
    >>> line(Status(1, 5, 20, 80, 0.5, 51234.4, 0.02, {"auc": 0.71}, "auc"))
    'epoch 1/5  batch 20/80  train loss 0.5000  validation auc 0.7100  51,234 rows/s  2 % waiting for data'
    """
    if isinstance(status, RoundStatus):
        return round_line(status)
    if status.metrics is not None:
        between = f"batch {status.batch}/{status.batches}  " if status.batch < status.batches else ""
        return (
            f"epoch {status.epoch}/{status.epochs}  {between}train loss {status.loss:.4f}  "
            f"validation {status.judged} {status.metrics[status.judged]:.4f}  "
            f"{status.rows_per_second:,.0f} rows/s  {status.wait_share * 100:.0f} % waiting for data"
        )
    return (
        f"epoch {status.epoch}/{status.epochs}  batch {status.batch}/{status.batches}  loss {status.loss:.4f}  "
        f"{status.rows_per_second:,.0f} rows/s  {status.wait_share:.0%} waiting for data"
    ).replace("%", " %")


def on_stderr(every: float = 0.5) -> Show:
    """Shows the status on standard error: on a terminal every so many seconds, else once a validation."""
    shown = 0.0
    terminal = sys.stderr.isatty()

    def show(status: Status | RoundStatus) -> None:
        nonlocal shown
        now = time.monotonic()
        if status.metrics is not None:
            sys.stderr.write(("\r\x1b[K" if terminal else "") + line(status) + "\n")
        elif terminal and now - shown >= every:
            shown = now
            sys.stderr.write("\r\x1b[K" + line(status))
        sys.stderr.flush()

    return show
