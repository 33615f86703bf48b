"""In which rows of a batch the gradient of what a model reads is not finite, by one backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bedplate.features.encoder import Encoder
from bedplate.layers.embedding import FusedEmbedding
from bedplate.models.base import Model
from bedplate.models.batch import TensorBatch
from bedplate.training.calling import loss_of


def wrong_gradients(model: Model, batch: TensorBatch, encoder: Encoder) -> dict[str, Tensor]:
    """In which rows the gradient of what the model reads is not finite: of inputs, and of what it looks up in tables.

    It is one backward pass. What makes all rows wrong is left out, since none is to blame: so it is where an operation
    over all rows, such as a normalisation by batches, comes before the one whose derivative is not finite.

    Args:
        model: with the weights that it had.
        batch: whose inputs and loss are finite.
        encoder: of the batch.

    Returns:
        [R] or [N] bool by what it is the gradient of; empty: nothing is, or the model takes no such inputs.
    """
    read: list[tuple[str, Tensor]] = []

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def kept(_: nn.Module, __: Any, output: Tensor) -> None:
            if output.requires_grad:
                read.append((name, output))

        return kept

    untyped: Any = model
    modules: list[tuple[str, nn.Module]] = list(untyped.named_modules())
    looked_up = (FusedEmbedding, nn.Embedding)
    hooks = [module.register_forward_hook(keep(name)) for name, module in modules if isinstance(module, looked_up)]
    numbers = {name: t.detach().clone().requires_grad_() for name, t in batch.items() if t.is_floating_point()}
    # Copies again, since a model may change what it gets in place.
    given = replace(batch, inputs={n: numbers[n].clone() if n in numbers else t for n, t in batch.items()})
    try:
        with torch.enable_grad():
            loss = loss_of(model, model(given), given)
            leaves = [*(output for _, output in read), *numbers.values()]
            gradients = gradients_of(loss, leaves)
    except Exception:  # noqa: BLE001 - a model may refuse inputs that need gradients: slices tell what is wrong then
        return {}
    finally:
        for hook in hooks:
            hook.remove()
    found: dict[str, Tensor] = {}
    for (name, output), gradient in zip(read, gradients[: len(read)], strict=True):
        of = {len(batch.candidates): "candidates", len(batch.request_ids): "requests"}.get(len(output))
        if of is not None and gradient is not None:
            key, wrong = f"gradient of {name} ({of})", wrong_rows(gradient)
            found[key] = found[key] | wrong if key in found else wrong
    for name, gradient in zip(numbers, gradients[len(read) :], strict=True):
        if gradient is not None:
            columns = wrong_columns(name, gradient, encoder)
            first, *others = columns.values() or [torch.zeros(0)]
            if len(columns) == gradient.shape[-1] > 1 and all(bool((rows == first).all()) for rows in others):
                columns = {name: first}  # what is wrong in all alike comes from further on, and from no one feature
            found |= {f"gradient of {key}": rows for key, rows in columns.items()}
    return {key: wrong for key, wrong in found.items() if bool(wrong.any()) and not bool(wrong.all())}


def wrong_rows(values: Tensor) -> Tensor:
    """[n] bool: in which rows a value is not finite."""
    return ~torch.isfinite(values).flatten(1).all(dim=1) if values.ndim > 1 else ~torch.isfinite(values)


def wrong_columns(name: str, values: Tensor, encoder: Encoder) -> dict[str, Tensor]:
    """In which rows each column of one of the encoder's tensors is not finite, of those where one is not.

    Args:
        name: of the tensor.
        values: of its shape.
        encoder: that it is of.
    """
    wrong = ~torch.isfinite(values)
    columns = wrong.any(dim=1) if wrong.ndim > 2 else wrong
    named = zip(encoder.columns_of(name), columns.unbind(dim=1), strict=True)
    return {f"{name} ({column})": rows for column, rows in named if bool(rows.any())}


def gradients_of(loss: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """The gradient of a loss by each leaf; None where it does not depend on it."""
    untyped: Any = torch.autograd
    return untyped.grad(loss, leaves, allow_unused=True)
