"""A model that runs: an exported graph in ONNX Runtime, with the tensors that it takes and gives.

The session runs on one thread by default. A request of some hundred candidates takes a few milliseconds, and a pool
that splits it makes every other request wait; more processors serve more requests through more servers.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, final

from bedplate.errors import ArtifactError, RequestError
from bedplate.features.encoding import TensorSpec
from bedplate.types import Array

# The library has no type stubs.
_ort: Any = importlib.import_module("onnxruntime")
_ort_errors: Any = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
_members: list[Any] = [getattr(_ort_errors, name) for name in dir(_ort_errors)]
_ERRORS: tuple[type[Exception], ...] = tuple(e for e in _members if isinstance(e, type) and issubclass(e, Exception))
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(string)": "object",
}


@final
class Model:
    """An exported graph.

    Args:
        graph: the content of an ONNX file.
        name: of the model, also in messages.
        version: of the model.
        threads: of the session, for one call.

    Attributes:
        inputs: what the graph takes, by name; a text in a shape is a free size.
        outputs: what it gives, by name.

    Raises:
        ArtifactError: it is no graph, or takes or gives something that is not a tensor.
    """

    __slots__ = ("_session", "inputs", "name", "outputs", "version")

    def __init__(self, graph: bytes, name: str, version: str, threads: int = 1) -> None:
        options: Any = _ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised, and said once
        if threads > 1:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.name, self.version = name, version
        try:
            self._session: Any = _ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except _ERRORS as error:
            raise ArtifactError(f"the graph can't be loaded: {error}", where=self.place) from error
        self.inputs = {i.name: self._spec(i) for i in self._session.get_inputs()}
        self.outputs = {o.name: self._spec(o) for o in self._session.get_outputs()}

    @property
    def place(self) -> str:
        """What a message calls the model."""
        return f"model '{self.name}:{self.version}'"

    @property
    def platform(self) -> str:
        """What the Open Inference Protocol calls the runtime."""
        return "onnx_onnxv1"

    def run(self, tensors: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """The outputs of these names.

        Raises:
            RequestError: the graph can't run on these tensors: a dtype, a shape, an id beyond the table.
        """
        try:
            return self._session.run(outputs, tensors)
        except _ERRORS as error:
            reason = str(error).rpartition("Status Message: ")[2].strip()
            raise RequestError(f"the graph can't run on these tensors: {reason}", where=self.place) from error

    def _spec(self, node: Any) -> TensorSpec:
        dtype = _DTYPES.get(node.type) or node.type.removeprefix("tensor(").removesuffix(")")
        if not node.type.startswith("tensor(") or dtype in ("bfloat16", "complex64", "complex128"):
            raise ArtifactError(
                f"'{node.name}' is {node.type}, expected a tensor of numbers or strings", where=self.place
            )
        # A size without a name is free, and not tied to any other.
        shape = tuple(d if isinstance(d, int | str) else f"{node.name}.{i}" for i, d in enumerate(node.shape))
        return TensorSpec(node.name, dtype, shape)
