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
        metrics: of the validation, after an epoch's end.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    rows_per_second: float
    wait_share: float
    metrics: Mapping[str, float] | None = None


Show: TypeAlias = Callable[[Status], None]
"""Takes the status after every step."""


def line(status: Status) -> str:
    """The status for a person.

    >>> line(Status(1, 5, 20, 80, 0.5, 51234.4, 0.02))
    'epoch 1/5  batch 20/80  loss 0.5000  51,234 rows/s  2 % waiting for data'
    """
    text = (
        f"epoch {status.epoch}/{status.epochs}  batch {status.batch}/{status.batches}  loss {status.loss:.4f}  "
        f"{status.rows_per_second:,.0f} rows/s  {status.wait_share:.0%} waiting for data"
    ).replace("%", " %")
    if status.metrics is not None:
        text += "  " + "  ".join(f"{name} {value:.4f}" for name, value in status.metrics.items())
    return text


def on_stderr(every: float = 0.5) -> Show:
    """Shows the status on standard error: on a terminal every so many seconds, else once an epoch."""
    shown = 0.0
    terminal = sys.stderr.isatty()

    def show(status: Status) -> None:
        nonlocal shown
        now = time.monotonic()
        if status.metrics is not None:
            sys.stderr.write(("\r\x1b[K" if terminal else "") + line(status) + "\n")
        elif terminal and now - shown >= every:
            shown = now
            sys.stderr.write("\r\x1b[K" + line(status))
        sys.stderr.flush()

    return show
