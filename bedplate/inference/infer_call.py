"""An inference request, whatever protocol brought it: its tensors, checked one by one against what the model takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from bedplate.errors import RequestError, suggest
from bedplate.features.encoding import TensorSpec
from bedplate.malformed import shape_text, shown
from bedplate.runtimes.tensors import DATATYPES
from bedplate.types import Array

_MOST_EMPTY = 2**48
"""What the sizes of an empty tensor that are not 0 may multiply to."""
MOST_ROWS = 100_000
"""The largest free size of an input, such as how many rows a request brings: one request holds up others no longer."""
MOST_SIZES = 64
"""The most sizes of a shape: more than any array has."""
MOST_PARAMETERS = 1000
SPARE = 16
"""How many more inputs or outputs a request may name than the model has: it is told which is wrong."""
_UNSUPPORTED = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset", "classification")


@final
@dataclass(frozen=True, slots=True)
class InferCall:
    """A decoded request.

    Attributes:
        tensors: by the input's name.
        outputs: the outputs wanted, in this order, and whether each as binary.
        id: the client's, given back in the answer.
        parameters: of the request: text, numbers and booleans by name.
    """

    tensors: dict[str, Array]
    outputs: tuple[tuple[str, bool], ...]
    id: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])


@final
class InputCheck:
    """Checks the inputs of one request as they are read.

    Args:
        inputs: what the model takes; a text in a shape is a free size, equal wherever it is named.
    """

    __slots__ = ("_inputs", "_sizes", "tensors")

    def __init__(self, inputs: Mapping[str, TensorSpec]) -> None:
        self._inputs = inputs
        self._sizes: dict[str, int] = {}
        self.tensors: dict[str, Array] = {}

    def spec(
        self, i: int, name: str, datatype: str, shape: list[int], parameters: Mapping[str, Any]
    ) -> tuple[TensorSpec, str]:
        """What the model takes under a name, and what messages call it.

        Raises:
            RequestError: it takes no such input, or the datatype, the shape or a parameter is wrong.
        """
        spec = self._inputs.get(name)
        if spec is None or name in self.tensors:
            got = f"input '{name}' twice" if spec else f"unknown input '{name}'"
            hint = "give each input once" if spec else suggest(name, self._inputs, "inputs")
            raise RequestError(f"got {got}", where=f"$.inputs[{i}]", hint=hint)
        place = f"input '{name}'"
        refuse_unsupported(parameters, place)
        if datatype != DATATYPES[spec.dtype]:
            raise RequestError(f"got datatype {datatype}, expected {DATATYPES[spec.dtype]}", where=place)
        sizes = self._sizes
        fits = len(shape) == len(spec.shape) and all(
            got == (sizes.setdefault(want, got) if isinstance(want, str) else want)
            for got, want in zip(shape, spec.shape, strict=True)
        )
        if not fits:
            expected = ", ".join(f"{d} = {sizes[d]}" if d in sizes else str(d) for d in map(str, spec.shape))
            raise RequestError(f"got shape {shape_text(shape)}, expected [{expected}]", where=place)
        # No content is too short for an empty tensor, and none is an array whose other sizes multiply beyond memory.
        if 0 in shape and math.prod(size for size in shape if size) > _MOST_EMPTY:
            raise RequestError(f"got shape {shape_text(shape)}, whose sizes are too large together", where=place)
        largest = max((got for got, want in zip(shape, spec.shape, strict=True) if isinstance(want, str)), default=0)
        if 0 not in shape and largest > MOST_ROWS:
            raise RequestError(
                f"got shape {shape_text(shape)}, expected at most {MOST_ROWS} rows",
                where=place,
                hint="send several requests",
            )
        return spec, place

    def complete(self) -> dict[str, Array]:
        """The tensors, when all of them are there.

        Raises:
            RequestError: one is missing.
        """
        if len(self.tensors) != len(self._inputs):
            missing = [name for name in self._inputs if name not in self.tensors]
            raise RequestError(f"input '{missing[0]}' is missing", where="$.inputs")
        return self.tensors


def wanted(
    asked: Sequence[tuple[str, Mapping[str, Any]]], outputs: Sequence[str], *, binary: bool
) -> tuple[tuple[str, bool], ...]:
    """The outputs of an answer and whether each is binary.

    Args:
        asked: the names that the client wants, with their parameters; none: all.
        outputs: what the model gives.
        binary: of outputs that don't say.

    Raises:
        RequestError: an output is unknown or named twice, or a parameter is wrong.
    """
    if not asked:
        return tuple((name, binary) for name in outputs)
    found: dict[str, bool] = {}
    for i, (name, parameters) in enumerate(asked):
        place = f"$.outputs[{i}]"
        if name not in outputs or name in found:
            got = f"output '{name}' twice" if name in found else f"unknown output '{name}'"
            hint = "name each output once" if name in found else suggest(name, outputs, "outputs")
            raise RequestError(f"got {got}", where=place, hint=hint)
        refuse_unsupported(parameters, place)
        found[name] = flag(parameters, "binary_data", place, default=binary)
    return tuple(found.items())


def refuse_unsupported(parameters: Mapping[str, Any], place: str) -> None:
    """Checks that no parameter asks for what is not there.

    Raises:
        RequestError: one does: shared memory, or classification.
    """
    if parameters:
        for name in _UNSUPPORTED:
            if name in parameters:
                raise RequestError(f"the parameter '{name}' is not supported", where=place)


def flag(parameters: Mapping[str, Any], name: str, place: str, *, default: bool) -> bool:
    """The value of a parameter that is true or false.

    Raises:
        RequestError: it is something else.
    """
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise RequestError(f"got {name} {shown(value)}, expected true or false", where=place)
    return value
