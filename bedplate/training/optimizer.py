"""Row-wise Adagrad for embedding tables, and the optimiser of a whole model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import Tensor, nn

from bedplate.layers.embedding import FusedEmbedding, summed_rows
from bedplate.layers.kernels import adagrad_rows
from bedplate.training.adamw import AdamW
from bedplate.training.config import TrainerConfig

_EPS = 1e-6
"""Added to a norm that is divided by, as torch does."""


class TableOptimizer(Protocol):
    """Updates embedding tables.

    Attributes:
        rate: the learning rate.
    """

    rate: float

    @property
    def parameters(self) -> Sequence[Tensor]:
        """What has the gradients of the next update."""
        ...

    def step(self) -> int:
        """Updates every table that has a gradient; how many rows were left since it is not finite."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The accumulators of whole tables."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over accumulators of whole tables."""
        ...


@final
class RowWiseAdagrad:
    """Adagrad with one accumulator a row: `s[r] += mean(g[r]^2)`, `w[r] -= rate g[r] / (sqrt(s[r]) + eps)`.

    Adagrad is Duchi et al. 2011; one accumulator a row is Gupta et al. 2014 ("Training highly multiclass classifiers",
    section 4), as recommenders with large tables use it. A row without gradient is untouched, so a sparse and a dense
    gradient give the same weights; the state is 1 / width of the table. Nor is a row whose gradient is not finite.

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
    def step(self) -> int:
        """Updates every table that has a gradient; how many rows were left since it is not finite."""
        left = 0
        for table, sums in zip(self.parameters, self.sums, strict=True):
            gradient = table.grad
            if gradient is None:
                continue
            if gradient.is_sparse:
                left += self._step(table, sums, *_rows_of(gradient))
            else:
                left += self._step(table, sums, torch.arange(len(table), device=table.device), gradient)
        return left

    def _step(self, table: Tensor, sums: Tensor, rows: Tensor, values: Tensor) -> int:
        if table.device.type == "cpu" and table.dtype == values.dtype == torch.float32:
            weights, gradients = table.detach().numpy(), values.contiguous().numpy()
            return adagrad_rows(
                weights, sums.numpy(), rows.numpy(), gradients, np.float32(self.rate), np.float32(self.eps)
            )
        rows, values, left = _finite(rows, values)
        updated = sums.index_select(0, rows) + values.square().mean(dim=1)
        sums.index_copy_(0, rows, updated)
        table.index_add_(0, rows, values * (-self.rate / (updated.sqrt() + self.eps)).unsqueeze(1))
        return left

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


def _finite(rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor, int]:
    """The rows whose values have finite squares, and how many have not."""
    squares = values.square().sum(dim=1)
    if bool(torch.isfinite(squares.sum())):
        return rows, values, 0
    there = torch.isfinite(squares)
    return rows[there], values[there], int((~there).sum())


@final
class Adagrad:
    """Adagrad (Duchi et al. 2011): `s += g^2`, `w -= rate g / (sqrt(s) + eps)`, for rows with a gradient only.

    Args:
        parameters: tables [rows, width].
        rate: the learning rate.
        eps: keeps a first tiny gradient from a large step.

    Attributes:
        sums: the accumulators [rows, width] of each table.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float, eps: float = 1e-10) -> None:
        self.parameters = list(parameters)
        self.rate, self.eps = rate, eps
        self.sums: list[Tensor] = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]

    @torch.no_grad()
    def step(self) -> int:
        """Updates every table that has a gradient; how many rows were left since it is not finite."""
        left = 0
        for table, sums in zip(self.parameters, self.sums, strict=True):
            gradient = table.grad
            if gradient is None:
                continue
            if not gradient.is_sparse and bool(torch.isfinite(gradient.square().sum())):
                sums.addcmul_(gradient, gradient)
                table.addcdiv_(gradient, sums.sqrt().add_(self.eps), value=-self.rate)
                continue
            every = (torch.arange(len(table), device=table.device), gradient)
            rows, values, wrong = _finite(*(_rows_of(gradient) if gradient.is_sparse else every))
            left += wrong
            updated = sums.index_select(0, rows) + values.square()
            sums.index_copy_(0, rows, updated)
            table.index_add_(0, rows, values / updated.sqrt_().add_(self.eps), alpha=-self.rate)
        return left

    def state_dict(self) -> dict[str, Any]:
        """The accumulators of each table by its number, as torch has them."""
        return {"state": {i: {"sum": sums} for i, sums in enumerate(self.sums)}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over accumulators, those of `torch.optim.Adagrad` too."""
        saved: Mapping[int, dict[str, Tensor]] = state.get("state", {})
        for i, of_table in saved.items():
            self.sums[i].copy_(of_table["sum"])


