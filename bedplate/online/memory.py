"""An online store in memory, for tests and notebooks; gone with its process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Sequence
from typing import ClassVar, final

from bedplate.errors import ConflictError
from bedplate.online.base import Changes, OnlineStore, Values, check_deadline, conflict


@final
class MemoryStore(OnlineStore):
    """A dictionary that changes under a lock.

    >>> store = MemoryStore()
    >>> store.commit(Changes(puts=[(b"a", b"1")]))
    >>> list(store.read_many([b"a", b"b"]))
    [b'1', b'']
    """

    __slots__ = ("_claimed", "_lock", "_table")
    keeps_deadlines: ClassVar[bool] = True

    def __init__(self) -> None:
        self._table: dict[bytes, bytes] = {}
        self._claimed: set[str] = set()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Always `memory:`."""
        return "memory:"

    def read_many(self, wanted: Sequence[bytes], runs: Sequence[slice] = (), deadline: float | None = None) -> Values:
        """The values of keys, all as one step left them."""
        check_deadline(deadline, self.url)
        with self._lock:
            found = [self._table.get(k, b"") for k in wanted]
        return Values(found)

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The keys with a prefix and their values."""
        with self._lock:
            return sorted((k, v) for k, v in self._table.items() if k.startswith(prefix))

    @contextlib.contextmanager
    def writing(self, names: Sequence[str]) -> Generator[None]:
        """Claims names for writing."""
        with self._lock:
            taken = self._claimed.intersection(names)
            if taken:
                raise ConflictError(
                    f"another writer is at work on {sorted(taken)}", where=self.url, hint="stop it first"
                )
            self._claimed.update(names)
        try:
            yield
        finally:
            with self._lock:
                self._claimed.difference_update(names)

    def commit(self, changes: Changes) -> None:
        """Applies all changes."""
        with self._lock:
            for key, value in changes.expects:
                if self._table.get(key, b"") != value:
                    raise conflict(self.url)
            for prefix in changes.deletes:
                for key in [k for k in self._table if k.startswith(prefix)]:
                    del self._table[key]
            for key in changes.drops:
                self._table.pop(key, None)
            self._table.update(changes.puts)

    def close(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._table.clear()
