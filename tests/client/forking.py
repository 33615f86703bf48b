"""Programs that fork while they have a client, each run as `forking.py KIND URL CERTIFICATE`; see `test_client_forks`.

The parent has an idle connection and a call under way when it forks. The child asks, and stays until the parent's
connections have ended. They are programs of their own: libraries of other tests refuse to be forked.
"""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from bedplate import AsyncClient, Client

HELD, BESIDE, FIRST, OF_CHILD, OF_PARENT, WHEN_ENDED = range(6)


def forked(of_child: Callable[[], None]) -> Callable[[], None]:
    """What lets a child end and checks it; the child has done its part, and then waits for that."""
    (done, says_done), (ended, says_end) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        os.close(says_end)
        code = 1
        try:
            of_child()
            os.write(says_done, b"+")
            os.read(ended, 1)
            code = 0
        finally:
            os._exit(code)
    os.close(says_done)
    assert os.read(done, 1) == b"+"

    def end() -> None:
        os.close(says_end)
        assert os.waitpid(child, 0)[1] == 0

    return end


def sync_program(url: str, tls: ssl.SSLContext | None) -> None:
    client, held = Client(url, timeout=25, tls=tls), list[int]()
    assert client.recommend(customer=FIRST).time == FIRST
    thread = threading.Thread(target=lambda: held.append(client.recommend(customer=HELD).time))
    thread.start()
    assert client.recommend(customer=BESIDE).time == BESIDE

    def of_child() -> None:
        assert client.recommend(customer=OF_CHILD).time == OF_CHILD
        client.close()

    end = forked(of_child)
    assert client.recommend(customer=OF_PARENT).time == OF_PARENT
    thread.join()
    assert held == [HELD]
    client.close()
    with Client(url, timeout=25, tls=tls) as other:
        assert other.recommend(customer=WHEN_ENDED).time == WHEN_ENDED
    end()


def async_program(url: str, tls: ssl.SSLContext | None) -> None:
    client, loop = AsyncClient(url, timeout=25, tls=tls), asyncio.new_event_loop()

    async def time(customer: int) -> int:
        return (await client.recommend(customer=customer)).time

    async def first() -> asyncio.Task[int]:
        assert await time(FIRST) == FIRST
        held = asyncio.ensure_future(time(HELD))
        await asyncio.sleep(0)
        assert await time(BESIDE) == BESIDE
        return held

    async def of_child() -> None:
        assert await time(OF_CHILD) == OF_CHILD
        await client.close()

    async def last(held: asyncio.Task[int]) -> None:
        assert await time(OF_PARENT) == OF_PARENT
        assert await held == HELD
        await client.close()
        async with AsyncClient(url, timeout=25, tls=tls) as other:
            assert (await other.recommend(customer=WHEN_ENDED)).time == WHEN_ENDED

    run: Callable[[Coroutine[Any, Any, Any]], Any] = loop.run_until_complete
    held = run(first())
    end = forked(lambda: asyncio.run(of_child()))
    run(last(held))
    loop.close()
    end()


def locked_program(url: str, tls: ssl.SSLContext | None) -> None:
    """Forks while another thread is within the client."""
    client = Client(url, timeout=25, tls=tls)
    assert client.recommend(customer=FIRST).time == FIRST
    is_held, is_forked = threading.Event(), threading.Event()

    def hold() -> None:
        with client._connections._lock:
            is_held.set()
            is_forked.wait(25)

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait(25)
    end = forked(client.close)
    is_forked.set()
    thread.join()
    end()


if __name__ == "__main__":
    programs = {"sync": sync_program, "async": async_program, "locked": locked_program}
    certificate = sys.argv[3]
    programs[sys.argv[1]](sys.argv[2], ssl.create_default_context(cafile=certificate) if certificate else None)
