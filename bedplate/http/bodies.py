"""The bodies that a server holds, of all its connections: those that are coming, and those that wait for an answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import final

from bedplate.allocator import give_back

SMALL_BYTES = 64 * 1024
"""Of one connection: as much is read whatever others hold, so that large bodies don't keep ordinary requests out."""
_QUIET_BYTES = 1024 * 1024  # of large bodies in a second: less is a moment without load
_OWED_BYTES, _MOST_OWED_BYTES = 32 * 1024 * 1024, 1024 * 1024 * 1024


@final
class Bodies:
    """Counts the bytes of bodies, and of messages of other protocols.

    Args:
        most_bytes: in all; beyond, connections that hold more than `SMALL_BYTES` get no more.

    Attributes:
        held_bytes: in all, now.
        came_bytes: of those that were large, since the start, kept or not.

    >>> bodies = Bodies(1_000_000)
    >>> bodies.keep(900_000, 0), bodies.keep(900_000, 900_000), bodies.keep(1000, 0), bodies.held_bytes
    (True, False, True, 901000)
    >>> bodies.let_go(900_000); bodies.held_bytes
    1000
    """

    __slots__ = ("_most_bytes", "came_bytes", "held_bytes")

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self.held_bytes, self.came_bytes = most_bytes, 0, 0

    def keep(self, size: int, own: int) -> bool:
        """Counts `size` more bytes of a connection that holds `own`; False: there is no room for them."""
        if own + size > SMALL_BYTES:
            self.came_bytes += size
            if self.held_bytes + size > self._most_bytes:
                return False
        self.held_bytes += size
        return True

    def let_go(self, size: int) -> None:
        """Counts so many less."""
        self.held_bytes -= size


@final
class Trimming:
    """Gives the memory of large bodies back to the system: the C library keeps what was freed, for each thread anew.

    It does so in a moment without load, for what is given back has to be asked for again; at the latest when so much
    has come that the rest would count.

    Args:
        bodies: of the server.
        give: called on a thread of its own, for it may take some hundredths of a second; None: `give_back`.
    """

    def __init__(self, bodies: Bodies, give: Callable[[], None] | None = None) -> None:
        self._bodies, self._give, self._seen, self._owed = bodies, give or give_back, 0, 0

    def look(self) -> None:
        """Called every second."""
        came = self._bodies.came_bytes - self._seen
        self._seen += came
        self._owed += came
        is_quiet = came + self._bodies.held_bytes < _QUIET_BYTES
        if self._owed >= (_OWED_BYTES if is_quiet else _MOST_OWED_BYTES):
            self._owed = 0
            threading.Thread(target=self._give, name="give-back", daemon=True).start()
