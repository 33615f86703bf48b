"""What both clients send and what they take for an answer: nothing of one answer is ever read as the next."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from scripted import WELL, chunked, head, says, says_and_closes, service

from bedplate import AsyncClient
from bedplate.client.errors import LateError, RefusedError, UnreachableError
from bedplate.client.wire import Reading
from bedplate.errors import RequestError

Ask = Callable[..., list[Any]]
GOOD = head(len(WELL)) + WELL
OTHER = GOOD.replace(b'"time": 1', b'"time": 2')


def recommend(client: Any) -> Any:
    return client.recommend(customer=1)


@pytest.mark.parametrize("method", ["GET /x", "", "G\r\nET", "GÉT", None, b"GET"])
def test_a_method_that_is_none_is_refused_before_anything_is_sent(ask: Ask, method: Any) -> None:
    [error] = ask("http://127.0.0.1:9", lambda c: c.request(method, "/v2"))
    assert isinstance(error, RequestError)
    assert str(error) == f"method: got {method!r}, expected a word such as 'GET'"


@pytest.mark.parametrize("path", ["", "v2", "/a b", "/x HTTP/1.1\r\nA: b\r\n\r\n", "/é", "/a#b", "/\n", "/a\x7f", None])
def test_a_path_that_is_none_is_refused_before_anything_is_sent(ask: Ask, path: Any) -> None:
    [error] = ask("http://127.0.0.1:9", lambda c: c.request("GET", path))
    assert isinstance(error, RequestError)
    assert str(error).startswith(f"path: got {path!r}, expected '/' and more in ASCII, without spaces and '#'")
    assert "urllib.parse.quote" in str(error)


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"X-Trace": "secret\r\n\r\nGET /v2"}, r"header 'X-Trace': got '\\r' at position 6 of its value"),
        ({"X-Trace": "secret\n"}, r"header 'X-Trace': got '\\n' at position 6 of its value"),
        ({"X-Trace": "secret\x00"}, r"header 'X-Trace': got '\\x00' at position 6"),
        (
            {"X-Trace": "secret 漢"},
            "header 'X-Trace': got '漢' at position 7 of its value, expected Latin-1 in one line",
        ),
        ({"X-Trace": 5}, "header 'X-Trace': got int, expected a text"),
        ({"X Trace": "secret"}, "got the header 'X Trace', expected letters, digits and '-'"),
        ({"X:\r\nA": "secret"}, "got the header 'X:"),
        ({"": "secret"}, "got the header ''"),
        ({5: "secret"}, "got the header 5"),
        ({"content-length": "5"}, "header 'content-length': got 'content-length', which the client says itself"),
        ({"Transfer-Encoding": "chunked"}, "which the client says itself"),
        ([("X-Trace", "secret")], "headers: got list, expected values by name"),
    ],
)
def test_headers_that_are_none_are_refused_and_their_values_not_shown(ask: Ask, headers: Any, said: str) -> None:
    [error] = ask("http://127.0.0.1:9", lambda c: c.request("GET", "/v2", headers=headers))
    with pytest.raises(RequestError, match=said):
        raise error
    assert "secret" not in str(error)


@pytest.mark.parametrize("body", ["text", 5, [b"a"]])
def test_a_body_that_is_not_bytes_is_refused(ask: Ask, body: Any) -> None:
    [error] = ask("http://127.0.0.1:9", lambda c: c.request("POST", "/v2", body))
    with pytest.raises(RequestError, match=f"body: got {type(body).__name__}, expected bytes"):
        raise error


def test_a_header_of_the_call_takes_the_place_of_the_clients_own(ask: Ask) -> None:
    own = {"authorization": "Basic eA==", "host": "shop.example", "X-Note": "caf\xe9"}
    with service(says(GOOD)) as (url, seen):
        ask(url, lambda c: c.request("GET", "/v2?a=%20b", headers=own), token="a-token-of-the-team")
    first, *lines = seen[0].decode("latin-1").split("\r\n")
    assert first == "GET /v2?a=%20b HTTP/1.1"
    assert [line for line in lines if line.lower().startswith(("authorization", "host", "x-note"))] == [
        "authorization: Basic eA==",
        "host: shop.example",
        "X-Note: caf\xe9",
    ]


@pytest.mark.parametrize("more", [head(2) + b"{}", b"x", b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
def test_a_connection_with_more_than_an_answer_is_not_used_again(ask: Ask, more: bytes) -> None:
    with service(says(GOOD + more), says(OTHER)) as (url, seen):
        assert [answer.time for answer in ask(url, recommend, recommend, timeout=5)] == [1, 2]
    assert len(seen) == 2


def test_bytes_that_come_while_nobody_asks_are_no_answer(ask: Ask) -> None:
    asked, sent = threading.Event(), threading.Event()

    def script(connection: socket.socket) -> None:
        connection.sendall(GOOD)
        asked.wait(10)
        connection.sendall(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        sent.set()

    def meanwhile(client: Any) -> Any:
        asked.set()
        return asyncio.to_thread(sent.wait, 10) if isinstance(client, AsyncClient) else sent.wait(10)

    with service(script, says(OTHER)) as (url, seen):
        first, is_sent, second = ask(url, recommend, meanwhile, recommend, timeout=20)
    assert (first.time, is_sent, second.time, len(seen)) == (1, True, 2, 2)


@pytest.mark.parametrize(
    ("method", "status", "fields"),
    [("HEAD", "200 OK", ["Content-Length: 50"]), ("HEAD", "200 OK", ["Transfer-Encoding: chunked"])]
    + [("GET", status, ["ETag: x"]) for status in ("204 No Content", "304 Not Modified")],
)
def test_answers_without_a_body_end_with_their_head(ask: Ask, method: str, status: str, fields: list[str]) -> None:
    bare = "\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""]).encode()
    with service(lambda connection: connection.sendall(bare if len(seen) == 1 else GOOD)) as (url, seen):
        (body, headers), second = ask(url, lambda c: c.request(method, "/v2"), recommend, timeout=5)
    assert body == b""
    assert fields[0].partition(":")[0].lower() in headers
    assert second.time == 1


def test_the_answer_to_head_of_a_real_service_has_no_body(ask: Ask, server: Any) -> None:
    found = ask(server.url, lambda c: c.request("HEAD", "/healthz"), lambda c: c.request("GET", "/v2"), timeout=5)
    assert isinstance(found[0], RefusedError) or found[0][0] == b""
    assert found[1][0].startswith(b"{")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"SSH-2.0-x\r\n", "got 'SSH-2.0-x', expected an answer of HTTP/1.1"),
        (b"SSH-2.0-x\r\n\r\n", "got 'SSH-2.0-x', expected an answer of HTTP/1.1"),
        (b"\x15\x03\x01\x00\x02\x02\x50", "expected an answer of HTTP/1.1"),
        (b"HTTP/1.1 abc\r\n\r\n", "got 'HTTP/1.1 abc'"),
        (b"HTTP/1.1 99 Low\r\n\r\n", "got 'HTTP/1.1 99 Low'"),
        (b"HTTP/2 200\r\n\r\n", "got 'HTTP/2 200'"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "got 'HTTP/1.1 101 Switching Protocols'"),
        (head(0, "no header"), "got 'no header', expected a header and its value"),
        (head(0, "a : b"), "got 'a : b', expected a header and its value"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000, "got headers of more than 65,536 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"a" * 70_000, "got headers of more than 65,536 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n{}", "got the length '99999"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}", "got the length '-1', expected bytes"),
        (head(2, "Content-Length: 3") + b"{} ", "got the length '2, 3', expected bytes"),
        (head(2, "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n", "expected 'chunked' and no length beside"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "got the transfer encoding 'gzip'"),
    ],
)
def test_what_is_no_answer_is_unreachable_at_once_and_says_what_came(ask: Ask, content: bytes, said: str) -> None:
    with service(says_and_closes(content)) as (url, seen):
        [error] = ask(url, recommend, timeout=30)
    with pytest.raises(UnreachableError, match="no answer: ") as caught:
        raise error
    assert said in str(caught.value)
    assert "is it a service of HTTP/1.1?" in str(caught.value)
    assert len(seen) == 1


def test_what_is_said_before_it_was_asked_for_is_no_answer(ask: Ask) -> None:
    """As servers of other protocols do, which greet whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"220 mail.example ESMTP\r\n")
                connection.settimeout(10)
                while connection.recv(65_536):
                    continue

        thread = threading.Thread(target=greet)
        thread.start()
        [error] = ask(f"http://127.0.0.1:{listener.getsockname()[1]}", recommend, timeout=10)
        thread.join(15)
    assert isinstance(error, UnreachableError)
    assert "got '220 mail.example ESMTP', expected an answer of HTTP/1.1" in str(error)


