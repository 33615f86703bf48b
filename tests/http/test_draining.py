"""The end and the beginning of accepting: what waits in the kernel when a server stops, and while it starts."""

from __future__ import annotations

import asyncio
import select
import socket

import pytest
from test_http import Raw, echo, get

from bedplate.http import connection, listening
from bedplate.http.board import DRAINING, READY, STARTING, Board, make_board
from bedplate.http.listening import bind
from bedplate.http.server import Server


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_connections_that_the_kernel_holds_when_the_port_closes_are_answered(loop: str) -> None:
    """They are made, and their requests sent, after the last look at them; nobody can connect from then on."""
    answers, refused = list[tuple[int, bool]](), list[type[OSError]]()
    made: list[Raw] = []

    async def main() -> None:
        server = Server(echo, port=0)
        await server.start()
        port, finish = server.port, server._listener.finish  # type: ignore[union-attr]

        def last_look() -> None:
            # The loop has no turn between these and the end of accepting, as where it is at work.
            assert not made
            with pytest.raises(TimeoutError):  # not refused: the system goes on trying until the port is closed
                socket.create_connection(("127.0.0.1", port), timeout=0.2)
            finish()

        server._listener.finish = last_look  # type: ignore[method-assign,union-attr]
        await server.drain()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5)
        except OSError as error:
            refused.append(type(error))

    async def waiting() -> None:
        server = Server(echo, port=0)
        await server.start()
        listener = server._listener
        assert listener is not None
        listener.leave()  # it does not come round to accepting
        for _ in range(5):
            raw = Raw(server)
            raw.send(get("/large"))
            made.append(raw)
        made.append(Raw(server))  # whose request comes a little later
        asyncio.get_running_loop().call_later(0.35, made[-1].send, get("/large"))
        await server.drain()

    factory = None if loop == "asyncio" else pytest.importorskip("uvloop").new_event_loop
    for scene in (main, waiting):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(scene())
    for raw in made:
        status, headers, _ = raw.response()
        answers.append((status, headers["connection"] == "close"))
        raw.socket.close()
    assert answers == [(200, True)] * 6
    assert refused == [ConnectionRefusedError]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_one_of_several_that_goes_leaves_waiting_connections_to_the_others(loop: str) -> None:
    """Its own loop hears of them until it has gone: the socket is the others' too, and stays open."""
    problems = list[dict[str, object]]()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        board = Board(make_board(2))
        one, other = (Server(echo, bound=shared, seat=board.seat(i)) for i, shared in enumerate(pair))
        for server in (one, other):
            await server.start()
            server.ready()
        board.seat(0).set_state(READY)
        board.seat(1).set_state(READY)
        other._listener.leave()  # type: ignore[union-attr]
        board.seat(0).set_state(DRAINING)
        raw = Raw(other)
        raw.send(get())
        await one.drain(goes_alone=True)
        for _ in range(20):
            await asyncio.sleep(0)
        other._listener._resume()  # type: ignore[union-attr]
        assert (await asyncio.to_thread(raw.response))[0] == 200
        more = await asyncio.to_thread(Raw, other)  # nobody is turned away
        more.send(get())
        assert (await asyncio.to_thread(more.response))[0] == 200
        for client in (raw, more):
            client.socket.close()
        await other.drain()

    first = bind("127.0.0.1", 0)
    pair = (first, first.dup())
    pair[1].setblocking(False)
    factory = None if loop == "asyncio" else pytest.importorskip("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    assert problems == []


def test_a_process_that_starts_takes_few_connections_and_the_others_when_it_is_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it would do for them would keep it from becoming ready, and they are answered soon anyway."""
    monkeypatch.setattr(listening, "_START_SECONDS", 3600.0)

    async def main() -> list[int]:
        seat = Board(make_board(1)).seat(0)
        seat.set_state(STARTING)
        server = Server(echo, bound=bind("127.0.0.1", 0), seat=seat)
        await server.start()
        clients = [Raw(server) for _ in range(5)]
        for client in clients:
            client.send(get())
        await asyncio.to_thread(clients[0].response)
        for _ in range(200):
            await asyncio.sleep(0)
        assert not select.select([client.socket for client in clients[1:]], [], [], 0.0)[0]
        seat.set_state(READY)
        server.ready()
        found = [(await asyncio.to_thread(client.response))[0] for client in clients[1:]]
        for client in clients:
            client.socket.close()
        await server.drain()
        return found

    assert asyncio.run(main()) == [200] * 4


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("seconds", [3600.0, 0.0])
def test_a_connection_that_has_brought_nothing_has_its_time_from_when_the_server_stops(
    monkeypatch: pytest.MonkeyPatch, loop: str, seconds: float
) -> None:
    """Pools connect before they have a request: how long ago that was says nothing of when the first one comes."""
    monkeypatch.setattr(connection, "_FIRST_SECONDS", seconds)
    answers = list[bytes]()

    async def main() -> None:
        server = Server(echo, port=0)
        await server.start()
        with Raw(server) as pool, Raw(server) as used:
            used.send(get())
            assert (await asyncio.to_thread(used.response))[0] == 200
            while server.connections < 2:
                await asyncio.sleep(0)
            for one in server._hub.connections:
                one._born -= 2 * 3600.0
            drained = asyncio.ensure_future(server.drain())
            assert await asyncio.to_thread(used.closed)  # connections are looked at, and the port is closed
            answers.append(await asyncio.to_thread(first_bytes, pool))
            await drained

    factory = None if loop == "asyncio" else pytest.importorskip("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    assert answers == [b"HTTP/1.1 200" if seconds else b""]


def first_bytes(raw: Raw) -> bytes:
    """What an answer to a request begins with; nothing: the connection was closed without one."""
    try:
        raw.send(get())
        return raw.socket.recv(12)
    except ConnectionError:
        return b""
