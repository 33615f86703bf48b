"""What the processes of one server know of each other: a block of memory that all of them map.

Each worker has a seat: its state, how many connections it has, when it was last seen alive, and its metrics. A worker
writes only its own; nobody waits for anybody. A text is written beside the one that is read, then one number is
exchanged, so that a worker that is killed while it writes leaves the text before.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from time import monotonic
from typing import final

VARIABLE = "BEDPLATE_WORKER"
"""The environment variable in which a worker finds its place: its seat, and the descriptors that it has inherited."""

STARTING, READY, DRAINING = 1, 2, 3
"""The states of a worker; 0: none has the seat."""
STATES = {STARTING: "starting", READY: "ready", DRAINING: "draining"}

_HEAD = 64
_TEXT = 256 * 1024
_SEAT = _HEAD + 2 * _TEXT
_STATE, _CONNECTIONS, _BEAT, _SHOWN, _FAILURES = 0, 8, 16, 24, 32
_NUMBER = struct.Struct("<Q")
_SECONDS = struct.Struct("<d")


def is_worker() -> bool:
    """Whether this process is one of several: the supervisor has started it, and says what is to be said of all."""
    return VARIABLE in os.environ


def make_board(seats: int) -> int:
    """The descriptor of a new board, which other processes may inherit. It takes memory only where it is written."""
    if hasattr(os, "memfd_create"):
        made = os.memfd_create("bedplate-workers")
    else:  # pragma: no cover
        with tempfile.TemporaryFile() as file:
            made = os.dup(file.fileno())
    os.ftruncate(made, _HEAD + seats * _SEAT)
    return made


@final
class Board:
    """A board as one process sees it.

    Args:
        descriptor: from `make_board`.

    >>> board = Board(make_board(2))
    >>> board.seat(0).set_state(READY); board.seat(1).set_state(STARTING)
    >>> board.states(), board.seat(1).takes_next(0), board.seat(0).takes_next(0)
    ([2, 1], False, True)
    """

    def __init__(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        self.memory = mmap.mmap(descriptor, size)
        self.seats = (size - _HEAD) // _SEAT

    def seat(self, index: int) -> Seat:
        """The seat of a worker."""
        return Seat(self, index)

    def states(self) -> list[int]:
        """The state of each worker."""
        return [self.seat(i).state for i in range(self.seats)]

    @property
    def restarts(self) -> int:
        """How often a worker was started again."""
        return _NUMBER.unpack_from(self.memory, 0)[0]

    def count_restart(self) -> None:
        """A worker is started again; only the supervisor says so."""
        _NUMBER.pack_into(self.memory, 0, self.restarts + 1)


@final
class Seat:
    """One worker's part of a board."""

    __slots__ = ("_at", "_board", "_memory", "index")

    def __init__(self, board: Board, index: int) -> None:
        self._board, self._memory, self.index = board, board.memory, index
        self._at = _HEAD + index * _SEAT

    @property
    def board(self) -> Board:
        """The whole board."""
        return self._board

    @property
    def state(self) -> int:
        """The worker's state."""
        return _NUMBER.unpack_from(self._memory, self._at + _STATE)[0]

    @property
    def is_ready(self) -> bool:
        """Whether the worker answers requests, or answers the last ones."""
        return self.state >= READY

    @property
    def is_first(self) -> bool:
        """Whether no worker before it answers requests: it says what all of them see."""
        return not any(self._board.seat(i).state == READY for i in range(self.index))

    @property
    def has_ready_others(self) -> bool:
        """Whether another worker takes requests."""
        return any(self._board.seat(i).state == READY for i in range(self._board.seats) if i != self.index)

    def set_state(self, state: int) -> None:
        """Says how the worker stands."""
        _NUMBER.pack_into(self._memory, self._at + _STATE, state)
        self.beat()

    @property
    def connections(self) -> int:
        """How many connections the worker has."""
        return _NUMBER.unpack_from(self._memory, self._at + _CONNECTIONS)[0]

    def set_connections(self, count: int) -> None:
        """Says how many connections the worker has."""
        _NUMBER.pack_into(self._memory, self._at + _CONNECTIONS, count)

    @property
    def failures(self) -> int:
        """How many processes before this one ended before they were ready, in a row."""
        return _NUMBER.unpack_from(self._memory, self._at + _FAILURES)[0]

    def set_failures(self, count: int) -> None:
        """Says how many did; only the supervisor does, before a process begins."""
        _NUMBER.pack_into(self._memory, self._at + _FAILURES, count)

    def beat(self) -> None:
        """Says that the worker is alive."""
        _SECONDS.pack_into(self._memory, self._at + _BEAT, monotonic())

    @property
    def beaten(self) -> float:
        """When it said so last, on the machine's monotonic clock."""
        return _SECONDS.unpack_from(self._memory, self._at + _BEAT)[0]

    def clear(self) -> None:
        """The worker is gone. Its text stays, for the next one to go on from."""
        self.set_state(0)
        self.set_connections(0)

    def takes_next(self, connections: int, *, waited: bool = False) -> bool:
        """Whether the worker, which has so many connections, should take the next one.

        It does if no ready one has fewer. One that is not ready takes it only where none is.

        Args:
            connections: of the worker.
            waited: a ready one with fewer had the time to take it, and did not.
        """
        self.set_connections(connections)
        mine, fewest, ready = self.state, None, False
        for i in range(self._board.seats):
            other = self._board.seat(i)
            if i != self.index and other.state == READY:
                ready = True
                fewest = other.connections if fewest is None else min(fewest, other.connections)
        if mine != READY:
            return not ready
        return waited or fewest is None or connections <= fewest

    def publish(self, text: str) -> bool:
        """Shows a text to the other processes; False where it is too long, and the one before stays."""
        content = text.encode()
        if len(content) > _TEXT:
            return False
        area = 1 - self._shown()[0]
        begin = self._at + _HEAD + area * _TEXT
        self._memory[begin : begin + len(content)] = content
        _NUMBER.pack_into(self._memory, self._at + _SHOWN, len(content) << 1 | area)
        return True

    def text(self) -> str:
        """What the worker, or the one that had the seat before, has published."""
        area, size = self._shown()
        begin = self._at + _HEAD + area * _TEXT
        return self._memory[begin : begin + size].decode("utf-8", "replace")

    def _shown(self) -> tuple[int, int]:
        found = _NUMBER.unpack_from(self._memory, self._at + _SHOWN)[0]
        return found & 1, found >> 1
