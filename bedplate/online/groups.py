"""The consumer group of a topic: workers share the partitions with those that take them into the same rows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from bedplate.errors import ConflictError
from bedplate.features.view import CompiledView
from bedplate.online.base import Changes, OnlineStore
from bedplate.online.keys import ID_KEY


def store_id(store: OnlineStore) -> str:
    """What tells a store from all others, whatever its URL; a copy of it has the same.

    Raises:
        StoreError: the store can't be read or written.

    >>> from bedplate.online.memory import MemoryStore
    >>> one, other = MemoryStore(), MemoryStore()
    >>> store_id(one) == store_id(one), store_id(one) == store_id(other)
    (True, False)
    """
    while not (known := store.read_many([ID_KEY]).data):
        try:
            store.commit(Changes([(ID_KEY, os.urandom(4).hex().encode())], expects=[(ID_KEY, b"")]))
        except ConflictError:  # another one was first
            continue
    return known.decode()


def group_name(store: OnlineStore, views: Sequence[CompiledView], name: str | None = None) -> str:
    """The consumer group of the workers that keep views of one source current in a store.

    Workers of another store, source, or version of a view must not be in it, as they would get a part of the
    partitions and leave the others without them.

    Args:
        store: the store.
        views: the views, of one source.
        name: what it is called instead, of whatever store and views; the source's name is appended. None: nothing.

    Raises:
        StoreError: the store can't be read or written.
    """
    source = views[0].view.source.name
    if name is not None:
        return f"{name}-{source}"
    ids = hashlib.sha256("".join(sorted(v.id for v in views)).encode()).hexdigest()[:8]
    return f"bedplate-{source}-{store_id(store)}-{ids}"
