"""Rows of an old version of a view, read as rows of the version that goes on with them; see `adoption`."""

from __future__ import annotations

import functools

import numpy as np

from bedplate.errors import ConflictError
from bedplate.online import keys
from bedplate.online.base import OnlineStore
from bedplate.online.forms import Conversion, Form, conversion
from bedplate.online.state import Adopted, NotHeldError, decode, decoded
from bedplate.types import Int64s


def with_old_rows(
    store: OnlineStore, form: Form, adopted: Adopted, entities: Int64s, words: Int64s, offsets: Int64s
) -> tuple[Int64s, Int64s] | None:
    """Rows of k keys, the missing ones as the old version has them.

    Args:
        store: the store.
        form: of the rows of the view that goes on with them.
        adopted: the old version.
        entities: [k, entities] the keys.
        words: the rows under their own keys.
        offsets: [k + 1] where each begins.

    Returns:
        words and offsets [k + 1]; None: the view has meanwhile taken over all rows, or does not read these any more.

    Raises:
        NotHeldError: the old rows are not those that the view took over any more, and it reads them still.
    """
    missing = np.flatnonzero(np.diff(offsets) == 0)
    if not len(missing):
        return words, offsets
    names = keys.prefixed(keys.rows_under(adopted.id, adopted.generation), entities[missing])
    values = store.read_many([*names, *(keys.of_view(letter, adopted.id) for letter in (keys.FORMS, keys.STATES))])
    old_form, state = values.last(2)
    way = way_from(old_form, form) if old_form and _is_held(state, adopted, form.id) else None
    if way is None:
        _check_over(store, adopted, form.id)
        return None
    old, ends = way.rows(*values.rows(len(names)))
    sizes, starts = np.diff(offsets), offsets[:-1].copy()
    sizes[missing], starts[missing] = np.diff(ends), len(words) + ends[:-1]
    out = np.zeros(len(offsets), np.int64)
    np.cumsum(sizes, out=out[1:])
    every = np.concatenate([words, old])
    return every[np.repeat(starts - out[:-1], sizes) + np.arange(out[-1])], out


def rows_to_write(
    store: OnlineStore, form: Form, adopted: Adopted, entities: Int64s, words: Int64s, offsets: Int64s
) -> tuple[Int64s, Int64s]:
    """As `with_old_rows`, for those who write rows of the view.

    Raises:
        ConflictError: all rows were taken over meanwhile.
        StoreError: as `with_old_rows`.
    """
    found = with_old_rows(store, form, adopted, entities, words, offsets)
    if found is None:
        raise ConflictError(
            "all rows of the old version were taken over meanwhile", where=store.url, hint="run it again"
        )
    return found


@functools.lru_cache(maxsize=64)
def way_from(old: bytes, new: Form) -> Conversion | None:
    """The way to a form from an encoded one; None: its rows do not hold all that is needed.

    Raises:
        StoreError: the encoded form is of another version of Bedplate.
    """
    return conversion(decoded_form(old), new)


def decoded_form(value: bytes) -> Form:
    """A form from its bytes; raises as `state.decode`."""
    return decode(value, Form, "what rows of a view hold")


def _is_held(state: bytes, adopted: Adopted, successor: str) -> bool:
    """Whether an old version's state says that its rows are still those that were taken over."""
    if not state:
        return False
    old = decoded(state)
    return old.complete and (old.generation, old.successor) == (adopted.generation, successor)


def _check_over(store: OnlineStore, adopted: Adopted, view_id: str) -> None:
    """Raises `NotHeldError` where a view still reads old rows that were found to be gone before."""
    value = store.read_many([keys.of_view(keys.STATES, view_id)]).data
    state = decoded(value) if value else None
    if state is not None and state.adopted == adopted:
        raise NotHeldError(
            f"rows of version {adopted.id[:12]}, with which the view goes on, were deleted or loaded anew",
            where=f"{store.url}: {state.name}",
            hint="load the view from history: bedplate materialize --replace",
        )
