"""ONNX Runtime: the default, and the fastest that was measured for models of this size."""

from __future__ import annotations

import ctypes
import importlib
import logging
import math
import mmap
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from bedplate.errors import ArtifactError, RequestError
from bedplate.features.encoding import TensorSpec
from bedplate.features.weights import linked
from bedplate.runtimes.base import Opening, Runtime, spec_of
from bedplate.runtimes.graph_sides import ELEMENTS, sides
from bedplate.runtimes.tensors import from_bfloat16, to_bfloat16
from bedplate.types import Array

log = logging.getLogger("bedplate.serving")

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

_BFLOAT16 = 16  # TensorProto.BFLOAT16
_SOURCE = re.compile(r"^\S+\.(?:h|hpp|cc|cpp):\d+ (?:.*? was false\. ?)?")
"""Where in the source of ONNX Runtime a message comes from: that helps nobody who asks a model."""


@final
class OnnxRuntime(Runtime):
    """A session on a graph. Satisfies `Runtime`; see `open_runtime`."""

    __slots__ = ("_has_bfloat16", "_inputs", "_outputs", "_place", "_session")

    platform: ClassVar[str] = "onnx_onnxv1"

    def __init__(self, graph: bytes, place: str, threads: int, folder: Path) -> None:
        options: Any = _ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised, and said once
        # A plan of one block for each shape that comes: requests have as many shapes as numbers of candidates. Without
        # plans calls are as fast, and large ones take two thirds of the memory.
        options.enable_mem_pattern = False
        if threads > 1:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        self._place = place
        try:
            self._session: Any = _ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except _ERRORS as error:
            raise ArtifactError(f"the graph can't be loaded: {error}", where=place) from error
        self._inputs = {i.name: self._spec(i) for i in self._session.get_inputs()}
        self._outputs = {o.name: self._spec(o) for o in self._session.get_outputs()}
        specs = (*self._inputs.values(), *self._outputs.values())
        self._has_bfloat16 = any(spec.dtype == "bfloat16" for spec in specs)
        texts = [spec.name for spec in specs if spec.dtype == "object"]
        if self._has_bfloat16 and texts:
            raise ArtifactError(
                f"the graph has bfloat16 and the strings '{texts[0]}', which ONNX Runtime can't be given together",
                where=place,
                hint="cast the bfloat16 tensors to float32 in the graph",
            )

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """What the graph takes."""
        return self._inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """What the graph gives."""
        return self._outputs

    def run(self, tensors: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """The outputs of these names; see `Runtime.run`."""
        return self._run(tensors, outputs, None)

    def trim(self, tensors: Mapping[str, Array]) -> None:
        """Gives back the memory of larger calls, which a session keeps for the next; see `Runtime.trim`."""
        options: Any = _ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._run(tensors, list(self._outputs), options)

    def _run(self, tensors: Mapping[str, Array], outputs: Sequence[str], options: Any) -> list[Array]:
        try:
            if self._has_bfloat16:
                return self._run_values(tensors, outputs, options)
            return self._session.run(outputs, tensors, options)
        except (*_ERRORS, ValueError) as error:  # ValueError: an input is missing
            reason = _SOURCE.sub("", str(error).rpartition("Status Message: ")[2].strip())
            raise RequestError(f"the graph can't run on these tensors: {reason}", where=self._place) from error

    def _run_values(self, tensors: Mapping[str, Array], outputs: Sequence[str], options: Any) -> list[Array]:
        """As `run`, of a graph with bfloat16, which NumPy has not: as float32 here, see `tensors`."""
        values = {name: self._value(name, array) for name, array in tensors.items()}
        found = self._session.run_with_ort_values(list(outputs), values, options)
        return [_array(value) for value in found]

    def _value(self, name: str, array: Array) -> Any:
        if self._inputs[name].dtype == "bfloat16":
            return _ort.OrtValue.ortvalue_from_numpy_with_onnx_type(to_bfloat16(array), _BFLOAT16)
        return _ort.OrtValue.ortvalue_from_numpy(array)

    def _spec(self, node: Any) -> TensorSpec:
        dtype = _DTYPES.get(node.type) or node.type.removeprefix("tensor(").removesuffix(")")
        if not node.type.startswith("tensor("):
            raise ArtifactError(
                f"'{node.name}' is {node.type}, expected a tensor of numbers or strings", where=self._place
            )
        # A size without a name is free, and not tied to any other.
        shape = tuple(d if isinstance(d, int | str) else f"{node.name}.{i}" for i, d in enumerate(node.shape))
        return spec_of(node.name, dtype, shape, self._place)


def _array(value: Any) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        return value.numpy()
    shape: list[int] = value.shape()
    size = math.prod(shape)
    bits = (ctypes.c_uint16 * size).from_address(value.data_ptr()) if size else ()
    return from_bfloat16(np.array(bits, np.uint16).reshape(shape))


def open_runtime(opening: Opening) -> Runtime:
    """A session on an ONNX file, whose large weights are mapped: processes share them.

    Raises:
        ArtifactError: the file can't be read, is no graph, or takes or gives something that is not a tensor.
    """
    graph, folder = _content(opening.path)
    return OnnxRuntime(graph, opening.place, opening.threads, folder)


def open_sides(opening: Opening, chosen: Collection[str]) -> tuple[OnnxRuntime, OnnxRuntime] | None:
    """A graph as two: the first takes the inputs of these names, and what it gives the rest takes in their place.

    None: nothing that costs time is of these inputs alone (`graph_sides.sides`), or the graph loads only as a whole.

    Raises:
        ArtifactError: the file can't be read.
    """
    graph, folder = _content(opening.path)
    try:
        parts = sides(graph, chosen)
        if parts is None:
            return None
        first = OnnxRuntime(parts.first, opening.place, opening.threads, folder)
        between = list(first.outputs.values())
        typed = sides(graph, chosen, between) if all(spec.dtype in ELEMENTS for spec in between) else None
        return None if typed is None else (first, OnnxRuntime(typed.rest, opening.place, opening.threads, folder))
    except ArtifactError as error:
        log.info("%s stays whole: %s", opening.place, error.message)
        return None
    except ValueError as error:
        raise ArtifactError(f"the graph can't be read: {error}", where=str(opening.path)) from error


def _content(path: Path) -> tuple[bytes, Path]:
    """What a session is made of, and the folder in which it finds weights that lie in files.

    Raises:
        ArtifactError: the file can't be read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return _graph(mapped, path), path.parent.absolute()
    except (OSError, ValueError) as error:  # ValueError: an empty file can't be mapped
        reason = getattr(error, "strerror", None) or error
        raise ArtifactError(f"the graph can't be read: {reason}", where=str(path)) from error


def _graph(mapped: mmap.mmap, path: Path) -> bytes:
    with memoryview(mapped) as content:
        try:
            graph = linked(content, path.name)
        except ValueError:  # ONNX Runtime says what is wrong
            graph = None
        return bytes(content) if graph is None else graph
