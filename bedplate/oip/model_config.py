"""A model's configuration, in the form of Triton's: what its clients ask for before they send tensors."""

from __future__ import annotations

from typing import Any

from bedplate.features.encoding import TensorSpec
from bedplate.inference.model import Model
from bedplate.runtimes.tensors import DATATYPES

DATA_TYPES = (
    "TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8", "TYPE_INT16",
    "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING", "TYPE_BF16",
)  # fmt: skip
"""The configuration's names of the datatypes, by their number."""


def model_config(model: Model, versions: list[str]) -> dict[str, Any]:
    """The configuration of a model.

    `max_batch_size` is 0: a shape is the whole of a tensor, and its first size nothing special. The parameter `calls`
    says whether requests share calls of the model.

    Args:
        model: the model.
        versions: those that are served.
    """
    return {
        "name": model.name,
        "platform": model.platform,
        "backend": model.platform.partition("_")[0],
        "version_policy": {"specific": {"versions": [int(v) for v in versions if v.isdecimal()]}},
        "max_batch_size": 0,
        "input": [_tensor(spec) for spec in model.inputs.values()],
        "output": [_tensor(spec) for spec in model.outputs.values()],
        **({"parameters": {"calls": {"string_value": model.calls}}} if model.calls else {}),
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    """A tensor of the configuration.

    >>> _tensor(TensorSpec("x", "object", ("items", 3)))
    {'name': 'x', 'data_type': 'TYPE_STRING', 'dims': [-1, 3]}
    """
    datatype = DATATYPES[spec.dtype]
    name = "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
    return {"name": spec.name, "data_type": name, "dims": [-1 if isinstance(d, str) else d for d in spec.shape]}
