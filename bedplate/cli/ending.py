"""How a command's process ends: once everything that asked to be told has been, without taking all modules apart.

The interpreter clears every module and object before it ends, which after a training takes 0.6 s (PyTorch alone 0.4 s)
and does nothing that the end of the process doesn't do. What it does for others stays: threads are waited for,
functions registered with `atexit` are called, and files that were left open are written.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import threading
from typing import final

_BUFFERED = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)

LOADING = "load"
"""The name of the thread on which a server loads; see `bedplate.serving.loading`."""


@final
class Ending:
    """Ends this process with a code after all that is registered with `atexit` later than this.

    Attributes:
        code: what the process ends with; None leaves the end to the interpreter.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        atexit.register(self._end)

    def end_at_work(self) -> None:
        """Ends the process now where a server is still loading on a thread of its own, for which nobody waits.

        What is registered with `atexit` takes apart what that thread may be using, and libraries abort then.
        """
        if any(thread.daemon and thread.name == LOADING for thread in threading.enumerate()):
            self._end()

    def _end(self) -> None:
        if self.code is None:
            return
        written = [_write(file) for file in _open_files()]
        if all(written):
            os._exit(self.code)
        # Else the interpreter tries to write again, says what is wrong, and ends with its code for that.


def _open_files() -> list[io.IOBase]:
    """Files that may hold what isn't written, text before the bytes below it."""
    found: list[io.IOBase] = [o for o in gc.get_objects() if type(o) in _BUFFERED and not o.closed]
    return sorted(found, key=lambda file: not isinstance(file, io.TextIOWrapper))


def _write(file: io.IOBase) -> bool:
    try:
        if file.writable():
            file.flush()
    except (OSError, ValueError):
        return False
    return True
