"""What an online store holds: views and their versions, generations, sizes, how far they are."""

from __future__ import annotations

from collections.abc import Collection
from typing import final

import msgspec

from bedplate.online import keys
from bedplate.online.base import OnlineStore
from bedplate.online.generations import LoadState
from bedplate.online.state import ViewState, decode, states


@final
class ViewFacts(msgspec.Struct, frozen=True):
    """A version of a view, for listings.

    Attributes:
        state: what the store knows of it: until, watermark, newest event, events, position in the stream.
        is_current: whether the project defines it so.
        generation: which one is read; -1: none, as its first load is at work or was interrupted.
        loading: the load at work or interrupted; None: there is none.
        rows: that are read: of the generation, and the adopted ones.
        bytes: of the rows of the generation and their keys.
        adopted_rows: of the old version that the view goes on with, where it has none of its own; they are among the
            rows of that one too, as are their bytes.
        left_rows: of other generations: of a load at work or interrupted, or not yet deleted.
        left_bytes: of these.
    """

    state: ViewState
    is_current: bool
    generation: int
    loading: LoadState | None
    rows: int
    bytes: int
    left_rows: int
    left_bytes: int
    adopted_rows: int = 0


@final
class StoreFacts(msgspec.Struct, frozen=True):
    """A store, for listings.

    Attributes:
        url: of the store.
        views: by name.
        texts: how many texts it has.
        text_bytes: of these and their keys.
    """

    url: str
    views: list[ViewFacts]
    texts: int
    text_bytes: int


def listing(store: OnlineStore, defined: Collection[str]) -> StoreFacts:
    """What a store holds; all rows are counted, some at a time.

    Args:
        store: the store.
        defined: the ids of the views that the project defines.

    Raises:
        StoreError: the store can't be read.
    """
    views = [_view(store, state, is_current=state.id in defined) for state in states(store)]
    return StoreFacts(store.url, views, *_counted(store, keys.TEXTS))


def _view(store: OnlineStore, state: ViewState, *, is_current: bool) -> ViewFacts:
    generation, of_rows = state.generation if state.complete else -1, keys.of_view(keys.ROWS, state.id)
    load = store.read_many([keys.of_view(keys.LOADS, state.id)]).data
    loading = decode(load, LoadState, "a load") if load else None
    rows, taken = _counted(store, of_rows)
    served, served_bytes = (0, 0) if generation < 0 else _counted(store, keys.rows_under(state.id, generation))
    left, left_bytes = max(0, rows - served), max(0, taken - served_bytes)
    old = _adopted(store, state)
    return ViewFacts(state, is_current, generation, loading, served + old, served_bytes, left, left_bytes, old)


def _adopted(store: OnlineStore, state: ViewState) -> int:
    """How many rows of an old version are read where the view has none of its own."""
    if state.adopted is None:
        return 0
    count, own = 0, keys.rows_under(state.id, state.generation)
    for page in store.pages(keys.rows_under(state.adopted.id, state.adopted.generation)):
        count += sum(not row for row in store.read_many([own + key[len(own) :] for key, _ in page]))
    return count


def _counted(store: OnlineStore, prefix: bytes) -> tuple[int, int]:
    """How many keys begin so, and the bytes of them and their values."""
    count = taken = 0
    for page in store.pages(prefix):
        count += len(page)
        taken += sum(len(key) + len(value) for key, value in page)
    return count, taken
