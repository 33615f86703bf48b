"""Processes that are forked off: they have copies of their parent's connections, and no right to any of them.

What came over such a copy could be the answer to a request of the parent. So copies are closed before a child does
anything else; the parent keeps its connections, and sees the same of the service as without a child.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """What has connections."""

    def after_fork(self) -> None:
        """In a child, which has one thread as yet: closes its copies of what is open, and sends nothing."""
        ...


_watched: weakref.WeakSet[Forked] = weakref.WeakSet()


def watch(forked: Forked) -> None:
    """Has something give up its connections in each process that is forked off.

    Args:
        forked: it is forgotten when nobody else has it.
    """
    _watched.add(forked)


def _give_up() -> None:
    failures = list[Exception]()
    for forked in list(_watched):
        try:
            forked.after_fork()
        except Exception as error:  # noqa: BLE001  (raised when the others have given up theirs)
            failures.append(error)
    if failures:
        raise ExceptionGroup("connections of the parent's are left open in a child", failures)


os.register_at_fork(after_in_child=_give_up)
