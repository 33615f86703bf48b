"""torch.export: a program as `torch.export.save` writes it, run by torch without the module's code.

For models that can't become an ONNX graph. It brings torch into the server (some 200 MB, a second to start), and its
number of threads is one for the process.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast, final

import numpy as np
import torch

from bedplate.errors import ArtifactError, RequestError
from bedplate.features.encoding import TensorSpec
from bedplate.runtimes.base import Opening, Runtime, check_tensors, spec_of
from bedplate.runtimes.torch_program import read_program
from bedplate.types import Array


@final
class TorchRuntime(Runtime):
    """A program. Satisfies `Runtime`; see `open_runtime`."""

    __slots__ = ("_inputs", "_outputs", "_place", "_positions", "_run")

    platform: ClassVar[str] = "pytorch_export"

    def __init__(self, program: Any, outputs: Sequence[str], place: str) -> None:
        self._run, self._place = program.module(), place
        signature = program.graph_signature
        known = {node.name: node.meta.get("val") for node in program.graph.nodes}
        given = list(signature.user_outputs)
        names = list(outputs) or given
        if len(names) != len(given) or len(set(names)) != len(names):
            raise ArtifactError(f"got {len(names)} names of outputs, the program gives {len(given)}", where=place)
        self._inputs = {name: self._spec(name, known.get(name)) for name in signature.user_inputs}
        self._outputs = {n: self._spec(n, known.get(node)) for n, node in zip(names, given, strict=True)}
        self._positions = {name: i for i, name in enumerate(names)}

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """What the program takes: the arguments of the module's `forward`."""
        return self._inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """What it gives, under the names of the option `outputs`, or those in the program."""
        return self._outputs

    def run(self, tensors: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """The outputs of these names; see `Runtime.run`."""
        check_tensors(self._inputs, tensors, self._place)
        given = [_tensor(tensors[name], spec.dtype) for name, spec in self._inputs.items()]
        try:
            with torch.no_grad():
                found = self._run(*given)
        except (RuntimeError, IndexError, ValueError, AssertionError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RequestError(f"the program can't run on these tensors: {reason}", where=self._place) from error
        results = cast("Sequence[Any]", found if isinstance(found, tuple | list) else (found,))
        return [_array(results[self._positions[name]]) for name in outputs]

    def _spec(self, name: str, value: Any) -> TensorSpec:
        if not isinstance(value, torch.Tensor):
            raise ArtifactError(f"'{name}' is no tensor", where=self._place)
        sizes: list[Any] = list(value.shape)  # a free one is a symbol
        shape: tuple[int | str, ...] = tuple(size if isinstance(size, int) else str(size) for size in sizes)
        return spec_of(name, str(value.dtype).removeprefix("torch."), shape, self._place)


def _tensor(array: Array, dtype: str) -> torch.Tensor:
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())  # pyright: ignore[reportUnknownMemberType]
    return tensor.to(torch.bfloat16) if dtype == "bfloat16" else tensor


def _array(tensor: torch.Tensor) -> Array:
    """NumPy has no bfloat16: it is float32 here."""
    found = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return np.array(found.numpy())  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]


def open_runtime(opening: Opening) -> Runtime:
    """A program of torch.export. The option `outputs` names what it gives, in the order of `forward`'s result.

    Raises:
        ArtifactError: the file can't be read, holds more than data, or takes or gives something that is not a tensor.
    """
    outputs: Any = opening.options.get("outputs", [])
    if set(opening.options) - {"outputs"} or not isinstance(outputs, list):
        raise ArtifactError("expected the option 'outputs', a list of names, and no other", where=opening.place)
    content = read_program(opening.path, opening.place)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(content)
            if torch.get_num_threads() != opening.threads:
                torch.set_num_threads(opening.threads)
            return TorchRuntime(program, cast("list[str]", outputs), opening.place)
    except ArtifactError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(f"the program can't be loaded: {reason}", where=opening.place) from error
