"""Whether calls of a model are shared between requests: measured when the server starts, on the golden requests."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from bedplate.errors import ArtifactError, BedplateError
from bedplate.features import artifact as files
from bedplate.inference.joining import Joiner
from bedplate.inference.model import Model
from bedplate.types import Array

LEAST_GAIN = 0.15
"""Sharing pays where it saves at least this share of the time of a request in the model."""
MOST_SECONDS = 0.02
"""A call that takes longer makes the requests in it wait too long for each other."""

_OVERHEAD_SECONDS = 5e-5
"""What waiting for others costs a request beside the model: a task, a future, two turns of the loop."""

_SIZES = (2, 4, 8, 16)
_BUDGET_SECONDS = 0.25
_REPEATS = 5


@final
@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How a model's calls are shared.

    Attributes:
        most: requests in one call; 1: none are shared.
        delay: how long a request may wait for others, seconds.
        alone_ms: a request in a call of its own.
        shared_ms: a request in a call of `most`; of the largest number that was tried, where sharing doesn't pay.
        difference: the largest difference between scores that were computed together and alone; None: not compared.
        reason: why it is so, for a person.
    """

    most: int
    delay: float
    alone_ms: float
    shared_ms: float
    difference: float | None
    reason: str

    def __str__(self) -> str:
        """One line.

        >>> print(BatchPlan(8, 0.001, 0.4, 0.1, 0.0, "it saves 75 %"))
        up to 8 requests share a call and wait at most 1 ms for each other: it saves 75 % (0.400 -> 0.100 ms a request)
        """
        if self.most == 1:
            return f"each request is a call of its own: {self.reason}"
        waits = f"wait at most {self.delay * 1e3:g} ms for each other"
        costs = f"{self.alone_ms:.3f} -> {self.shared_ms:.3f} ms a request"
        return f"up to {self.most} requests share a call and {waits}: {self.reason} ({costs})"


def alone(reason: str) -> BatchPlan:
    """The plan of a model whose calls are not shared."""
    return BatchPlan(1, 0.0, 0.0, 0.0, None, reason)


def measure(model: Model, joiner: Joiner, golden: Sequence[Mapping[str, Array]], delay: float = 0.001) -> BatchPlan:
    """Runs golden requests alone and together, for about a quarter of a second; only twice where a call takes too long.

    Scores that come out different together than alone, beyond the bound by which golden scores are reproduced, mean
    that a row's score depends on the other rows: such a model's calls are never shared.

    Args:
        model: the model.
        joiner: of its tensors.
        golden: the tensors of golden calls, each of one or more requests.
        delay: of the plan, seconds.
    """
    if joiner.reason:
        return alone(joiner.reason)
    names = list(model.outputs)
    try:
        singles = [single for tensors in golden for single in joiner.split(tensors)]
        usable = [single for single in singles if joiner.fits(single)]
        if not usable:
            return alone("no golden request is one that can be joined")
        if min(_call(model, joiner, usable, 1) for _ in range(2)) > MOST_SECONDS:
            return alone(f"a call takes longer than {MOST_SECONDS * 1e3:g} ms")
        difference = _difference(model, joiner, usable, names)
    except ArtifactError as error:
        return alone(f"scores depend on the requests beside them: {error.for_client().message}")
    except BedplateError as error:
        return alone(f"golden requests can't be joined: {error.for_client().message}")
    end = time.perf_counter() + _BUDGET_SECONDS
    first = _seconds(model, joiner, usable, 1)
    best, cost = 1, first
    tried = first
    for size in _SIZES:
        if time.perf_counter() > end:
            break
        tried = _seconds(model, joiner, usable, size) / size + _OVERHEAD_SECONDS
        if tried * size > MOST_SECONDS:
            break
        if tried < 0.95 * cost:
            best, cost = size, tried
        elif size >= 4 and best == 1:
            break
    if best > 1:  # another process may have slowed the first calls down, or all of one size: measure again, in turns
        for _ in range(_REPEATS):
            first = min(first, _call(model, joiner, usable, 1))
            cost = min(cost, _call(model, joiner, usable, best) / best + _OVERHEAD_SECONDS)
    gain = 1 - cost / first
    if gain < LEAST_GAIN:
        return BatchPlan(1, 0.0, first * 1e3, tried * 1e3, difference, _saving(gain))
    return BatchPlan(best, delay, first * 1e3, cost * 1e3, difference, f"it saves {_percent(gain)}")


def _difference(model: Model, joiner: Joiner, singles: Sequence[Mapping[str, Array]], names: Sequence[str]) -> float:
    """How far scores together are from scores alone; 0: they are equal to the last bit."""
    some = singles[:16]
    largest = 0.0
    joined, parts = joiner.join([*some, *some[:1]])
    together = dict(zip(names, model.run(joined, names), strict=True))
    for single, part in zip([*some, *some[:1]], parts, strict=True):
        expected = dict(zip(names, model.run(single, names), strict=True))
        found = joiner.part(together, part)
        largest = max(largest, files.compare(expected, found, model.place))
    return largest


def _seconds(model: Model, joiner: Joiner, singles: Sequence[Mapping[str, Array]], size: int) -> float:
    """The least time of a call with so many requests, the joining included."""
    return min(_call(model, joiner, singles, size) for _ in range(_REPEATS))


def _call(model: Model, joiner: Joiner, singles: Sequence[Mapping[str, Array]], size: int) -> float:
    """The time of one call with so many requests, seconds."""
    names, chosen = list(model.outputs), [singles[i % len(singles)] for i in range(size)]
    begin = time.perf_counter()
    if size == 1:
        model.run(chosen[0], names)
    else:
        joined, parts = joiner.join(chosen, share=False)
        results = dict(zip(names, model.run(joined, names), strict=True))
        for part in parts:
            joiner.part(results, part)
    return time.perf_counter() - begin


def _saving(gain: float) -> str:
    return f"sharing one saves {_percent(gain)}, expected at least {100 * LEAST_GAIN:.0f} %"


def _percent(share: float) -> str:
    return f"{100 * max(0.0, share):.0f} % of the time"
