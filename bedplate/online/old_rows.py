"""Rows of an old version of a view, read as rows of the version that goes on with them; see `adoption`."""

from __future__ import annotations

import functools
from typing import final

import msgspec
import numpy as np

from bedplate.online import keys
from bedplate.online.base import OnlineStore
from bedplate.online.codec import Layout
from bedplate.online.forms import Conversion, Form, conversion, form_of
from bedplate.types import Int64s


@final
class Adopted(msgspec.Struct, frozen=True):
    """The rows of an old version that a view goes on with; see `adoption`.

    Attributes:
        id: of the old version.
        generation: of its rows.
    """

    id: str
    generation: int


def with_old_rows(
    store: OnlineStore, layout: Layout, adopted: Adopted, entities: Int64s, words: Int64s, offsets: Int64s
) -> tuple[Int64s, Int64s] | None:
    """Rows of k keys, the missing ones as the old version has them; None: it is gone, as all rows were taken over.

    Args:
        store: the store.
        layout: of the view.
        adopted: the old version.
        entities: [k, entities] the keys.
        words: the rows under their own keys.
        offsets: [k + 1] where each begins.
    """
    missing = np.flatnonzero(np.diff(offsets) == 0)
    if not len(missing):
        return words, offsets
    names = keys.prefixed(keys.of_view(keys.ROWS, adopted.id) + bytes([adopted.generation]), entities[missing])
    values = store.read_many([*names, *(keys.of_view(letter, adopted.id) for letter in (keys.FORMS, keys.STATES))])
    form, state = values.last(2)
    way = way_from(form, layout) if form and state else None
    if way is None:
        return None
    old, ends = way.rows(*values.rows(len(names)))
    sizes, starts = np.diff(offsets), offsets[:-1].copy()
    sizes[missing], starts[missing] = np.diff(ends), len(words) + ends[:-1]
    out = np.zeros(len(offsets), np.int64)
    np.cumsum(sizes, out=out[1:])
    every = np.concatenate([words, old])
    return every[np.repeat(starts - out[:-1], sizes) + np.arange(out[-1])], out


@functools.lru_cache(maxsize=64)
def way_from(form: bytes, layout: Layout) -> Conversion | None:
    """The way to a layout from an encoded form; None: its rows do not hold all that is needed."""
    return conversion(msgspec.json.decode(form, type=Form), form_of(layout))
