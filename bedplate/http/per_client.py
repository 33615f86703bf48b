"""How many requests of each client are under way: they wait, are being answered, or their bodies are coming."""

from __future__ import annotations

from typing import final


@final
class PerClient:
    """Counts requests by client.

    Args:
        most: of one client; 0: no limit.

    >>> clients = PerClient(1)
    >>> clients.add("a"); clients.is_full("a"), clients.is_full("b"), len(clients)
    (True, False, 1)
    >>> clients.remove("a"); clients.is_full("a"), len(clients)
    (False, 0)
    """

    __slots__ = ("_counts", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        """How many clients have any."""
        return len(self._counts)

    def is_full(self, client: str | None) -> bool:
        """Whether a client may have no more; None: it is not known who asks."""
        return bool(self._most) and self._counts.get(client or "", 0) >= self._most

    def add(self, client: str | None) -> None:
        """One more of a client."""
        if client is not None:
            self._counts[client] = self._counts.get(client, 0) + 1

    def remove(self, client: str | None) -> None:
        """One less of a client."""
        if client is None:
            return
        left = self._counts.get(client, 1) - 1
        if left:
            self._counts[client] = left
        else:
            self._counts.pop(client, None)
