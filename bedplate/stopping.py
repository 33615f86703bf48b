"""Ctrl-C and SIGTERM: the first one asks work to end where it can go on later, the second one ends it at once."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import final

_LONGEST = 2**31 - 1  # milliseconds


@final
class Stop:
    """Whether this process was told to end.

    Attributes:
        asked: whether it was.
    """

    __slots__ = ("_told", "asked")

    def __init__(self, told: int) -> None:
        self._told, self.asked = told, False

    def wait(self, seconds: float) -> bool:
        """Waits until it is told to end, at most so many seconds; whether it was."""
        if not self.asked:
            told = select.poll()  # `select` takes no descriptor from 1,024 on
            told.register(self._told, select.POLLIN)
            told.poll(min(max(0.0, seconds) * 1e3, _LONGEST))
        return self.asked


@contextmanager
def stop_signals() -> Generator[Stop]:
    """Turns the first SIGINT or SIGTERM into `asked`; a second one, of either, acts as before, at once.

    Only the main thread of a process gets signals: in another one nothing is ever asked for. Neither is noticed while
    the main thread is in code of a library that does not return.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    stop = Stop(read)
    is_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if is_main else ()
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def notice(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        # No lock of `threading` may be taken here: the main thread may hold it just now, and would wait for itself.
        stop.asked = True
        restore()
        with suppress(BlockingIOError):
            os.write(write, b"!")

    for number in before:
        signal.signal(number, notice)
    try:
        yield stop
    finally:
        restore()
        os.close(read)
        os.close(write)


def signals_interrupt() -> bool:
    """Whether a `KeyboardInterrupt` that comes out of a call here may be a signal's; if not, what was called raised it.

    Python raises it for a signal on the main thread alone, and while the handler of SIGINT or SIGTERM is the one that
    does so. A server takes both in on its event loop, until it ends.

    >>> signals_interrupt()
    True
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    handlers = (signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))
    return any(handler is signal.default_int_handler for handler in handlers)
