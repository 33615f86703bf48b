"""Watching the other processes of a training: which one holds the first up, and the end of it.

Operations between processes wait in C++, where no handler of a signal that is written in Python is run. So a thread of
the first process waits for signals too, and ends what is waited for: connections are closed then, which the operation
notices at once, and the training ends as if that process had been killed.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager
from mmap import mmap
from pathlib import Path
from typing import final

from bedplate.types import SECOND, format_duration

AFTER_INTERRUPT = 10.0
"""Seconds that another process may hold up the first one after Ctrl-C or SIGTERM; the second such signal ends it."""

_TICK = 0.2  # seconds
_AWAY = 5.0  # seconds in which an operation ends whose other processes have ended
_STOP = 0  # no signal has this number


@final
class Operations:
    """How many operations each process has begun, which tells who is waited for.

    Args:
        rank: of this process.
        begun: the number of each process, by rank, which all of them see; each writes its own.

    Attributes:
        number: how many this process has begun.
        waiting: whether it waits for the others now.
    """

    __slots__ = ("_begun", "number", "rank", "waiting")

    def __init__(self, rank: int, begun: list[int] | memoryview[int]) -> None:
        self.rank, self._begun = rank, begun
        self.number, self.waiting = 0, False

    @classmethod
    def of(cls, rank: int, count: int, path: Path | None) -> Operations:
        """Those of processes of one machine, in a file that all of them map; without one, none knows of the others."""
        if path is None:
            return cls(rank, [0] * count)
        if not path.exists():
            path.write_bytes(bytes(8 * count))
        with path.open("r+b") as file:
            return cls(rank, memoryview(mmap(file.fileno(), 8 * count)).cast("q"))

    def announce(self) -> None:
        """Says that this process can be met."""
        self.number += 1
        self._begun[self.rank] = self.number

    def one(self) -> AbstractContextManager[None]:
        """An operation with the others, from its beginning in this process until it is done."""
        self.announce()
        return self.arrival()

    @contextmanager
    def arrival(self) -> Generator[None]:
        """This process waits for the others."""
        self.waiting = True
        try:
            yield
        finally:
            self.waiting = False

    def late(self) -> list[int]:
        """The ranks of those that have not begun what this process has, or that can't be met yet."""
        wanted = max(1, self.number)
        return [rank for rank, begun in enumerate(self._begun) if begun < wanted and rank != self.rank]


@final
class Watch:
    """Ends processes that hold this one up for too long, or at all once it is told twice to end.

    Args:
        operations: of this process and those.
        processes: the others, by rank.
        patience: seconds that an operation may wait for them.
        abandon: ends this process, which still waits though the others have ended.

    Attributes:
        interrupts: how many signals told this process to end.
        ended: why each of those processes was ended that were.
    """

    def __init__(
        self,
        operations: Operations,
        processes: Mapping[int, subprocess.Popen[bytes]],
        patience: float,
        abandon: Callable[[], None],
    ) -> None:
        self._operations, self._processes = operations, processes
        self._patience, self._abandon = patience, abandon
        self.interrupts = 0
        self.ended: dict[int, str] = {}

    @contextmanager
    def watching(self) -> Generator[None]:
        """Watches within the context; signals are noticed where it is of the main thread."""
        read, write = socket.socketpair()
        with read, write:
            write.setblocking(False)
            catches = threading.current_thread() is threading.main_thread()
            before = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False) if catches else -1
            thread = threading.Thread(target=self._watch, args=(read,), name="bedplate-watch", daemon=True)
            thread.start()
            try:
                yield
            finally:
                if catches:
                    signal.set_wakeup_fd(before)
                write.setblocking(True)
                write.sendall(bytes([_STOP]))
                thread.join()

    def _watch(self, signals: socket.socket) -> None:
        waited, seen, last = 0.0, -1, time.monotonic()
        away: float | None = None  # when an operation is to be over whose other processes were ended
        while True:
            ready, _, _ = select.select([signals], [], [], _TICK)
            numbers = signals.recv(64) if ready else b""
            if _STOP in numbers:
                return
            told = sum(number in (signal.SIGINT, signal.SIGTERM) for number in numbers)
            is_first, self.interrupts = bool(told) and not self.interrupts, self.interrupts + told
            now, number, waiting = time.monotonic(), self._operations.number, self._operations.waiting
            # While this very process is stopped, nobody holds it up.
            waited = waited + min(now - last, 2 * _TICK) if waiting and number == seen and not is_first else 0.0
            seen, last = number, now
            if self.interrupts > 1:
                self._end(self._processes, "was ended with the training")
            elif waited > (AFTER_INTERRUPT if self.interrupts else self._patience):
                self._end_late(waited)
            if not self.ended or not waiting:
                away = None
            elif away is None:
                away = now + _AWAY
            elif now > away:
                self._abandon()

    def _end_late(self, seconds: float) -> None:
        """Ends those that this process has waited for, so many seconds."""
        shown = format_duration(max(1, round(seconds)) * SECOND)
        stopped = [rank for rank, process in self._processes.items() if _is_stopped(process.pid)]
        for rank in stopped or self._operations.late() or self._processes:
            how = "was stopped by a signal" if rank in stopped else "made no progress"
            self._end([rank], f"{how}, was waited for {shown} and then ended")

    def _end(self, ranks: Iterable[int], why: str) -> None:
        """Ends some of the processes, whatever they do, that have not ended by themselves."""
        for rank in ranks:
            if self._processes[rank].poll() is None:
                self.ended.setdefault(rank, why)
                self._processes[rank].kill()


def _is_stopped(pid: int) -> bool:
    """Whether a child of this process was stopped, as by SIGSTOP, and not continued since."""
    try:
        found = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # it has ended, and is known to
        return False
    return found is not None and found.si_code == os.CLD_STOPPED
