"""The place of one process among those that serve together: the shared socket and its seat."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import Protocol, final

from bedplate.exposition import family, merged
from bedplate.http.board import STARTING, STATES, VARIABLE, Board, Seat
from bedplate.http.metrics import Metrics

log = logging.getLogger("bedplate.serving")


class Serving(Protocol):
    """What a place has to know of the server in it."""

    @property
    def connections(self) -> int:
        """How many are open."""
        ...

    def each_second(self, call: Callable[[], None]) -> None:
        """Calls this every second from now on."""
        ...


@final
class Place:
    """A worker's place.

    Args:
        index: of its seat.
        listening: the descriptor of the socket.
        board: the descriptor of the board.
        life: the descriptor of a pipe that ends when the supervisor does, or wants the worker to stop.

    Attributes:
        socket: the shared one.
        seat: the worker's.
        is_over: the supervisor is gone, or stops all workers.
    """

    def __init__(self, index: int, listening: int, board: int, life: int) -> None:
        self.socket = socket.socket(fileno=listening)
        self.socket.setblocking(False)
        self.seat: Seat = Board(board).seat(index)
        self._life, self.is_over = life, False
        self._own: Callable[[], str] = str
        self._before = merged([self.seat.text()], counters_only=True)

    @staticmethod
    def of_environment() -> Place | None:
        """The place that the supervisor gives this process; None: there is no supervisor."""
        given = os.environ.get(VARIABLE)
        return None if given is None else Place(*map(int, given.split(":")))

    @property
    def is_relieved(self) -> bool:
        """Whether the server goes on without this worker: others take requests, and they are not told to stop."""
        return not self.is_over and self.seat.has_ready_others

    def join(self, server: Serving, metrics: Metrics, stop: Callable[[], None]) -> None:
        """Begins: `stop` is called when the supervisor is gone; the metrics are those of all workers."""
        self.seat.set_state(STARTING)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._life, self._end, loop, stop)
        metrics.join(self._of_all)

        def each_second() -> None:
            self.seat.beat()
            self.seat.set_connections(server.connections)
            self._publish(metrics.own_text())

        server.each_second(each_second)
        self._own = metrics.own_text

    def leave(self) -> None:
        """Ends: what was counted stays for the worker that comes next."""
        self._publish(self._own())
        self.seat.clear()

    def _end(self, loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
        loop.remove_reader(self._life)
        self.is_over = True
        stop()

    def _publish(self, own: str) -> None:
        if not self.seat.publish(merged([own, self._before])):
            log.error("the metrics are too long to be shared: %d characters", len(own))

    def _of_all(self, own: str) -> str:
        """The metrics of all workers; those of the others are at most a second old."""
        self._publish(own)
        board = self.seat.board
        states = board.states()
        texts = [
            merged([board.seat(i).text()], counters_only=state == 0)  # of one that is gone what it counted remains
            for i, state in enumerate(states)
        ]
        shown = [({"state": name}, states.count(state)) for state, name in STATES.items()]
        lines = [
            *family("bedplate_workers", "gauge", "Worker processes by state.", shown),
            *family("bedplate_worker_restarts_total", "counter", "Workers started again.", [({}, board.restarts)]),
        ]
        return merged(texts) + "\n".join(lines) + "\n"
