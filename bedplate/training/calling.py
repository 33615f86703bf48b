"""Calling a model's methods, which a project may have written: what is wrong with them is said by name and line."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any

from torch import Tensor, nn

from bedplate.errors import BedplateError, DefinitionError, reason
from bedplate.features.encoding import Layout
from bedplate.layers.axes import Axes, IdRows, WeightAxes
from bedplate.models.base import Model
from bedplate.models.batch import TensorBatch
from bedplate.models.config import ModelConfig, implementation
from bedplate.models.outputs import nearest, of_tensor, shown
from bedplate.models.prediction import Prediction


def model_of(config: ModelConfig, layout: Layout) -> Model:
    """A new model, with its first weights.

    Args:
        config: of the model.
        layout: of the encoder's tensors.

    Raises:
        DefinitionError: its `__init__` fails, or does not call that of `Model`.
    """
    kind: type[Model] = implementation(config)
    tensors = ", ".join(f"'{t.name}' {t.dtype} [{', '.join(map(str, t.shape))}]" for t in layout.tensors())
    try:
        model = kind(config, layout)
    except BedplateError:
        raise
    except Exception as error:
        hint = f"the batches will have: {tensors}"
        if "before Module.__init__" in str(error):
            hint = "call super().__init__(config, layout) first"
        raise _failed(kind, "__init__", error, "", hint) from error
    if not (hasattr(model, "config") and hasattr(model, "layout")):
        raise DefinitionError(
            "__init__ leaves the model without a config or a layout",
            where=f"model '{kind.__name__}'",
            hint="call super().__init__(config, layout)",
        )
    return model


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


def loss_weight_of(model: Model, batch: TensorBatch) -> float:
    """What the loss of a batch counts beside that of others.

    Raises:
        DefinitionError: `loss_weight` fails, or gives something else than a number that is not negative.
    """
    try:
        weight = model.loss_weight(batch)
        found = float(weight)
    except BedplateError:
        raise
    except Exception as error:
        raise _failure(model, "loss_weight", error, batch, batch) from error
    if not 0.0 <= found < math.inf:
        raise _wrong(model, "loss_weight", f"{found:g}", "a number that is not negative")
    return found


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


def check_gradients(model: Model, weights: Sequence[nn.Parameter]) -> None:
    """Checks that gradients are of the kind that weights outside of embedding tables have: dense.

    Raises:
        DefinitionError: one is sparse.
    """
    for weight in weights:
        if weight.grad is not None and weight.grad.is_sparse:
            named: Any = model.named_parameters()
            name: str = next(name for name, one in named if one is weight)
            raise DefinitionError(
                f"the gradient of '{name}' is sparse, expected a dense one",
                where=f"model '{type(model).__name__}'",
                hint="leave sparse=True out; for a large table use bedplate.layers.embedding.FusedEmbedding, a step of "
                "which costs the same whatever its size",
            )


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


def served_of(model: Model, batch: TensorBatch) -> Mapping[str, Tensor]:
    """What the exported graph is to give: outputs whose first size is that of candidates or requests.

    Args:
        model: the model.
        batch: only what the graph reads, see `Model.served_levels`.

    Raises:
        DefinitionError: `served` fails, or gives something else.
    """
    try:
        outputs = model.served(dict(batch))
    except BedplateError:
        raise
    except Exception as error:
        raise _failure(model, "served", error, batch, batch) from error
    of_items = "item" in model.served_levels
    rows = batch.rows if of_items else len(batch.request_ids)
    expected = f"a dict of tensors, each of [{rows}, ...]: a row for each {'candidate' if of_items else 'request'}"
    if not isinstance(outputs, Mapping) or not outputs:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _wrong(model, "served", of_tensor(outputs), expected)
    for name, value in outputs.items():
        if not isinstance(value, Tensor) or not value.ndim or len(value) != rows:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _wrong(model, "served", f"'{name}' {of_tensor(value)}", expected)
    return outputs


def metrics_of(model: Model, prediction: Prediction) -> dict[str, float]:
    """What a validation reports.

    Raises:
        DefinitionError: `metrics` fails, or gives something else than numbers by name.
    """
    try:
        found = model.metrics(prediction)
    except BedplateError:
        raise
    except Exception as error:
        hint = f"the prediction has {len(prediction.scores):,} scores and the labels {sorted(prediction.labels)}"
        raise _failed(type(model), "metrics", error, "", hint) from error
    if not isinstance(found, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _wrong(model, "metrics", of_tensor(found), "a dict of numbers by name")
    try:
        return {name: float(value) for name, value in found.items()}
    except (TypeError, ValueError):
        wrong = ", ".join(f"'{name}' {of_tensor(value)}" for name, value in found.items())
        raise _wrong(model, "metrics", wrong, "numbers alone") from None


def axes_of(model: Model) -> Axes:
    """What the axes of a model's weights stand for, each of them a weight's, and as long as that is.

    Raises:
        DefinitionError: `axes` fails, names no weight, or has another number of labels than the weight has positions;
            what is looked up by ids has fewer rows than these.
    """
    try:
        found = model.axes()
        named: dict[str, WeightAxes] = {
            name: tuple(axis if axis is None or isinstance(axis, IdRows) else tuple(axis) for axis in axes)
            for name, axes in found.items()
        }
    except BedplateError:
        raise
    except Exception as error:
        hint = "a dict with a tuple for each weight: of each of its axes the labels, or None (docs/retraining.md)"
        raise _failed(type(model), "axes", error, "", hint) from error
    weights = model.state_dict()
    for name, axes in named.items():
        if name not in weights:
            hint = f"{nearest(name, weights)}it has: {shown(weights)}"
            raise DefinitionError(f"axes has no weight '{name}'", where=f"model '{type(model).__name__}'", hint=hint)
        shape = weights[name].shape
        _check_id_rows(model, name, axes, shape)
        labels = [None if axis is None or isinstance(axis, IdRows) else len(axis) for axis in axes]
        if len(axes) > len(shape) or any(n not in (None, m) for n, m in zip(labels, shape, strict=False)):
            raise _wrong(model, "axes", f"'{name}' labels {labels}", f"those of {list(shape)} positions")
    return named


def _check_id_rows(model: Model, name: str, axes: WeightAxes, shape: Sequence[int]) -> None:
    for i, axis in enumerate(axes[: len(shape)]):
        if not isinstance(axis, IdRows):
            continue
        if i:
            raise _wrong(model, "axes", f"'{name}' ID_ROWS as axis {i}", "it as the first axis alone")
        if shape[0] < model.layout.rows:
            raise _wrong(
                model,
                "axes",
                f"'{name}' ID_ROWS and {shape[0]} rows",
                f"the {model.layout.rows} of layout.rows or more",
            )


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
    said = ""
    hint = f"the batch has {batch.rows} candidates of {len(batch.request_ids)} requests: {shown(batch)}"
    if named is not batch:
        hint = f"forward gives: {shown(named)}; {hint}"
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str) and error.args[0] not in named:
        said = f"there is no '{error.args[0]}'"
        hint = f"{nearest(error.args[0], named)}{hint}"
    return _failed(type(model), what, error, said, hint)


def _failed(kind: type[Model], what: str, error: Exception, said: str, hint: str) -> DefinitionError:
    """The error for an exception of a model's code, which says itself what is wrong unless `said` does."""
    said = said or f"{type(error).__name__}: {reason(error)}"
    return DefinitionError(f"{what} fails{_line_of(kind, error)}: {said}", where=f"model '{kind.__name__}'", hint=hint)


def _line_of(kind: type[Model], error: Exception) -> str:
    """Where in the code of the project's own classes it failed; empty where that is in no method of theirs."""
    own = [one for one in kind.__mro__ if one.__module__.partition(".")[0] not in ("bedplate", "torch")]
    files = {f.__code__.co_filename for one in own for f in vars(one).values() if isinstance(f, FunctionType)}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return f" in line {frames[-1].lineno} of {frames[-1].filename.rpartition('/')[2]}" if frames else ""
