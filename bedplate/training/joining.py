"""Joining with other processes that train the same model; needs no torch, as they may train none."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, final

from bedplate.errors import BedplateError

if TYPE_CHECKING:
    from bedplate.training.exchange import Exchange

Connect: TypeAlias = "Callable[[], AbstractContextManager[Exchange]]"
"""Connects with the other processes of a training, for as long as its context."""


@final
class PeerLostError(BedplateError):
    """Another process of the training is gone, or can't be reached."""

    exit_code = 75


@final
class WorkerError(BedplateError):
    """A process of a training ended before the training did; the last checkpoint is whole.

    Attributes:
        run: the id of the run that can be resumed; None where the trainer was called without a run.
    """

    run: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Join:
    """How the first process of a training joins with the others.

    Attributes:
        connect: connects with them.
        fingerprint: the id of all that they must have in common; see `evidence.fingerprint`.
    """

    connect: Connect
    fingerprint: str
