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
from dataclasses import dataclass
from time import monotonic
from typing import final

from bedplate.errors import BedplateError
from bedplate.http.board import READY, VARIABLE, Board, Seat, make_board
from bedplate.http.listening import bind, turn_away

_LOOK_SECONDS = 0.25
_LAST_CALL_SECONDS = 0.1  # for requests that are on their way
_QUICK_SECONDS = 0.5  # for a worker that has nothing under way to end
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 10.0
_STEADY_SECONDS = 30.0  # a worker that was ready for so long did not fail because of how it was started
_HUNG_SECONDS = 30.0


class WorkerError(BedplateError):
    """A worker can't start; it has said why itself. The exit code is the worker's."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


@final
@dataclass(slots=True)
class Worker:
    """One worker, through all its lives.

    Attributes:
        seat: its seat on the board.
        process: None: it is not running.
        failures: how often in a row it ended soon.
        again: when it is started again, on the monotonic clock.
        ready_since: when it was first seen ready; 0: it was not.
        beaten: when it last said that it is alive.
        silent: for how long it has not, seconds in which the supervisor was not stopped itself.
        looked: when it was looked at last.
        told: of how many SIGHUPs it knows.
        is_replaced: whether it was told to end, for another one in its place.
    """

    seat: Seat
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    again: float = 0.0
    ready_since: float = 0.0
    beaten: float = 0.0
    silent: float = 0.0
    looked: float = 0.0
    told: int = 0
    is_replaced: bool = False


@final
class Supervisor:
    """Keeps workers alive.

    Args:
        command: what starts a worker; it finds its place in the environment.
        count: how many.
        host: a name or an address.
        port: 0 for a free one.
        grace_seconds: how long they have to stop.
        say: tells a person what happens.
        hangup: what SIGHUP has each worker told that is ready: SIGHUP, to load again, or SIGTERM, to end and be started
            again, one after the other and only while all others are ready. None: SIGHUP ends the process.

    Raises:
        ConfigError: the port can't be bound.
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
        self._command, self._say, self._grace = list(command), say, grace_seconds
        self._hangup, self._reloads = hangup, 0
        self._socket: socket.socket = bind(host, port)
        self._descriptor = make_board(count)
        self._board = Board(self._descriptor)
        self._workers = [Worker(self._board.seat(i)) for i in range(count)]
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
                    for worker in self._workers:
                        self._look_after(worker)
        finally:
            self._end()
        if not was_ready:
            raise KeyboardInterrupt

    def _until_next_look(self) -> float:
        """The seconds until something is to be done, unless a signal comes."""
        waits = [worker.again - monotonic() for worker in self._workers if worker.process is None]
        return min(_LOOK_SECONDS, max(0.0, min(waits, default=_LOOK_SECONDS)))

    def _start_all(self, sleep: Callable[[float], None]) -> None:
        first, *others = self._workers
        self._start(first)
        while not self._stopped and first.seat.state != READY:
            sleep(0.02)
            code = first.process and first.process.poll()
            if code is not None and not self._stopped:
                raise WorkerError(f"the first worker {_ending(code)} before it was ready", max(code, 1))
        for worker in others:
            self._start(worker)
        while not self._stopped and any(w.seat.state != READY for w in self._workers):
            sleep(0.02)
            for worker in self._workers:
                self._look_after(worker)

    def _start(self, worker: Worker) -> None:
        worker.seat.beat()
        worker.silent, worker.ready_since = 0.0, 0.0
        worker.told = self._reloads  # it loads what there is now
        inherited = (self._socket.fileno(), self._descriptor, self._life)
        place = ":".join(map(str, (worker.seat.index, *inherited)))
        worker.process = subprocess.Popen(
            self._command,
            env=os.environ | {VARIABLE: place},
            pass_fds=inherited,
            process_group=0,  # Ctrl-C is for the supervisor, which lets them finish
        )

    def _look_after(self, worker: Worker) -> None:
        process, now = worker.process, monotonic()
        if process is None:
            if now >= worker.again:
                if not worker.is_replaced:
                    self._board.count_restart()
                worker.is_replaced = False
                self._start(worker)
            return
        if worker.seat.state == READY and not worker.ready_since:
            worker.ready_since = now
        code = process.poll()
        if code is None and self._hangup is not None and self._is_due(worker):
            worker.told = self._reloads
            worker.is_replaced = self._hangup == signal.SIGTERM
            process.send_signal(self._hangup)
        if code is not None:
            self._bury(worker, process.pid, _ending(code), now)
        elif self._hangs(worker):
            process.kill()
            process.wait()
            self._bury(worker, process.pid, f"did not come round for {_HUNG_SECONDS:g} s and was killed", now)

    def _is_due(self, worker: Worker) -> bool:
        """Whether a worker is to be told of a SIGHUP now."""
        if worker.told == self._reloads or worker.seat.state != READY:
            return False
        others = (w.seat.state == READY and not w.is_replaced for w in self._workers)
        return self._hangup != signal.SIGTERM or all(others)

    def _bury(self, worker: Worker, pid: int, how: str, now: float) -> None:
        if worker.is_replaced:
            worker.process, worker.again = None, now
            worker.seat.clear()
            self._tell(f"worker {worker.seat.index + 1} (process {pid}) {how}; another one takes its place")
            return
        steady = worker.ready_since and now - worker.ready_since > _STEADY_SECONDS
        worker.failures = 0 if steady else worker.failures + 1
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** max(0, worker.failures - 1))
        worker.process, worker.again = None, now + wait
        worker.seat.clear()
        self._tell(f"worker {worker.seat.index + 1} (process {pid}) {how}; it is started again in {wait:g} s")

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError):  # such as a full disk: that is no reason not to go on
            self._say(text)

    def _hangs(self, worker: Worker) -> bool:
        """Whether it did not say that it is alive for long. The whole machine may have slept: that doesn't count."""
        now, beaten = monotonic(), worker.seat.beaten
        worker.silent = 0.0 if beaten != worker.beaten else worker.silent + min(now - worker.looked, 2 * _LOOK_SECONDS)
        worker.beaten, worker.looked = beaten, now
        return worker.silent > _HUNG_SECONDS

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
        for worker in self._workers:
            if worker.process is not None:
                is_up = worker.seat.is_ready
                ends.append((now + (self._grace + 2.0 if is_up else _QUICK_SECONDS), worker.process))
                if not is_up:
                    worker.process.terminate()
        if any(worker.seat.is_ready for worker in self._workers):
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


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


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