def table_optimizer(model: nn.Module, config: TrainerConfig) -> RowWiseAdagrad | Adagrad:
    """What updates the embedding tables of a model that are all here."""
    kind = RowWiseAdagrad if config.embedding_optimizer == "row_wise_adagrad" else Adagrad
    tables = [module.weight for module in model.modules() if isinstance(module, FusedEmbedding)]
    return kind(tables, config.embedding_learning_rate)


@final
class Optimizer:
    """Adagrad for embedding tables; AdamW (Loshchilov and Hutter 2019) for all other weights.

    Biases and embeddings are not decayed.

    Args:
        model: whose weights are trained.
        config: the rates and the rest.
        tables: updates the embedding tables; None: as `table_optimizer` has it.
    """

    def __init__(self, model: nn.Module, config: TrainerConfig, tables: TableOptimizer | None = None) -> None:
        known = {id(module.weight) for module in model.modules() if isinstance(module, FusedEmbedding)}
        self.dense = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        self._config = config
        self.adam = AdamW(self.dense, config.learning_rate, config.weight_decay)
        self.adagrad: TableOptimizer = table_optimizer(model, config) if tables is None else tables

    def clear(self) -> None:
        """Forgets the gradients."""
        for weights in (*self.dense, *self.adagrad.parameters):
            weights.grad = None

    def scale_gradients(self, by: float) -> None:
        """Multiplies all gradients."""
        for weights in (*self.dense, *self.adagrad.parameters):
            if weights.grad is not None:
                weights.grad.mul_(by)

    def clip_gradients(self) -> float:
        """Scales the gradient of the weights that are no embeddings down to the norm `clip_norm`.

        Returns:
            its norm before that, NaN or infinite where the gradient is not finite; 0.0 where there is none.
        """
        gradients = [weights.grad for weights in self.dense if weights.grad is not None]
        if not gradients:
            return 0.0
        untyped: Any = torch
        norms: Sequence[Tensor] = untyped._foreach_norm(gradients)
        norm: Tensor = untyped.linalg.vector_norm(torch.stack([one.to(norms[0].device) for one in norms]))
        found, largest = norm.item(), self._config.clip_norm
        if largest is not None and math.isfinite(found) and (by := (largest / (norm + _EPS)).item()) < 1.0:
            untyped._foreach_mul_(gradients, by)
        return found

    def set_rates(self, factor: float) -> None:
        """Multiplies the config's learning rates."""
        self.adam.rate = self._config.learning_rate * factor
        self.adagrad.rate = self._config.embedding_learning_rate * factor

    def step(self) -> int:
        """Updates all weights; how many rows of embeddings have a gradient that is not finite, 0 where all went well.

        These rows are left as they are, and so are then all weights that are no embeddings.
        """
        left = self.adagrad.step()
        if not left:
            self.adam.step()
        return left

    def state_dict(self) -> dict[str, Any]:
        """The state of both."""
        return {"adam": self.adam.state_dict(), "adagrad": self.adagrad.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over the state of both."""
        self.adam.load_state_dict(state["adam"])
        self.adagrad.load_state_dict(state["adagrad"])
