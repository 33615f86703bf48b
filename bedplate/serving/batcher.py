"""Calls of models that requests share: whoever comes within a moment is computed together.

A request waits for others only while it is likely that they come: as many as shared the last call, and at most for the
plan's delay. One that comes alone is computed at once. All of it happens on the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final

from bedplate.serving.batch_plan import BatchPlan
from bedplate.serving.joining import Joiner
from bedplate.serving.model import Model
from bedplate.types import Array


class Calls(Protocol):
    """How a model is called for a request."""

    async def run(self, model: Model, tensors: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """As `Runtime.run`."""
        ...


@final
class Alone:
    """Each request is a call of its own, at once. Satisfies `Calls`."""

    async def run(self, model: Model, tensors: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """As `Runtime.run`; never waits."""
        return model.run(tensors, outputs)


@final
@dataclass(slots=True)
class Shared:
    """What was shared, for the metrics: calls, the requests in them, and those whose call was their own."""

    calls: int = 0
    requests: int = 0
    alone: int = 0


@final
class Batcher:
    """The calls of one model.

    Args:
        model: the model.
        joiner: of its tensors.
        plan: how many share a call, and how long they wait.
        waiting: how many requests are read and not begun; while there are some, more may come to share a call.

    Attributes:
        plan: as given.
        shared: what was shared so far.
    """

    __slots__ = (
        "_coming", "_due", "_expected", "_joiner", "_model", "_queue", "_timer", "_turn", "_waiting", "plan", "shared",
    )  # fmt: skip

    def __init__(self, model: Model, joiner: Joiner, plan: BatchPlan, waiting: Callable[[], int] = lambda: 0) -> None:
        self._model, self._joiner, self.plan, self._waiting = model, joiner, plan, waiting
        self._queue: list[_Entry] = []
        self._expected = 1  # requests in the last call
        self._due = 0.0  # when the first of the queue has waited long enough
        self._coming = False  # a request has begun that may be about to join the queue
        self._turn = False  # the loop's next turn looks at the queue
        self._timer: asyncio.TimerHandle | None = None
        self.shared = Shared()

    async def run(self, tensors: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """As `Runtime.run`, of one request, together with others.

        Raises:
            RequestError: as `Runtime.run`, for this request alone.
        """
        if not self._joiner.fits(tensors):
            self.shared.alone += 1
            return self._model.run(tensors, outputs)
        loop = asyncio.get_running_loop()
        entry = _Entry(tensors, outputs, loop.create_future())
        self._queue.append(entry)
        if len(self._queue) == 1:
            self._due = loop.time() + self.plan.delay
            self._soon(loop)
        elif len(self._queue) >= min(self._expected, self.plan.most):
            self._soon(loop)
        return await entry.answer

    def _soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._turn:
            self._turn = True
            loop.call_soon(self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Calls the model, or waits a little longer."""
        self._turn, self._timer = False, None
        self._queue = [entry for entry in self._queue if not entry.answer.done()]  # a client that has gone
        count, left = len(self._queue), self._due - loop.time()
        if count and count < self.plan.most and left > 0:
            begun, self._coming = self._coming, self._waiting() > 0
            if begun or self._coming:
                return self._soon(loop)
            if count < self._expected:
                self._timer = loop.call_later(left, self._look, loop)
                return None
        entries, self._queue = self._queue[: self.plan.most], self._queue[self.plan.most :]
        if self._queue:
            self._soon(loop)
        if entries:
            self._coming = False
            self._expected = count
            self._call(entries)
        return None

    def _call(self, entries: Sequence[_Entry]) -> None:
        self.shared.calls += 1
        self.shared.requests += len(entries)
        if len(entries) > 1:
            names = list(dict.fromkeys(name for entry in entries for name in entry.outputs))
            try:
                joined, parts = self._joiner.join([entry.tensors for entry in entries])
                results = dict(zip(names, self._model.run(joined, names), strict=True))
            except Exception:  # noqa: BLE001  (of one of them, and only that one is told below)
                pass
            else:
                for entry, part in zip(entries, parts, strict=True):
                    found = self._joiner.part(results, part)
                    entry.settle([found[name] for name in entry.outputs])
                return
        for entry in entries:
            try:
                entry.settle(self._model.run(entry.tensors, entry.outputs))
            except Exception as error:  # noqa: BLE001  (raised where the answer is awaited)
                entry.fail(error)


@final
@dataclass(frozen=True, slots=True)
class _Entry:
    tensors: Mapping[str, Array]
    outputs: Sequence[str]
    answer: asyncio.Future[list[Array]]

    def settle(self, results: list[Array]) -> None:
        if not self.answer.done():
            self.answer.set_result(results)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


@final
class Batching:
    """The calls of all models of a process: shared where the model's plan says so. Satisfies `Calls`.

    Attributes:
        batchers: by the model's name and version.
    """

    __slots__ = ("batchers",)

    def __init__(self) -> None:
        self.batchers: dict[tuple[str, str], Batcher] = {}

    def add(self, model: Model, joiner: Joiner, plan: BatchPlan, waiting: Callable[[], int] = lambda: 0) -> None:
        """Shares the calls of a model, if the plan says so."""
        if plan.most > 1:
            self.batchers[model.name, model.version] = Batcher(model, joiner, plan, waiting)

    def remove(self, model: Model) -> None:
        """The model is no longer served; requests under way are still answered."""
        self.batchers.pop((model.name, model.version), None)

    async def run(self, model: Model, tensors: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """As `Runtime.run`."""
        batcher = self.batchers.get((model.name, model.version))
        if batcher is None:
            return model.run(tensors, outputs)
        return await batcher.run(tensors, outputs)
