"""Requests that a client sends ahead of their answers: all are answered in order, and few are read at once."""

from __future__ import annotations

import threading
import tracemalloc

import pytest
import shop
from test_http import Raw

from bedplate.http.bodies import SMALL_BYTES, Bodies
from bedplate.http.message import Limits, Request, Response
from bedplate.http.parser import RefusedError, RequestParser

READ_BYTES = 256 * 1024
"""What a connection reads at once."""
TINY = b"GET /%d HTTP/1.1\r\nHost:\r\n\r\n"
HEADERS = b"GET /%d HTTP/1.1\r\nHost:\r\n" + b"".join(b"%x:\r\n" % i for i in range(99)) + b"\r\n"
LONG = b"GET /%d HTTP/1.1\r\nHost:\r\nX: " + b"x" * 30_000 + b"\r\n\r\n"


def answer(request: Request) -> Response:
    return Response(200, request.path.encode() + b" %d" % len(request.body))


@pytest.mark.parametrize("request_", [TINY, HEADERS, LONG], ids=["tiny", "headers", "long"])
def test_what_a_client_sends_ahead_takes_no_more_memory_than_is_counted(request_: bytes) -> None:
    data = b"".join(request_ % i for i in range(1 + READ_BYTES // len(request_)))[:READ_BYTES]
    bodies, count = Bodies(4 * READ_BYTES), 50
    tracemalloc.start()
    parsers, refused = [RequestParser(Limits(), None, bodies) for _ in range(count)], 0
    for parser in parsers:
        try:
            parser.feed(bytes(bytearray(data)))  # each its own, as they are read from sockets
        except RefusedError:
            parser.drop()
            refused += 1
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0 < refused < count
    assert bodies.held_bytes <= 4 * READ_BYTES + count * SMALL_BYTES
    assert taken < bodies.held_bytes + count * SMALL_BYTES
    for parser in parsers:
        parser.close()
    assert bodies.held_bytes == 0


def test_requests_that_were_sent_ahead_are_answered_in_their_order_whatever_they_are_read_in() -> None:
    body = b"x" * 100_000
    with shop.running(answer, limits=Limits(pending=8, body_bytes=200_000)) as server, Raw(server) as raw:
        posted = b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + body
        chunked = (
            b"POST /%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n" + body + b"\r\n0\r\n\r\n"
        )
        sent = b"".join((TINY, LONG, TINY, posted, HEADERS, chunked)[i % 6] % i for i in range(600))
        writer = threading.Thread(target=raw.send, args=(sent,))
        writer.start()
        for i in range(600):
            assert raw.response()[2] == b"/%d %d" % (i, 100_000 if i % 6 in (3, 5) else 0)
        writer.join(20)
        assert server.bodies.held_bytes == 0


def test_a_wrong_request_behind_many_is_refused_after_their_answers() -> None:
    with shop.running(answer) as server, Raw(server) as raw:
        raw.send(b"".join(TINY % i for i in range(1000)) + b"NONSENSE\r\n\r\n" + TINY % 1)
        assert [raw.response()[0] for _ in range(1001)] == [200] * 1000 + [400]


def test_a_request_may_have_a_hundred_headers() -> None:
    with shop.running(answer) as server:
        for more, status in ((b"", 200), (b"more: 1\r\n", 431)):
            with Raw(server) as raw:
                raw.send((HEADERS % 1)[:-2] + more + b"\r\n")
                got = raw.response()
                assert got[0] == status
        assert b"more than 100 headers" in got[2]
