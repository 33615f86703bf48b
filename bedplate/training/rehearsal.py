"""What a model does only after its training, tried at the first batch: a mistake there would else cost the training."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bedplate.models.base import Model
from bedplate.models.batch import TensorBatch
from bedplate.training.calling import scores_of, served_of
from bedplate.training.graph import served_tensors, to_onnx


def rehearse(model: Model, outputs: Mapping[str, Tensor], batch: TensorBatch, *, exports: bool) -> None:
    """Checks what the first validation and the export will ask of a model, which it leaves as it was.

    Args:
        model: in training.
        outputs: of the model for the batch.
        batch: any.
        exports: whether the graph of a model that is not Bedplate's own is tried too; all of its weights are here.

    Raises:
        DefinitionError: `judged` or `served` fails, or gives something else than it should.
        ArtifactError: the graph computes something else than the model.
    """
    names = {t.name for t in served_tensors(model)}
    read = replace(batch, inputs={name: tensor for name, tensor in batch.items() if name in names})
    with torch.no_grad(), torch.random.fork_rng(devices=[]), _with_copied_buffers(model):  # pyright: ignore[reportUnknownMemberType]
        scores_of(model, outputs, batch)
        model.eval()
        try:
            served_of(model, read)
            if exports and not type(model).__module__.startswith("bedplate."):
                with warnings.catch_warnings(action="ignore"):  # the export itself will give them
                    to_onnx(model, served_tensors(model))
        finally:
            model.train()


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
