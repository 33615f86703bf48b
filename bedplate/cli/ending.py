"""How a command's process ends while a server loads."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import threading

_TEXT, _BYTES = (io.TextIOWrapper,), (io.BufferedWriter, io.BufferedRandom)

LOADING = "load"
"""The name of the thread on which a server loads; see `bedplate.http.loading`."""


def end_at_work(code: int) -> None:
    """Ends the process now where a server is still loading on a thread of its own, for which nobody waits.

    What is registered with `atexit` takes apart what that thread may be using, and libraries abort then.

    Args:
        code: of the process.
    """
    if any(thread.daemon and thread.name == LOADING for thread in threading.enumerate()):
        _write_files()
        os._exit(code)


def _write_files() -> None:
    """Writes what files that are open hold, text before the bytes below it."""
    everything = gc.get_objects()
    for kinds in (_TEXT, _BYTES):
        for file in [o for o in everything if issubclass(type(o), kinds)]:
            with contextlib.suppress(Exception):  # the process ends now: nobody could be told
                if not file.closed and file.writable():
                    file.flush()
