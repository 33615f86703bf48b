"""A limit of time on a call: what is late is left behind, what is late again and again is not begun."""

from __future__ import annotations

import threading
from time import monotonic

import pytest

from bedplate.errors import DeadlineError, DefinitionError
from bedplate.inference import time_limit
from bedplate.inference.time_limit import SkippedError, TimeLimit
from bedplate.online.circuit import Circuit
from bedplate.online.fallback import Degraded
from bedplate.serving.progress import Progress


def test_a_call_in_time_gives_its_result_or_its_error() -> None:
    limit = TimeLimit(30.0, "score")
    assert limit.run(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        limit.run(lambda: 1 // 0)
    own = threading.get_ident()
    assert limit.run(threading.get_ident) != own
    assert limit.run(threading.get_ident, is_patient=True) == own
    assert TimeLimit(None, "score").run(threading.get_ident) == own


def test_what_is_late_is_left_behind_and_then_not_begun() -> None:
    limit, released, begun = TimeLimit(0.01, "score"), threading.Event(), list[int]()

    def stuck() -> int:
        begun.append(1)
        released.wait(30)
        return 1

    kinds: list[type[Exception]] = []
    for _ in range(6):
        with pytest.raises(DeadlineError, match="score") as caught:
            limit.run(stuck)
        kinds.append(type(caught.value))
    assert kinds[:3] == [DeadlineError] * 3
    assert SkippedError in kinds
    assert len(begun) <= 2  # as many as there are threads: the others were late before they began
    released.set()


@pytest.mark.parametrize(("share", "failures"), [(0.1, 30), (0.5, 6), (1.0, 3), (5.0, 3)])
def test_a_call_with_a_tenth_of_its_time_is_a_tenth_of_a_failure(
    share: float, failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = monotonic()
    monkeypatch.setattr(time_limit, "monotonic", lambda: began)
    limit = TimeLimit(600.0, "score")

    def late() -> None:
        raise DeadlineError("late")

    kinds: list[type[Exception]] = []
    while SkippedError not in kinds and len(kinds) < 40:
        with pytest.raises(DeadlineError) as caught:
            limit.run(late, began + 600 * share)
        kinds.append(type(caught.value))
    assert failures <= len(kinds) - 1 <= failures + 1  # a sum of tenths may be a little less


def test_calls_that_never_took_long_are_made_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    began, passed = monotonic(), [0.0]
    monkeypatch.setattr(time_limit, "monotonic", lambda: began + passed[0])
    limit, own = TimeLimit(None, "score"), threading.get_ident()

    def taking(seconds: float) -> int:
        passed[0] += seconds
        return threading.get_ident()

    def threads(calls: int, seconds: float = 0.25) -> list[bool]:
        """Whether each call is made on this thread, by a caller who has 60 seconds."""
        return [limit.run(lambda: taking(seconds), began + passed[0] + 60) == own for _ in range(calls)]

    assert threads(40) == [False] * 32 + [True] * 8  # so many calls are needed to know
    assert limit.run(lambda: taking(0.25), began + passed[0] + 0.9) != own  # not four times what the longest took
    assert threads(1, 20.0) == [True]  # unlike all before
    assert threads(5) == [False] * 5
    with pytest.raises(DeadlineError, match=r"took 90\.000 s, where 60\.000 s were left"):
        TimeLimit(None, "score").run(lambda: taking(90), began + passed[0] + 60)
    assert not any(threads(20))
    assert all(threads(200)[-50:])  # what happened once is forgotten in the end


def test_a_circuit_lets_one_try_in_each_pause_and_closes_again() -> None:
    circuit = Circuit(3, 1.0)
    assert [circuit.failed(t) for t in (0.0, 0.1, 0.2, 0.3)] == [False, False, True, False]
    assert [circuit.lets_through(t) for t in (0.5, 1.4, 1.5, 2.5)] == [False, True, False, True]
    assert not circuit.is_closed
    assert circuit.succeeded()
    assert circuit.is_closed
    assert circuit.lets_through(2.6)
    assert not circuit.succeeded()


def test_a_step_is_flagged_with_all_its_reasons_and_raises_while_the_service_starts() -> None:
    progress = Progress(trace=False)
    assert progress.degraded == {}
    progress.failed("candidates", DeadlineError("no answer"), "the others", "near")
    progress.failed("candidates", SkippedError("not begun"), "the others", "far")
    progress.flag("filter", "failed", "the rest", 2)
    progress.flag("filter", "failed", "the rest", 3)
    assert progress.degraded == {
        "step.candidates": Degraded(why="near: late, far: skipped", instead="the others"),
        "step.filter": Degraded(why="failed", instead="the rest", items=5),
    }
    assert progress.degraded["step.filter"].counts() == {}
    assert progress.steps is None
    with pytest.raises(DefinitionError):
        Progress(trace=True, is_strict=True).failed("score", DefinitionError("no"), "nothing")
