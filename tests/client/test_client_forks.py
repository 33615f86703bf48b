"""Clients across forks, as of multiprocessing and servers that load before they fork."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import forking
import pytest
from scripted import asked, head

from bedplate.client import forks

HERE = Path(__file__).parents[1] / "http" / "certificates"
CERTIFICATE = HERE / "first.pem"


@contextmanager
def recording(is_secure: bool) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """A service that answers with the customer that was asked for.

    Gives its URL, and the number of the connection and the customer of each request as they came. `HELD` is answered
    when `OF_PARENT` was asked, `BESIDE` when `HELD` was, `WHEN_ENDED` when the connections of the parent have ended.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE, HERE / "first.key")
    came: list[tuple[int, int]] = []
    ended: set[int] = set()
    change = threading.Condition()

    def may_answer(customer: int) -> bool:
        customers = {c for _, c in came}
        ready = {
            forking.HELD: forking.OF_PARENT in customers,
            forking.BESIDE: forking.HELD in customers,
            forking.WHEN_ENDED: {n for n, c in came if c in (forking.HELD, forking.BESIDE)} <= ended,
        }
        return ready.get(customer, True)

    def talk(number: int, plain: socket.socket) -> None:
        with context.wrap_socket(plain, server_side=True) if is_secure else plain as connection:
            connection.settimeout(60)
            while request := asked(connection):
                customer = json.loads(request.partition(b"\r\n\r\n")[2])["customer"]
                with change:
                    came.append((number, customer))
                    change.notify_all()
                    is_right = change.wait_for(lambda c=customer: may_answer(c), 15)
                content = b'{"ids": [], "scores": [], "models": {}, "time": %d}' % (customer if is_right else -1)
                connection.sendall(head(len(content)) + content)
            with change:
                ended.add(number)
                change.notify_all()

    threads: list[threading.Thread] = []

    def accept(listener: socket.socket) -> None:
        try:
            while True:
                arguments = (len(threads), listener.accept()[0])
                threads.append(threading.Thread(target=talk, args=arguments, daemon=True))
                threads[-1].start()
        except OSError:
            return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept, args=[listener])
        accepting.start()
        yield f"http{'s' * is_secure}://localhost:{listener.getsockname()[1]}", came
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join(20)
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_child_has_connections_of_its_own_and_the_parents_are_as_without_it(kind: str, is_secure: bool) -> None:
    with recording(is_secure) as (url, came):
        run(kind, url, is_secure)
    by = {customer: number for number, customer in came}
    assert len(by) == len(came) == 6
    assert {by[forking.FIRST], by[forking.HELD], by[forking.BESIDE]} == {0, 1}
    assert (by[forking.OF_CHILD], by[forking.OF_PARENT], by[forking.WHEN_ENDED]) == (2, by[forking.BESIDE], 3)


def test_a_lock_that_a_thread_of_the_parent_held_is_free_in_the_child() -> None:
    with recording(is_secure=False) as (url, _):
        run("locked", url, is_secure=False)


def run(kind: str, url: str, is_secure: bool) -> None:
    certificate = str(CERTIFICATE) if is_secure else ""
    subprocess.run([sys.executable, forking.__file__, kind, url, certificate], check=True, timeout=120)


def test_what_is_watched_is_let_go_with_its_client() -> None:
    class Watched:
        def after_fork(self) -> None:
            raise AssertionError

    watched = Watched()
    before = len(forks._watched)
    forks.watch(watched)
    assert len(forks._watched) == before + 1
    del watched
    assert len(forks._watched) == before


def test_one_that_can_not_give_up_its_connections_keeps_no_other_from_it() -> None:
    gave_up = list[str]()

    class Watched:
        def __init__(self, name: str) -> None:
            self.name = name

        def after_fork(self) -> None:
            gave_up.append(self.name)
            raise OSError(self.name)

    watched = [Watched("a"), Watched("b")]
    for one in watched:
        forks.watch(one)
    with pytest.raises(ExceptionGroup) as caught:
        forks._give_up()
    assert sorted(gave_up) == ["a", "b"]
    assert len(caught.value.exceptions) == 2
