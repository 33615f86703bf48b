"""Both clients: the same answers, kept connections, errors by kind, and what they send again and what not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
import shop

from bedplate import AsyncClient, Client
from bedplate.client import target
from bedplate.client.errors import (
    BusyError,
    FailedError,
    LateError,
    RefusedError,
    UnauthorizedError,
    UnreachableError,
)
from bedplate.client.target import TIMEOUT_HEADER
from bedplate.client.wire import Call as Asked
from bedplate.errors import BedplateError, RequestError, StoreError
from bedplate.http.message import Request, Response, error_response


def test_the_clients_give_the_same_answers_from_many_threads_and_tasks(server: Any) -> None:
    async def all_calls() -> list[Any]:
        async with AsyncClient(server.url) as client:
            assert await client.ready()
            answers = await asyncio.gather(*(client.recommend(customer=i, time=shop.NOW) for i in range(8)))
            rest = [
                await client.rank(customer=3, candidates=["P01", "P02"], time=shop.NOW),
                await client.embed(customer=3, time=shop.NOW),
                await client.similar("P03", count=4),
                (await client.table("recommend", customer=3, time=shop.NOW)).to_dicts(),
                (await client.infer("towers", {"request_dense": dense}))["query"].tolist(),
                await client.describe(),
                (await client.request("GET", "/v2/models/towers"))[0],
            ]
            assert len(client._connections.idle) == 8  # all at once, each on its own, and kept
            return [*answers, *rest]

    with Client(server.url) as client, ThreadPoolExecutor(4) as pool:
        dense = np.zeros((1, _width(client)), np.float32)
        answers = list(pool.map(lambda i: client.recommend(customer=i, time=shop.NOW), range(8)))
        rest = [
            client.rank(customer=3, candidates=pl.Series(["P01", "P02"]), time=shop.NOW),
            client.embed(customer=3, time=shop.NOW),
            client.similar("P03", count=4),
            client.table("recommend", customer=3, time=shop.NOW).to_dicts(),
            client.infer("towers", {"request_dense": dense})["query"].tolist(),
            client.describe(),
            client.request("GET", "/v2/models/towers")[0],
        ]
        assert {"models", "features"} <= rest[-2].keys()
        assert 1 <= len(client._connections.idle) <= 5
        scored = client.table("rank", customer=3, candidates=["P01", "P02"], time=shop.NOW)
        assert scored["score"].to_list() == pytest.approx(list(rest[0].scores))
    assert asyncio.run(all_calls()) == [*answers, *rest]


@pytest.mark.parametrize("kind", [np.array, pl.Series, list])
def test_keys_and_times_of_numpy_and_polars_are_taken(server: Any, kind: Any) -> None:
    keys, time = ["P01", "P02"], np.datetime64(shop.NOW, "us")

    async def asked() -> Any:
        async with AsyncClient(server.url) as client:
            return await client.rank(customer=np.int64(3), candidates=kind(keys), time=time.astype("datetime64[ns]"))

    with Client(server.url) as client:
        expected = client.rank(customer=3, candidates=keys, time=shop.NOW)
        assert client.rank(customer=np.int32(3), candidates=kind(keys), time=time) == expected
        assert asyncio.run(asked()) == expected
        table = client.table("rank", customer=np.int64(3), candidates=kind(keys), time=time)
        assert table["score"].to_list() == pytest.approx(list(expected.scores))
        few = client.recommend(customer=np.uint8(3), count=np.int64(4), exclude=kind(keys), time=shop.NOW)
        assert few == client.recommend(customer=3, count=4, exclude=keys, time=shop.NOW)
        assert client.embed(items=kind(keys)) == client.embed(items=keys)
        assert client.similar(np.str_("P03"), count=4) == client.similar("P03", count=4)
        assert client.rank(customer=3, candidates=[np.str_(k) for k in keys], time=shop.NOW) == expected


def test_values_that_no_request_holds_are_refused_here() -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(RequestError, match="type object, expected what JSON"):
        client.recommend(customer=object())


def _width(client: Client) -> int:
    shown = msgspec.json.decode(client.request("GET", "/v2/models/towers")[0])
    return int(shown["inputs"][0]["shape"][1])


class Scripted:
    """Answers what it is told to, in turn."""

    def __init__(self) -> None:
        self.answers: list[Response | threading.Event] = []
        self.asked: list[Request] = []

    def handle(self, request: Request) -> Response:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, threading.Event):
            answer.wait(30)
            return Response(200, b"{}")
        return answer


@pytest.fixture
def scripted() -> Iterator[tuple[Scripted, str]]:
    script = Scripted()
    with shop.running(script.handle) as server:
        yield script, server.url


Call = Callable[..., Any]
WELL = Response(200, b'{"ids": [], "scores": [], "models": {}, "time": 1}')


def _sync(url: str, **options: Any) -> Any:
    with Client(url, **options) as client:
        return client.recommend(customer=1)


def _async(url: str, **options: Any) -> Any:
    async def call() -> Any:
        async with AsyncClient(url, **options) as client:
            return await client.recommend(customer=1)

    return asyncio.run(call())


@pytest.fixture(params=[_sync, _async], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    return request.param


@pytest.mark.parametrize(
    ("status", "kind", "base"),
    [
        (400, RefusedError, RequestError),
        (404, RefusedError, RequestError),
        (401, UnauthorizedError, RequestError),
        (403, UnauthorizedError, RequestError),
        (409, RefusedError, RequestError),
        (429, BusyError, StoreError),
        (500, FailedError, StoreError),
        (503, BusyError, StoreError),
        (504, LateError, StoreError),
    ],
)
def test_an_error_is_of_its_kind_and_not_sent_again(
    scripted: tuple[Scripted, str], call: Call, status: int, kind: type[BedplateError], base: type[BedplateError]
) -> None:
    script, url = scripted
    body = error_response(status, "so it is", where="$.customer", hint="do that").body
    script.answers, script.asked = [Response(status, body)], []  # without a time after which to ask again
    with pytest.raises(kind, match=f"{status}: so it is") as caught:
        call(url)
    assert isinstance(caught.value, base)
    assert (caught.value.where, caught.value.hint) == ("$.customer", "do that")
    assert len(script.asked) == 1


def test_a_busy_service_is_asked_again_when_it_says_so(scripted: tuple[Scripted, str], call: Call) -> None:
    script, url = scripted
    busy = Response(503, b'{"error": "busy"}', headers=((b"Retry-After", b"0"),))
    script.answers, script.asked = [busy, WELL], []
    assert call(url, token="a-token-of-the-team").time == 1
    assert [r.headers[b"authorization"] for r in script.asked] == [b"Bearer a-token-of-the-team"] * 2
    assert 0 < int(script.asked[0].headers[TIMEOUT_HEADER.lower().encode()]) <= 30_000
    script.answers, script.asked = [busy, busy], []
    with pytest.raises(BusyError) as caught:
        call(url)
    assert caught.value.retry_after == 0.0
    script.answers = [busy]
    with pytest.raises(BusyError):
        call(url, retries=0)
    script.answers = [Response(429, b"{}", headers=((b"Retry-After", b"3600"),))]
    with pytest.raises(BusyError):
        call(url)


def test_a_late_answer_is_an_error_and_not_asked_for_again(scripted: tuple[Scripted, str], call: Call) -> None:
    script, url = scripted
    event = threading.Event()
    script.answers, script.asked = [event], []
    threading.Timer(0.6, event.set).start()
    with pytest.raises(LateError, match=r"no answer in 0.3 s"):
        call(url, timeout=0.3)
    assert len(script.asked) == 1
    event.wait(5)


def test_any_request_is_sent_as_it_is_and_what_it_brings_is_given_back(scripted: tuple[Scripted, str]) -> None:
    script, url = scripted
    found = Response(200, b"what it says", headers=((b"X-Kind", b"a"),))
    refused = error_response(404, "no such path")

    async def asynchronous() -> tuple[bytes, Any]:
        async with AsyncClient(url) as client:
            with pytest.raises(RefusedError, match="404: no such path"):
                await client.request("GET", "/other")
            return await client.request("POST", "/some?a=1", b"all of it", {"X-Own": "b"})

    script.answers, script.asked = [refused, found, refused, found], []
    with Client(url) as client:
        with pytest.raises(RefusedError, match="404: no such path"):
            client.request("GET", "/other")
        answers = [client.request("POST", "/some?a=1", b"all of it", {"X-Own": "b"}), asyncio.run(asynchronous())]
    assert [(body, headers["x-kind"]) for body, headers in answers] == [(b"what it says", "a")] * 2
    seen = [(r.method, r.path, r.body, r.headers.get(b"x-own")) for r in script.asked]
    assert seen == [("GET", "/other", b"", None), ("POST", "/some", b"all of it", b"b")] * 2


def test_nobody_there_is_unreachable(call: Call) -> None:
    with pytest.raises(UnreachableError, match="no answer"):
        call("http://127.0.0.1:9")


def test_connections_of_a_burst_are_closed_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "MOST_IDLE", 3)
    came: list[int] = []

    async def together() -> Response:
        """Answers nobody before ten ask at once."""
        came.append(1)
        while len(came) % 10:
            await asyncio.sleep(0.001)
        return Response(200, b"{}")

    async def ask(url: str) -> None:
        async with AsyncClient(url, timeout=60.0) as client:
            await asyncio.gather(*(client.call(Asked("GET", "/")) for _ in range(10)))
            await left(3)

    async def left(count: int) -> None:
        for _ in range(6000):
            if server.connections == count:
                return
            await asyncio.sleep(0.01)
        pytest.fail(f"{server.connections} connections are open")

    with shop.running(lambda _: together()) as server:
        asyncio.run(ask(server.url))
        with Client(server.url, timeout=60.0) as client, ThreadPoolExecutor(10) as threads:
            list(threads.map(lambda _: client.describe(), range(10)))
            asyncio.run(left(3))
