"""Calls of models that requests share: whoever comes within a moment is computed together.

A request waits for others only while it is likely that they come: as many as shared the last call, and at most for the
plan's delay. One that comes alone is computed after two turns of the loop. All of it is on the event loop's thread, but
for calls whose requests have deadlines: such a call is left behind on a thread of its own where it is late.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic, perf_counter_ns
from typing import TypeAlias, final

from bedplate.errors import DeadlineError
from bedplate.inference.batch_plan import BatchPlan
from bedplate.inference.joining import Joiner
from bedplate.inference.model import Model, Ran, Shared
from bedplate.inference.time_limit import SkippedError, TimeLimit
from bedplate.types import Array

_QUIET_TURNS = 2
"""Turns of the loop without another request after which none is about to come."""


@final
class Batcher:
    """The calls of one model. Satisfies `model.SharedCalls`.

    Args:
        model: the model.
        joiner: of its tensors.
        plan: how many share a call, and how long they wait.

    Attributes:
        plan: as given.
        shared: what was shared so far.
    """

    __slots__ = (
        "_due", "_expected", "_joiner", "_limit", "_model", "_queue", "_quiet", "_seen", "_timer", "_turn", "plan",
        "shared",
    )  # fmt: skip

    def __init__(self, model: Model, joiner: Joiner, plan: BatchPlan) -> None:
        self._model, self._joiner, self.plan = model, joiner, plan
        self._limit = TimeLimit(None, model.place)
        self._queue: list[_Entry] = []
        self._expected = 1  # requests in the last call
        self._due = 0.0  # when the first of the queue has waited long enough
        self._seen = 0  # requests in the queue when it was last looked at
        self._quiet = 0  # turns of the loop since it grew
        self._turn = False  # the loop's next turn looks at the queue
        self._timer: asyncio.TimerHandle | None = None
        self.shared = Shared()

    async def run(self, tensors: Mapping[str, Array], outputs: Sequence[str], until: float = math.inf) -> list[Array]:
        """As `Runtime.run`, of one request, together with others.

        Args:
            tensors: of the request.
            outputs: their names.
            until: when the results are of no more use, on the monotonic clock.

        Raises:
            RequestError: as `Runtime.run`, for this request alone.
            DeadlineError: they were not there by then.
        """
        return (await self.call(tensors, outputs, until)).results

    async def call(self, tensors: Mapping[str, Array], outputs: Sequence[str], until: float = math.inf) -> Ran:
        """As `run`, with what the call was."""
        if not self._joiner.fits(tensors):
            self.shared.alone += 1
            return self._limit.run(lambda: self._alone(tensors, outputs), until)
        loop = asyncio.get_running_loop()
        entry = _Entry(tensors, outputs, loop.create_future(), until)
        if until != math.inf:
            timer = loop.call_later(max(0.0, until - monotonic()), entry.expire)
            entry.answer.add_done_callback(lambda _: timer.cancel())
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
            # A server gives one request a turn, which joins the queue one or two turns later.
            self._quiet = 0 if count > self._seen else self._quiet + 1
            self._seen = count
            if self._quiet < _QUIET_TURNS:
                return self._soon(loop)
            if count < self._expected:
                self._timer = loop.call_later(left, self._look, loop)
                return None
        self._seen = self._quiet = 0
        entries, self._queue = self._queue[: self.plan.most], self._queue[self.plan.most :]
        if self._queue:
            self._soon(loop)
        if entries:
            self._expected = count
            self._call(entries)
        return None

    def _alone(self, tensors: Mapping[str, Array], outputs: Sequence[str]) -> Ran:
        begin = perf_counter_ns()
        results = self._model.run(tensors, outputs)
        return Ran(results, 1, leads=True, took_ns=perf_counter_ns() - begin)

    def _call(self, entries: Sequence[_Entry]) -> None:
        self.shared.calls += 1
        self.shared.requests += len(entries)
        self._compute(entries)

    def _compute(self, entries: Sequence[_Entry]) -> None:
        """Calls the model, and waits until the first of the requests would be late."""
        until = min((entry.until for entry in entries), default=math.inf)
        if until == math.inf:
            _settle(entries, self._computed(entries))
            return
        loop, is_left = asyncio.get_running_loop(), list[bool]()
        begun, outcomes = list[bool](), list[_Outcomes]()

        def compute() -> bool:
            begun.append(True)
            outcomes.append(self._computed(entries))
            if is_left:
                loop.call_soon_threadsafe(_settle, entries, outcomes[0])
            return True

        try:
            self._limit.run(compute, until)
        except SkippedError as error:
            hurried = [entry for entry in entries if entry.until != math.inf]
            _settle(hurried, [error] * len(hurried))
        except DeadlineError:
            is_left.append(True)
            for entry in entries:
                if entry.until <= until:
                    entry.expire()
        if outcomes:
            _settle(entries, outcomes[0])
        elif not begun:  # those that have more time than the first are not to miss it
            self._compute([entry for entry in entries if not entry.answer.done()])

    def _computed(self, entries: Sequence[_Entry]) -> _Outcomes:
        """Of each request what it got, or the error."""
        begin = perf_counter_ns()
        if len(entries) > 1:
            names = list(dict.fromkeys(name for entry in entries for name in entry.outputs))
            try:
                joined, parts = self._joiner.join([entry.tensors for entry in entries])
                results = dict(zip(names, self._model.run(joined, names), strict=True))
                found = [self._joiner.part(results, part) for part in parts]
            except Exception:  # noqa: BLE001  (of one of them, and only that one is told below)
                pass
            else:
                took = perf_counter_ns() - begin
                return [
                    Ran([own[name] for name in entry.outputs], len(entries), entry is entries[0], took)
                    for entry, own in zip(entries, found, strict=True)
                ]
        outcomes: _Outcomes = []
        for entry in entries:
            try:
                outcomes.append(self._alone(entry.tensors, entry.outputs))
            except Exception as error:  # noqa: BLE001  (raised where the answer is awaited)
                outcomes.append(error)
        return outcomes


_Outcomes: TypeAlias = list[Ran | Exception]


def _settle(entries: Sequence[_Entry], outcomes: _Outcomes) -> None:
    for entry, outcome in zip(entries, outcomes, strict=True):
        if entry.answer.done():
            continue  # it was late, or its client has gone
        if isinstance(outcome, Ran):
            entry.answer.set_result(outcome)
        else:
            entry.answer.set_exception(outcome)


@final
@dataclass(frozen=True, slots=True)
class _Entry:
    tensors: Mapping[str, Array]
    outputs: Sequence[str]
    answer: asyncio.Future[Ran]
    until: float = math.inf

    def expire(self) -> None:
        """Its time is over."""
        if not self.answer.done():
            self.answer.set_exception(DeadlineError("no answer in time"))
