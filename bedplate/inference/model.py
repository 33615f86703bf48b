"""A model that runs: a runtime with the name and version of what it has loaded.

A call runs on one thread by default. A request of some hundred candidates takes a few milliseconds, and a pool
that splits it makes every other request wait; more processors serve more requests through more servers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final

from bedplate.features.encoding import TensorSpec
from bedplate.inference.indices import Indices
from bedplate.runtimes.base import Runtime
from bedplate.types import Array


def place_of(name: str, version: str) -> str:
    """What a message calls a model.

    >>> place_of("ranker", "3")
    "model 'ranker:3'"
    """
    return f"model '{name}:{version}'"


@final
@dataclass(frozen=True, slots=True)
class Ran:
    """What a request got of a call.

    Attributes:
        results: the outputs that it asked for.
        batch: the requests that the call answered.
        leads: whether it is the one of them with which the call is counted.
        took_ns: the call, nanoseconds.
    """

    results: list[Array]
    batch: int
    leads: bool
    took_ns: int


@final
@dataclass(slots=True)
class Shared:
    """What was shared, for the metrics: calls, the requests in them, and those whose call was their own."""

    calls: int = 0
    requests: int = 0
    alone: int = 0


class SharedCalls(Protocol):
    """Calls of a model that several requests share (`batcher.Batcher`).

    Attributes:
        shared: what was shared so far.
    """

    shared: Shared

    async def run(self, tensors: Mapping[str, Array], outputs: Sequence[str], until: float = math.inf) -> list[Array]:
        """As `Runtime.run`, of one request, together with others; a `DeadlineError` where it takes longer."""
        ...

    async def call(self, tensors: Mapping[str, Array], outputs: Sequence[str], until: float = math.inf) -> Ran:
        """As `run`, with what the call was."""
        ...


class ScoringSide(Protocol):
    """A model that keeps what it computes of candidates (`item_side.ItemSide`).

    Attributes:
        known: rows of candidates that were asked for and known.
        computed: rows that were computed.
    """

    known: int
    computed: int

    def run(self, tensors: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """As `Runtime.run`."""
        ...


@final
class Model:
    """A loaded model version.

    Args:
        runtime: what runs it.
        name: of the model, also in messages.
        version: of the model.

    Attributes:
        inputs: what the model takes, by name; a text in a shape is a free size.
        outputs: what it gives, by name.
        runtime: as given.
        run: as `Runtime.run`.
        batcher: shares calls between requests, where a measurement showed that it pays; None: each is its own.
        calls: what was decided about that and why, for a person; empty: nothing was measured.
        indices: checks those that clients send; None: nothing is known of what the tensors hold.
    """

    __slots__ = ("batcher", "calls", "indices", "inputs", "name", "outputs", "run", "runtime", "version")

    def __init__(self, runtime: Runtime, name: str, version: str) -> None:
        self.name, self.version, self.runtime = name, version, runtime
        self.inputs: Mapping[str, TensorSpec] = runtime.inputs
        self.outputs: Mapping[str, TensorSpec] = runtime.outputs
        self.run = runtime.run
        self.batcher: SharedCalls | None = None
        self.calls = ""
        self.indices: Indices | None = None

    @property
    def place(self) -> str:
        """What a message calls the model."""
        return place_of(self.name, self.version)

    @property
    def platform(self) -> str:
        """What the Open Inference Protocol calls the runtime."""
        return self.runtime.platform
