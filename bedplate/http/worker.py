"""One worker process, as the supervisor sees it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from time import monotonic
from typing import final

from bedplate.http.board import READY, VARIABLE, Seat

LOOK_SECONDS = 0.25
"""How often the supervisor looks at its workers, at least."""
_HUNG_SECONDS = 30.0
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 10.0
_STEADY_SECONDS = 30.0  # a worker that was ready for so long did not fail because of how it was started


@final
class Worker:
    """One worker, through all its lives.

    Args:
        number: what people know it by, from 1.
        seat: its seat on the board.

    Attributes:
        number: as given.
        seat: as given.
        process: None: it is not running.
        again: when it is started again, on the monotonic clock.
        told: of how many SIGHUPs it knows.
        failures: how often in a row it ended soon.
    """

    def __init__(self, number: int, seat: Seat) -> None:
        self.number, self.seat = number, seat
        self.process: subprocess.Popen[bytes] | None = None
        self.again, self.told, self.failures = 0.0, 0, 0
        self._unready = 0  # how often in a row it ended before it was ready
        self._ready_since = 0.0  # when it was first seen ready; 0: it was not
        self._beaten = self._silent = self._looked = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether it is running and takes requests."""
        return self.process is not None and self.seat.state == READY

    def start(self, command: Sequence[str], inherited: Sequence[int], told: int) -> None:
        """Starts a process.

        Args:
            command: of the program.
            inherited: the descriptors of its place, as `Place` takes them.
            told: of how many SIGHUPs it need not be told: it loads what there is now.
        """
        self.seat.beat()
        self.seat.set_failures(self._unready)
        self._silent, self._ready_since, self.told = 0.0, 0.0, told
        self.process = subprocess.Popen(
            command,
            env=os.environ | {VARIABLE: ":".join(map(str, (self.seat.index, *inherited)))},
            pass_fds=inherited,
            process_group=0,  # Ctrl-C is for the supervisor, which lets them finish
        )

    def look(self) -> str | None:
        """How its process has ended; None: it runs. One that hangs is killed.

        After its end it has no process, and its seat is free.
        """
        process, now = self.process, monotonic()
        if process is None:
            return None
        if self.seat.state == READY and not self._ready_since:
            self._ready_since = now
        code = process.poll()
        if code is not None:
            said = ": what it is to serve can't be loaded, as it has said" if code > 0 else ""
            how = ending(code) + ("" if self._ready_since else f" before it was ready{said}")
        elif self._hangs(now):
            process.kill()
            process.wait()
            how = f"did not come round for {_HUNG_SECONDS:g} s and was killed"
        else:
            return None
        steady = self._ready_since and now - self._ready_since > _STEADY_SECONDS
        self.failures = 0 if steady else self.failures + 1
        self._unready = 0 if self._ready_since else self._unready + 1
        self.process = None
        self.seat.clear()
        return f"worker {self.number} (process {process.pid}) {how}"

    def wait(self) -> float:
        """The seconds until it is started again: more each time that it ended soon."""
        seconds = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** max(0, self.failures - 1))
        self.again = monotonic() + seconds
        return seconds

    def _hangs(self, now: float) -> bool:
        """Whether it did not say that it is alive for long. The whole machine may have slept: that doesn't count."""
        beaten = self.seat.beaten
        self._silent = 0.0 if beaten != self._beaten else self._silent + min(now - self._looked, 2 * LOOK_SECONDS)
        self._beaten, self._looked = beaten, now
        return self._silent > _HUNG_SECONDS


def ending(code: int) -> str:
    """How a process ended, in words.

    >>> ending(3), ending(-9)
    ('ended with code 3', 'was ended by SIGKILL')
    """
    if code >= 0:
        return f"ended with code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"
