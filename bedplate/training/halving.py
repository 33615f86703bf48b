"""Which rows of a batch have a gradient, or a loss, of their own that is not finite: slices are tried and halved."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from bedplate.features.encoder import Encoder
from bedplate.features.encoding import OF_ITEM
from bedplate.layers.embedding import tables_of
from bedplate.models.base import Model
from bedplate.models.batch import TensorBatch
from bedplate.training.calling import loss_of
from bedplate.training.wrong_gradients import gradients_of

PASSES = 256
"""So many slices of a batch are tried at most."""


@final
class Slices:
    """Tries slices of a batch, and halves those whose gradient is not finite, until single rows are left.

    Args:
        model: with the weights that it had.
        batch: whose inputs and outputs are finite.
        encoder: of the batch.

    Attributes:
        of_loss: whether the loss of the batch itself is not finite: then that of slices is looked at in place of the
            gradient.
        is_wrong: whether the gradient, or that loss, is not finite.
        is_finite_somewhere: whether that of some slice is.
        rows: [N] bool, the candidates that are wrong by themselves: not all of them where there are very many. Where
            the model can't be tried on a row alone, the smallest slice on which it can.
    """

    def __init__(self, model: Model, batch: TensorBatch, encoder: Encoder) -> None:
        self._model, self._batch = model, batch
        self._of_requests = {t.name for t in encoder.layout.tensors() if t.shape[0] == "requests"}
        self._left = PASSES
        self.rows = torch.zeros(batch.rows, dtype=torch.bool)
        self.is_finite_somewhere, self.of_loss = False, False
        self.of_loss = batch.rows > 0 and not has_finite_loss(model, batch)
        self.is_wrong = batch.rows > 0 and self._try(0, batch.rows) is True
        if self.is_wrong:
            self._halve(0, batch.rows)

    @property
    def is_everywhere(self) -> bool:
        """Whether all that was tried is wrong: no row is to blame."""
        return self.is_wrong and not self.is_finite_somewhere

    def _halve(self, first: int, last: int) -> None:
        """Finds the rows to blame in a slice that is wrong."""
        if last - first == 1:
            self.rows[first] = True
            return
        middle = (first + last) // 2
        halves = [(first, middle), (middle, last)]
        tried = [self._try(*half) for half in halves]
        for half, wrong in zip(halves, tried, strict=True):
            if wrong:
                self._halve(*half)
        if None in tried and True not in tried and self._left:
            self.rows[first:last] = True

    def _try(self, first: int, last: int) -> bool | None:
        """Whether a slice is wrong; None where it is not known."""
        if not self._left:
            return None
        self._left -= 1
        part = self._slice(first, last)
        try:
            finite = (has_finite_loss if self.of_loss else _has_finite_gradient)(self._model, part)
        except Exception:  # noqa: BLE001 - such as of a normalisation by batches, which needs two rows
            return None
        self.is_finite_somewhere |= finite is True
        return None if finite is None else not finite

    def _slice(self, first: int, last: int) -> TensorBatch:
        """The candidates `[first, last)` with their requests."""
        batch = self._batch
        of_item = batch[OF_ITEM][first:last]
        low, high = int(of_item[0]), int(of_item[-1]) + 1
        inputs = {n: t[low:high] if n in self._of_requests else t[first:last] for n, t in batch.items()}
        return replace(
            batch,
            inputs=inputs | {OF_ITEM: of_item - low},
            labels={name: values[first:last] for name, values in batch.labels.items()},
            weights=batch.weights[first:last],
            candidates=batch.candidates[first:last],
            log_q=None if batch.log_q is None else batch.log_q[first:last],
            known={name: values[first:last] for name, values in batch.known.items()},
            request_ids=batch.request_ids[low:high],
        )


def _has_finite_gradient(model: Model, batch: TensorBatch) -> bool | None:
    """Whether the gradients of the weights are finite; None: the loss of these rows is not, which tells nothing."""
    weights: list[Tensor] = [w for w in model.parameters() if w.requires_grad and not w.is_meta]
    windows = (table.window for table in tables_of(model).values())
    weights += [window.vectors for window in windows if window is not None and window.vectors.requires_grad]
    with torch.enable_grad():
        loss = loss_of(model, model(batch), batch)
        if not bool(torch.isfinite(loss)):
            return None
        gradients = gradients_of(loss, weights)
    dense = (g.coalesce().values() if g.is_sparse else g for g in gradients if g is not None)
    return all(bool(torch.isfinite(g).all()) for g in dense)


def has_finite_loss(model: Model, batch: TensorBatch) -> bool:
    """Whether the loss of a batch is finite."""
    with torch.no_grad():
        return bool(torch.isfinite(loss_of(model, model(batch), batch)))
