"""Coroutines that wait for nothing, run to their end without an event loop."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def finished(steps: Coroutine[Any, Any, _Result]) -> _Result:
    """The result of a coroutine that waits for nothing.

    Raises:
        RuntimeError: it does wait.

    >>> async def one() -> int:
    ...     return 1
    >>> finished(one())
    1
    """
    try:
        steps.send(None)
    except StopIteration as stopped:
        return stopped.value
    steps.close()
    raise RuntimeError("got a coroutine that waits, expected one that doesn't")
