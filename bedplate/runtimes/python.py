"""A function of the project: tensors in, tensors out.

The artifact's file is a copy of the module that the function is in. It is never run: the function is the project's
own, which must be, byte for byte, what was registered. So an artifact remains data, and a change of the code is a new
version.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, cast, final

import msgspec
import numpy as np

from bedplate.errors import FAILS, ArtifactError, DataError, RequestError
from bedplate.features.encoding import TensorSpec
from bedplate.runtimes.base import Opening, Runtime, check_tensors, spec_of
from bedplate.runtimes.tensors import array_dtype
from bedplate.stopping import signals_interrupt
from bedplate.types import Array

TensorFunction: TypeAlias = Callable[[dict[str, Array]], Mapping[str, Array]]
"""Takes every input by name and gives every output by name; it changes no input."""


@final
class FunctionOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The runtime's options.

    Attributes:
        function: as `module:name`.
        inputs: what it takes.
        outputs: what it gives.
    """

    function: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@final
class FunctionRuntime(Runtime):
    """A function. Satisfies `Runtime`; see `open_runtime`."""

    __slots__ = ("_function", "_inputs", "_outputs", "_place")

    platform: ClassVar[str] = "python"

    def __init__(self, function: TensorFunction, options: FunctionOptions, place: str) -> None:
        self._function, self._place = function, place
        self._inputs = {t.name: spec_of(t.name, t.dtype, t.shape, place) for t in options.inputs}
        self._outputs = {t.name: spec_of(t.name, t.dtype, t.shape, place) for t in options.outputs}

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """What the function takes, as it was registered."""
        return self._inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """What it gives, as it was registered."""
        return self._outputs

    def run(self, tensors: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """The outputs of these names; see `Runtime.run`.

        Raises:
            RequestError: the tensors are of another form, or the function says so.
            DataError: the function fails, or gives something else than was registered.
        """
        given = {name: _objects(array, self._inputs.get(name)) for name, array in tensors.items()}
        sizes = check_tensors(self._inputs, given, self._place)
        try:
            found = self._function(given)
        except RequestError as error:
            raise RequestError(error.message, where=self._place, hint=error.hint) from error
        except BaseException as error:  # SystemExit too: no function ends the program that serves it
            if isinstance(error, KeyboardInterrupt) and signals_interrupt():
                raise
            message = f"the function fails: {type(error).__name__}: {error}"
            raise DataError(message, where=self._place, told=FAILS) from error
        return [self._checked(found, name, sizes) for name in outputs]

    def _checked(self, found: Any, name: str, sizes: dict[str, int]) -> Array:
        spec = self._outputs[name]
        given: Any = cast("Mapping[str, Any]", found).get(name) if isinstance(found, Mapping) else None
        if not isinstance(given, np.ndarray):
            raise DataError(f"the function gives no array '{name}'", where=self._place)
        array = _objects(cast("Array", given), spec)
        expected = tuple(sizes.get(d, d) if isinstance(d, str) else d for d in spec.shape)
        fits = array.ndim == len(expected) and all(
            isinstance(want, str) or got == want for got, want in zip(array.shape, expected, strict=True)
        )
        if array.dtype != array_dtype(spec.dtype) or not fits:
            shape = ", ".join(map(str, expected))
            raise DataError(
                f"the function gives '{name}' as {array.dtype} {list(array.shape)}, expected {spec.dtype} [{shape}]",
                where=self._place,
            )
        return array


def _objects(array: Array, spec: TensorSpec | None) -> Array:
    """Texts as objects, where an array holds them in a fixed width, as golden rows do."""
    return array.astype(object) if spec is not None and spec.dtype == "object" and array.dtype.kind == "U" else array


def open_runtime(opening: Opening) -> Runtime:
    """The function that the options name (`FunctionOptions`).

    Raises:
        ArtifactError: the options are damaged, the project has no such function, or its module has changed.
    """
    try:
        options = msgspec.convert(dict(opening.options), FunctionOptions)
        registered = opening.path.read_bytes()
    except (msgspec.ValidationError, OSError) as error:
        raise ArtifactError(f"the function can't be read: {error}", where=opening.place) from error
    function, source = find_function(options.function, opening.place)
    if source.read_bytes() != registered:
        raise ArtifactError(
            f"{source.name} is another one than when the function '{options.function}' was registered",
            where=opening.place,
            hint="register it again as a new version: bedplate models add",
        )
    return FunctionRuntime(function, options, opening.place)


def find_function(reference: str, place: str) -> tuple[TensorFunction, Path]:
    """A function of a module that is loaded or can be imported, and the module's file.

    Raises:
        ArtifactError: there is none, or the module can't be imported.
    """
    name, _, attribute = reference.partition(":")
    hint = "write MODULE:FUNCTION, and name the module's file in project.definitions of bedplate.toml"
    try:
        module = sys.modules.get(name) or importlib.import_module(name)
    except (ImportError, ValueError, TypeError) as error:  # TypeError: a relative name
        raise ArtifactError(f"no module '{name}' for the function '{reference}'", where=place, hint=hint) from error
    except BaseException as error:  # SystemExit too: a server that loads one more model goes on
        if isinstance(error, KeyboardInterrupt) and signals_interrupt():
            raise
        message, told = f"the module '{name}' fails", "the server's log says more"
        raise ArtifactError(
            f"{message}: {type(error).__name__}: {error}", where=place, told=f"{message}; {told}"
        ) from error
    function: Any = getattr(module, attribute, None)
    file = getattr(module, "__file__", None)
    if not callable(function) or file is None:
        raise ArtifactError(f"the module '{name}' has no function '{attribute}'", where=place, hint=hint)
    return cast("TensorFunction", function), Path(file)
