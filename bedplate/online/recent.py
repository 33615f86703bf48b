"""The packed rows that were read last, for the time when the store can't be read: bounded, each with its age.

What a read costs must not be paid for a bad day: a read hands its rows over in one step, and a thread files them by key
a moment later, while the model computes. Small reads, such as those of the request, are always filed. Of large ones,
such as those of candidates, a busy server files as many as take a fiftieth of a core: what is read often is soon there.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from itertools import pairwise, repeat
from queue import SimpleQueue
from time import sleep, thread_time
from typing import NamedTuple, TypeAlias, final

import numpy as np

from bedplate.features.reader import Read
from bedplate.online.base import Values
from bedplate.types import Float64s, Int64s

_ENTRY_BYTES = 250
"""What an entry takes beside its row."""
_MOST_WAITING = 64
"""Reads whose rows are not filed yet; beyond, whoever reads files them."""
_NAP_SECONDS = 0.02
"""How often the thread looks for rows while there are some: to wake it for each read may cost the reader its turn."""

_FEW = 32
"""Reads of at most so many rows are always filed."""
_SHARE, _MOST_SECONDS = 0.02, 0.1
"""The share of a core that filing larger ones may take, and how much of it is saved up while there is less to do."""

_Rows: TypeAlias = "dict[str, dict[bytes, tuple[tuple[float, int], bytes]]]"
_NEVER = (float("nan"), 0), b""


class _Seen(NamedTuple):
    """Rows that were read together; see `RecentRows.remember`."""

    reads: Sequence[Read]
    values: Values
    watermarks: Sequence[int]
    now: float


@final
class RecentRows:
    """Rows by view and key. Where they fill half of the room, those of the half before are forgotten.

    Args:
        most_bytes: about how much memory the rows may take.
    """

    __slots__ = (
        "_half", "_is_idle", "_last", "_left", "_lock", "_older", "_room", "_rows", "_thread", "_waiting", "_wake",
    )  # fmt: skip

    def __init__(self, most_bytes: int) -> None:
        self._half = self._room = most_bytes // 2
        self._rows: _Rows = {}
        self._older: _Rows = {}
        self._lock = threading.Lock()
        self._waiting: deque[_Seen] = deque()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_idle = True
        self._last, self._left = 0.0, _MOST_SECONDS  # the last read's time, and the seconds left for large ones

    def remember(self, reads: Sequence[Read], values: Values, watermarks: Sequence[int], now: float) -> None:
        """Keeps the rows of reads. A key that the store did not have has an empty row: that is known of it.

        Args:
            reads: what was read.
            values: as `OnlineReader.rows` gave them.
            watermarks: of each read's view, microseconds.
            now: of the monotonic clock, seconds.
        """
        self._waiting.append(_Seen(reads, values, watermarks, now))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="recent-rows", daemon=True)
            self._thread.start()
        if len(self._waiting) > _MOST_WAITING:
            self._file_waiting()
        elif self._is_idle:
            self._is_idle = False
            self._wake.put(None)

    def recall(self, read: Read) -> tuple[list[bytes], Float64s, Int64s]:
        """The last rows of a read's keys: the rows, when each was seen, and its view's watermark then.

        A key that was never seen has an empty row, seen at NaN.
        """
        self._file_waiting()
        with self._lock:
            newer, older = self._rows.get(read.view.id, {}), self._older.get(read.view.id, {})
        found = [newer.get(name) or older.get(name) or _NEVER for name in _names(read.keys)]
        seen = np.array([seen for (seen, _), _ in found], np.float64)
        return [row for _, row in found], seen, np.array([watermark for (_, watermark), _ in found], np.int64)

    def _work(self) -> None:
        while True:
            self._wake.get()
            while not self._is_idle:
                sleep(_NAP_SECONDS)
                self._is_idle = not self._waiting
                self._file_waiting()

    def _file_waiting(self) -> None:
        while self._waiting:
            with self._lock:
                was_long = self._file(self._waiting.popleft()) if self._waiting else False
            if was_long:
                # Whoever waits for the interpreter comes first; after a few rows that costs more than it gives.
                sleep(0)

    def _file(self, seen: _Seen) -> bool:
        """Puts rows under their keys, and says whether they were many; the lock is held."""
        self._left = min(_MOST_SECONDS, self._left + _SHARE * max(0.0, seen.now - self._last))
        self._last, first, was_long = seen.now, 0, False
        for read, watermark in zip(seen.reads, seen.watermarks, strict=True):
            last = first + len(read.keys)
            if last - first <= _FEW:
                self._put(read, seen.values, first, (seen.now, watermark))
            elif self._left > 0.0:
                begin = thread_time()
                self._put(read, seen.values, first, (seen.now, watermark))
                self._left -= thread_time() - begin
                was_long = True
            first = last
        if self._room < 0:
            self._older, self._rows, self._room = self._rows, {}, self._half
        return was_long

    def _put(self, read: Read, values: Values, first: int, when: tuple[float, int]) -> None:
        """Puts the rows of one read, of which `first` is the first of the values, under their keys."""
        ends: list[int] = values.ends[first : first + len(read.keys) + 1].tolist()
        data = values.data
        rows = [data[a:b] for a, b in pairwise(ends)]
        known = self._rows.setdefault(read.view.id, {})
        before = len(known)
        known.update(zip(_names(read.keys), zip(repeat(when), rows, strict=False), strict=False))
        added = len(known) - before
        if added:
            self._room -= added * ((ends[-1] - ends[0]) // len(rows) + _ENTRY_BYTES)


def _names(keys: Int64s) -> list[bytes]:
    """[n] bytes of keys [n, entities]."""
    return np.ascontiguousarray(keys).view(f"V{8 * keys.shape[1]}")[:, 0].tolist()