@pytest.mark.parametrize(
    "content",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(WELL) + WELL,
        head(len(WELL), "Connection: keep-alive, Close") + WELL,
        head(len(WELL), "Connection: keep-alive", "connection: close") + WELL,
    ],
    ids=["HTTP/1.0", "list", "twice"],
)
def test_an_answer_that_is_to_be_the_last_is_one_and_the_next_has_another_connection(ask: Ask, content: bytes) -> None:
    with service(says(content), says(OTHER)) as (url, seen):
        assert [answer.time for answer in ask(url, recommend, recommend)] == [1, 2]
    assert len(seen) == 2


def test_an_answer_without_a_length_ends_with_its_connection(ask: Ask) -> None:
    with service(says_and_closes(b"HTTP/1.1 200 OK\r\n\r\n", WELL), says(OTHER)) as (url, seen):
        assert [answer.time for answer in ask(url, recommend, recommend)] == [1, 2]
    assert len(seen) == 2


def test_a_connection_that_the_service_closed_while_nobody_asked_is_opened_again(ask: Ask) -> None:
    with service(says_and_closes(GOOD), says(OTHER)) as (url, _):
        assert [answer.time for answer in ask(url, recommend, recommend)] == [1, 2]


def test_heads_before_the_answers_own_are_passed_over(ask: Ask) -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
    with service(says(early, GOOD)) as (url, seen):
        assert [answer.time for answer in ask(url, recommend, recommend)] == [1, 1]
    assert len(seen) == 2


