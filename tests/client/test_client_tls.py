"""Both clients over TLS: connections are kept as plain ones are, and what is wrong with it is said."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import shop
from scripted import WELL, asked, head

from bedplate import AsyncClient
from bedplate.client import async_connections
from bedplate.client.errors import UnreachableError
from bedplate.http.message import Response
from bedplate.http.tls import Certificate

HERE = Path(__file__).parents[1] / "http" / "certificates"
Ask = Callable[..., list[Any]]


def recommend(client: Any) -> Any:
    return client.recommend(customer=1)


@pytest.fixture
def secure() -> Iterator[str]:
    """The URL of a service with a certificate."""
    certificate = Certificate(HERE / "first.pem", HERE / "first.key")
    with shop.running(lambda _: Response(200, WELL), certificate=certificate) as server:
        yield f"https://localhost:{server.port}"


def test_calls_by_tls_share_a_connection(ask: Ask, secure: str, tmp_path: Path) -> None:
    trusted = ssl.create_default_context(cafile=str(HERE / "first.pem"))
    trusted.keylog_filename = str(tmp_path / "keys")  # gets lines of each connection that is made
    answers = ask(secure, *[recommend] * 5, tls=trusted, timeout=20)
    assert [answer.time for answer in answers] == [1] * 5
    lines = [line.split() for line in (tmp_path / "keys").read_text().splitlines() if not line.startswith("#")]
    assert len({line[1] for line in lines}) == 1


@pytest.mark.parametrize("name", ["second", None])
def test_a_certificate_that_is_not_trusted_is_said(ask: Ask, secure: str, name: str | None) -> None:
    other = ssl.create_default_context(cafile=str(HERE / f"{name}.pem")) if name else None
    [error] = ask(secure, recommend, tls=other, timeout=20)
    with pytest.raises(UnreachableError, match=r"(?s)certificate.*a certificate that 'tls' trusts\?"):
        raise error


def test_a_service_without_tls_that_is_asked_by_it_is_said(ask: Ask) -> None:
    with shop.running(lambda _: Response(200, WELL)) as server:
        [error] = ask(f"https://localhost:{server.port}", recommend, timeout=20)
    with pytest.raises(UnreachableError, match="does the service speak TLS"):
        raise error


@contextmanager
def freezing() -> Iterator[tuple[str, Callable[[], None]]]:
    """A service by TLS that answers once on each connection and then neither reads nor writes.

    Gives its URL, and what waits until the client has ended both of two connections.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(HERE / "first.pem", HERE / "first.key")
    closing, ended = threading.Event(), threading.Semaphore(0)
    meet = threading.Barrier(2)  # both have a request before one is answered

    def answer(plain: socket.socket) -> None:
        with context.wrap_socket(plain, server_side=True) as connection:
            connection.settimeout(20)
            asked(connection)
            meet.wait(20)
            connection.sendall(head(len(WELL)) + WELL)
            closing.wait(20)
            raw = socket.socket(fileno=connection.detach())
            with raw:
                raw.settimeout(20)
                try:
                    while raw.recv(65536):
                        pass
                except ConnectionError:
                    pass
                ended.release()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)

        def accept() -> None:
            threads = [threading.Thread(target=answer, args=[listener.accept()[0]]) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)

        def wait() -> None:
            closing.set()
            assert all(ended.acquire(timeout=20) for _ in range(2))

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"https://localhost:{listener.getsockname()[1]}", wait
        finally:
            closing.set()
            accepting.join(60)
    assert not accepting.is_alive()


@pytest.mark.parametrize("is_cancelled", [False, True], ids=["in its time", "cancelled"])
def test_closing_does_not_wait_for_a_service_that_is_frozen(
    is_cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS ends when both sides have said so, for which asyncio waits half a minute."""
    monkeypatch.setattr(async_connections, "_CLOSING_SECONDS", 60.0 if is_cancelled else 0.1)

    async def calls(url: str, wait_for_ends: Callable[[], None]) -> None:
        client = AsyncClient(url, tls=ssl.create_default_context(cafile=str(HERE / "first.pem")))
        await asyncio.gather(*[client.recommend(customer=1) for _ in range(2)])
        closing = asyncio.ensure_future(client.close())
        if is_cancelled:
            await asyncio.sleep(0)
            closing.cancel()
        ended, _ = await asyncio.wait([closing], timeout=15)
        assert ended
        assert closing.cancelled() == is_cancelled
        await asyncio.to_thread(wait_for_ends)

    with freezing() as (url, wait_for_ends):
        asyncio.run(calls(url, wait_for_ends))
