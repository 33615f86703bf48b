"""The HTTP protocol over real sockets: framing, limits, order, malformed input, drain."""

from __future__ import annotations

import asyncio
import json
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import shop
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.errors import ConfigError, DataError
from bedplate.http.message import Limits, Request, Response
from bedplate.http.parser import RefusedError, RequestParser
from bedplate.http.server import Server, run_application
from bedplate.http.settings import Settings
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.service_app import App


def echo(request: Request) -> Response:
    if request.path == "/fail":
        raise ValueError("secret")
    if request.path == "/slow":
        time.sleep(0.3)
    if request.path == "/large":
        return Response(200, b"x" * 3_000_000)
    return Response(200, json.dumps([request.method, request.path, request.body.decode("latin-1")]).encode())


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    limits = Limits(head_bytes=4096, body_bytes=100_000, pending=8, connections=50)
    with shop.running(echo, limits=limits) as server:
        yield server


class Raw:
    """A socket that speaks what it is told and reads whole responses."""

    def __init__(self, server: Any) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        self.buffer = b""

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *details: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def _more(self) -> bool:
        data = self.socket.recv(65536)
        self.buffer += data
        return bool(data)

    def response(self, body: bool = True) -> tuple[int, dict[str, str], bytes]:
        while b"\r\n\r\n" not in self.buffer:
            assert self._more(), self.buffer
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}
        size = int(headers.get("content-length", 0)) if body else 0
        while len(self.buffer) < size:
            assert self._more()
        content, self.buffer = self.buffer[:size], self.buffer[size:]
        return int(lines[0].split()[1]), headers, content

    def closed(self) -> bool:
        try:
            while self._more():
                pass
        except ConnectionResetError:
            return True
        return True


