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

_BYTES = (io.BufferedWriter, io.BufferedRandom)
_NOTHING = (io.BytesIO, io.StringIO, io.FileIO, io.BufferedReader)
"""Hold nothing that is to be written."""

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
        written = [_write(file) for file in sorted(_open_files(), key=_depth)]
        if all(written):
            os._exit(self.code)
        # Else the interpreter tries to write again, says what is wrong, and ends with its code for that.


def _open_files() -> list[io.IOBase]:
    """Files that may hold what isn't written."""
    return [o for o in gc.get_objects() if issubclass(type(o), io.IOBase) and type(o) not in _NOTHING]


def _depth(file: io.IOBase) -> int:
    """What comes first: text, then files written in Python, such as compressed ones, then the bytes below them."""
    return 0 if isinstance(file, io.TextIOWrapper) else 2 if isinstance(file, _BYTES) else 1


def _write(file: io.IOBase) -> bool:
    try:
        if not file.closed and file.writable():
            if _depth(file) == 1:
                file.close()  # which writes what comes last, as its end would
            else:
                file.flush()
    except (OSError, ValueError):
        return not _is_open(file)
    return True


def _is_open(file: io.IOBase) -> bool:
    """Whether it is open; a text whose bytes were taken away isn't."""
    try:
        return not file.closed
    except ValueError:
        return False
