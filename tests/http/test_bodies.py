"""What a server holds of bodies: none of what needs none, and no more in all than a limit says."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import shop
from test_http import Raw

from bedplate.http import bodies as bodies_module
from bedplate.http.bodies import SMALL_BYTES, Bodies, Trimming
from bedplate.http.message import Limits, Request, Response
from bedplate.http.parser import RefusedError, RequestParser
from bedplate.http.tokens import Tokens

ASKER = "asker-e47a90b3d81c4f62"
MB = 1024 * 1024


def answer(request: Request) -> Response:
    return Response(200, b"%d" % len(request.body))


def head(method: str = "POST", path: str = "/rank", size: int = MB, more: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n{more}\r\n".encode()


@pytest.fixture
def server() -> Iterator[Any]:
    with shop.running(answer, limits=Limits(body_bytes=MB, bodies_bytes=2 * MB)) as running:
        yield running


def until_held(server: Any, size: int) -> None:
    while server.bodies.held_bytes != size:
        pass


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/metrics"), ("HEAD", "/"), ("GET", "/v2/health/live"), ("POST", "/openapi.json")]
)
def test_a_body_that_nobody_reads_is_not_kept(method: str, path: str) -> None:
    bodies = Bodies(MB)
    parser = RequestParser(Limits(), lambda *_: "c", bodies)
    parser.feed(head(method, path, 200, "Content-Encoding: gzip\r\n") + b"x" * 100)
    assert (bodies.held_bytes, bytes(parser._body)) == (0, b"")
    parser.feed(b"x" * 100)
    request = parser.complete[0][0]
    assert (request.body, b"content-encoding" in request.headers, bodies.held_bytes) == (b"", False, 0)
    with pytest.raises(RefusedError, match="413"):
        parser.feed(head(method, path, 10**9))


def test_open_paths_hold_nothing_of_clients_without_a_token() -> None:
    with shop.running(answer, tokens=Tokens([f"infer web {ASKER}"])) as guarded, ExitStack() as stack:
        for _ in range(5):
            raw = stack.enter_context(Raw(guarded))
            raw.send(head("GET", "/v2/health/live", 2 * MB) + b"x" * MB)
        with Raw(guarded) as other:
            other.send(head("GET", "/v2/health/ready", 3) + b"abc")
            assert other.response()[0::2] == (200, b"0")
        assert guarded.bodies.held_bytes == 0


def test_bodies_of_all_connections_together_are_bounded_and_small_ones_always_read(server: Any) -> None:
    with ExitStack() as stack:
        held = [stack.enter_context(Raw(server)) for _ in range(2)]
        for raw in held:
            raw.send(head() + b"x" * (MB - 1))
        until_held(server, 2 * MB - 2)
        with Raw(server) as late:
            late.send(head() + b"x" * SMALL_BYTES)
            until_held(server, 2 * MB - 2 + SMALL_BYTES)
            late.send(b"x")
            status, headers, body = late.response()
            assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
            assert b"too many large bodies are under way" in body
            assert server.bodies.held_bytes == 2 * MB - 2  # what had come of it is let go before that is said
        with Raw(server) as small:
            small.send(head(size=SMALL_BYTES) + b"x" * SMALL_BYTES)
            assert small.response()[0::2] == (200, b"%d" % SMALL_BYTES)
        held[0].send(b"x")
        assert held[0].response()[0::2] == (200, b"%d" % MB)
        until_held(server, MB - 1)
        with Raw(server) as again:
            again.send(head() + b"x" * MB)
            assert again.response()[0] == 200
    until_held(server, 0)  # those who leave hold nothing
    assert server.turns.tally.refused == {("bodies", 2): 1}


def test_what_waits_for_an_answer_counts_until_it_has_one() -> None:
    bodies = Bodies(MB)
    parser = RequestParser(Limits(), None, bodies)
    parser.feed((head(size=1000) + b"x" * 1000) * 3 + head(size=10) + b"x" * 7)
    waiting = [request.held_bytes for request, _, _ in parser.complete]
    assert waiting[0] == 1000  # its head is there anyway; those of others count
    assert all(3000 > size > 2000 + len(head()) for size in waiting[1:])
    assert bodies.held_bytes == sum(waiting) + 7
    parser.take()
    assert bodies.held_bytes == sum(waiting[1:]) + 7
    parser.drop()
    assert bodies.held_bytes == sum(waiting[1:])
    parser.close()
    assert (bodies.held_bytes, len(parser.complete)) == (0, 0)


def test_a_large_body_in_small_pieces_is_refused_where_it_is_no_longer_small() -> None:
    bodies = Bodies(0)
    parser = RequestParser(Limits(), None, bodies)
    parser.feed(head())
    for _ in range(SMALL_BYTES // 1024):
        parser.feed(b"x" * 1024)
    assert bodies.held_bytes == SMALL_BYTES
    with pytest.raises(RefusedError, match="503"):
        parser.feed(b"x")


def test_a_body_of_many_small_chunks_takes_no_more_than_its_bytes() -> None:
    parser = RequestParser(Limits())
    chunks = b"2\r\nab\r\n" * 1000
    parser.feed(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    tracemalloc.start()
    for _ in range(200):
        parser.feed(chunks)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 2 * 400_000
    parser.feed(b"0\r\n\r\n")
    assert parser.complete[0][0].body == b"ab" * 200_000


def test_memory_is_given_back_in_a_quiet_moment_and_at_the_latest_after_a_gigabyte() -> None:
    bodies, given = Bodies(100 * MB), threading.Semaphore(0)
    trimming = Trimming(bodies, given.release)

    def gives(size: int, piece: int = MB) -> bool:
        """Whether memory is given back in the second in which so much comes and goes."""
        for _ in range(size // piece):
            bodies.keep(piece, 0)
            bodies.let_go(piece)
        trimming.look()
        return given.acquire(timeout=0.5)

    assert [gives(10 * MB) for _ in range(4)] == [False] * 4
    assert [gives(0), gives(0)] == [True, False]
    assert [gives(300 * MB) for _ in range(4)] == [False] * 3 + [True]
    bodies.keep(50 * MB, 0)
    assert not gives(0)  # it is still held
    bodies.let_go(50 * MB)
    assert gives(0)
    assert not gives(100 * MB, SMALL_BYTES)  # small ones leave nothing that counts
    assert not gives(0)


def test_a_server_gives_the_memory_of_large_bodies_back(monkeypatch: pytest.MonkeyPatch) -> None:
    given = threading.Event()
    monkeypatch.setattr(bodies_module, "_OWED_BYTES", MB)
    monkeypatch.setattr(bodies_module, "give_back", given.set)
    with shop.running(answer, limits=Limits(body_bytes=MB, bodies_bytes=2 * MB)) as running, Raw(running) as raw:
        for _ in range(2):
            raw.send(head() + b"x" * MB)
            assert raw.response()[0] == 200
        assert given.wait(20)
