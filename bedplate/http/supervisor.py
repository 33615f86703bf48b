"""Several worker processes that share a port, and the process that keeps them alive.

The supervisor binds the port, starts the workers as programs of their own and answers nobody: what it needs is small,
and nothing that a worker does can take it along. A worker that ends or hangs is started again, soon the first time and
later each time after that. Workers watch a pipe of the supervisor: however it ends, they end too.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from time import monotonic
from typing import final

from bedplate.errors import BedplateError
from bedplate.http.board import READY, Board, make_board
from bedplate.http.listening import bind, turn_away
from bedplate.http.replacing import Replacing
from bedplate.http.worker import LOOK_SECONDS, Worker, ending
from bedplate.process import check_per_core

_LAST_CALL_SECONDS = 0.1  # for requests that are on their way
_QUICK_SECONDS = 0.5  # for a worker that has nothing under way to end


class WorkerError(BedplateError):
    """A worker can't start; it has said why itself. The exit code is the worker's."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


@final
class Supervisor:
    """Keeps workers alive.

    Args:
        command: what starts a worker; it finds its place in the environment.
        count: how many, at most 8 for each core.
        host: a name or an address.
        port: 0 for a free one.
        grace_seconds: how long they have to stop.
        say: tells a person what happens.
        hangup: what SIGHUP has each worker told that is ready: SIGHUP, to load again, or SIGTERM, to end, one after the
            other, each once another process is ready in its place. None: SIGHUP ends the process.

    Raises:
        ConfigError: there are too many, or the port can't be bound.
    """

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        *,
        host: str,
        port: int,
        grace_seconds: float,
        say: Callable[[str], None],
        hangup: signal.Signals | None = None,
    ) -> None:
        check_per_core(count, "the number of workers", "serving by several processes")
        self._command, self._say, self._grace = list(command), say, grace_seconds
        self._hangup, self._reloads = hangup, 0
        self._socket: socket.socket = bind(host, port)
        self._descriptor = make_board(count + 1)  # a worker and its successor are there at the same time
        self._board = Board(self._descriptor)
        self._workers = [Worker(i + 1, self._board.seat(i)) for i in range(count)]
        self._replacing = Replacing(self._workers, self._board.seat(count), self._start, self._tell)
        self._life, self._hold = os.pipe()
        self._stopped = False

    @property
    def port(self) -> int:
        """The port that is bound."""
        return int(self._socket.getsockname()[1])

    def run(self, on_ready: Callable[[], None]) -> None:
        """Serves until SIGTERM or SIGINT; then the workers answer what is under way and end.

        The first worker is started alone: what keeps it from starting would keep the others too, and is said once.

        Args:
            on_ready: called once, when all workers are ready.

        Raises:
            WorkerError: the first one ended before it was ready.
            KeyboardInterrupt: it was stopped before they were ready.
        """
        was_ready = False
        try:
            with _woken(self._stop, None if self._hangup is None else self._count_reload) as sleep:
                self._start_all(sleep)
                if not self._stopped:
                    was_ready = True
                    with contextlib.suppress(OSError):
                        on_ready()
                while not self._stopped:
                    sleep(self._until_next_look())
                    for worker in list(self._workers):
                        self._look_after(worker)
                    if self._hangup == signal.SIGTERM:
                        self._replacing.look(self._reloads)
        finally:
            self._end()
        if not was_ready:
            raise KeyboardInterrupt

    def _until_next_look(self) -> float:
        """The seconds until something is to be done, unless a signal comes."""
        waits = [worker.again - monotonic() for worker in self._workers if worker.process is None]
        return min(LOOK_SECONDS, max(0.0, min(waits, default=LOOK_SECONDS)))

    def _start_all(self, sleep: Callable[[float], None]) -> None:
        first, *others = self._workers
        self._start(first)
        while not self._stopped and first.seat.state != READY:
            sleep(0.02)
            code = first.process and first.process.poll()
            if code is not None and not self._stopped:
                raise WorkerError(f"the first worker {ending(code)} before it was ready", max(code, 1))
        for worker in others:
            self._start(worker)
        while not self._stopped and any(w.seat.state != READY for w in self._workers):
            sleep(0.02)
            for worker in self._workers:
                self._look_after(worker)

    def _start(self, worker: Worker) -> None:
        worker.start(self._command, (self._socket.fileno(), self._descriptor, self._life), self._reloads)

    def _look_after(self, worker: Worker) -> None:
        if worker.process is None:
            if monotonic() >= worker.again or worker.told < self._reloads:  # a signal says that something has changed
                self._board.count_restart()
                self._start(worker)
            return
        how = worker.look()
        if how is None:
            if self._hangup == signal.SIGHUP and worker.is_ready and worker.told < self._reloads:
                worker.told = self._reloads
                worker.process.send_signal(signal.SIGHUP)
        elif self._replacing.promote(worker):
            self._board.count_restart()
            self._tell(f"{how}; the one that was to replace it is starting already")
        else:
            self._tell(f"{how}; it is started again in {worker.wait():g} s")

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError):  # such as a full disk: that is no reason not to go on
            self._say(text)

    def _stop(self) -> None:
        self._stopped = True

    def _count_reload(self) -> None:
        self._reloads += 1

    def _end(self) -> None:
        """Ends the workers: the pipe tells them, and after the time of grace they are killed.

        Those that are starting can't look at the pipe, and have nothing under way: they end at once.
        """
        os.close(self._hold)
        now = monotonic()
        ends: list[tuple[float, subprocess.Popen[bytes]]] = []
        workers = [*self._workers, *self._replacing.others]
        for worker in workers:
            if worker.process is not None:
                is_up = worker.seat.is_ready
                ends.append((now + (self._grace + 2.0 if is_up else _QUICK_SECONDS), worker.process))
                if not is_up:
                    worker.process.terminate()
        if any(worker.seat.is_ready for worker in workers):
            time.sleep(_LAST_CALL_SECONDS)
            turn_away(self._socket)
        self._socket.close()  # or the kernel would go on taking connections that nobody accepts
        for end, process in sorted(ends, key=lambda one: one[0]):
            try:
                process.wait(max(0.0, end - monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        os.close(self._life)


def worker_command() -> list[str]:
    """What starts this program again, with its arguments."""
    return [sys.executable, "-m", "bedplate", *sys.argv[1:]]


@contextlib.contextmanager
def _woken(stop: Callable[[], None], reload: Callable[[], None] | None) -> Generator[Callable[[float], None]]:
    """Gives a sleep that ends early when a signal comes; SIGTERM and SIGINT call `stop`, SIGHUP calls `reload`."""
    hears, tells = os.pipe()
    os.set_blocking(hears, False)
    os.set_blocking(tells, False)

    def end(*_: object) -> None:
        stop()

    def wake(*_: object) -> None:
        pass

    def again(*_: object) -> None:
        if reload is not None:
            reload()

    handlers = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGCHLD: wake}
    if reload is not None:
        handlers[signal.SIGHUP] = again
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    woken = signal.set_wakeup_fd(tells, warn_on_full_buffer=False)

    def sleep(seconds: float) -> None:
        select.select([hears], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            os.read(hears, 4096)

    try:
        yield sleep
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(hears)
        os.close(tells)
