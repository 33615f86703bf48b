"""What a model does only after its training, tried at the first batch: a mistake there would else cost the training."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn

from bedplate.errors import BedplateError
from bedplate.models.base import Model
from bedplate.models.batch import TensorBatch
from bedplate.models.prediction import Prediction
from bedplate.training.calling import metrics_of, scores_of, served_of
from bedplate.training.evaluate import prediction_of
from bedplate.training.graph import served_tensors, to_onnx
from bedplate.types import Float32s

_OF_CODE = (ImportError, NameError)


def rehearse(model: Model, outputs: Mapping[str, Tensor], batch: TensorBatch, *, exports: bool) -> None:
    """Checks what the first validation and the export will ask of a model, which it leaves as it was.

    Args:
        model: in training.
        outputs: of the model for the batch.
        batch: any.
        exports: whether the graph of a model that is not Bedplate's own is tried too; all of its weights are here.

    Raises:
        DefinitionError: `judged` or `served` fails, or gives something else than it should; or so does `metrics`, for
            whatever the labels and scores of a batch may be.
        ArtifactError: the graph computes something else than the model.
    """
    names = {t.name for t in served_tensors(model)}
    read = replace(batch, inputs={name: tensor for name, tensor in batch.items() if name in names})
    with torch.no_grad(), torch.random.fork_rng(devices=[]), _with_copied_buffers(model):  # pyright: ignore[reportUnknownMemberType]
        scores = scores_of(model, outputs, batch)
        model.eval()
        try:
            _rehearse_metrics(model, scores, batch)
            served_of(model, read)
            if exports and not type(model).__module__.startswith("bedplate."):
                with warnings.catch_warnings(action="ignore"):  # the export itself will give them
                    to_onnx(model, served_tensors(model))
        finally:
            model.train()


def _rehearse_metrics(model: Model, scores: Tensor, batch: TensorBatch) -> None:
    """Has a project's own `metrics` judge one batch, and raises what can't be due to how few its rows are.

    A batch may hold one class, one request or no label at all, for which a metric need have no value.
    """
    judging: Any = type(model).metrics
    copied = None if judging.__module__.startswith("bedplate.") else _copied(model)
    if copied is None:
        return
    made = prediction_of(scores.detach().float(), batch, float("nan"))
    try:
        metrics_of(copied, replace(made, labels=_Labels(made.labels)))
    except BedplateError as error:
        if _is_of_code(error):
            metrics_of(copied, made)  # fails as it would at the first validation


def _copied(model: Model) -> Model | None:
    """A copy for what `metrics` may change, such as a list: its weights and usual layers are the model's.

    None: it has something that can't be copied; then its metrics are called at the first validation alone.
    """
    untyped: Any = model
    usual = [m for m in untyped.modules() if m is not model and type(m).__module__.startswith(("bedplate.", "torch."))]
    kept: list[Any] = [*usual, *model.parameters(), *model.buffers()]
    try:
        return copy.deepcopy(model, {id(one): one for one in kept})
    except (AttributeError, RuntimeError, TypeError, ValueError, copy.Error, pickle.PicklingError):
        return None


def _is_of_code(error: BedplateError) -> bool:
    """Whether a failure of `metrics` is a mistake in its code, and not one of values that a batch does not have."""
    cause = error.__cause__
    if isinstance(cause, UnboundLocalError):
        return False  # what was not found in the batch
    if cause is None:  # numbers by name may be of groups that the batch does not have
        return error.message.startswith("metrics gives ") and error.message.endswith("a dict of numbers by name")
    if isinstance(cause, AttributeError):  # of another object it may be what an empty group gives
        return isinstance(cause.obj, Prediction)
    return isinstance(cause, (*_OF_CODE, _NoLabelError))


class _NoLabelError(KeyError):
    """A label was asked for that the prediction does not have."""


@final
class _Labels(dict[str, Float32s]):
    """The labels of a prediction, which tell a wrong name of one from another wrong key."""

    def __missing__(self, name: str) -> Float32s:
        raise _NoLabelError(name)


@contextmanager
def _with_copied_buffers(model: Model) -> Generator[None]:
    """Lets a model change copies of its buffers.

    Those themselves may not even be written again as they were: the backward pass refuses tensors that were written
    since the forward pass read them.
    """
    untyped: Any = model
    modules: list[nn.Module] = list(untyped.modules())
    own = [(m, name, b) for m in modules for name, b in m.named_buffers(recurse=False, remove_duplicate=False)]
    copies = {id(buffer): buffer.clone() for _, _, buffer in own}
    for module, name, buffer in own:
        setattr(module, name, copies[id(buffer)])
    try:
        yield
    finally:
        for module, name, buffer in own:
            setattr(module, name, buffer)
