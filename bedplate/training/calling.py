"""Calling a model's methods, which a project may have written: what is wrong with them is said by name and line."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

from torch import Tensor

from bedplate.errors import BedplateError, DefinitionError, reason
from bedplate.models.base import Model
from bedplate.models.batch import TensorBatch
from bedplate.models.outputs import nearest, of_tensor, shown


def outputs_of(model: Model, forward: Callable[[Any], Any], batch: TensorBatch) -> Mapping[str, Tensor]:
    """What a model's forward pass gives for a batch.

    Args:
        model: the model.
        forward: its forward pass, perhaps compiled.
        batch: the batch.

    Raises:
        DefinitionError: it fails, or gives something else than tensors by name.
    """
    try:
        outputs = forward(batch)
    except BedplateError:
        raise
    except Exception as error:
        raise _failure(model, "forward", error, batch, batch) from error
    if not isinstance(outputs, Mapping):
        raise _wrong(model, "forward", of_tensor(outputs), "a dict of tensors by name, such as {'logit': ...}")
    named: Mapping[str, Any] = outputs  # pyright: ignore[reportUnknownVariableType]
    for name, value in named.items():
        if not isinstance(value, Tensor):
            raise _wrong(model, "forward", f"'{name}' {of_tensor(value)}", "tensors alone")
    return named


def loss_of(model: Model, outputs: Mapping[str, Tensor], batch: TensorBatch) -> Tensor:
    """The loss of a batch, a scalar.

    Raises:
        DefinitionError: it fails, or gives something else.
    """
    try:
        loss = model.loss(outputs, batch)
    except BedplateError:
        raise
    except Exception as error:
        raise _failure(model, "loss", error, outputs, batch) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _wrong(model, "loss", of_tensor(loss), "a tensor of one number, the mean loss of the batch")
    return loss


def backward(model: Model, loss: Tensor, batch: TensorBatch) -> None:
    """Adds the gradients of a loss to those of the weights.

    Raises:
        DefinitionError: it fails.
    """
    try:
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
    except BedplateError:
        raise
    except Exception as error:
        raise _failure(model, "the backward pass", error, batch, batch) from error


def scores_of(model: Model, outputs: Mapping[str, Tensor], batch: TensorBatch) -> Tensor:
    """[N]: the scores that metrics are of.

    Raises:
        DefinitionError: `judged` fails, or gives something else.
    """
    try:
        scores = model.judged(outputs, batch)
    except BedplateError:
        raise
    except Exception as error:
        raise _failure(model, "judged", error, outputs, batch) from error
    if not isinstance(scores, Tensor) or scores.shape != (batch.rows,):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _wrong(model, "judged", of_tensor(scores), f"a score for each candidate, [{batch.rows}]")
    return scores


def _wrong(model: Model, method: str, got: str, expected: str) -> DefinitionError:
    return DefinitionError(f"{method} gives {got}, expected {expected}", where=f"model '{type(model).__name__}'")


def _failure(
    model: Model, what: str, error: Exception, named: Mapping[str, Tensor], batch: TensorBatch
) -> DefinitionError:
    """The error for an exception of a model's code.

    Args:
        model: whose code.
        what: that failed.
        error: the exception.
        named: what the code could read by name.
        batch: it was given.
    """
    said = f"{type(error).__name__}: {reason(error)}"
    hint = f"the batch has {batch.rows} candidates of {len(batch.request_ids)} requests: {shown(batch)}"
    if named is not batch:
        hint = f"forward gives: {shown(named)}; {hint}"
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str) and error.args[0] not in named:
        said = f"there is no '{error.args[0]}'"
        hint = f"{nearest(error.args[0], named)}{hint}"
    line = _line_of(model, error)
    return DefinitionError(f"{what} fails{line}: {said}", where=f"model '{type(model).__name__}'", hint=hint)


def _line_of(model: Model, error: Exception) -> str:
    """Where in the code of the project's own classes it failed; empty where that is in no method of theirs."""
    own = [kind for kind in type(model).__mro__ if kind.__module__.partition(".")[0] not in ("bedplate", "torch")]
    files = {f.__code__.co_filename for kind in own for f in vars(kind).values() if isinstance(f, FunctionType)}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return f" in line {frames[-1].lineno} of {frames[-1].filename.rpartition('/')[2]}" if frames else ""