def get(path: str = "/", *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: test", *headers, "", ""]).encode()


def post(body: bytes, *headers: str) -> bytes:
    head = "\r\n".join(["POST /p HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *headers, "", ""])
    return head.encode() + body


def test_a_connection_is_kept_and_carries_many_requests(server: Any) -> None:
    with Raw(server) as raw:
        for i in range(5):
            raw.send(get(f"/{i}?q=1"))
            status, headers, body = raw.response()
            assert (status, json.loads(body)) == (200, ["GET", f"/{i}", ""])
            assert "connection" not in headers
            assert headers["date"].endswith("GMT")


def test_pipelined_requests_are_answered_in_order(server: Any) -> None:
    with Raw(server) as raw:
        raw.send(b"".join(get(f"/{i}") for i in range(100)))
        assert [json.loads(raw.response()[2])[1] for _ in range(100)] == [f"/{i}" for i in range(100)]


def test_a_client_that_sends_long_requests_ahead_is_read_no_further_than_one_is_long() -> None:
    released = False

    async def held() -> Response:
        while not released:
            await asyncio.sleep(0.01)
        return Response(200, b"")

    million, count = 1_000_000, 40
    with shop.running(lambda _: held(), limits=Limits(body_bytes=million)) as server, Raw(server) as raw:
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        rest = memoryview(post(bytes(million)) * count)
        while rest and select.select([], [raw.socket], [], 1.0)[1]:  # a client that can write nothing for a second
            rest = rest[raw.socket.send(rest[:65536]) :]
        assert len(rest) > count * million / 2  # what was sent is in the system's buffers, but for two bodies
        released = True
        sender = threading.Thread(target=raw.send, args=(rest,))
        sender.start()
        assert [raw.response()[0] for _ in range(count)] == [200] * count
        sender.join()


def test_bytes_may_come_one_at_a_time(server: Any) -> None:
    with Raw(server) as raw:
        for byte in post(b"abc"):
            raw.send(bytes([byte]))
        assert json.loads(raw.response()[2]) == ["POST", "/p", "abc"]


def test_a_chunked_body_is_joined_and_trailers_are_dropped(server: Any) -> None:
    head = b"POST /p HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
    with Raw(server) as raw:
        raw.send(head + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nHost: evil\r\n\r\n" + get("/next"))
        assert json.loads(raw.response()[2]) == ["POST", "/p", "abcde"]
        assert json.loads(raw.response()[2])[1] == "/next"


def test_a_client_that_waits_for_100_continue_is_invited(server: Any) -> None:
    with Raw(server) as raw:
        request = post(b"abc", "Expect: 100-continue")
        raw.send(request[:-3])
        assert raw.response()[0] == 100
        raw.send(request[-3:])
        assert raw.response()[0] == 200


def test_a_client_that_does_not_wait_gets_no_100(server: Any) -> None:
    with Raw(server) as raw:
        raw.send(post(b"abc", "Expect: 100-continue"))
        assert raw.response()[0] == 200


def test_head_gives_the_headers_of_get(server: Any) -> None:
    with Raw(server) as raw:
        raw.send(b"HEAD /x HTTP/1.1\r\nHost: t\r\n\r\n" + get("/y"))
        status, headers, _ = raw.response(body=False)
        assert (status, headers["content-length"]) == (200, str(len(json.dumps(["HEAD", "/x", ""]))))
        assert json.loads(raw.response()[2])[1] == "/y"


def test_http_1_0_closes_unless_it_asks_not_to(server: Any) -> None:
    with Raw(server) as raw:
        raw.send(b"GET /x HTTP/1.0\r\n\r\n")
        assert raw.response()[1]["connection"] == "close"
        assert raw.closed()
    with Raw(server) as raw:
        raw.send(b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert raw.response()[1]["connection"] == "keep-alive"
        raw.send(get())
        assert raw.response()[0] == 200


def test_connection_close_is_obeyed(server: Any) -> None:
    with Raw(server) as raw:
        raw.send(get("/", "Connection: close"))
        assert raw.response()[1]["connection"] == "close"
        assert raw.closed()


def test_an_upgrade_is_not_taken_and_the_request_is_answered(server: Any) -> None:
    with Raw(server) as raw:
        raw.send(get("/x", "Connection: Upgrade", "Upgrade: h2c"))
        assert raw.response()[0] == 200
        assert raw.closed()


def test_an_absolute_target_and_percent_codes_are_understood(server: Any) -> None:
    with Raw(server) as raw:
        raw.send(get("http://other:80/a%20b%2Fc?x=/y"))
        assert json.loads(raw.response()[2])[1] == "/a b/c"


def test_a_client_that_half_closes_is_answered(server: Any) -> None:
    with Raw(server) as raw:
        raw.send(get("/a") + get("/b"))
        raw.socket.shutdown(socket.SHUT_WR)
        assert json.loads(raw.response()[2])[1] == "/a"
        assert json.loads(raw.response()[2])[1] == "/b"
        assert raw.closed()


def test_a_failing_handler_is_a_500_that_tells_nothing(server: Any) -> None:
    with Raw(server) as raw:
        raw.send(get("/fail"))
        status, _, body = raw.response()
        assert status == 500
        assert b"secret" not in body
        raw.send(get("/ok"))
        assert raw.response()[0] == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"GET / HTTP/9.9\r\nHost: t\r\n\r\n", 400),
        (b"BREW / HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: t\r\nBad Header: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: identity\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 100001\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nExpect: magic\r\n\r\n", 417),
        (b"GET / HTTP/1.1\r\nHost: t\r\nX: " + b"y" * 5000 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 5000 + b" HTTP/1.1\r\nHost: t\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: t\r\n" + b"X: y\r\n" * 2000 + b"\r\n", 431),
    ],
)
def test_what_is_no_request_is_refused_and_the_connection_closed(server: Any, data: bytes, status: int) -> None:
    with Raw(server) as raw:
        raw.send(data)
        got, headers, body = raw.response()
        assert got == status
        assert headers["connection"] == "close"
        assert "error" in json.loads(body)
        assert raw.closed()


def test_requests_before_a_malformed_one_are_answered_first(server: Any) -> None:
    with Raw(server) as raw:
        raw.send(get("/a") + get("/b") + b"nonsense\r\n\r\n")
        assert [raw.response()[0] for _ in range(3)] == [200, 200, 400]
        assert raw.closed()


def test_a_head_that_never_ends_is_cut_off(server: Any) -> None:
    with Raw(server) as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: t\r\nX: ")
        for _ in range(6):
            raw.send(b"y" * 1000)
            time.sleep(0.01)
        assert raw.response()[0] == 431


def test_a_chunked_body_that_is_too_large_is_refused_and_the_answer_arrives(server: Any) -> None:
    with Raw(server) as raw:
        raw.send(b"POST /p HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(30):
            raw.send(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
        assert raw.response()[0] == 413


def test_a_client_that_reads_late_gets_all_of_it(server: Any) -> None:
    with Raw(server) as raw:
        raw.send(get("/large") * 20)
        time.sleep(0.3)
        with Raw(server) as other:  # the others don't wait for it
            other.send(get("/x"))
            assert other.response()[0] == 200
        for _ in range(20):
            assert len(raw.response()[2]) == 3_000_000


def test_more_connections_than_allowed_get_503() -> None:
    with shop.running(echo, limits=Limits(connections=2)) as server:
        open_ones = [Raw(server) for _ in range(2)]
        for raw in open_ones:
            raw.send(get())
            assert raw.response()[0] == 200
        with Raw(server) as third:
            third.send(get())
            assert third.response()[0] == 503
        for raw in open_ones:
            raw.socket.close()


def test_half_a_request_times_out_with_408_and_idle_connections_close() -> None:
    limits = Limits(idle_seconds=0.5, request_seconds=0.5)
    with shop.running(echo, limits=limits) as server, Raw(server) as half, Raw(server) as idle:
        half.send(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nabc")
        assert half.response()[0] == 408
        assert half.closed()
        assert idle.closed()


def test_a_client_that_never_reads_is_cut_off() -> None:
    with shop.running(echo, limits=Limits(write_seconds=0.5)) as server, Raw(server) as raw:
        raw.send(get("/large") * 20)
        time.sleep(2.5)
        received = 0
        try:
            while data := raw.socket.recv(1 << 20):
                received += len(data)
        except ConnectionResetError:
            received += 0
        assert received < 60_000_000


def test_drain_answers_what_is_under_way_and_closes_the_rest() -> None:
    answered: list[Any] = []

    def ask(raw: Raw) -> None:
        answered.append((raw.response()[0], raw.closed()))

    with shop.running(echo) as server:
        idle, half, busy = Raw(server), Raw(server), Raw(server)
        for raw in (idle, half):
            raw.send(get())
            raw.response()
        half.send(post(b"abc")[:-3])
        busy.send(get("/slow"))
        time.sleep(0.1)
        port = server.port
        threads = [threading.Thread(target=ask, args=(busy,))]
        threads[0].start()
        finish = threading.Timer(0.5, half.send, [b"abc"])
        finish.start()
    threads[0].join()
    assert answered == [(200, True)]
    assert half.response()[0] == 200
    assert half.closed()
    assert idle.closed()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    for raw in (idle, half, busy):
        raw.socket.close()


def test_drain_gives_up_on_a_client_that_never_finishes() -> None:
    with shop.running(echo, grace_seconds=0.2) as server:
        raw = Raw(server)
        raw.send(post(b"abc")[:-3])
        time.sleep(0.1)
        begin = time.monotonic()
    assert time.monotonic() - begin < 3
    raw.socket.close()


@pytest.mark.parametrize(("host", "message"), [("x" * 70, "not known"), ("203.0.113.7", "can't listen")])
def test_a_host_that_is_not_here_is_a_clear_error(host: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Server(echo, host=host, port=0)


def test_a_port_in_use_is_a_clear_error() -> None:
    first = Server(echo, port=0)
    try:
        with pytest.raises(ConfigError, match="in use") as caught:
            Server(echo, port=first.port)
        assert "--port 0" in str(caught.value)
    finally:
        first.close()


def test_urls_of_wildcard_hosts_point_to_this_machine() -> None:
    server = Server(echo, host="0.0.0.0", port=0)
    assert server.url == f"http://127.0.0.1:{server.port}"
    server.close()


@given(st.lists(st.integers(1, 60), max_size=12), st.binary(max_size=200))
def test_requests_are_the_same_however_their_bytes_are_cut(cuts: list[int], body: bytes) -> None:
    data = post(body, "A: b") + get("/x?y", "C: d") + post(body)
    parser, at = RequestParser(Limits()), 0
    for cut in cuts:
        parser.feed(data[at : at + cut])
        at += cut
    parser.feed(data[at:])
    got = [(r.method, r.path, r.body) for r, _, _ in parser.complete]
    assert got == [("POST", "/p", body), ("GET", "/x", b""), ("POST", "/p", body)]
    assert not parser.in_message


@settings(max_examples=100)
@given(st.lists(st.sampled_from([b"GET ", b"POST ", b"/x", b" HTTP/1.1", b"\r\n", b"Host: t", b"Content-Length: 2",
                                 b"Transfer-Encoding: chunked", b"ab", b"0", b"\n", b"\0", b"\xff", b"Expect: x"]),
                max_size=25))  # fmt: skip
def test_no_bytes_raise_anything_but_a_refusal(parts: list[bytes]) -> None:
    parser = RequestParser(Limits(head_bytes=200, body_bytes=10))
    status = 400
    try:
        for part in parts:
            parser.feed(part)
    except RefusedError as refused:
        status = refused.response.status
    assert 400 <= status < 500


def test_uvloop_serves_too() -> None:
    uvloop = pytest.importorskip("uvloop")
    answers: list[int] = []

    async def main() -> None:
        server = Server(echo, port=0)
        await server.start()

        def ask() -> None:
            with Raw(server) as raw:
                raw.send(get("/large") * 3)
                answers.extend(raw.response()[0] for _ in range(3))
                raw.send(b"nonsense\r\n\r\n")
                answers.append(raw.response()[0])
                raw.closed()

        await asyncio.to_thread(ask)
        await server.drain()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    assert answers == [200, 200, 200, 400]


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (DataError("the store is empty"), DataError, "the store is empty"),
        (StopIteration(), RuntimeError, r"loading ended in StopIteration\(\)"),  # a future takes none
    ],
)
def test_a_service_that_can_not_load_ends(raised: Exception, expected: type[Exception], message: str) -> None:
    def load() -> Pipeline:
        raise raised

    def ready(url: str, seconds: float) -> None:
        pytest.fail(f"ready on {url}")

    with pytest.raises(expected, match=message):
        run_application(App(), load, Settings(port=0), on_ready=ready)
