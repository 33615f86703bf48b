"""Adoption: a view that has changed goes on with the rows of its old version, where these hold all that it needs.

Its state names the version that it took over. A row is looked for under its own key first, then under the old one, and
read as one of the new form; it is written under its own key. The old version's rows never change after that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from bedplate.errors import ConflictError, StoreError
from bedplate.features.view import CompiledView
from bedplate.online import keys
from bedplate.online.base import Changes, OnlineStore
from bedplate.online.codec import Layout
from bedplate.online.forms import form_of
from bedplate.online.generations import discard
from bedplate.online.old_rows import Adopted, way_from, with_old_rows
from bedplate.online.state import ViewState, states
from bedplate.types import Int64s


def adopt(store: OnlineStore, views: Sequence[CompiledView], until: int | None = None) -> Mapping[str, ViewState]:
    """Lets views of which the store has no rows go on with those of an old version, where there is one that holds all.

    The old version can be read on as it was, and its writers get an error. An adoption that is interrupted is gone on
    with by the next one.

    Args:
        store: the store.
        views: the compiled views.
        until: only versions that were loaded up to this time; microseconds. None: any.

    Returns:
        by the id of each view that went on so its state.

    Raises:
        StoreError: the store can't be written, or a writer is at work on one of the versions.
    """
    found, done = states(store), dict[str, ViewState]()
    for view in views:
        if any(s.id == view.id and s.complete for s in found):
            continue
        fitting = [s for s in found if s.name == view.name and s.complete and s.adopted is None]
        fitting = [s for s in fitting if s.successor in ("", view.id) and until in (None, s.until)]
        for old in sorted(fitting, key=lambda s: (s.watermark, s.id), reverse=True):
            form = store.read_many([keys.of_view(keys.FORMS, old.id)]).data
            if form and way_from(form, layout := Layout(view)) is not None:
                done[view.id] = _take_over(store, layout, old)
                break
    return done


def _take_over(store: OnlineStore, layout: Layout, old: ViewState) -> ViewState:
    view, old_key = layout.view, keys.of_view(keys.STATES, old.id)
    with store.writing([view.id, old.id]):
        while True:
            before = store.read_many([old_key]).data
            old = msgspec.json.decode(before, type=ViewState)
            frozen = msgspec.structs.replace(old, successor=view.id)
            with contextlib.suppress(ConflictError):  # of a step of the old version, which is its last but one
                store.commit(Changes([(old_key, msgspec.json.encode(frozen))], expects=[(old_key, before)]))
                break
        discard(store, keys.rows_of(view))
        state = msgspec.structs.replace(
            old, id=view.id, generation=0, adopted=Adopted(old.id, old.generation), successor=""
        )
        files = keys.of_view(keys.FILES, old.id)
        taken = [(keys.files_of(view) + key[len(files) :], value) for key, value in store.scan(files)]
        form = keys.of_view(keys.FORMS, view.id), msgspec.json.encode(form_of(layout))
        store.commit(Changes([state.put(view), form, *taken], [keys.files_of(view)], drops=[keys.load_of(view)]))
    return state


def finish(store: OnlineStore, layout: Layout, size: int) -> None:
    """Writes all rows that a view has taken over under their own keys, so that the old version is not needed any more.

    Raises:
        StoreError: the store can't be read or written.
    """
    view = layout.view
    state_key = keys.state_of(view)
    state = msgspec.json.decode(store.read_many([state_key]).data, type=ViewState)
    if state.adopted is None:
        return
    old = keys.of_view(keys.ROWS, state.adopted.id) + bytes([state.adopted.generation])
    for page in store.pages(old, size):
        entities = np.frombuffer(b"".join(key[10:] for key, _ in page), ">u8").astype(np.uint64)
        of_keys = (entities ^ np.uint64(1 << 63)).view(np.int64).reshape(len(page), -1)
        while not _take_rows(store, layout, state.adopted, of_keys):
            pass  # a step of the view came between
    while True:
        before = store.read_many([state_key]).data
        now = msgspec.structs.replace(msgspec.json.decode(before, type=ViewState), adopted=None)
        try:
            store.commit(Changes([now.put(view)], expects=[(state_key, before)]))
            return
        except ConflictError:
            continue


def _take_rows(store: OnlineStore, layout: Layout, adopted: Adopted, entities: Int64s) -> bool:
    names, state_key = keys.row_keys(layout.view, entities, 0), keys.state_of(layout.view)
    values = store.read_many([*names, state_key])
    (before,) = values.last(1)
    words, offsets = values.rows(len(names))
    found = with_old_rows(store, layout, adopted, entities, words, offsets)
    if found is None:
        raise StoreError("the old version was deleted", where=layout.view.place, hint="run: bedplate materialize")
    rows, ends = found
    missing = np.flatnonzero((np.diff(offsets) == 0) & (np.diff(ends) > 0)).tolist()
    puts = [(names[i], rows[ends[i] : ends[i + 1]].tobytes()) for i in missing]
    try:
        store.commit(Changes(puts, expects=[(state_key, before)]))
    except ConflictError:
        return False
    return True