def test_nonsense_on_a_kept_connection_is_not_asked_for_again(ask: Ask) -> None:
    with service(lambda connection: connection.sendall(GOOD if len(seen) == 1 else b"nonsense\r\n")) as (url, seen):
        first, second = ask(url, recommend, recommend, timeout=20)
    assert first.time == 1
    assert isinstance(second, UnreachableError)
    assert len(seen) == 2


def test_a_request_that_nobody_reads_ends_by_the_timeout(ask: Ask) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        [error] = ask(url, lambda c: c.request("POST", "/x", bytes(64 << 20)), timeout=0.5)
    assert isinstance(error, LateError)


def test_a_request_that_was_answered_before_it_was_read_is_not_sent_on() -> None:
    """The blocking client reads no answer before it has sent all."""
    size, read = 64 << 20, [0]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)

        def answer() -> None:
            with listener.accept()[0] as first:
                first.settimeout(20)
                first.recv(1000)
                first.sendall(GOOD)
                with listener.accept()[0] as second:
                    second.recv(1000)
                    second.sendall(OTHER)
                    while part := first.recv(1 << 20):
                        read[0] += len(part)

        async def calls(url: str) -> Any:
            async with AsyncClient(url, timeout=10) as client:
                await client.request("POST", "/x", bytes(size))
                return await client.recommend(customer=1)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        assert asyncio.run(calls(f"http://127.0.0.1:{listener.getsockname()[1]}")).time == 2
        thread.join(30)
    assert read[0] < size


def test_a_head_that_is_too_long_is_no_answer_however_it_comes() -> None:
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: " + b"a" * 65_536 + b"\r\n\r\n"
    with pytest.raises(ValueError, match="got headers of more than 65,536 bytes"):
        Reading("GET").feed(long)


@pytest.mark.parametrize("whole", [GOOD, chunked(WELL, WELL)], ids=["length", "chunks"])
def test_an_answer_is_the_same_however_its_bytes_are_parted(whole: bytes) -> None:
    expected = Reading("GET").feed(whole)
    assert expected is not None
    for size in (1, 2, 3, 17, len(whole) - 1):
        reading = Reading("GET")
        replies = [reading.feed(whole[i : i + size]) for i in range(0, len(whole), size)]
        assert replies[:-1] == [None] * (len(replies) - 1)
        assert replies[-1] == expected
        assert reading.keeps
