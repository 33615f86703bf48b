"""A store that can be told to fail: slow, down, silent for ever, or lost in the middle of a step."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from bedplate.errors import UnavailableError, UncertainError
from bedplate.online.base import Changes, OnlineStore, Values

SLOW = 0.03  # seconds


class TroubledStore(OnlineStore):
    """Another store, whose reads do what `mood` says: `well`, `down` (an error), `broken`, `slow` or `silent`.

    Steps do what the moods in `steps` say, one after the other, then `well`: `down`, `taken` or `lost` (the step is, or
    it is not, and nobody knows).
    """

    def __init__(self, store: OnlineStore) -> None:
        self.store, self.mood, self.asked = store, "well", 0
        self.steps: list[str] = []
        self.free = threading.Event()

    @property
    def url(self) -> str:
        return "troubled:"

    def read_many(self, wanted: Sequence[bytes], runs: Sequence[slice] = (), deadline: float | None = None) -> Values:
        self.asked += 1
        if self.mood == "down":
            raise UnavailableError("connection lost", where=self.url)
        if self.mood == "broken":
            raise ConnectionResetError("reset by peer")
        if self.mood == "silent":
            self.free.wait()
        if self.mood == "slow":
            time.sleep(SLOW)
        return self.store.read_many(wanted, runs)

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        return self.store.scan(prefix)

    def writing(self, names: Sequence[str]) -> AbstractContextManager[None]:
        return self.store.writing(names)

    def commit(self, changes: Changes) -> None:
        mood = self.steps.pop(0) if self.steps else "well"
        if mood == "down":
            raise UnavailableError("connection lost", where=self.url)
        if mood != "lost":
            self.store.commit(changes)
        if mood != "well":
            raise UncertainError("whether the step was taken is not known", where=self.url)

    def close(self) -> None:
        self.free.set()
        self.store.close()
