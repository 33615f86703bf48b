"""Over real sockets: deadlines, priorities, clients that leave, are slow or too many; and hostile headers."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import shop

from bedplate.http.message import Limits, Request, Response


class Slow:
    """A handler that holds up the loop at `/hold` until it is told to go on, and says what it was asked."""

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.asked: list[str] = []

    def __call__(self, request: Request) -> Response:
        self.asked.append(request.path)
        if request.path == "/hold":
            self.entered.set()
            assert self.go_on.wait(20)
        return Response(200, json.dumps(request.path).encode())


class Client:
    """A connection."""

    def __init__(self, server: Any) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=20)

    def ask(self, path: str, **headers: str) -> None:
        lines = [f"POST {path} HTTP/1.1", "Host: t", "Content-Length: 0"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def status(self) -> int:
        self.answer = self.socket.recv(4096)
        return int(self.answer.split()[1])


@contextmanager
def held(slow: Slow, **limits: Any) -> Iterator[tuple[Any, Client]]:
    """A server that is at work on one request meanwhile."""
    with shop.running(slow, limits=Limits(**limits)) as server:
        first = Client(server)
        first.ask("/hold")
        assert slow.entered.wait(20)
        try:
            yield server, first
        finally:
            slow.go_on.set()
            first.socket.close()


def test_what_came_too_late_is_not_worked_on() -> None:
    slow = Slow()
    with held(slow) as (server, first):
        clients = [Client(server) for _ in range(4)]
        clients[0].ask("/late", X_Request_Timeout_Ms="50")
        clients[1].ask("/late", grpc_timeout="50m")
        clients[2].ask("/in-time", X_Request_Timeout_Ms="20000")
        clients[3].ask("/patient")
        time.sleep(0.2)
        slow.go_on.set()
        assert [c.status() for c in (first, *clients)] == [200, 504, 504, 200, 200]
        assert b"the deadline had passed" in clients[0].answer
        for client in clients:
            client.socket.close()
    assert sorted(slow.asked) == ["/hold", "/in-time", "/patient"]


@pytest.mark.parametrize(
    "headers",
    [
        {"X_Request_Timeout_Ms": "soon"},
        {"X_Request_Timeout_Ms": "-1"},
        {"X_Request_Timeout_Ms": "9" * 400},
        {"grpc_timeout": "50"},
        {"grpc_timeout": "m"},
        {"grpc_timeout": "123456789S"},
        {"X_Request_Priority": "highest"},
        {"X_Request_Priority": "\xff"},
    ],
)
def test_headers_that_mean_nothing_are_a_400(headers: dict[str, str]) -> None:
    with shop.running(Slow()) as server:
        client = Client(server)
        lines = "".join(f"{n.replace('_', '-')}: {v}\r\n" for n, v in headers.items())
        client.socket.sendall(f"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n{lines}\r\n".encode("latin-1"))
        assert client.status() == 400
        assert next(iter(headers)).replace("_", "-").lower().encode() in client.answer
        client.ask("/next")
        assert client.status() == 200
        client.socket.close()


def test_the_high_are_answered_before_the_low_that_came_first() -> None:
    slow = Slow()
    with held(slow) as (server, _):
        clients = [Client(server) for _ in range(3)]
        for client, priority in zip(clients, ("low", "normal", "high"), strict=True):
            client.ask(f"/{priority}", X_Request_Priority=priority)
        time.sleep(0.1)
        slow.go_on.set()
        assert {c.status() for c in clients} == {200}
        for client in clients:
            client.socket.close()
    assert slow.asked == ["/hold", "/high", "/normal", "/low"]


def test_those_that_leave_while_they_wait_are_not_worked_on() -> None:
    """A reset is certain; an end of the sending side may be a half-closed connection, which is answered last."""
    slow = Slow()
    with held(slow) as (server, _):
        gone, closed, stays = Client(server), Client(server), Client(server)
        gone.ask("/gone")
        closed.ask("/half-closed")
        time.sleep(0.05)
        gone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        gone.socket.close()
        closed.socket.shutdown(socket.SHUT_WR)
        stays.ask("/stays")
        time.sleep(0.05)
        slow.go_on.set()
        assert stays.status() == 200
        assert closed.status() == 200
        closed.socket.close()
        stays.socket.close()
    assert slow.asked == ["/hold", "/stays", "/half-closed"]


def test_one_client_does_not_take_it_all() -> None:
    slow = Slow()
    with held(slow, client_requests=2) as (server, _):
        clients = [Client(server) for _ in range(3)]
        for client in clients:
            client.ask("/x")
        time.sleep(0.1)
        slow.go_on.set()
        assert sorted(c.status() for c in clients) == [200, 200, 429]
        for client in clients:
            client.socket.close()


def test_clients_that_send_or_read_by_the_byte_hold_up_nobody() -> None:
    """A byte gives no more time: what counts is when the request began."""
    with shop.running(Slow(), limits=Limits(request_seconds=3600.0)) as server:
        trickling = [Client(server) for _ in range(50)]
        for client in trickling:
            client.socket.sendall(b"POST /x HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\n")
        deadlines: list[dict[Any, float]] = []
        for _ in range(10):
            for client in trickling:
                client.socket.sendall(b"x")
            other = Client(server)
            other.ask("/quick")  # the loop has read what came before it when it is answered
            assert other.status() == 200
            other.socket.close()
            deadlines.append({c: c.deadline for c in list(server._hub.connections) if c._parser.in_message})
        assert len(deadlines[-1]) == 50
        assert deadlines[0].items() <= deadlines[-1].items()
        for connection in deadlines[-1]:
            connection.deadline = 0.0  # the hour is over
        assert {c.status() for c in trickling} == {408}
        for client in trickling:
            client.socket.close()


def test_connections_that_nobody_uses_any_more_are_closed() -> None:
    """A peer that vanished without a word, as when its machine loses power, sends nothing for ever."""
    with shop.running(Slow(), limits=Limits(idle_seconds=0.5)) as server:
        silent = [Client(server) for _ in range(20)]
        silent[0].ask("/x")
        assert silent[0].status() == 200
        time.sleep(2.5)
        assert server.connections == 0
        for client in silent:
            client.socket.close()


def test_without_descriptors_those_that_are_connected_are_served() -> None:
    slow = Slow()
    with shop.running(slow) as server:
        kept = Client(server)
        kept.ask("/before")
        assert kept.status() == 200
        refuse = threading.Event()
        refuse.set()

        class Full:
            """A socket of a process that has no descriptor left."""

            def __init__(self, inner: Any) -> None:
                self.inner = inner

            def accept(self) -> Any:
                if refuse.is_set():
                    raise OSError(24, "Too many open files")
                return self.inner.accept()

            def __getattr__(self, name: str) -> Any:
                return getattr(self.inner, name)

        server._listener._socket = Full(server._listener._socket)
        late = Client(server)
        late.ask("/after")
        kept.ask("/meanwhile")
        assert kept.status() == 200
        refuse.clear()
        assert late.status() == 200
        kept.socket.close()
        late.socket.close()
    assert slow.asked == ["/before", "/meanwhile", "/after"]
