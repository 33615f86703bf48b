"""Keys of the store's one table: a letter for what is kept, then what it belongs to.

Rows are in the order of their view, generation and entity keys (big-endian, sign flipped), so that a bulk load appends.
A generation is what one bulk load brought and the stream added to it; the view's state names the one that is read.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from bedplate.features.view import CompiledView
from bedplate.types import Int64s

FORMAT_KEY = b"m:format"
"""The version of the store's form."""

ID_KEY = b"m:id"
"""What tells the store from others: `groups.store_id`."""

STATES = b"v"
"""What is known about each view: `state.ViewState`."""

LOADS = b"l"
"""What is known about each load at work: `generations.LoadState`."""

FORMS = b"d"
"""What the rows of a view hold: `forms.Form`."""

ROWS = b"r"
"""Packed rows."""

TEXTS = b"t"
"""The text behind each string id."""

GONE = b"g"
"""That a version of a view was deleted, because another one is defined: `state.Gone`."""

READERS = b"u"
"""Who reads a version of a view: `readers.Notice`."""

LOADED = b"h"
"""What the load of a view took in: `loaded.Loaded`."""

GENERATIONS = 256
"""So many generations of a view's rows are told apart."""

_SIGN = np.uint64(1 << 63)
_OF_ROWS = 10  # bytes that come before the keys of entities: letter, view, generation


FILES = b"f"
"""The names of the files that a view has taken in."""


LETTER = b"\0"
"""After `FILES` and the view, before the name of an event that was withheld from it."""


def of_view(letter: bytes, view_id: str) -> bytes:
    """What the keys of a kind (`STATES`, `LOADS`, `ROWS`, `FILES`, `FORMS`) begin with for the view of an id."""
    return letter + bytes.fromhex(view_id)[:8]


def group_of(key: bytes) -> bytes:
    """What a key belongs to: the eight bytes of its view, or the letter of what is of no view.

    Keys of one group change together; a store of several servers has them on one.

    >>> group_of(b"r" + b"12345678" + b"entity"), group_of(TEXTS + b"87654321")
    (b'12345678', b't')
    """
    return key[:1] if key[:1] in (TEXTS, b"m") else key[1:9]


def rows_of(view: CompiledView, generation: int | None = None) -> bytes:
    """What the keys of a view's rows begin with, those of one generation or all."""
    return of_view(ROWS, view.id) if generation is None else rows_under(view.id, generation)


def rows_under(view_id: str, generation: int) -> bytes:
    """What the keys of the rows of a generation begin with, for the view of an id."""
    return of_view(ROWS, view_id) + bytes([generation])


def state_of(view: CompiledView) -> bytes:
    """The key of a view's state."""
    return of_view(STATES, view.id)


def load_of(view: CompiledView) -> bytes:
    """The key of the load of a view that is at work or was interrupted."""
    return of_view(LOADS, view.id)


def files_of(view: CompiledView) -> bytes:
    """What the keys of the names of the files that a view has taken in begin with."""
    return of_view(FILES, view.id)


def letter_of(view: CompiledView, name: str) -> bytes:
    """The key of the note that an event was withheld from a view; `name` is its letter's, see `letters`.

    It is among those of `files_of`, with which it goes when a view is loaded anew, and is taken over.
    """
    return letters_of(view) + name.encode()


def letters_of(view: CompiledView) -> bytes:
    """What the keys of the notes that events were withheld from a view begin with."""
    return files_of(view) + LETTER


def row_keys(view: CompiledView, keys: Int64s, generation: int) -> list[bytes]:
    """The keys of rows.

    Args:
        view: the compiled view.
        keys: [n, entities] int64.
        generation: of the rows.
    """
    return prefixed(rows_of(view, generation), keys)


def prefixed(prefix: bytes, keys: Int64s) -> list[bytes]:
    """The keys of the rows of keys [n, entities] int64 that begin with ten bytes."""
    form = _row_form(keys.shape[1])
    out = np.empty(len(keys), form)
    out["view"] = prefix
    np.bitwise_xor(np.ascontiguousarray(keys).view(np.uint64), _SIGN, out=out["keys"])
    return out.view(f"V{form.itemsize}").tolist()


def entities_in(names: Sequence[bytes], entities: int) -> Int64s:
    """[n, entities] int64: the keys of entities that keys of rows hold, the inverse of `row_keys`."""
    width = 8 * entities
    words = np.frombuffer(b"".join(name[-width:] for name in names), ">u8").astype(np.uint64)
    return (words ^ _SIGN).view(np.int64).reshape(-1, entities)


def words_in(names: Sequence[bytes]) -> Int64s:
    """[n * entities] int64: the keys of entities that keys of rows hold, one row's after the other's."""
    words = np.frombuffer(b"".join(name[_OF_ROWS:] for name in names), ">u8").astype(np.uint64)
    return (words ^ _SIGN).view(np.int64)


@functools.lru_cache
def _row_form(entities: int) -> np.dtype[np.void]:
    return np.dtype([("view", "S10"), ("keys", ">u8", (entities,))])


def text_keys(ids: Int64s) -> list[bytes]:
    """The keys of the texts behind ids [n] int64."""
    return [TEXTS + i for i in ids.astype(">i8").view("V8").tolist()]
