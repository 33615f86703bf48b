"""One `AsyncClient` over several event loops: each has connections of its own, and what a closed one left is closed."""

from __future__ import annotations

import asyncio
import gc
import json
import ssl
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import shop
import uvloop
from scripted import WELL, head, says, service

from bedplate import AsyncClient
from bedplate.http.message import Request, Response
from bedplate.http.tls import Certificate

HERE = Path(__file__).parents[1] / "http" / "certificates"


@pytest.fixture(autouse=True)
def _open_connections_are_left() -> Iterator[None]:
    """Connections that a loop leaves open are warned of by Python when they are let go."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


def run(make_loop: Callable[[], asyncio.AbstractEventLoop], work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(work)


def echo(request: Request) -> Response:
    time = json.loads(request.body)["customer"]
    return Response(200, WELL.replace(b'"time": 1', b'"time": %d' % time))


async def time(client: AsyncClient, customer: int) -> int:
    return (await client.recommend(customer=customer)).time


loops = pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


@loops
def test_calls_of_another_loop_have_a_new_connection_and_what_the_first_left_is_closed(make_loop: Any) -> None:
    with service(*[says(head(len(WELL)), WELL)] * 3) as (url, seen):  # it takes one when the one before has ended
        client = AsyncClient(url, timeout=8)  # less than it waits for the end of one
        for _ in range(3):
            assert run(make_loop, time(client, 1)) == 1
        run(make_loop, client.close())
    assert len(seen) == 3


@loops
def test_a_call_that_was_under_way_when_its_loop_ended_is_closed_too(make_loop: Any) -> None:
    async def leave(client: AsyncClient) -> None:
        task = asyncio.ensure_future(time(client, 1))
        await asyncio.to_thread(came.wait, 20)
        assert not task.done()

    came = threading.Event()
    with service(lambda _: came.set(), says(head(len(WELL)), WELL)) as (url, seen):
        client = AsyncClient(url, timeout=8)
        loop = make_loop()
        loop.run_until_complete(leave(client))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        assert run(make_loop, time(client, 1)) == 1
        run(make_loop, client.close())
    assert len(seen) == 2


@loops
def test_loops_by_tls_follow_one_another(make_loop: Any) -> None:
    certificate = Certificate(HERE / "first.pem", HERE / "first.key")
    with shop.running(echo, certificate=certificate) as server:
        trusted = ssl.create_default_context(cafile=str(HERE / "first.pem"))
        client = AsyncClient(f"https://localhost:{server.port}", timeout=20, tls=trusted)
        assert [run(make_loop, time(client, customer)) for customer in range(3)] == [0, 1, 2]
        run(make_loop, client.close())


@loops
def test_loops_of_threads_use_a_client_at_once_and_closing_it_closes_what_all_have(make_loop: Any) -> None:
    meet, is_closed = threading.Barrier(2), threading.Event()

    async def no_connections() -> bool:
        while server.connections:  # the test's own timeout ends it
            await asyncio.sleep(0.01)
        return True

    async def calls(first: int) -> list[int]:
        found: list[int] = []
        for customer in range(first, first + 20):
            meet.wait(20)
            found.append(await time(client, customer))
        await asyncio.to_thread(meet.wait, 20)
        if first:
            await asyncio.to_thread(is_closed.wait, 20)
        else:
            assert server.connections == 2
            await client.close()
            assert await asyncio.wait_for(no_connections(), 20)
            is_closed.set()
        found.append(await time(client, first))
        await client.close()
        return found

    with shop.running(echo) as server, ThreadPoolExecutor(2) as threads:
        client = AsyncClient(server.url, timeout=20)
        of_first, of_second = threads.map(lambda first: run(make_loop, calls(first)), [0, 100])
    assert (of_first, of_second) == ([*range(20), 0], [*range(100, 120), 100])
