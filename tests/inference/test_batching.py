"""Requests that share a call of a model get what they would get alone; sharing is planned by measurement."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.errors import RequestError
from bedplate.features.encoding import TensorSpec
from bedplate.inference import batch_plan
from bedplate.inference.batch_plan import BatchPlan, measure
from bedplate.inference.batcher import Batcher
from bedplate.inference.joining import Joiner
from bedplate.inference.model import Model
from bedplate.runtimes.base import Runtime

INPUTS = (
    TensorSpec("request_dense", "float32", ("requests", 2)),
    TensorSpec("sequence_ids.h", "int64", ("requests", "h.length", 1)),
    TensorSpec("item_dense", "float32", ("items", 2)),
    TensorSpec("bag_ids.tags", "int64", ("items", "tags.length")),
    TensorSpec("request_of_item", "int64", ("items",)),
)
OUTPUTS = (TensorSpec("score", "float32", ("items",)), TensorSpec("query", "float32", ("requests", 2)))
TABLE = np.linspace(-1, 1, 20, dtype=np.float32)
TABLE[0] = 0


class Rows(Runtime):
    """Scores row by row, so that a row's score is the same to the last bit whatever stands beside it."""

    platform: ClassVar[str] = "rows"

    def __init__(self, step: float = 0.0) -> None:
        self.calls: list[int] = []
        self.step = step

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        return {t.name: t for t in INPUTS}

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        return {t.name: t for t in OUTPUTS}

    def run(self, tensors: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        self.calls.append(len(tensors["request_dense"]))
        if any(int(tensors[n].max(initial=0)) >= len(TABLE) for n in ("sequence_ids.h", "bag_ids.tags")):
            raise RequestError("an id is beyond the table", where="model 'rows:1'")
        query = tensors["request_dense"] * np.float32(1.5)
        query[:, 0] += [sum(float(TABLE[i]) for i in row) for row in tensors["sequence_ids.h"][:, :, 0].tolist()]
        of_item = tensors["request_of_item"]
        bags = np.array([sum(float(TABLE[i]) for i in row) for row in tensors["bag_ids.tags"].tolist()], np.float32)
        score = (tensors["item_dense"] * query[of_item]).sum(axis=1) + bags
        score = score + np.float32(self.step * len(of_item))
        found = {"score": score, "query": query}
        return [found[name] for name in outputs]


def request(seed: int, requests: int, items: Sequence[int], length: int, width: int) -> dict[str, Any]:
    """A call: `items` candidates for each request, with lists of `length` and `width`."""
    rng = np.random.default_rng(seed)
    n = sum(items)
    return {
        "request_dense": rng.normal(size=(requests, 2)).astype(np.float32),
        "sequence_ids.h": rng.integers(1, 20, (requests, length, 1)),
        "item_dense": rng.normal(size=(n, 2)).astype(np.float32),
        "bag_ids.tags": rng.integers(0, 20, (n, width)),
        "request_of_item": np.repeat(np.arange(requests), items),
    }


@st.composite
def calls(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Calls of one or more requests, some without items, some with the request side of another."""
    found: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 6))):
        items = draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
        sizes = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        call = request(draw(st.integers(0, 5)), len(items), items, *sizes)
        if found and draw(st.booleans()):
            other = draw(st.sampled_from(found))
            if len(other["request_dense"]) == len(items):
                call |= {name: other[name] for name in ("request_dense", "sequence_ids.h")}
        found.append(call)
    return found


def same(got: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    return all(np.array_equal(got[n], e) and got[n].dtype == e.dtype for n, e in expected.items())


NAMES = ["score", "query"]


@given(calls())
def test_joined_requests_get_what_they_get_alone(requests: list[dict[str, Any]]) -> None:
    model, joiner = Rows(), Joiner(INPUTS, OUTPUTS)
    assert not joiner.reason
    assert all(joiner.fits(r) for r in requests)
    for share in (True, False):
        joined, parts = joiner.join(requests, share=share)
        results = dict(zip(NAMES, model.run(joined, NAMES), strict=True))
        for tensors, part in zip(requests, parts, strict=True):
            alone = dict(zip(NAMES, model.run(tensors, NAMES), strict=True))
            assert same(joiner.part(results, part), alone)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.booleans())
def test_rows_without_requests_are_joined_too(sizes: list[int], named: bool) -> None:
    """A matrix in and a score a row out, as trees have it, or the query tower of a retrieval model."""
    size = "requests" if named else "rows"
    specs = TensorSpec("x", "float32", (size, 2)), TensorSpec("y", "float32", (size,))
    joiner = Joiner(specs[:1], specs[1:])
    rng = np.random.default_rng(len(sizes))
    calls = [{"x": rng.integers(0, 2, (n, 2)).astype(np.float32)} for n in sizes]
    assert all(joiner.fits(c) for c in calls)
    joined, parts = joiner.join(calls)
    together = {"y": joined["x"][:, 0] * 2 + joined["x"][:, 1]}
    for call, part in zip(calls, parts, strict=True):
        assert np.array_equal(joiner.part(together, part)["y"], call["x"][:, 0] * 2 + call["x"][:, 1])
    assert len(joined["x"]) <= (4 if named else sum(sizes))


@given(calls())
def test_equal_request_sides_are_computed_once(requests: list[dict[str, Any]]) -> None:
    joined, _ = Joiner(INPUTS, OUTPUTS).join(requests)
    sides = {
        (r["request_dense"][i].tobytes(), r["sequence_ids.h"][i].shape, r["sequence_ids.h"][i].tobytes())
        for r in requests
        for i in range(len(r["request_dense"]))
    }
    assert len(joined["request_dense"]) <= len(sides)
    assert len(joined["request_of_item"]) == sum(len(r["request_of_item"]) for r in requests)


@given(calls())
def test_a_call_splits_into_its_requests(requests: list[dict[str, Any]]) -> None:
    model, joiner = Rows(), Joiner(INPUTS, OUTPUTS)
    for tensors in requests:
        [score] = model.run(tensors, ["score"])
        singles = joiner.split(tensors)
        assert len(singles) == len(np.unique(tensors["request_of_item"]))
        found = [model.run(single, ["score"])[0] for single in singles]
        assert np.array_equal(np.concatenate([np.zeros(0, np.float32), *found]), score)


@pytest.mark.parametrize("index", [-1, 1, 2**40])
def test_items_of_a_request_that_is_not_there_reach_no_other_request(index: int) -> None:
    wrong = request(0, 1, [3], 2, 1)
    wrong["request_of_item"] = np.array([0, index, 0])
    assert not Joiner(INPUTS, OUTPUTS).fits(wrong)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("item_dense", np.zeros((2, 2), np.float32)),
        ("item_dense", np.zeros((3, 2), np.float64)),
        ("item_dense", np.zeros((3, 3), np.float32)),
        ("request_dense", np.zeros((2, 2), np.float32)),
        ("sequence_ids.h", np.zeros((1, 2), np.int64)),
    ],
)
def test_what_is_of_another_form_is_not_joined(change: str, value: Any) -> None:
    assert not Joiner(INPUTS, OUTPUTS).fits(request(0, 1, [3], 2, 1) | {change: value})


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ([], "takes no tensor"),
        ([TensorSpec("x", "float32", (4, 2))], "begin with different sizes"),
        ([TensorSpec("x", "float32", ("a", 2)), TensorSpec("z", "float32", ("b", 2))], "different sizes: a, b"),
        ([TensorSpec("x", "float32", ("rows", "columns"))], "'x' has a free size beside the first"),
    ],
)
def test_a_model_of_another_form_is_not_joined(inputs: list[TensorSpec], reason: str) -> None:
    outputs = [TensorSpec("y", "float32", inputs[0].shape[:1])] if inputs else []
    assert reason in Joiner(inputs, outputs).reason


def together(batcher: Any, asked: Sequence[tuple[dict[str, Any], list[str]]]) -> list[Any]:
    """The answers to requests that come at once; an error in place of an answer."""
    model = batcher._model

    async def ask() -> list[Any]:
        return await asyncio.gather(*(batcher.run(t, names) for t, names in asked), return_exceptions=True)

    assert isinstance(model, Model)
    return asyncio.run(ask())


def batcher_of(runtime: Rows, most: int = 4, delay: float = 0.001) -> Batcher:
    plan = BatchPlan(most, delay, 1.0, 0.5, 0.0, "")
    return Batcher(Model(runtime, "rows", "1"), Joiner(INPUTS, OUTPUTS), plan)


@settings(deadline=None)
@given(calls(), st.integers(2, 4), st.sampled_from([["score"], ["query"], ["query", "score"]]))
def test_requests_that_come_at_once_are_answered_as_alone(
    requests: list[dict[str, Any]], most: int, names: list[str]
) -> None:
    runtime = Rows()
    batcher = batcher_of(runtime, most)
    asked = [(r, names if i % 2 else ["score"]) for i, r in enumerate(requests)]
    for (tensors, wanted), got in zip(asked, together(batcher, asked), strict=True):
        for found, alone in zip(got, Rows().run(tensors, wanted), strict=True):
            assert np.array_equal(found, alone)
    assert len(runtime.calls) == batcher.shared.calls == -(-len(requests) // most)
    assert batcher.shared.requests == len(requests)


def test_a_wrong_request_fails_alone() -> None:
    good, bad, odd = (request(seed, 1, [3], 2, 1) for seed in range(3))
    bad["bag_ids.tags"] = bad["bag_ids.tags"] + 100
    odd["request_of_item"] = np.array([0, 0, 5])
    answers = together(batcher_of(Rows()), [(t, ["score"]) for t in (good, bad, odd, good)])
    assert isinstance(answers[1], RequestError)
    assert isinstance(answers[2], IndexError)  # as alone
    expected = Rows().run(good, ["score"])[0]
    assert np.array_equal(answers[0][0], expected)
    assert np.array_equal(answers[3][0], expected)


def test_one_that_comes_alone_waits_for_nobody_and_others_for_as_many_as_last_time() -> None:
    runtime = Rows()
    batcher = batcher_of(runtime, most=8, delay=2.0)
    some = request(0, 1, [3], 2, 1)

    async def ask() -> list[float]:
        loop = asyncio.get_running_loop()

        async def timed(count: int) -> float:
            begin = loop.time()
            await asyncio.gather(*(batcher.run(some, ["score"]) for _ in range(count)))
            return loop.time() - begin

        return [await timed(1), await timed(3), await timed(3), await timed(1), await timed(1)]

    first, three, again, lonely, last = asyncio.run(ask())
    assert batcher.shared.calls == 5
    assert max(first, three, again, last) < 1.9
    assert lonely >= 1.99  # two more came with the one before


def test_those_that_get_their_turns_one_after_another_share_a_call() -> None:
    runtime, left = Rows(), [3]

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        batcher = batcher_of(runtime, most=8, delay=10.0)
        asked: list[asyncio.Task[Any]] = []

        def turn() -> None:  # one request a turn, as a server gives them theirs
            left[0] -= 1
            asked.append(loop.create_task(batcher.run(request(left[0], 1, [2], 1, 1), ["score"])))
            if left[0]:
                loop.call_soon(turn)

        turn()
        while left[0] or not all(task.done() for task in asked):
            await asyncio.sleep(0)

    asyncio.run(ask())
    assert runtime.calls == [3]


def test_a_request_whose_client_has_gone_is_not_computed() -> None:
    runtime = Rows()
    batcher = batcher_of(runtime)

    async def ask() -> None:
        tasks = [asyncio.create_task(batcher.run(request(i, 1, [2], 1, 1), ["score"])) for i in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(ask())
    assert runtime.calls == [2]
    assert batcher.shared.requests == 2


def plan_of(
    monkeypatch: pytest.MonkeyPatch, cost: Callable[[int], float] | None = None, runtime: Rows | None = None
) -> BatchPlan:
    """The plan of a model one of whose calls, with so many requests, takes so many seconds."""
    if cost is not None:
        monkeypatch.setattr(batch_plan, "_call", lambda model, joiner, singles, size: cost(size))
    golden = [request(1, 2, [5, 3], 3, 2), request(2, 1, [4], 1, 1)]
    return measure(Model(runtime or Rows(), "rows", "1"), Joiner(INPUTS, OUTPUTS), golden)


def test_sharing_is_planned_where_it_saves_time(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(monkeypatch, lambda size: 0.002 + 1e-5 * size)  # a call costs a moment, a request next to nothing
    assert plan.most >= 4
    assert plan.shared_ms < plan.alone_ms
    assert plan.difference == 0.0
    assert "requests share a call" in str(plan)


def test_sharing_is_not_planned_where_it_saves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(monkeypatch, lambda size: 0.001 * size)
    assert plan.most == 1
    assert "a call of its own: sharing one saves" in str(plan)


def test_what_slows_only_the_first_calls_down_does_not_make_requests_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """As beside another process that starts."""
    disturbed = 8

    def cost(size: int) -> float:
        nonlocal disturbed
        disturbed -= size == 1
        return 0.003 if size == 1 and disturbed > 0 else 0.001 * size

    plan = plan_of(monkeypatch, cost)
    assert disturbed < 0
    assert plan.most == 1
    assert plan.alone_ms == 1.0


def test_a_model_that_is_too_slow_to_be_shared_is_not_called_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def cost(size: int) -> float:
        calls.append(size)
        return 0.03

    runtime = Rows()
    assert str(plan_of(monkeypatch, cost, runtime)).endswith("a call takes longer than 20 ms")
    assert (calls, runtime.calls) == ([1, 1], [])


def test_scores_that_depend_on_the_requests_beside_them_are_never_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(monkeypatch, runtime=Rows(step=0.1))
    assert plan.most == 1
    assert "depend on the requests beside them" in plan.reason
