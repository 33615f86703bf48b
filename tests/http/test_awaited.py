"""Handlers whose answers come later: order, other connections, clients that leave, failures, drain."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import shop
from test_http import Raw

from bedplate.http import exchange
from bedplate.http.message import Request, Response

cancelled = threading.Event()


def later(request: Request) -> Response | asyncio.Future[Response]:
    """Answers /now at once, others after a moment: the longer the path, the later."""
    if request.path == "/now":
        return Response(200, b"now")
    answered = asyncio.get_running_loop().create_task(_answer(request))
    answered.add_done_callback(lambda made: cancelled.set() if made.cancelled() else None)
    return answered


async def _answer(request: Request) -> Response:
    await asyncio.sleep(0.01 * len(request.path))
    if request.path == "/fail":
        raise ValueError("secret")
    if request.path == "/never":
        await asyncio.sleep(3600)
    return Response(200, request.path.encode())


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with shop.running(later) as server:
        yield server


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def test_answers_leave_in_the_order_of_their_requests(server: Any) -> None:
    with Raw(server) as raw:
        raw.send(get("/longer") + get("/a") + get("/now"))
        assert [raw.response()[2] for _ in range(3)] == [b"/longer", b"/a", b"now"]


def test_another_connection_does_not_wait(server: Any) -> None:
    with Raw(server) as slow, Raw(server) as quick:
        slow.send(get("/" + "x" * 30))
        quick.send(get("/now"))
        assert quick.response()[2] == b"now"
        slow.send(get("/now"))
        assert [slow.response()[2] for _ in range(2)] == [b"/" + b"x" * 30, b"now"]


def test_the_work_for_a_client_that_resets_is_cancelled(server: Any) -> None:
    cancelled.clear()
    with Raw(server) as raw:
        raw.send(get("/never"))
        with Raw(server) as other:
            other.send(get("/now"))
            other.response()
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets
    assert cancelled.wait(10)


def test_an_answer_that_is_late_is_no_error_inside_whatever_the_clock_says(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = time.monotonic()
    monkeypatch.setattr(exchange, "monotonic", lambda: begin + 0.5 * (time.monotonic() - begin))
    with Raw(server) as raw:
        raw.send(b"GET /now HTTP/1.1\r\nHost: a\r\n\r\n" + timed("/never"))
        assert [raw.response()[0] for _ in range(2)] == [200, 504]


def timed(path: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nX-Request-Timeout-Ms: 60\r\n\r\n".encode()


def test_a_failure_tells_nothing_and_the_connection_goes_on(server: Any, caplog: pytest.LogCaptureFixture) -> None:
    with Raw(server) as raw:
        raw.send(get("/fail") + get("/now"))
        status, _, body = raw.response()
        assert status == 500
        assert b"secret" not in body
        assert raw.response()[2] == b"now"
    assert "secret" in caplog.text


def test_a_client_that_half_closes_is_answered(server: Any) -> None:
    with Raw(server) as raw:
        raw.send(get("/a"))
        raw.socket.shutdown(socket.SHUT_WR)
        assert raw.response()[2] == b"/a"
        assert raw.socket.recv(1) == b""


def test_drain_waits_for_the_answer() -> None:
    with shop.running(later) as server:
        raw = Raw(server)
        raw.send(get("/" + "x" * 30) + get("/now"))
        with Raw(server) as other:
            other.send(get("/now"))
            other.response()
    with raw:
        assert [raw.response()[2] for _ in range(2)] == [b"/" + b"x" * 30, b"now"]
