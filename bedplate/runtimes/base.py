"""The contract of a runtime: a model's file, loaded by one library, tensors in and tensors out.

An artifact names its runtime in `runtime.json` (`features.artifact.RuntimeSpec`). A member is a module of this folder
with a function `open_runtime(opening)`, which alone imports its library, or what another package names as an entry
point of the group `bedplate.runtimes`. `bedplate.testing.runtimes.RuntimeContract` is what each must pass.

No runtime loads a pickle, and none runs code that lies in an artifact: a file of a registry is data.
"""

from __future__ import annotations

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, final

from bedplate.errors import ArtifactError, RequestError, missing_extra, suggest
from bedplate.extensions import load, names
from bedplate.features.encoding import TensorSpec
from bedplate.runtimes.tensors import DATATYPES, array_dtype
from bedplate.types import Array

_MEMBERS = ("lightgbm", "onnx", "python", "torch", "xgboost")
"""The runtimes of this package; the module of each is `bedplate.runtimes.<name>`."""


@final
@dataclass(frozen=True, slots=True)
class Opening:
    """What a runtime opens.

    Attributes:
        path: the model's file.
        place: what a message calls the model.
        threads: for one call.
        options: of the runtime, from the artifact's `runtime.json`.
    """

    path: Path
    place: str
    threads: int = 1
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Runtime(ABC):
    """A loaded model of one library.

    One thread at a time runs it. An opener raises `ArtifactError` where the file is damaged, of another kind, or takes
    or gives something that is not a tensor.

    Attributes:
        platform: what the Open Inference Protocol calls it, such as `onnx_onnxv1`.
    """

    platform: ClassVar[str]

    @property
    @abstractmethod
    def inputs(self) -> Mapping[str, TensorSpec]:
        """What the model takes, by name; a text in a shape is a free size, equal wherever it is named."""

    @property
    @abstractmethod
    def outputs(self) -> Mapping[str, TensorSpec]:
        """What it gives, by name."""

    @abstractmethod
    def run(self, tensors: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """The outputs of these names, in this order; it keeps and changes none of the tensors.

        Args:
            tensors: every input; arrays may be read-only.
            outputs: names of outputs, each once.

        Raises:
            RequestError: it can't run on these tensors: a dtype, a shape, an id beyond the table.
        """

    def trim(self, tensors: Mapping[str, Array]) -> None:  # noqa: B027  (most hold nothing between calls)
        """Gives back what is held from larger calls, except what a call with these tensors needs.

        Args:
            tensors: every input, as for `run`.

        Raises:
            RequestError: as `run`.
        """

    def close(self) -> None:  # noqa: B027  (most have nothing to give back before they are collected)
        """Gives back what the process would otherwise keep; the runtime is not used again."""


Opener: TypeAlias = Callable[[Opening], Runtime]


def open_runtime(name: str, opening: Opening) -> Runtime:
    """Loads a model's file with the runtime of a name.

    Args:
        name: of a runtime of this package, or of one that an installed package brings.
        opening: the file, and how it is run.

    Raises:
        ArtifactError: the runtime is unknown, or the file can't be loaded by it.
        MissingExtraError: its library is not installed.
        DefinitionError: another package's runtime can't be imported.
    """
    if name in _MEMBERS:
        try:
            opener: Opener = importlib.import_module(f"bedplate.runtimes.{name}").open_runtime
        except ModuleNotFoundError as error:
            raise missing_extra(error) or error from error
        return opener(opening)
    known = runtimes()
    if name not in known:
        raise ArtifactError(f"unknown runtime '{name}'", where=opening.place, hint=suggest(name, known, "runtimes"))
    opener = load("runtimes", name)
    return opener(opening)


def runtimes() -> list[str]:
    """The names of all runtimes there are, installed packages' too, sorted.

    >>> "onnx" in runtimes()
    True
    """
    return sorted({*_MEMBERS, *names("runtimes")})


def spec_of(name: str, dtype: str, shape: tuple[int | str, ...], place: str) -> TensorSpec:
    """A tensor of a model, of a dtype that requests can bring and answers can take.

    Raises:
        ArtifactError: it is of another, such as complex numbers or 4 bits.
    """
    if dtype not in DATATYPES:
        raise ArtifactError(f"'{name}' is {dtype}, expected a tensor of {', '.join(DATATYPES)}", where=place)
    return TensorSpec(name, dtype, shape)


def check_tensors(inputs: Mapping[str, TensorSpec], tensors: Mapping[str, Array], place: str) -> dict[str, int]:
    """The free sizes of tensors by name, for runtimes whose library does not check its inputs.

    >>> import numpy as np
    >>> check_tensors({"x": TensorSpec("x", "float32", ("rows", 2))}, {"x": np.zeros((3, 2), np.float32)}, "")
    {'rows': 3}

    Raises:
        RequestError: one is missing or of another form.
    """
    sizes: dict[str, int] = {}
    for name, spec in inputs.items():
        array = tensors.get(name)
        got = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
        fits = array is not None and array.dtype == array_dtype(spec.dtype) and array.ndim == len(spec.shape)
        if array is not None and fits:
            pairs = zip(array.shape, spec.shape, strict=True)
            fits = all(n == (sizes.setdefault(d, n) if isinstance(d, str) else d) for n, d in pairs)
        if not fits:
            shape = ", ".join(f"{d} = {sizes[d]}" if d in sizes else str(d) for d in map(str, spec.shape))
            raise RequestError(f"input '{name}' is {got}, expected {spec.dtype} [{shape}]", where=place)
    return sizes


def threads_for(workers: int = 1, cores: int | None = None) -> int:
    """Threads of a call of a model, so that as many processes share the machine: its cores, divided among them.

    At most 4: a request of some hundred candidates takes few milliseconds, and is not worth being cut into more.

    Args:
        workers: processes that serve at once.
        cores: of the machine; None: those that this process may run on.

    >>> [threads_for(workers, cores=8) for workers in (1, 2, 4, 8, 16)]
    [4, 4, 2, 1, 1]
    """
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(4, cores // max(1, workers)))
