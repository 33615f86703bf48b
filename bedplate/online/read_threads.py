"""Threads for calls that may never come back, such as reads: few of them, and none keeps its process alive."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from time import monotonic
from typing import Any, TypeVar, cast, final

from bedplate.errors import DeadlineError, StoreError

_Result = TypeVar("_Result")


@final
class _Call:
    """A call, its result, and a lock that is free when there is one."""

    __slots__ = ("call", "done", "error", "result")

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()


@final
class ReadThreads:
    """Threads, each made when all before it are at work.

    Args:
        most: how many.
        url: of the store, or another place for messages.
    """

    __slots__ = ("_busy", "_calls", "_free", "_lock", "_made", "_url")

    def __init__(self, most: int, url: str) -> None:
        self._free = threading.Semaphore(most)
        self._calls: SimpleQueue[_Call] = SimpleQueue()
        self._lock = threading.Lock()
        self._made = self._busy = 0
        self._url = url

    def run(self, call: Callable[[], _Result], deadline: float) -> _Result:
        """The result of a call.

        Raises:
            DeadlineError: there was none by the deadline, of the monotonic clock, or no thread for it.
        """
        if not self._free.acquire(timeout=max(0.0, deadline - monotonic())):
            raise DeadlineError("calls before this one still wait", where=self._url)
        with self._lock:
            self._busy += 1
            if self._busy > self._made:
                self._made += 1
                threading.Thread(target=self._work, name="online-read", daemon=True).start()
        asked = _Call(call)
        self._calls.put(asked)
        if not asked.done.acquire(timeout=max(0.0, deadline - monotonic())):
            raise DeadlineError("no answer in time", where=self._url)
        if asked.error is not None:
            raise asked.error
        if asked.result is None:
            raise StoreError("the call gave nothing", where=self._url)
        return cast("_Result", asked.result)

    def _work(self) -> None:
        while True:
            asked = self._calls.get()
            try:
                asked.result = asked.call()
            except BaseException as error:  # noqa: BLE001  (raised again where the result is awaited)
                asked.error = error
            with self._lock:
                self._busy -= 1
            self._free.release()
            asked.done.release()
            del asked
