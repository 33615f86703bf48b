"""How large an answer may be: one without end is given up before it fills the memory."""

from __future__ import annotations

import socket
import tracemalloc
from collections.abc import Callable
from itertools import repeat
from typing import Any

import numpy as np
import pytest
from scripted import WELL, head, says, says_and_closes, service

from bedplate import AsyncClient, Client
from bedplate.client.errors import BusyError, FailedError
from bedplate.client.wire import AnswerSizeError, Reading
from bedplate.errors import ConfigError

Ask = Callable[..., list[Any]]
MOST = 100_000
KIB = bytes(1024)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def recommend(client: Any) -> Any:
    return client.recommend(customer=1)


def endless(first: bytes, rest: bytes) -> Callable[[socket.socket], None]:
    def script(connection: socket.socket) -> None:
        connection.sendall(first)
        while True:  # until the client has closed it
            connection.sendall(rest)

    return script


ENDLESS = {
    "chunks": (CHUNKED, b"400\r\n" + KIB + b"\r\n"),
    "small chunks": (CHUNKED, b"2\r\nab\r\n" * 200),
    "trailers": (CHUNKED + b"0\r\n", b"A: b\r\n" * 200),
    "without a length": (b"HTTP/1.1 200 OK\r\n\r\n", KIB),
}


@pytest.mark.parametrize(("first", "rest"), ENDLESS.values(), ids=ENDLESS)
def test_an_answer_without_end_is_given_up_when_it_is_too_large(ask: Ask, first: bytes, rest: bytes) -> None:
    with service(endless(first, rest), says(head(len(WELL)), WELL)) as (url, seen):
        error, answer = ask(url, recommend, recommend, timeout=20, most_answer_bytes=MOST)
    assert isinstance(error, FailedError)
    assert (error.status, error.where) == (200, url)
    assert str(error).startswith(f"{url}: 200: got an answer of ")
    assert "bytes or more, expected at most 100,000\n  ask for less at once, or give the client a larger" in str(error)
    assert (answer.time, len(seen)) == (1, 2)


def test_heads_without_end_before_the_answer_are_given_up_too(ask: Ask) -> None:
    heads = b"HTTP/1.1 100 Continue\r\n\r\n" * 100
    with service(endless(b"", heads)) as (url, _):
        [error] = ask(url, recommend, timeout=20, most_answer_bytes=MOST)
    with pytest.raises(FailedError, match="expected at most 100,000"):
        raise error


@pytest.mark.parametrize(
    ("content", "size"),
    [(head(10**12), "1,000,000,000,050"), (CHUNKED + b"ffffffff\r\n", "4,294,967,352")],
    ids=["length", "chunk"],
)
def test_a_size_that_is_said_and_too_large_is_not_waited_for(ask: Ask, content: bytes, size: str) -> None:
    with service(says(content)) as (url, _):
        [error] = ask(url, recommend, timeout=20)
    with pytest.raises(FailedError, match=f"200: got an answer of {size} bytes or more, expected at most 268,435,456"):
        raise error


def test_the_status_of_an_error_that_is_too_large_is_said(ask: Ask) -> None:
    with service(says(head(10**9, status="502 Bad Gateway"))) as (url, _):
        [error] = ask(url, recommend, timeout=20)
    assert isinstance(error, FailedError)
    assert error.status == 502


def test_ready_is_false_where_the_answer_is_too_large(ask: Ask) -> None:
    with service(says(head(10**12))) as (url, _):
        assert ask(url, lambda c: c.ready(), timeout=20) == [False]


def test_an_answer_as_large_as_it_may_be_is_one(ask: Ask) -> None:
    start = head(99_000)
    exactly = head(MOST - len(start)) + bytes(MOST - len(start))
    assert len(exactly) == MOST
    beyond = head(MOST - len(start) + 1)
    with service(says(exactly), says(beyond)) as (url, _):
        [(body, _)] = ask(url, lambda c: c.request("GET", "/"), most_answer_bytes=np.int64(MOST))
        [error] = ask(url, recommend, most_answer_bytes=MOST)
    assert len(body) == MOST - len(start)
    assert "got an answer of 100,001 bytes or more" in str(error)


def test_what_is_counted_is_one_answer_of_a_connection_not_all(ask: Ask) -> None:
    content = head(60_000) + bytes(60_000)
    with service(says(content)) as (url, seen):
        found = ask(url, *repeat(lambda c: c.request("GET", "/"), 5), most_answer_bytes=MOST)
    assert [len(body) for body, _ in found] == [60_000] * 5
    assert len(seen) == 5


def test_an_error_is_read_with_the_least_that_a_client_may_take(ask: Ask) -> None:
    content = b'{"error": "%b"}' % (b"x" * 60_000)
    with service(says_and_closes(head(len(content), status="503 Busy") + content)) as (url, _):
        [error] = ask(url, recommend, most_answer_bytes=65_536)
    assert isinstance(error, BusyError)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("most", [0, 65_535, -1, None, 1e6, "1", True])
def test_a_size_that_is_none_is_refused(kind: Any, most: Any) -> None:
    with pytest.raises(ConfigError, match=r"most_answer_bytes: got .*, expected a whole number from 65,536") as caught:
        kind("http://127.0.0.1:9", most_answer_bytes=most)
    assert f"got {most!r}" in str(caught.value)


def test_small_chunks_take_no_more_memory_than_their_bytes() -> None:
    reading, part = Reading("GET", 1 << 18), b"2\r\nab\r\n" * 1000

    def feed() -> None:
        reading.feed(CHUNKED)
        while True:
            reading.feed(part)

    tracemalloc.start()
    try:
        with pytest.raises(AnswerSizeError):
            feed()
        assert tracemalloc.get_traced_memory()[1] < 1 << 18
    finally:
        tracemalloc.stop()
