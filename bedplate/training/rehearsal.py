"""What a model does only after its training, tried at the first batch: a mistake there would else cost the training."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bedplate.errors import ArtifactError
from bedplate.features.encoding import TensorSpec
from bedplate.features.tables import LEAST_BYTES
from bedplate.layers.embedding import FusedEmbedding
from bedplate.models.base import Model
from bedplate.models.batch import TensorBatch
from bedplate.training.calling import scores_of, served_of

_LARGEST = 2**31 - 2**24  # a protobuf message, which an ONNX file is, holds less than 2 GiB


def rehearse(model: Model, outputs: Mapping[str, Tensor], batch: TensorBatch) -> None:
    """Checks what the first validation and the export will ask of a model, which it leaves as it was.

    Args:
        model: in training.
        outputs: of the model for the batch.
        batch: any.

    Raises:
        DefinitionError: `judged` or `served` fails, or gives something else than it should.
    """
    names = {t.name for t in served_tensors(model)}
    read = replace(batch, inputs={name: tensor for name, tensor in batch.items() if name in names})
    with torch.no_grad(), torch.random.fork_rng(devices=[]), _with_copied_buffers(model):  # pyright: ignore[reportUnknownMemberType]
        scores_of(model, outputs, batch)
        model.eval()
        try:
            served_of(model, read)
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


def served_tensors(model: Model) -> list[TensorSpec]:
    """The tensors that the exported graph may take."""
    sizes = {"request": "requests", "item": "items"}
    firsts = {sizes[level] for level in model.served_levels}
    return [tensor for tensor in model.layout.tensors() if tensor.shape[0] in firsts]


def large_tables(model: Model) -> dict[nn.Module, Tensor]:
    """The embedding tables that an artifact has beside its graph, by the modules whose `weight` they are."""
    untyped: Any = model
    found = {m: m.weight.detach() for m in untyped.modules() if isinstance(m, FusedEmbedding | nn.Embedding)}
    return {m: t for m, t in found.items() if t.nbytes >= LEAST_BYTES and t.dtype == torch.float32}


def check_size(model: Model) -> None:
    """Checks that the weights of a model that are no large tables fit into one graph.

    Raises:
        ArtifactError: they do not.
    """
    every = {id(p): p.nbytes for p in model.parameters()}
    size = sum(every.values()) - sum(table.nbytes for table in large_tables(model).values())
    if size > _LARGEST:
        raise ArtifactError(
            f"the weights beside embedding tables are {size / 2**30:.1f} GiB, expected less than 2",
            where="export",
            hint="make layers smaller; look ids up in a FusedEmbedding or nn.Embedding, whose tables may have any size",
        )
