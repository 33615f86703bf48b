"""The optimiser's state that a model goes on with, taken over from its parent's by what the weights stand for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bedplate.layers.embedding import table_names
from bedplate.training.optimizer import Adagrad, Optimizer, RowWiseAdagrad, TableOptimizer
from bedplate.training.warm_start import WarmStart


@torch.no_grad()
def carried_optimizer(start: WarmStart, was: Optimizer, own: Optimizer) -> dict[str, Any]:
    """The state to begin with: the moments and counts of AdamW, and the sums of Adagrad.

    What belongs to a new feature or a new id begins at 0, as everything does where the two optimisers of embeddings
    are of different kinds.

    Args:
        start: between the two models.
        was: the optimiser of the parent's model, with its state.
        own: that of the own model, which is changed.
    """
    parent = dict(start.parent.model.named_parameters())
    for name, weights in start.own.model.named_parameters():
        source = start.source(name)
        state: dict[str, Tensor] = {} if source is None else was.adam.state.get(parent[source], {})
        if state:
            own.adam.state[weights] = {
                key: value.clone() if value.ndim == 0 else start.moments(name, value, torch.zeros_like(weights))
                for key, value in state.items()
            }
    _carry_sums(start, was.adagrad, own.adagrad)
    return own.state_dict()


def _carry_sums(start: WarmStart, was: TableOptimizer, own: TableOptimizer) -> None:
    if not isinstance(was, RowWiseAdagrad | Adagrad) or not isinstance(own, type(was)):
        return
    before, after = table_names(start.parent.model), table_names(start.own.model)
    for i, name in enumerate(after):
        source = start.source(name)
        if source not in before:
            continue
        found, sums = was.sums[before.index(source)], own.sums[i]
        sums.copy_(start.moments(name, found, torch.zeros_like(sums)))
