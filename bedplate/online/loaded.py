"""What a load took in, as sums: they say later whether history is still what was loaded, without keeping a copy of it.

Keys are put into shares by their hash. For each share there is the number of the events that were loaded and the sum of
their hashes, of key and packed words, modulo 2**64: equal in whatever order they came, and different where one of them
was changed, deleted or added. The sums are written by the step that makes the loaded rows the ones that are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from bedplate.features.view import CompiledView
from bedplate.hashing import hash_word
from bedplate.online import keys as store_keys
from bedplate.online.base import OnlineStore
from bedplate.online.compiled import jit
from bedplate.online.rows import Events
from bedplate.types import Int64s

MOST_SHARES = 1 << 14
"""So many shares there are at most, a power of two: 256 KB."""

_SHARES_A_KEY = 64
"""Of few keys nearly every one has a share of its own."""

_FORMAT = 1


@jit
def _hash_key(keys: Any, k: int) -> Any:
    found = np.int64(0)
    for e in range(keys.shape[1]):
        found = hash_word(found ^ keys[k, e])
    return found


@jit
def _add(keys: Any, offsets: Any, events: Any, table: Any) -> None:
    for k in range(len(keys)):
        own = _hash_key(keys, k)
        at = own & np.int64(len(table) - 1)
        for i in range(offsets[k], offsets[k + 1]):
            found = own
            for w in range(events.shape[1]):
                found = hash_word(found ^ events[i, w])
            table[at, 0] += 1
            table[at, 1] += found


@jit
def _shares(keys: Any, count: int, out: Any) -> None:
    for k in range(len(keys)):
        out[k] = _hash_key(keys, k) & np.int64(count - 1)


def sums(events: Events, shares: int = 1) -> Int64s:
    """[shares, 2] int64: for each share the number of events and the sum of their hashes.

    Args:
        events: packed events.
        shares: how many there are, a power of two.
    """
    table = np.zeros((shares, 2), np.int64)
    _add(np.ascontiguousarray(events.keys), events.offsets, np.ascontiguousarray(events.words), table)
    return table


@final
class LoadSums:
    """The sums of a load at work."""

    __slots__ = ("_keys", "_table")

    def __init__(self) -> None:
        self._table, self._keys = np.zeros((MOST_SHARES, 2), np.int64), 0

    def add(self, events: Events) -> None:
        """Adds events; a key comes once."""
        _add(np.ascontiguousarray(events.keys), events.offsets, np.ascontiguousarray(events.words), self._table)
        self._keys += len(events.keys)

    def packed(self) -> bytes:
        """What a store keeps of them: fewer shares where there are few keys."""
        shares = min(MOST_SHARES, 1 << (max(1, self._keys) * _SHARES_A_KEY - 1).bit_length())
        folded = self._table.reshape(-1, shares, 2).sum(axis=0)
        return np.array([_FORMAT], np.int64).tobytes() + folded.tobytes()


@final
@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load took in.

    Attributes:
        table: [shares, 2] int64, see `sums`.
    """

    table: Int64s

    @staticmethod
    def read(store: OnlineStore, view: CompiledView) -> Loaded | None:
        """Of the load of a view; None: of that one there are no sums, or in a form that is not known here.

        A view that goes on with the rows of an old version was not loaded.

        Raises:
            StoreError: the store can't be read.
        """
        value = store.read_many([store_keys.of_view(store_keys.LOADED, view.id)]).data
        words = np.frombuffer(value[: len(value) // 8 * 8], np.int64)
        if len(words) < 3 or words[0] != _FORMAT or (shares := len(words) // 2) & (shares - 1):
            return None
        return Loaded(words[1:].reshape(-1, 2)) if len(words) % 2 else None

    def shares(self, keys: Int64s) -> Int64s:
        """[n]: the share of each of some keys [n, entities]."""
        found = np.zeros(len(keys), np.int64)
        _shares(np.ascontiguousarray(keys), len(self.table), found)
        return found
