"""Checkpoints: all that a resumed run needs to end with the same weights as one that was never interrupted."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, final

import msgspec
import torch

from bedplate.errors import StoreError, reason
from bedplate.files import aside, fsync_dir, fsync_file
from bedplate.training.config import TrainerConfig

CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"
"""The weights of the best validation that the checkpoint knows; those of a later one wait for it beside this file."""

FORMAT = 2


@final
class Progress(msgspec.Struct, forbid_unknown_fields=True):
    """Where a run stands.

    Attributes:
        epoch: the current one, from 0.
        batch: how many batches of it are done.
        step: how many batches of all epochs are done.
        loss_sum: of the batches since the last validation, each by what it counts (`Model.loss_weight`).
        weight: what they count together.
        evaluated: the step of the last validation.
        best: the best value of the judged metric; None before the first validation.
        best_at: which validation it is of.
        history: the metrics of each validation.
        waited: the most validations in a row without a better metric that one with a better followed.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    weight: float = msgspec.field(default=0.0, name="rows")
    evaluated: int = 0
    best: float | None = None
    best_at: int = -1
    history: list[dict[str, float]] = msgspec.field(default_factory=list[dict[str, float]])
    waited: int = 0

    def copy(self) -> Progress:
        """A copy that further steps leave as it is."""
        return msgspec.convert(msgspec.to_builtins(self), Progress)


def check_reachable(folder: Path, config: TrainerConfig, batches: int) -> None:
    """Checks that a run which goes on with a config ends with the weights of one that began with it.

    What was trained beyond its epochs, or its patience, is judged and perhaps the best: no run of that config has it.

    Args:
        folder: of the run's checkpoint; there may be none yet.
        config: that it goes on with.
        batches: of an epoch.

    Raises:
        StoreError: the run has gone further than a run of this config does; or the checkpoint can't be read.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return
    progress = msgspec.convert(load_state(path, mapped=True)["progress"], Progress)
    done = progress.epoch + (progress.evaluated > progress.epoch * batches)  # judged within an epoch: it counts
    if config.epochs < done:
        raise StoreError(
            f"the run was judged in epoch {done} already, and is to end after {config.epochs}",
            where="trainer: epochs",
            hint=f"go on with at least trainer.epochs={done}, or start a new run",
        )
    if config.patience <= progress.waited:
        raise StoreError(
            f"the run went on after {progress.waited} validations in a row without a better one, and would have ended "
            f"there with patience {config.patience}",
            where="trainer: patience",
            hint=f"go on with at least trainer.patience={progress.waited + 1}, or start a new run",
        )


def step_of(folder: Path) -> int | None:
    """The step of the checkpoint of a run; None: there is none.

    Args:
        folder: of the checkpoint.

    Raises:
        StoreError: it can't be read.
    """
    path = folder / CHECKPOINT
    return int(load_state(path, mapped=True)["progress"]["step"]) if path.exists() else None


def next_best(folder: Path, validation: int) -> Path:
    """Where the weights of a validation that is the best are, until a checkpoint knows of it (`keep_best`)."""
    return folder / f"best-{validation}.pt"


def keep_best(folder: Path, validation: int) -> None:
    """Makes the best weights those of the validation that the checkpoint holds for the best; forgets later ones.

    A process that is killed between the two leaves weights that the checkpoint knows nothing of: a run that goes on
    from it need not come to them again, such as one that is told to end there.

    Args:
        folder: of the checkpoint.
        validation: `Progress.best_at` of the checkpoint.
    """
    waiting = next_best(folder, validation)
    if waiting.exists():
        waiting.replace(folder / BEST)
        fsync_dir(folder)
    for path in folder.glob("best-*.pt"):
        path.unlink()


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes a state of tensors, numbers and texts, wholly or not at all.

    Raises:
        StoreError: the folder can't be written.
    """
    temporary = aside(path)
    try:
        with temporary.open("wb") as file:  # torch's own writing to a path does not tell why it failed
            torch.save({"format": FORMAT, **state}, file)  # pyright: ignore[reportUnknownMemberType]
        fsync_file(temporary)
        temporary.replace(path)
        fsync_dir(path.parent)
    except (OSError, RuntimeError) as error:
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        raise StoreError(
            f"the checkpoint can't be written: {reason(cause)}",
            where=str(path),
            hint="the one before is whole, if there is one: once the disk takes it, go on with --resume",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def load_state(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """Reads what `save_state` wrote; runs no code that the file may hold.

    Args:
        path: of the file.
        mapped: reads what of the tensors is used when it is used, so that the rest of it takes no memory.

    Raises:
        StoreError: the file is damaged, or of another version.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)  # pyright: ignore[reportUnknownMemberType]
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise StoreError(
            f"the checkpoint can't be read: {error}", where=str(path), hint="delete it to start from the beginning"
        ) from error
    if state.get("format") != FORMAT:
        hint = "it is of another version of Bedplate: go on with that one, or start a new run"
        raise StoreError(f"got format {state.get('format')}, expected {FORMAT}", where=str(path), hint=hint)
    return state
