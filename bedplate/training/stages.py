"""The stages of preparing a batch and of an estimator's training, and who is told how long each took."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

LOAD, ENCODE, TRANSFER = "load", "encode", "transfer"
"""Rows are joined or read, then encoded, then made tensors."""

WRITE, PREPARE, FIT = "write", "prepare", "fit"
"""An estimator's matrix is written to a file, brought into the form of its library, and learnt from."""

VALIDATION, CHECKPOINT, OTHER = "validation", "checkpoint", "other"
"""What a training does beside learning."""

Lap: TypeAlias = Callable[[str, int], None]
"""Is told by one thread that a stage has ended, which began where the one before ended, and of how many rows it was."""

Watch: TypeAlias = Callable[[str, float, int], None]
"""Is told a stage that has ended, its seconds, and how many candidates it was of; any thread may call it."""


def unwatched(stage: str, seconds: float, rows: int) -> None:
    """Nobody asks where the time goes."""


def unlapped(stage: str, rows: int) -> None:
    """Nobody asks where the time goes."""
