"""Work on items, one after the other, while the next ones are being made."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")

_WAITING = 2
"""The most items that are there and not worked on to the end."""


def overlapped(work: Callable[[_Item], None], items: Iterable[_Item]) -> None:
    """Calls `work` with each item, in order, on another thread than the one that asks for the items.

    The first error, of either, ends it.

    >>> found = []
    >>> overlapped(found.append, range(3))
    >>> found
    [0, 1, 2]
    """
    # Items are held until they are done: they are freed where they were made, which allocators take back at once.
    waiting: deque[tuple[Future[None], _Item]] = deque()
    with ThreadPoolExecutor(1) as pool:
        try:
            for item in items:
                waiting.append((pool.submit(work, item), item))
                if len(waiting) == _WAITING:
                    waiting.popleft()[0].result()
            for done, _ in waiting:
                done.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
