"""The clock: the one place that asks what time it is, so that tests and replays can set it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

Clock: TypeAlias = Callable[[], int]
"""A callable that returns the time now, in microseconds since the epoch, UTC."""


def system_clock() -> int:
    """The machine's time, in microseconds since the epoch.

    >>> system_clock() > 0
    True
    """
    return time.time_ns() // 1000
