"""Probes go first and are never refused; whatever else is asked with GET is let in, counted and refused as any."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Iterator
from contextlib import ExitStack
from typing import Any

import echo
import grpc
import pytest
import shop
from test_http import Raw
from test_turns import Queue, on_a_clock_of_its_own, played

from bedplate.http.door import Door
from bedplate.http.message import Limits, Request, Response
from bedplate.http.tokens import Tokens
from bedplate.http.turns import LOW, NORMAL, PROBE, Turn, Turns

__all__ = ["on_a_clock_of_its_own"]

TICK = 2.0**-10  # seconds, of which sums are exact
ASKER = "asker-e47a90b3d81c4f62"
OTHERS = ("/", "/metrics", "/openapi.json", "/v2", "/v2/models/ranker", "/v2/models/stats")
PROBES = ("/healthz", "/v2/health/live", "/v2/health/ready", "/v2/models/ranker/ready")


def turn_of(path: str, door: Door | None = None, **headers: bytes) -> Turn:
    given = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    found = (door or Door()).turn("GET", path, given, 0, "10.0.0.9", 0.0, lambda: None, lambda _: None)
    assert isinstance(found, Turn)
    return found


@pytest.mark.parametrize("path", PROBES)
def test_a_probe_is_one_whatever_it_says(path: str) -> None:
    assert turn_of(path, x_request_priority=b"low", x_request_timeout_ms=b"0").priority == PROBE


@pytest.mark.parametrize("path", OTHERS)
def test_other_gets_have_the_priority_and_the_deadline_that_they_say(path: str) -> None:
    asked = turn_of(path, x_request_priority=b"low", x_request_timeout_ms=b"50")
    assert (asked.priority, asked.deadline, turn_of(path).priority) == (LOW, 0.05, NORMAL)


def test_what_needs_no_token_goes_after_what_has_one() -> None:
    door = Door(Tokens([f"infer web {ASKER}"]))
    assert turn_of("/openapi.json", door, x_request_priority=b"high").priority == LOW
    assert turn_of("/metrics", door, authorization=f"Bearer {ASKER}".encode()).priority == NORMAL


def test_others_have_their_turn_among_probes_without_end() -> None:
    """Probes get as long as the request before them took, and at least one turn."""
    queue = Queue()

    def arrive() -> None:
        for i in range(8):
            queue.ask(f"probe{i}", priority=PROBE, takes=TICK)
        queue.ask("a", takes=3 * TICK)
        queue.ask("b", priority=LOW, takes=TICK / 2)
        queue.ask("c", priority=LOW)

    played(arrive)
    assert queue.done == [
        "probe0", "a", "probe1", "probe2", "probe3", "b", "probe4", "c", "probe5", "probe6", "probe7",
    ]  # fmt: skip


def test_probes_that_wait_are_part_of_the_expected_wait_and_take_no_place_of_others() -> None:
    queue = Queue(most=2)

    def arrive() -> None:
        for i in range(30):
            queue.ask(f"probe{i}", priority=PROBE, takes=0.001)
        assert queue.turns.expected_wait == pytest.approx(0.03)
        queue.ask("hurried", takes=0.001, within=0.02)
        queue.ask("patient", takes=0.001)

    played(lambda: queue.learn(0.001), arrive)
    assert queue.refused == {"hurried": "deadline"}  # at once, and it is told when to come again
    assert "patient" in queue.done


class Busy:
    """Answers `/hold` when it is told to, and meanwhile holds up the whole loop; `/later` is never answered."""

    def __init__(self) -> None:
        self.entered, self.release = threading.Event(), threading.Event()

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        if request.path == "/hold":
            self.entered.set()
            assert self.release.wait(30)
        if request.path == "/later":
            self.entered.set()
            return asyncio.get_running_loop().create_future()
        return Response(200, b"{}")


@pytest.fixture
def busy() -> Iterator[Busy]:
    handler = Busy()
    yield handler
    handler.release.set()


def get(path: str, more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n{more}\r\n".encode()


@pytest.mark.parametrize("path", OTHERS)
def test_gets_beyond_the_longest_wait_are_refused_and_probes_are_answered(busy: Busy, path: str) -> None:
    with (
        shop.running(busy, limits=Limits(wait_seconds=0.0001)) as server,
        ExitStack() as stack,
    ):
        raws = [stack.enter_context(Raw(server)) for _ in range(8)]
        for raw in raws:  # all are accepted
            raw.send(get("/v2/health/live"))
            assert raw.response()[0] == 200
        raws[0].send(get("/hold"))
        assert busy.entered.wait(10)
        for raw in raws[1:5]:
            raw.send(get(path))
        for raw in raws[5:]:
            raw.send(get("/v2/health/ready"))
        busy.release.set()
        answers = [raw.response() for raw in raws]
    statuses = [status for status, _, _ in answers]
    assert statuses[0] == 200
    assert statuses[5:] == [200] * 3
    assert 503 in statuses[1:5]
    assert all(int(headers["retry-after"]) >= 1 for status, headers, _ in answers if status == 503)
    assert server.turns.tally.refused == {("wait", NORMAL): statuses.count(503)}


@pytest.mark.parametrize("path", OTHERS)
def test_gets_count_for_their_client_and_probes_do_not(busy: Busy, path: str) -> None:
    with (
        shop.running(busy, limits=Limits(client_requests=1), grace_seconds=0.1) as server,
        Raw(server) as held,
        Raw(server) as other,
    ):
        held.send(get("/later"))
        assert busy.entered.wait(10)
        for asked, expected in ((path, 429), ("/v2/health/ready", 200), (path, 429)):
            other.send(get(asked))
            status, headers, _ = other.response()
            assert (status, headers.get("retry-after")) == (expected, "1" if expected == 429 else None)
        assert server.turns.tally.refused == {("client", NORMAL): 2}


def test_metadata_over_grpc_is_let_in_as_any_call_and_probes_as_probes(registry: Any, pipeline: Any) -> None:
    app, repository = echo.served(registry, pipeline)
    turns = Turns(most_of_client=1)
    with echo.running_grpc(app, repository, turns=turns) as target, grpc.insecure_channel(target) as channel:
        stub = {
            name: channel.unary_unary(f"/inference.GRPCInferenceService/{name}")
            for name in ("ServerMetadata", "ServerReady")
        }
        assert stub["ServerMetadata"](b"", timeout=20)
        for client in ("127.0.0.1", "[::1]", ""):
            turns.clients.add(client)
        with pytest.raises(grpc.RpcError) as caught:
            stub["ServerMetadata"](b"", timeout=20)
        assert caught.value.code().name == "RESOURCE_EXHAUSTED"
        assert stub["ServerReady"](b"", timeout=20)
    assert turns.tally.refused == {("client", NORMAL): 1}
