"""The stages of preparing a batch, and who is told how long each took."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

LOAD, ENCODE, TRANSFER = "load", "encode", "transfer"
"""Rows are joined or read, then encoded, then made tensors."""

Watch: TypeAlias = Callable[[str, float, int], None]
"""Is told a stage that has ended, its seconds, and how many candidates it was of; any thread may call it."""


def unwatched(stage: str, seconds: float, rows: int) -> None:
    """Nobody asks where the time goes."""
