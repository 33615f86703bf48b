"""A model of every datatype that gives back what it gets, and an application that serves it beside the small shop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import shop

from bedplate.features.encoding import TensorSpec
from bedplate.http.bodies import Bodies
from bedplate.http.door import Door
from bedplate.http.message import BODIES_BYTES
from bedplate.http.settings import Settings
from bedplate.http.turns import Turns
from bedplate.inference.loader import Loader
from bedplate.inference.model import Model
from bedplate.inference.model_source import RegistryModels
from bedplate.inference.repository import Repository
from bedplate.oip.grpc import GrpcServer
from bedplate.oip.methods import InferenceService
from bedplate.runtimes.base import Runtime
from bedplate.runtimes.tensors import DATATYPES, array_dtype
from bedplate.serving.service_app import App

DTYPES = list(DATATYPES)


class Echo(Runtime):
    """`in_<dtype>` [n, 2] goes to `out_<dtype>`."""

    platform = "python"

    def __init__(self, *dtypes: str) -> None:
        self._inputs = {f"in_{d}": TensorSpec(f"in_{d}", d, ("n", 2)) for d in dtypes}
        self._outputs = {f"out_{d}": TensorSpec(f"out_{d}", d, ("n", 2)) for d in dtypes}

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        return self._inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        return self._outputs

    def run(self, tensors: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        return [tensors[name.replace("out_", "in_")] for name in outputs]


def values_of(dtype: str) -> Any:
    """[3, 2], with the extremes of the dtype."""
    if dtype == "object":
        return np.array([["", "é"], ["a" * 300, "0"], ["\0", "🙂"]], object)
    if dtype == "bool":
        return np.array([[True, False], [False, False], [True, True]])
    if dtype == "bfloat16":
        return np.array([[0.0, 1.0], [-2.5, 3.0e38], [1.0e-38, 0.15625]], np.float32).view(np.uint32).__and__(
            np.uint32(0xFFFF0000)
        ).view(np.float32)  # fmt: skip
    kind: Any = array_dtype(dtype)
    info: Any = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
    return np.array([[info.min, info.max], [0, 1], [2, 3]], kind)


def served(registry: Any, pipeline: Any, *, is_controlled: bool = True) -> tuple[App, Repository]:
    """An application with the shop's models, `echo:1` of all dtypes and `one:1` of float32, and its repository."""
    repository = Repository(RegistryModels(Loader(registry)), is_controlled=is_controlled)
    repository.serve([Model(Echo(*DTYPES), "echo", "1"), Model(Echo("float32"), "one", "1")])
    app = App(repository)
    app.open(pipeline)
    return app, repository


@contextmanager
def running_grpc(
    app: App, repository: Repository, *, tokens: Any = None, turns: Any = None, bodies: Any = None, **settings: Any
) -> Any:
    """The same over gRPC, on a free port, on a thread of its own; gives its target."""
    server = GrpcServer(InferenceService(repository, lambda: app.is_ready), app.metrics, Settings(**settings), port=0)
    with shop.on_a_thread(
        lambda: server.start(turns or Turns(), Door(tokens), bodies or Bodies(BODIES_BYTES)), server.drain
    ):
        yield server.target
