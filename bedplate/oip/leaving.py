"""The order in which answers leave a server of gRPC that stops.

The library closes a connection as soon as its last call has ended. Where the client has just sent something that nobody
reads any more, a ping or a window, the system resets the connection then, and drops what it has not sent yet: on a busy
machine, the answers of the last moment. So the last answer of each connection leaves alone, when the others have.
"""

from __future__ import annotations

import asyncio
from typing import Any, final

_ALONE_SECONDS = 0.05  # in which the system sends what it was given
_OTHERS_SECONDS = 1.0  # for clients that do not read


@final
class Leaving:
    """The calls that are under way, by connection. All methods are called on the loop's thread."""

    __slots__ = ("_open", "_unanswered")

    def __init__(self) -> None:
        self._open: dict[str, set[asyncio.Task[Any]]] = {}
        self._unanswered = set[asyncio.Task[Any]]()

    def entered(self, peer: str) -> None:
        """The task that runs is a call; it is under way until the task has ended.

        Args:
            peer: names its connection.
        """
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("no task runs")
        self._open.setdefault(peer, set()).add(task)
        self._unanswered.add(task)
        task.add_done_callback(lambda done: self._ended(peer, done))

    async def leave(self, peer: str) -> None:
        """Waits until the answer of the call that this task is may leave: at once, but for the last of the connection.

        Args:
            peer: names its connection.
        """
        task = asyncio.current_task()
        self._unanswered.discard(task)  # type: ignore[arg-type]
        calls = self._open[peer]
        if not calls.isdisjoint(self._unanswered):
            return
        others = {call for call in calls if call is not task}
        if others:
            await asyncio.wait(others, timeout=_OTHERS_SECONDS)
        await asyncio.sleep(_ALONE_SECONDS)

    def _ended(self, peer: str, task: asyncio.Task[Any]) -> None:
        self._unanswered.discard(task)
        calls = self._open[peer]
        calls.discard(task)
        if not calls:
            del self._open[peer]
