"""Adoption: a view that has changed goes on with the rows of its old version, where these hold all that it needs.

Its state names the version that it took over, whose own state names it as the successor. A row is looked for under its
own key first, then under the old one, and read as one of the new form; it is written under its own key. While an old
version has a successor its writers get an error and its rows stay as they are. `finish` ends that, whoever asks for it:
the successor gets all rows under its own keys, and the old version may go on or be deleted.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from bedplate.clock import Clock, system_clock
from bedplate.errors import ConflictError
from bedplate.features.view import CompiledView
from bedplate.online import keys
from bedplate.online.base import PAGE, Changes, OnlineStore
from bedplate.online.codec import Layout
from bedplate.online.forms import Form, form_of
from bedplate.online.generations import discard
from bedplate.online.old_rows import decoded_form, rows_to_write, way_from
from bedplate.online.state import Adopted, ViewState, decoded, own_states, states
from bedplate.types import Int64s


def adopt(
    store: OnlineStore, views: Sequence[CompiledView], until: int | None = None, *, clock: Clock = system_clock
) -> dict[str, ViewState]:
    """Lets views of which the store has no rows go on with those of an old version, where there is one that holds all.

    The old version is frozen: it can be read on as it was, and its writers get an error. So nobody must need it any
    more. An adoption that is interrupted is gone on with by the next one.

    Args:
        store: the store.
        views: the compiled views.
        until: only versions that were loaded up to this time; microseconds. None: any.
        clock: says when they came to the store.

    Returns:
        by the id of each view that went on so its state.

    Raises:
        StoreError: the store can't be written, or holds a view for another project, or a writer is at work on one of
            the versions.
    """
    found, done = own_states(store, views), dict[str, ViewState]()
    for view in views:
        if any(s.id == view.id and s.complete for s in found):
            continue
        fitting = [s for s in found if s.name == view.name and _can_be_taken(s, view) and until in (None, s.until)]
        for old in sorted(fitting, key=lambda s: (s.watermark, s.id), reverse=True):
            form = store.read_many([keys.of_view(keys.FORMS, old.id)]).data
            if form and way_from(form, form_of(layout := Layout(view))) is not None:
                done[view.id] = _take_over(store, layout, old.id, clock())
                break
    return done


def begun(store: OnlineStore, views: Sequence[CompiledView]) -> dict[str, int]:
    """Where the streams of old versions began, by the id of each view that is not in the store but changed from one.

    There a view is to be loaded that can't go on with the old rows: its stream is the same, from its first event on.
    """
    found = [s for s in states(store) if not s.is_of_another(store.project)]
    there = {s.id for s in found if s.complete}
    old = {s.name: s.until for s in sorted(found, key=lambda s: (s.made, s.until)) if s.complete and s.positions}
    return {view.id: old[view.name] for view in views if view.id not in there and view.name in old}


def _can_be_taken(old: ViewState, view: CompiledView) -> bool:
    return old.complete and old.adopted is None and old.successor in ("", view.id)


def _take_over(store: OnlineStore, layout: Layout, old_id: str, now: int) -> ViewState:
    view, old_key = layout.view, keys.of_view(keys.STATES, old_id)
    with store.writing([view.id, old_id]):
        while True:
            before = store.read_many([old_key]).data
            if not before or not _can_be_taken(old := decoded(before), view) or old.is_of_another(store.project):
                raise ConflictError("its old version was changed meanwhile", where=view.place, hint="run it again")
            frozen = msgspec.structs.replace(old, successor=view.id)
            with contextlib.suppress(ConflictError):  # of a step of the old version, which is its last but one
                store.commit(Changes([(old_key, msgspec.json.encode(frozen))], expects=[(old_key, before)]))
                break
        discard(store, view.id)
        state = msgspec.structs.replace(
            old,
            id=view.id,
            generation=0,
            adopted=Adopted(old.id, old.generation),
            successor="",
            made=now,
            project=store.project or old.project,
        )
        files = keys.of_view(keys.FILES, old.id)
        taken = [(keys.files_of(view) + key[len(files) :], value) for key, value in store.scan(files)]
        form = keys.of_view(keys.FORMS, view.id), msgspec.json.encode(form_of(layout))
        drops = [keys.load_of(view), keys.of_view(keys.LOADED, view.id), keys.of_view(keys.GONE, view.id)]
        store.commit(Changes([state.put(view), form, *taken], [keys.files_of(view)], drops=drops))
    return state


def finish(store: OnlineStore, view_id: str, size: int = PAGE) -> None:
    """Writes all rows that a view has taken over under its own keys, and lets go of the old version, which may go on.

    What is needed to know of the view is in the store, so that whoever changes the old version can do it.

    Args:
        store: the store.
        view_id: of the view; nothing is done where it is not there or reads no old rows.
        size: about so many rows are written in one step.

    Raises:
        StoreError: the store can't be read or written.
    """
    state_key, form_key = (keys.of_view(letter, view_id) for letter in (keys.STATES, keys.FORMS))
    while True:  # anew where the store has lost steps, as one may that is started again
        raw, form = store.read_many([state_key, form_key])
        adopted = decoded(raw).adopted if raw else None
        if adopted is None:
            return
        own, texts = decoded_form(form), decoded(raw).texts
        for page in store.pages(keys.rows_under(adopted.id, adopted.generation), size):
            of_keys = keys.words_in([key for key, _ in page]).reshape(len(page), -1)
            texts = _take_rows(store, own, adopted, of_keys, texts)
            if texts is None:
                break
        else:
            if change(store, view_id, {"adopted": adopted, "texts": texts}, {"adopted": None}):
                break
    thaw(store, adopted.id, view_id)


def release(store: OnlineStore, view_id: str) -> None:
    """Lets a version of a view be changed whose rows another one may read: that one gets them under its own keys.

    To be called with the version claimed for writing.

    Raises:
        StoreError: the store can't be read or written.
    """
    value = store.read_many([keys.of_view(keys.STATES, view_id)]).data
    successor = decoded(value).successor if value else ""
    if successor:
        finish(store, successor)
        thaw(store, view_id, successor)  # of an adoption that was interrupted, or of one that was undone


def resume(store: OnlineStore, view_ids: Sequence[str]) -> None:
    """Lets those versions of views that are frozen go on with their streams where they were; see `release`.

    Raises:
        StoreError: the store can't be read or written, or a writer is at work on such a version.
    """
    for frozen in [s.id for s in states(store) if s.successor and s.id in view_ids]:
        with store.writing([frozen]):
            release(store, frozen)


def thaw(store: OnlineStore, view_id: str, successor: str) -> None:
    """Lets a version go on that was frozen for a successor, which does not read its rows any more."""
    change(store, view_id, {"successor": successor}, {"successor": ""})


def _take_rows(store: OnlineStore, form: Form, adopted: Adopted, entities: Int64s, texts: str) -> str | None:
    """Writes rows of some keys where the view has none.

    Each such step changes the state, and the next one expects that: so none is missed that the store has lost.

    Args:
        store: the store.
        form: of the view's rows.
        adopted: the old rows.
        entities: [n, entities] int64, the keys.
        texts: of the state, as the step before left it.

    Returns:
        the same as this step leaves it; None: it was another one, or the view reads other rows.
    """
    state_key, after = keys.of_view(keys.STATES, form.id), uuid.uuid4().hex
    while True:
        (before,) = store.read_many([state_key])
        if not before or ((state := decoded(before)).adopted, state.texts) != (adopted, texts):
            return None
        names = keys.prefixed(keys.rows_under(form.id, state.generation), entities)
        words, offsets = store.read_many(names).rows(len(names))
        with contextlib.suppress(ConflictError):  # of a step of the view that came between
            rows, ends = rows_to_write(store, form, adopted, entities, words, offsets)
            missing = np.flatnonzero((np.diff(offsets) == 0) & (np.diff(ends) > 0)).tolist()
            if not missing:
                return texts
            puts = [(names[i], rows[ends[i] : ends[i + 1]].tobytes()) for i in missing]
            taken = state_key, msgspec.json.encode(msgspec.structs.replace(state, texts=after))
            store.commit(Changes([*puts, taken], expects=[(state_key, before)]))
            return after


def change(store: OnlineStore, view_id: str, expected: Mapping[str, object], changed: Mapping[str, object]) -> bool:
    """Changes fields of a state while some have the expected values; whether they had."""
    key = keys.of_view(keys.STATES, view_id)
    while True:
        before = store.read_many([key]).data
        if not before or any(getattr(decoded(before), name) != value for name, value in expected.items()):
            return False
        after = msgspec.json.encode(msgspec.structs.replace(decoded(before), **changed))
        with contextlib.suppress(ConflictError):
            store.commit(Changes([(key, after)], expects=[(key, before)]))
            return True
