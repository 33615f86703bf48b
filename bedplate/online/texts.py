"""The texts of an online store that nothing names any more.

Writers go on while texts are dropped, and none of them is trusted to be done with what it was about to name:

1. The texts are listed, each with the mark of whoever put it last (`base.text_puts`).
2. Every view's state and every load's is changed, so that no step is taken any more that was begun before. Whoever has
   one on hand begins it anew, and puts all texts that it names again: these get another mark.
3. All rows are looked through. What was named before the second point is found in them, or was in no row any more.
4. A listed text that no row names is dropped, in a step that expects its mark still to be the listed one.
"""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
import numpy as np

from bedplate.errors import ConflictError, UncertainError
from bedplate.online import keys
from bedplate.online.base import PAGE, Changes, OnlineStore, text_mark
from bedplate.online.state import states
from bedplate.types import Bools, Int64s

_TRIES = 5


def drop_texts(store: OnlineStore, *, dry_run: bool = False) -> int:
    """Deletes the texts that no row and no key names, while others write; how many these are.

    Raises:
        ConflictError: views were loaded or deleted all the time; nothing is deleted.
        StoreError: the store can't be read or written.
    """
    for _ in range(_TRIES):
        before = _places(store)
        known, marks = _listed(store)
        if not dry_run:
            _begin_all_anew(store)
        is_named = _named(store, known)
        if _places(store).items() >= before.items():
            gone = ~is_named
            return int(gone.sum()) if dry_run else _drop(store, known[gone], marks[gone])
    raise ConflictError("views are loaded or deleted meanwhile", where=store.url, hint="run it again after that")


def _places(store: OnlineStore) -> dict[str, object]:
    """Where each view's rows are. While that stays so, a row that is moved is in one of both places all the time."""
    return {state.id: (state.generation, state.adopted) for state in states(store)}


def _listed(store: OnlineStore) -> tuple[Int64s, Int64s]:
    """The ids [n] of all texts, ascending, and their marks [n]."""
    ids, marks = bytearray(), bytearray()
    for page in store.pages(keys.TEXTS):
        ids += b"".join(key[1:] for key, _ in page)
        marks += b"".join(text_mark(value) for _, value in page)
    known, first = np.unique(np.frombuffer(bytes(ids), ">i8").astype(np.int64), return_index=True)
    return known, np.frombuffer(bytes(marks), np.int64)[first]


def _begin_all_anew(store: OnlineStore) -> None:
    """Changes the state of every view and load, so that steps at work are not taken."""
    token = uuid.uuid4().hex
    for key in [key for letter in (keys.STATES, keys.LOADS) for key, _ in store.scan(letter)]:
        while True:
            (before,) = store.read_many([key])
            if not before:
                break
            changed: dict[str, Any] = msgspec.json.decode(before, type=dict[str, Any]) | {"texts": token}
            try:
                store.commit(Changes([(key, msgspec.json.encode(changed))], expects=[(key, before)]))
                break
            except (ConflictError, UncertainError):
                continue


def _named(store: OnlineStore, known: Int64s) -> Bools:
    """Which of these texts a row or the key of one names."""
    is_named = np.zeros(len(known), np.bool_)
    for page in store.pages(keys.ROWS):
        _mark(known, is_named, np.frombuffer(b"".join(value for _, value in page), np.int64))
        _mark(known, is_named, keys.words_in([key for key, _ in page]))
    return is_named


def _mark(known: Int64s, is_named: Bools, words: Int64s) -> None:
    """Whatever a word of a row is, an id that it equals may be named by it."""
    if len(known):
        at = np.minimum(np.searchsorted(known, words), len(known) - 1)
        is_named[at[known[at] == words]] = True


def _drop(store: OnlineStore, ids: Int64s, marks: Int64s) -> int:
    """Deletes texts that have these marks still; how many."""
    count, names = 0, keys.text_keys(ids)
    for first in range(0, len(names), PAGE):
        chosen = slice(first, first + PAGE)
        while True:
            found = zip(names[chosen], store.read_many(names[chosen]), marks[chosen], strict=True)
            expects = [(key, value) for key, value, mark in found if value and text_mark(value) == mark.tobytes()]
            try:
                store.commit(Changes(drops=[key for key, _ in expects], expects=expects))
                count += len(expects)
                break
            except (ConflictError, UncertainError):
                continue
    return count
