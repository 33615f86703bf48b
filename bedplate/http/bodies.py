"""The bodies that a server holds, of all its connections: those that are coming, and those that wait for an answer."""

from __future__ import annotations

from typing import final

SMALL_BYTES = 64 * 1024
"""Of one connection: as much is read whatever others hold, so that large bodies don't keep ordinary requests out."""


@final
class Bodies:
    """Counts the bytes of bodies.

    Args:
        most_bytes: in all; beyond, connections that hold more than `SMALL_BYTES` get no more.

    Attributes:
        held_bytes: in all, now.

    >>> bodies = Bodies(1_000_000)
    >>> bodies.keep(900_000, 0), bodies.keep(900_000, 900_000), bodies.keep(1000, 0), bodies.held_bytes
    (True, False, True, 901000)
    >>> bodies.let_go(900_000); bodies.held_bytes
    1000
    """

    __slots__ = ("_most_bytes", "held_bytes")

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self.held_bytes = most_bytes, 0

    def keep(self, size: int, own: int) -> bool:
        """Counts `size` more bytes of a connection that holds `own`; False: there is no room for them."""
        if own + size > SMALL_BYTES and self.held_bytes + size > self._most_bytes:
            return False
        self.held_bytes += size
        return True

    def let_go(self, size: int) -> None:
        """Counts so many less."""
        self.held_bytes -= size
