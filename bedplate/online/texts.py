"""The texts of an online store that nothing names any more."""

from __future__ import annotations

import numpy as np

from bedplate.online import keys
from bedplate.online.base import PAGE, Changes, OnlineStore
from bedplate.online.state import states
from bedplate.types import Bools, Int64s


def drop_texts(store: OnlineStore, *, dry_run: bool = False) -> int:
    """Deletes the texts that no row and no key names; how many these are.

    Raises:
        StoreError: the store can't be read or written, or a writer is at work: it may be about to name one.
    """
    with store.writing([state.id for state in states(store)]):
        ids = b"".join(key[1:] for page in store.pages(keys.TEXTS) for key, _ in page)
        known = np.sort(np.frombuffer(ids, ">i8").astype(np.int64))
        is_named = np.zeros(len(known), np.bool_)
        for page in store.pages(keys.ROWS):
            _mark(known, is_named, np.frombuffer(b"".join(value for _, value in page), np.int64))
            # A key ends with those of its entities, signs flipped.
            entities = np.frombuffer(b"".join(key[10:] for key, _ in page), ">u8").astype(np.uint64)
            _mark(known, is_named, (entities ^ np.uint64(1 << 63)).view(np.int64))
        gone = keys.text_keys(known[~is_named])
        for first in range(0, 0 if dry_run else len(gone), PAGE):
            store.commit(Changes(drops=gone[first : first + PAGE]))
    return len(gone)


def _mark(known: Int64s, is_named: Bools, words: Int64s) -> None:
    """Whatever a word of a row is, an id that it equals may be named by it."""
    if len(known):
        at = np.minimum(np.searchsorted(known, words), len(known) - 1)
        is_named[at[known[at] == words]] = True
