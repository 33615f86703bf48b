"""Whether history of before a load is still what was loaded, by the sums that the load left in the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from bedplate.offline.reading import ViewReader
from bedplate.online.base import OnlineStore
from bedplate.online.codec import Layout
from bedplate.online.loaded import Loaded, sums
from bedplate.online.rows import Events
from bedplate.types import Int64s


@final
@dataclass(frozen=True, slots=True)
class Past:
    """How the events of before a load differ now from those that were loaded, for the keys of a share.

    Attributes:
        keys: how many keys the share has in history, the one that is asked about included.
        added: how many events more there are now.
        change: by how much the sum of their hashes is more, modulo 2**64.
    """

    keys: int
    added: int
    change: int

    @property
    def is_same(self) -> bool:
        """Whether they are the same events with the same values."""
        return (self.added, self.change) == (0, 0)

    def is_by(self, events: Events, sign: int) -> bool:
        """Whether the difference is just these events, come (1) or gone (-1)."""
        [[count, total]] = np.int64(sign) * sums(events)
        return bool(count == self.added and total == self.change)


def pasts_of(store: OnlineStore, reader: ViewReader, layout: Layout, keys: Int64s, until: int) -> list[Past | None]:
    """Of each of some keys.

    Args:
        store: the store.
        reader: of history.
        layout: of the view's rows.
        keys: [n, entities] int64.
        until: of the load, microseconds.

    Returns:
        for each key what is known of its share; None: the store has no sums of the load.

    Raises:
        StoreError: a store can't be read.
    """
    loaded = Loaded.read(store, layout.view)
    if loaded is None:
        return [None] * len(keys)
    every = reader.all_keys()
    of_every, wanted = loaded.shares(every), loaded.shares(keys).tolist()
    found: dict[int, Past] = {}
    for share in dict.fromkeys(wanted):
        members = every[of_every == share]
        now = sums(_before(reader, layout, members, until))[0] if len(members) else np.zeros(2, np.int64)
        added, change = (now - loaded.table[share]).tolist()
        found[share] = Past(max(1, len(members)), added, change)
    return [found[share] for share in wanted]


def _before(reader: ViewReader, layout: Layout, keys: Int64s, until: int) -> Events:
    """The events of keys that could be known before a time."""
    rows = reader.events(keys)
    kept = rows.visible < until
    counts = np.zeros(len(kept) + 1, np.int64)
    np.cumsum(kept, out=counts[1:])
    return Events(rows.keys, counts[rows.offsets], layout.pack(rows)[kept])
