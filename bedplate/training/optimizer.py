"""Row-wise Adagrad for embedding tables, and the optimiser of a whole model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from bedplate.layers.embedding import FusedEmbedding, summed_rows
from bedplate.layers.kernels import adagrad_rows
from bedplate.training.config import TrainerConfig


@final
class RowWiseAdagrad:
    """Adagrad with one accumulator a row: `s[r] += mean(g[r]^2)`, `w[r] -= rate g[r] / (sqrt(s[r]) + eps)`.

    Adagrad is Duchi et al. 2011; one accumulator a row is Gupta et al. 2014 ("Training highly multiclass classifiers",
    section 4), as recommenders with large tables use it. A row without gradient is untouched, so a sparse and a dense
    gradient give the same weights; the state is 1 / width of the table.

    Args:
        parameters: tables [rows, width].
        rate: the learning rate.
        eps: keeps a first tiny gradient from a large step.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float, eps: float = 1e-8) -> None:
        self.parameters = list(parameters)
        self.rate, self.eps = rate, eps
        self.sums = [torch.zeros(len(p)) for p in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Updates every table that has a gradient."""
        for table, sums in zip(self.parameters, self.sums, strict=True):
            gradient = table.grad
            if gradient is None:
                continue
            if gradient.is_sparse:
                self._step(table, sums, *_rows_of(gradient))
            else:
                self._step(table, sums, torch.arange(len(table), device=table.device), gradient)

    def _step(self, table: Tensor, sums: Tensor, rows: Tensor, values: Tensor) -> None:
        if table.device.type == "cpu" and table.dtype == values.dtype == torch.float32:
            weights, gradients = table.detach().numpy(), values.contiguous().numpy()
            adagrad_rows(weights, sums.numpy(), rows.numpy(), gradients, np.float32(self.rate), np.float32(self.eps))
            return
        updated = sums.index_select(0, rows) + values.square().mean(dim=1)
        sums.index_copy_(0, rows, updated)
        table.index_add_(0, rows, values * (-self.rate / (updated.sqrt() + self.eps)).unsqueeze(1))

    def state_dict(self) -> dict[str, Any]:
        """The accumulators."""
        return {"sums": self.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over accumulators."""
        for own, saved in zip(self.sums, state["sums"], strict=True):
            own.copy_(saved)


def _rows_of(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of a sparse gradient, each once, and their values."""
    if gradient.is_coalesced():
        return gradient.indices()[0], gradient.values()
    return summed_rows(gradient._indices()[0], gradient._values())  # of two lookups in a step  # pyright: ignore[reportPrivateUsage]


@final
class Adagrad:
    """Adagrad (Duchi et al. 2011): `s += g^2`, `w -= rate g / (sqrt(s) + eps)`, for rows with a gradient only.

    Args:
        parameters: tables [rows, width]; the state is as large.
        rate: the learning rate.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float) -> None:
        self.parameters, self.rate = list(parameters), rate
        self._torch = torch.optim.Adagrad(self.parameters, lr=rate) if self.parameters else None

    @property
    def sums(self) -> list[Tensor]:
        """The accumulators [rows, width] of each table."""
        return [] if self._torch is None else [self._torch.state[p]["sum"] for p in self.parameters]

    def step(self) -> None:
        """Updates every table that has a gradient."""
        if self._torch is not None:
            self._torch.param_groups[0]["lr"] = self.rate
            untyped: Any = torch.sparse
            with untyped.check_sparse_tensor_invariants(enable=False):  # said, or torch warns that it does not check
                self._torch.step()  # pyright: ignore[reportUnknownMemberType]

    def state_dict(self) -> dict[str, Any]:
        """The accumulators."""
        return {} if self._torch is None else self._torch.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over accumulators."""
        if self._torch is not None:
            self._torch.load_state_dict(state)


@final
class Optimizer:
    """Adagrad for embedding tables; AdamW (Loshchilov and Hutter 2019) for all other weights.

    Biases and embeddings are not decayed.

    Args:
        model: whose weights are trained.
        config: the rates and the rest.
    """

    def __init__(self, model: nn.Module, config: TrainerConfig) -> None:
        tables = [m.weight for m in model.modules() if isinstance(m, FusedEmbedding)]
        known = {id(t) for t in tables}
        self.dense = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        groups = [
            {"params": [p for p in self.dense if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in self.dense if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self._config = config
        self.adam = torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, fused=True)
        kind = RowWiseAdagrad if config.embedding_optimizer == "row_wise_adagrad" else Adagrad
        self.adagrad = kind(tables, config.embedding_learning_rate)

    def clear(self) -> None:
        """Forgets the gradients."""
        self.adam.zero_grad(set_to_none=True)
        for table in self.adagrad.parameters:
            table.grad = None

    def scale_gradients(self, by: float) -> None:
        """Multiplies all gradients."""
        for weights in (*self.dense, *self.adagrad.parameters):
            if weights.grad is not None:
                weights.grad.mul_(by)

    def gradient_norm(self) -> Tensor:
        """The norm of the gradient of the weights that are no embeddings, before it is clipped to `clip_norm`."""
        largest = self._config.clip_norm if self._config.clip_norm is not None else float("inf")
        return nn.utils.clip_grad_norm_(self.dense, largest)

    def set_rates(self, factor: float) -> None:
        """Multiplies the config's learning rates."""
        for group in self.adam.param_groups:
            group["lr"] = self._config.learning_rate * factor
        self.adagrad.rate = self._config.embedding_learning_rate * factor

    def step(self) -> None:
        """Updates all weights."""
        self.adam.step()  # pyright: ignore[reportUnknownMemberType]
        self.adagrad.step()

    def state_dict(self) -> dict[str, Any]:
        """The state of both."""
        return {"adam": self.adam.state_dict(), "adagrad": self.adagrad.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over the state of both."""
        self.adam.load_state_dict(state["adam"])
        self.adagrad.load_state_dict(state["adagrad"])
