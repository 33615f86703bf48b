"""The forward pass of a training step: as the model has it, in less precision, or compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from bedplate.errors import ConfigError, suggest
from bedplate.models.base import Model
from bedplate.models.batch import TensorBatch
from bedplate.training.calling import outputs_of
from bedplate.training.config import TrainerConfig

Forward: TypeAlias = Callable[[TensorBatch], Mapping[str, Tensor]]


def require_backend(name: str) -> None:
    """Checks that torch has a backend of `torch.compile`.

    Raises:
        ConfigError: it has none of this name.
    """
    untyped: Any = torch
    known: list[str] = untyped.compiler.list_backends(exclude_tags=())
    if name not in known:
        raise ConfigError(
            f"compile is '{name}', which is no backend of torch.compile",
            where="trainer",
            hint=suggest(name, known, "backends"),
        )


def forward_pass(model: Model, config: TrainerConfig) -> Forward:
    """The model's outputs for a batch, float32 whatever they were computed in.

    Args:
        model: the model.
        config: its `precision` and `compile`.

    Raises:
        ConfigError: torch has no such backend.
        DefinitionError: when it is called: the model's code fails, see `calling.outputs_of`.
    """
    run: Callable[[Any], Mapping[str, Tensor]] = model
    if config.compile is not None:
        require_backend(config.compile)
        untyped: Any = torch
        compiled = untyped.compile(model, backend=config.compile, dynamic=True)

        def run_compiled(batch: TensorBatch) -> Mapping[str, Tensor]:
            return compiled(batch.inputs)

        run = run_compiled
    if config.precision == "float32":
        return partial(outputs_of, model, run)

    def reduced(batch: TensorBatch) -> Mapping[str, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = outputs_of(model, run, batch)
        return {name: v.float() if v.is_floating_point() else v for name, v in outputs.items()}

    return reduced
