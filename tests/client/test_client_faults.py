"""Both clients against services that answer slowly, by halves, or in unusual ways; and what goes over a connection."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import shop
from echo import Echo, values_of
from scripted import WELL, Script, chunked, drips, head, says, says_and_closes, service

from bedplate import AsyncClient, Client
from bedplate.client.calls import infer_call
from bedplate.client.errors import (
    BusyError,
    FailedError,
    LateError,
    RefusedError,
    UnreachableError,
    failure,
)
from bedplate.client.target import Place, timeout_header
from bedplate.client.wire import Call
from bedplate.errors import BedplateError, RequestError
from bedplate.http.door import TIMEOUT, timeout_of
from bedplate.http.message import Request, Response
from bedplate.inference.model import Model
from bedplate.inference.repository import Repository
from bedplate.serving.service_app import App


def _sync(url: str, times: int = 1, **options: Any) -> list[Any]:
    with Client(url, **options) as client:
        return [client.recommend(customer=1) for _ in range(times)]


def _async(url: str, times: int = 1, **options: Any) -> list[Any]:
    async def calls() -> list[Any]:
        async with AsyncClient(url, **options) as client:
            return [await client.recommend(customer=1) for _ in range(times)]

    return asyncio.run(calls())


@pytest.fixture(params=[_sync, _async], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Callable[..., list[Any]]:
    return request.param


@pytest.mark.parametrize(
    "script", [drips(head(len(WELL)) + WELL), says(head(len(WELL)), WELL[:5])], ids=["drips", "stops"]
)
def test_a_call_ends_by_its_timeout_however_the_answer_comes(call: Callable[..., Any], script: Script) -> None:
    with service(script) as (url, seen):
        begin = time.monotonic()
        with pytest.raises(LateError, match=r"no answer in 0.4 s"):
            call(url, timeout=0.4)
        assert time.monotonic() - begin < 20
    assert len(seen) == 1


def test_an_answer_in_many_parts_is_one_answer(call: Callable[..., Any]) -> None:
    whole = head(len(WELL)) + WELL
    with service(says(*[whole[i : i + 7] for i in range(0, len(whole), 7)])) as (url, seen):
        assert [answer.time for answer in call(url, times=3)] == [1, 1, 1]
    assert len(seen) == 3  # on the one connection that there was


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b"0\r\nX-Took: 3\r\nX-By: me\r\n\r\n"], ids=["plain", "trailers"])
def test_an_answer_in_chunks_as_from_a_proxy_is_an_answer(call: Callable[..., Any], end: bytes) -> None:
    content = chunked(WELL[:1], WELL[1:30], WELL[30:], end=end)
    with service(says(content[:60], content[60:])) as (url, seen):
        assert [answer.time for answer in call(url, times=2)] == [1, 1]
    assert len(seen) == 2


@pytest.mark.parametrize("end", [b"", b"zz\r\n", b"5\r\nabc", b"-2\r\n"], ids=["ends", "no number", "cut", "negative"])
def test_chunks_that_are_none_are_unreachable(call: Callable[..., Any], end: bytes) -> None:
    with service(says_and_closes(chunked(WELL, end=end))) as (url, _), pytest.raises(UnreachableError):
        call(url, timeout=5)


def test_a_connection_that_the_service_will_close_is_not_used_again(call: Callable[..., Any]) -> None:
    closing = says_and_closes(head(len(WELL), "Connection: close"), WELL)
    with service(closing, says(head(len(WELL)), WELL)) as (url, seen):
        assert len(call(url, times=2)) == 2
    assert len(seen) == 2


def test_a_kept_connection_that_breaks_off_is_replaced_once(call: Callable[..., Any]) -> None:
    turns = iter([[head(len(WELL)), WELL], [head(len(WELL)), WELL[:9]]])

    def once(connection: socket.socket) -> None:
        parts = next(turns)
        says(*parts)(connection)
        if parts[1] != WELL:
            connection.shutdown(socket.SHUT_RDWR)

    with service(once, says(head(len(WELL)), WELL)) as (url, seen):
        assert len(call(url, times=2)) == 2
    assert len(seen) == 3


@pytest.mark.parametrize("content", [b"", b"no HTTP at all\r\n\r\n"], ids=["nothing", "nonsense"])
def test_an_answer_that_is_none_on_a_new_connection_is_unreachable(call: Callable[..., Any], content: bytes) -> None:
    with service(says_and_closes(content)) as (url, seen):
        with pytest.raises(UnreachableError, match="no answer") as caught:
            call(url, timeout=5)
        assert caught.value.where == url
    assert len(seen) == 1


def resets(content: bytes) -> Script:
    def script(connection: socket.socket) -> None:
        connection.sendall(content)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    return script


CUT = {
    "status": b"HTTP/1.1 2",
    "head": b"HTTP/1.1 200 OK\r\nContent-",
    "body": head(100) + b"half",
    "chunk": chunked(WELL, end=b"5\r\nabc"),
    "chunks": chunked(WELL, end=b""),
}


@pytest.mark.parametrize("content", CUT.values(), ids=CUT)
@pytest.mark.parametrize(
    ("ends", "why"),
    [(says_and_closes, "the connection ended"), (resets, r"\[Errno 104\] Connection reset by peer")],
    ids=["closed", "reset"],
)
def test_an_answer_that_is_cut_says_after_how_many_bytes(
    call: Callable[..., Any], content: bytes, ends: Callable[[bytes], Script], why: str
) -> None:
    with service(ends(content)) as (url, seen):
        with pytest.raises(UnreachableError, match=f"the answer was cut after {len(content)} bytes: {why}") as caught:
            call(url, timeout=20)
        assert caught.value.where == url
    assert "is the service running?" not in str(caught.value)
    assert "no answer" not in str(caught.value)
    assert len(seen) == 1


def test_a_place_with_an_address_of_ipv6_is_named_in_brackets(call: Callable[..., Any]) -> None:
    with service(says(head(len(WELL)), WELL), family=socket.AF_INET6) as (url, seen):
        call(url)
    assert f"host: {url.removeprefix('http://')}".encode() in seen[0].lower()
    assert Place.of("http://[::1]").authority == "[::1]"  # as a proxy that looks for the name takes it
    assert Place.of("https://a.example:443/").authority == "a.example"
    assert [Place.of(f"{url}.example:{port}").authority for url, port in (("https://a", 80), ("http://a", 443))] == [
        "a.example:80",
        "a.example:443",
    ]


def test_the_time_left_is_said_anew_with_each_try(call: Callable[..., Any]) -> None:
    busy = b'{"error": "busy"}'
    answers = iter([head(len(busy), "Retry-After: 0.2", status="503 Busy") + busy, head(len(WELL)) + WELL])
    with service(lambda connection: connection.sendall(next(answers))) as (url, seen):
        call(url, timeout=60.0)
    first, second = (int(r.lower().partition(b"x-request-timeout-ms: ")[2].split(b"\r\n")[0]) for r in seen)
    assert 40_000 < first <= 60_000
    assert 20_000 < second <= first - 150


def test_the_longest_and_the_shortest_timeout_are_ones_that_a_service_reads(call: Callable[..., Any]) -> None:
    def read(request: Request) -> Response:
        assert timeout_of(request.headers) > 899_000
        return Response(200, WELL)

    with shop.running(read) as server:
        assert call(server.url, timeout=900_000.0)
    assert timeout_of({TIMEOUT: timeout_header(1e-9).encode()}) == 0.001


def test_a_wait_that_would_go_beyond_the_timeout_is_not_begun(call: Callable[..., Any]) -> None:
    refusal = head(2, "Retry-After: 60", status="429 Too Many Requests") + b"{}"
    with service(says(refusal)) as (url, seen):
        begin = time.monotonic()
        with pytest.raises(BusyError) as caught:
            call(url, timeout=30.0)
        assert time.monotonic() - begin < 20
    assert (caught.value.retry_after, len(seen)) == (60.0, 1)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(405, RefusedError), (408, RefusedError), (413, RefusedError), (415, RefusedError), (502, FailedError)],
)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>\r\n  <b>no</b>\n</html>\n", "<html> <b>no</b> </html>"),
        (b"[1]", "[1]"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"a\x1b[31m\x00", "a\ufffd[31m\ufffd"),
        (b"", "the body is empty"),
        (b" \n", "the body is empty"),
        (b"{}", "{}"),
        (b'{"detail": "no\xff"}', '{"detail": "no\ufffd"}'),
        (b'{"error": "no\xff"}', '{"error": "no\ufffd"}'),
        (b'{"error": 7, "where": 1, "hint": []}', '{"error": 7, "where": 1, "hint": []}'),
        (b'{"error": "", "message": "no"}', '{"error": "", "message": "no"}'),
        pytest.param(b'{"a":' + b"[" * 100_000, '{"a":' + "[" * 195 + "...", id="nested"),
        pytest.param(b"x" * 201, "x" * 200 + "...", id="long"),
        pytest.param(b"x" * 200, "x" * 200, id="as long as is shown"),
    ],
)
def test_whatever_the_body_of_an_error_is_it_is_of_its_kind_and_says_how_the_body_begins(
    status: int, kind: type[BedplateError], content: bytes, said: str
) -> None:
    error = failure(status, content, {})
    assert isinstance(error, kind)
    assert error.status == status  # type: ignore[attr-defined]
    assert str(error) == f"{status}: {said}"


@pytest.mark.parametrize("content", [b"upstream is gone", b'{"detail": "upstream is gone"}'])
def test_an_error_of_a_proxy_says_what_the_proxy_says(ask: Callable[..., Any], content: bytes) -> None:
    calls = [lambda c: c.infer("m", {}), lambda c: c.recommend(customer=1), lambda c: c.table("recommend", customer=1)]
    with service(says(head(len(content), status="503 Unavailable") + content)) as (url, _):
        errors = ask(url, *calls)
    assert [(type(error), str(error)) for error in errors] == [(BusyError, f"503: {content.decode()}")] * 3


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("Fri, 27 Nov 2026 00:00:00 GMT", None),
        (None, None),
        ("nan", None),
        ("1e999", None),
    ],
)
def test_retry_after_is_seconds_or_nothing(said: str | None, expected: float | None) -> None:
    for status in (429, 503):
        error = failure(status, b"{}", {} if said is None else {"retry-after": said})
        assert isinstance(error, BusyError)
        assert error.retry_after == expected


def test_a_call_that_was_given_up_leaves_nothing_for_the_next() -> None:
    def script(connection: socket.socket) -> None:
        time.sleep(0.3)
        connection.sendall(head(2) + b"{}")

    async def calls(url: str) -> None:
        async with AsyncClient(url) as client:
            task = asyncio.ensure_future(client.recommend(customer=1))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await client.recommend(customer=2)).time == 1

    with service(script, says(head(len(WELL)), WELL)) as (url, seen):
        asyncio.run(calls(url))
    assert len(seen) == 2


def test_one_connection_serves_calls_one_after_another_and_is_closed_with_the_client(
    call: Callable[..., Any],
) -> None:
    peers: list[Any] = []

    def script(connection: socket.socket) -> None:
        peers.append(connection.getpeername())
        connection.sendall(head(len(WELL)) + WELL)

    with service(script) as (url, seen):
        call(url, times=20)  # and the service sees the end of the connection, or it would wait for more
    assert (len(set(peers)), len(seen)) == (1, 20)


def test_a_closed_client_opens_connections_again() -> None:
    with service(*[says(head(len(WELL)), WELL)] * 2) as (url, seen):
        client = Client(url)
        client.recommend(customer=1)
        client.close()
        client.close()
        client.recommend(customer=1)
        client.close()
    assert len(seen) == 2


@pytest.fixture(scope="module")
def echoing(pipeline: Any) -> Iterator[str]:
    """A service with a model that gives back one tensor of every datatype; each has a version."""
    repository = Repository()
    dtypes = ["object", "bfloat16", "bool", "float16", "uint64", "float64"]
    repository.serve([Model(Echo(dtype), "echo model", str(i)) for i, dtype in enumerate(dtypes, 1)])
    app = App(repository)
    app.open(pipeline)
    with shop.running(app.handle) as server:
        yield server.url


@pytest.mark.parametrize(("version", "dtype"), list(enumerate(["object", "bfloat16", "bool", "float16", "uint64"], 1)))
def test_infer_brings_and_takes_every_datatype(echoing: str, version: int, dtype: str) -> None:
    values = values_of(dtype)
    given = values.astype(ml_dtypes.bfloat16) if dtype == "bfloat16" else values
    with Client(echoing) as client:
        found = client.infer("echo model", {f"in_{dtype}": given}, version=str(version))
    assert found.keys() == {f"out_{dtype}"}
    assert found[f"out_{dtype}"].tolist() == values.tolist()
    transposed = np.asarray(values.T.copy().T, order="F")  # another order in memory is the same tensor
    assert infer_call("m", {"x": transposed}, None, []).body == infer_call("m", {"x": values}, None, []).body


def test_infer_sends_bytes_of_one_order_and_no_dtype_that_is_none() -> None:
    big, little = np.array([1, 2], ">i4"), np.array([1, 2], "<i4")
    assert infer_call("m", {"x": big}, None, []).body == infer_call("m", {"x": little}, None, []).body
    for wrong in (np.array(["a"]), np.array([1j]), np.array([0], "datetime64[s]")):
        with pytest.raises(RequestError, match=r"'x' is .*, expected one of"):
            infer_call("m", {"x": wrong}, None, [])


def test_names_in_paths_are_quoted() -> None:
    call = infer_call("a/b ü", {}, "1/2", [])
    assert call.path == "/v2/models/a%2Fb%20%C3%BC/versions/1%2F2/infer"
    assert isinstance(call, Call)


def test_an_unknown_model_is_refused_with_what_there_is(echoing: str) -> None:
    with Client(echoing) as client, pytest.raises(RefusedError, match="404: no model 'ecco model'") as caught:
        client.infer("ecco model", {"x": np.zeros(1, np.float32)})
    assert caught.value.status == 404
    assert "echo model" in str(caught.value)


def test_where_a_tensor_is_wrong_is_said_once(echoing: str) -> None:
    with Client(echoing) as client, pytest.raises(RefusedError) as caught:
        client.infer("echo model", {"in_float64": np.zeros((3, 3))}, version="6")
    assert caught.value.where == "input 'in_float64'"
    assert str(caught.value).count("in_float64") == 1


def test_requests_are_what_the_calls_say() -> None:
    with service(says(head(len(WELL)), WELL)) as (url, seen), Client(url, token="a-token-of-the-team") as client:
        client.recommend(customer=1, count=3)
        with pytest.raises(FailedError):
            client.rank(candidates=["P01"], customer=2)  # the answer has none
    start, _, body = seen[0].partition(b"\r\n\r\n")
    assert start.startswith(b"POST /recommend HTTP/1.1\r\n")
    assert b"authorization: bearer a-token-of-the-team" in start.lower()
    assert json.loads(body) == {"customer": 1, "count": 3}
    assert json.loads(seen[1].partition(b"\r\n\r\n")[2]) == {"customer": 2, "candidates": ["P01"]}


NESTED = b'{"other":' + b"[" * 100_000


@pytest.mark.parametrize(
    "content", [b"<html>welcome</html>", b"[]", b'{"ids": 7}', b"", pytest.param(NESTED, id="nested")]
)
def test_an_answer_of_another_kind_is_a_failure_of_the_service(content: bytes) -> None:
    async def asynchronous(url: str) -> None:
        async with AsyncClient(url) as client:
            with pytest.raises(FailedError, match="can't be read"):
                await client.similar("P03")

    with shop.running(lambda _: Response(200, content)) as server, Client(server.url) as client:
        asyncio.run(asynchronous(server.url))
        for call in (
            lambda: client.recommend(customer=1),
            lambda: client.table("recommend", customer=1),
            lambda: client.infer("m", {}),
        ):
            with pytest.raises(FailedError, match="200: the answer can't be read") as caught:
                call()
            assert caught.value.status == 200


@pytest.mark.parametrize(
    ("ids", "scores", "said"),
    [
        (["P02", "P01"], [0.5, 0.25], r"got scores of \['P02', 'P01'\], expected those of \['P01', 'P02'\]"),
        (["P01"], [0.5], r"got scores of \['P01'\], expected those of \['P01', 'P02'\]"),
        ([], [], r"got scores of \[\], expected"),
        (["P01", "P02"], [0.5], "got 1 scores, expected 2"),
    ],
)
def test_scores_of_others_than_the_candidates_are_a_failure(
    ask: Callable[..., Any], ids: list[str], scores: list[float], said: str
) -> None:
    content = json.dumps({"ids": ids, "scores": scores, "models": {}, "time": 1}).encode()
    with service(says(head(len(content)) + content)) as (url, _):
        [error] = ask(url, lambda c: c.rank(customer=1, candidates=["P01", "P02"]))
    with pytest.raises(FailedError, match=f"200: the answer can't be read: {said}"):
        raise error


def test_keys_that_are_sent_as_texts_are_those_of_the_answer(ask: Callable[..., Any]) -> None:
    key = uuid.UUID(int=5)
    content = json.dumps({"ids": [str(key)], "scores": [0.5], "models": {}, "time": 1}).encode()
    with service(says(head(len(content)) + content)) as (url, _):
        [answer] = ask(url, lambda c: c.rank(customer=1, candidates=[key]))
    assert answer.ids == [str(key)]


def test_ready_is_false_where_nobody_answers_in_time_and_true_otherwise() -> None:
    def waits(connection: socket.socket) -> None:
        time.sleep(0.5)

    async def ready(url: str, timeout: float) -> bool:
        async with AsyncClient(url, timeout=timeout) as client:
            return await client.ready()

    with service(waits, waits) as (url, _):
        with Client(url, timeout=0.1) as client:
            assert client.ready() is False
        assert asyncio.run(ready(url, 0.1)) is False
    assert Client("http://127.0.0.1:9").ready() is False
    assert asyncio.run(ready("http://127.0.0.1:9", 1.0)) is False
    with shop.running(lambda _: Response(503, b"{}")) as loading, Client(loading.url) as client:
        assert client.ready() is False
    with shop.running(_says_its_path) as server, Client(server.url) as client:
        assert client.ready() is True
        assert client.describe() == {"path": "/"}


def _says_its_path(request: Request) -> Response:
    return Response(200, json.dumps({"path": request.path}).encode())
