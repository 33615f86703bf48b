"""A store that can be told to fail: slow, down, or silent for ever."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager

from bedplate.errors import StoreError
from bedplate.online.base import Changes, OnlineStore, Values


class TroubledStore(OnlineStore):
    """Another store, whose reads do what `mood` says: `well`, `down` (an error), `broken` or `silent` till `free`."""

    def __init__(self, store: OnlineStore) -> None:
        self.store, self.mood, self.asked = store, "well", 0
        self.free = threading.Event()

    @property
    def url(self) -> str:
        return "troubled:"

    def read_many(self, wanted: Sequence[bytes], runs: Sequence[slice] = (), deadline: float | None = None) -> Values:
        self.asked += 1
        if self.mood == "down":
            raise StoreError("connection lost", where=self.url)
        if self.mood == "broken":
            raise ConnectionResetError("reset by peer")
        if self.mood == "silent":
            self.free.wait()
        return self.store.read_many(wanted, runs)

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        return self.store.scan(prefix)

    def writing(self, names: Sequence[str]) -> AbstractContextManager[None]:
        return self.store.writing(names)

    def commit(self, changes: Changes) -> None:
        self.store.commit(changes)

    def close(self) -> None:
        self.free.set()
        self.store.close()
