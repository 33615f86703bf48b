"""Batches as tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from bedplate.batch import Batch, Dense
from bedplate.datasets.negatives import LOG_Q
from bedplate.features.encoder import Encoder
from bedplate.models.batch import TensorBatch
from bedplate.types import Array, Float32s, Int64s


def to_tensors(batch: Batch, encoder: Encoder) -> TensorBatch:
    """Encodes a batch; see `tensors_of`."""
    return tensors_of(batch, encoder.encode(batch))


def tensors_of(batch: Batch, encoded: Mapping[str, Array]) -> TensorBatch:
    """A batch and what an encoder made of it as tensors; see `tensor_batch`."""
    drawn = batch.item.get(LOG_Q)
    return tensor_batch(
        encoded,
        {n: np.asarray(v, np.float32) for n, v in batch.labels.items()},
        np.ones(batch.items, np.float32) if batch.weights is None else batch.weights,
        batch.candidates,
        np.asarray(drawn.values, np.float32) if isinstance(drawn, Dense) else None,
        batch.request_ids,
    )


def tensor_batch(
    inputs: Mapping[str, Array],
    labels: Mapping[str, Float32s],
    weights: Array,
    candidates: Int64s,
    log_q: Float32s | None,
    request_ids: Int64s,
) -> TensorBatch:
    """Arrays as tensors, which share their memory; arguments as the attributes of `TensorBatch`.

    Labels that are not known are NaN. Writable copies are made of arrays that are read-only (memory-mapped), which
    torch would warn of.
    """
    # A sum of squares is NaN where one of them is, and a quarter of the work of looking at each.
    unknown = {n: np.isnan(v) for n, v in labels.items() if math.isnan(np.dot(v, v))}
    if unknown:
        labels = {n: np.where(unknown[n], np.float32(0), v) if n in unknown else v for n, v in labels.items()}
    return TensorBatch(
        _tensors(inputs),
        _tensors(labels),
        _tensor(weights),
        _tensor(candidates),
        None if log_q is None else _tensor(log_q),
        _tensors({n: ~there for n, there in unknown.items()}) if unknown else {},
        request_ids,
    )


def _tensors(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    return {name: _tensor(array) for name, array in arrays.items()}


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())  # pyright: ignore[reportUnknownMemberType]


def bytes_of_tensors(batch: TensorBatch) -> int:
    """The memory of a batch's tensors."""
    others = (batch.weights, batch.candidates, *batch.labels.values(), *batch.known.values())
    return sum(tensor.nbytes for tensor in (*batch.inputs.values(), *others))
