"""What was not finite when training stopped for it: which features, which rows, saved to a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from bedplate.errors import DataError
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import OF_ITEM
from bedplate.layers.embedding import tables_of
from bedplate.models.base import Model
from bedplate.models.batch import TensorBatch
from bedplate.training.halving import Slices, has_finite_loss
from bedplate.training.wrong_gradients import wrong_columns, wrong_gradients, wrong_rows
from bedplate.training.wrong_rows import written_rows

_STEPS = "lower learning_rate or embedding_learning_rate, or set clip_norm"
_DERIVATIVE = (
    "the model, or its loss, has a derivative that is not finite where its value is, such as that of a square root at "
    "0: keep away from there, for example with clamp(min=1e-6)"
)
_LOSS = (
    "the model's loss is not finite though its outputs are, such as by a logarithm of 0: keep away from there, for "
    "example with clamp(min=1e-6)"
)


@final
class NotFiniteError(DataError):
    """The loss or a gradient is not finite.

    Attributes:
        named: whether it is known what of the batch is not.
    """

    named: bool = False


def not_finite(
    what: str, step: int, batch: TensorBatch, model: Model, encoder: Encoder, folder: Path
) -> NotFiniteError:
    """The error that names what is not finite in a batch: inputs and labels, else outputs and weights, else gradients.

    Args:
        what: was found, such as "the loss is nan".
        step: batches before.
        batch: on which.
        model: with the weights that it had.
        encoder: of the batch.
        folder: where `wrong_rows.FILE` goes.
    """
    found = _inputs(batch, encoder) | {
        f"label {name}": ~torch.isfinite(values) for name, values in batch.labels.items() if not _is_finite(values)
    }
    hint = "make such values null where the feature is defined"
    if not found:
        what += "; all inputs and labels are finite"
        found = _outputs(model, batch)
        weights = _weights(model)
        if weights:
            what += f", but not the weights {', '.join(weights)}"
        hint = _STEPS
        if not found and not weights:
            found, hint = _derivatives(model, batch, encoder)
            what += f"; not finite: {', '.join(found)}" if found else ""
    else:
        what += f"; not finite: {', '.join(found)}"
    wrong = {name: rows.numpy() for name, rows in found.items()}
    requests = batch.request_ids[batch[OF_ITEM].numpy()]
    saved = written_rows(folder, wrong, batch.request_ids, requests, batch.candidates.numpy())
    error = NotFiniteError(what + saved, where=f"training, step {step}", hint=hint)
    error.named = saved != ""
    return error


def _is_finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())


def _outputs(model: Model, batch: TensorBatch) -> dict[str, Tensor]:
    """In which rows each output is not finite, of those where one is not."""
    with torch.no_grad():
        values: Mapping[str, Tensor] = model(batch.inputs)
    found = {f"output {name}": wrong_rows(v) for name, v in values.items() if v.is_floating_point()}
    return {name: wrong for name, wrong in found.items() if bool(wrong.any())}


def _weights(model: Model) -> list[str]:
    """The names of the weights that are not finite, of those that are here."""
    here = {name: w for name, w in model.named_parameters() if not w.is_meta}
    here |= {name: table.window.vectors for name, table in tables_of(model).items() if table.window is not None}
    return [name for name, w in here.items() if not _is_finite(w)]


def _derivatives(model: Model, batch: TensorBatch, encoder: Encoder) -> tuple[dict[str, Tensor], str]:
    """In which rows a derivative, or the loss alone, is not finite, and what to do; no row where none is to blame."""
    if has_finite_loss(model, batch) and (found := wrong_gradients(model, batch, encoder)):
        return found, f"at these rows {_DERIVATIVE}"
    slices = Slices(model, batch, encoder)
    if not slices.is_wrong:
        return {}, _STEPS
    what, text = ("loss", _LOSS) if slices.of_loss else ("gradient", _DERIVATIVE)
    if slices.is_everywhere:
        return {}, f"at all rows {text}"
    if not bool(slices.rows.any()):
        return {}, f"of these rows together {text}"
    return {f"own {what}": slices.rows}, f"at these rows {text}"


def _inputs(batch: TensorBatch, encoder: Encoder) -> dict[str, Tensor]:
    """In which rows each column of the inputs is not finite, of those where one is not."""
    found: dict[str, Tensor] = {}
    for name, tensor in batch.items():
        if not tensor.is_floating_point() or _is_finite(tensor):
            continue
        found |= wrong_columns(name, tensor, encoder)
    return found
