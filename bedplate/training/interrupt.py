"""Ctrl-C during training: finish the step, write a checkpoint, say how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import final

from bedplate.errors import BedplateError


@final
class TrainingInterruptedError(BedplateError):
    """Training was interrupted; a checkpoint holds all that was done.

    Attributes:
        run: the id of the run that can be resumed; None where the trainer was called without a run.
    """

    exit_code = 130
    run: str | None = None


@final
class Interrupt:
    """Whether an interrupt was asked for."""

    __slots__ = ("asked",)

    def __init__(self) -> None:
        self.asked = False


@contextmanager
def noticed_interrupt() -> Generator[Interrupt]:
    """Turns the first SIGINT or SIGTERM into `asked`; a second one acts as before, at once.

    Neither is noticed while this process waits for others that train with it; see `watching.Watch`.

    Outside the main thread signals can't be caught, and the interrupt is never asked for.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def notice(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        interrupt.asked = True
        restore()

    for number in before:
        signal.signal(number, notice)
    try:
        yield interrupt
    finally:
        restore()
