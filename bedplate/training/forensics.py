"""What was not finite when training stopped for it: which features, which rows, saved to a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from bedplate.errors import DataError
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import OF_ITEM
from bedplate.layers.embedding import FusedEmbedding, tables_of
from bedplate.models.base import Model
from bedplate.models.batch import TensorBatch
from bedplate.training.wrong_rows import written_rows


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
    values: Mapping[str, Tensor] = {}
    hint = "make such values null where the feature is defined"
    if not found:
        with torch.no_grad():
            values = model(batch.inputs)
        found = {f"output {name}": _of_rows(v) for name, v in values.items() if v.is_floating_point()}
        found = {name: wrong for name, wrong in found.items() if bool(wrong.any())}
        here = {name: w for name, w in model.named_parameters() if not w.is_meta}
        here |= {name: table.window.vectors for name, table in tables_of(model).items() if table.window is not None}
        weights = [name for name, w in here.items() if not _is_finite(w)]
        what += "; all inputs and labels are finite" + (
            f", but not the weights {', '.join(weights)}" if weights else ""
        )
        hint = "lower learning_rate or embedding_learning_rate, or set clip_norm"
        if not found and not weights:
            found = _of_lookups(model, batch)
            if found:
                hint = (
                    "the model has a derivative that is not finite where its value is, such as that of a square root "
                    "at 0: keep away from there, for example with clamp(min=1e-6)"
                )
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


def _of_rows(values: Tensor) -> Tensor:
    """[n] bool: in which rows a value is not finite."""
    return ~torch.isfinite(values).flatten(1).all(dim=1) if values.ndim > 1 else ~torch.isfinite(values)


def _of_lookups(model: Model, batch: TensorBatch) -> dict[str, Tensor]:
    """In which rows the gradient of what was looked up in an embedding table is not finite."""
    looked_up: list[tuple[str, Tensor]] = []

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def kept(_: nn.Module, __: Any, output: Tensor) -> None:
            output.retain_grad()
            looked_up.append((name, output))

        return kept

    untyped: Any = model
    modules: list[tuple[str, nn.Module]] = list(untyped.named_modules())
    hooks = [module.register_forward_hook(keep(name)) for name, module in modules if isinstance(module, FusedEmbedding)]
    try:
        with torch.enable_grad():
            loss: Any = model.loss(model(batch.inputs), batch)
            loss.backward()
    finally:
        for hook in hooks:
            hook.remove()
    found: dict[str, Tensor] = {}
    for name, output in looked_up:
        of = {len(batch.candidates): "candidates", len(batch.request_ids): "requests"}.get(len(output))
        if of is not None and output.grad is not None and not _is_finite(output.grad):
            key, wrong = f"gradient of {name} ({of})", _of_rows(output.grad)
            found[key] = found[key] | wrong if key in found else wrong
    # A loss that has no gradient at all makes that of all rows wrong: none is to blame.
    return {key: wrong for key, wrong in found.items() if not bool(wrong.all())}


def _inputs(batch: TensorBatch, encoder: Encoder) -> dict[str, Tensor]:
    """In which rows each column of the inputs is not finite, of those where one is not."""
    found: dict[str, Tensor] = {}
    for name, tensor in batch.items():
        if not tensor.is_floating_point() or _is_finite(tensor):
            continue
        wrong = ~torch.isfinite(tensor)
        columns = wrong.any(dim=1) if wrong.ndim > 2 else wrong
        for column, rows in zip(encoder.columns_of(name), columns.unbind(dim=1), strict=True):
            if bool(rows.any()):
                found[f"{name} ({column})"] = rows
    return found
