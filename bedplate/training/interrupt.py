"""A training that was told to end: it finishes the step, writes a checkpoint, and says how to go on."""

from __future__ import annotations

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
