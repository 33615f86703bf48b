"""Compaction of an online store: what no read can see any more is taken out of it, while it is read and written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, final

import msgspec
import numpy as np

from bedplate.errors import NotFoundError, suggest
from bedplate.features.view import CompiledView
from bedplate.online import keys
from bedplate.online.adoption import finish, release, thaw
from bedplate.online.base import Changes, OnlineStore
from bedplate.online.generations import discard
from bedplate.online.state import REWIND, ViewState, states
from bedplate.online.sweep import PAGE, RowFolding

Progress: TypeAlias = Callable[[str], None]
"""Told what is under way."""


@final
class Compacted(msgspec.Struct, frozen=True):
    """What a compaction did, or would do, to a version of a view.

    Attributes:
        view: the view's name.
        id: the version's.
        dropped: whether all of it is deleted, because no definition needs it.
        newer: whether nothing was done to it, because it came to the store after the version that the project defines.
        rows: how many rows it had.
        shrunk: how many are smaller now.
        deleted: how many are gone.
        bytes: how much smaller its rows are.
    """

    view: str
    id: str
    dropped: bool
    rows: int
    shrunk: int
    deleted: int
    bytes: int
    newer: bool = False


def compact(
    store: OnlineStore,
    views: Sequence[CompiledView],
    *,
    removed: bool = False,
    newer: bool = False,
    dry_run: bool = False,
    rewind: int = REWIND,
    progress: Progress = lambda _: None,
) -> list[Compacted]:
    """Folds the rows of views anew at their watermark, and deletes old versions of them.

    Of rows go the tiles, values and counts that are too old for every window, and whole rows of which nothing counts
    any more. What is read at the watermark or later, and so much before it as writers allow, stays the same. An old
    version of a view goes once the store holds the one that is defined. A newer one may be that of another project, or
    of another state of this one, that shares the store. Readers and writers go on.

    Args:
        store: the store.
        views: all views of the project.
        removed: views of names that the project does not have go too; no other project may share the store.
        newer: versions that came to the store after the ones that are defined go too; nobody else may need them.
        dry_run: only says what would be done.
        rewind: as for `bulk_load`.
        progress: told what is under way.

    Raises:
        StoreError: the store can't be read or written, or a writer is at work on a version that is to go.
    """
    by_id, found = {view.id: view for view in views}, states(store)
    names = {v.name for v in views}
    own = {s.name: s for s in found if s.complete and s.id in by_id}
    done: list[Compacted] = []
    found.sort(key=lambda s: s.id not in by_id)  # what others went on with goes after they have taken all of it over
    for state in found:
        view = by_id.get(state.id)
        if view is not None and state.complete:
            if not dry_run:
                finish(store, view.id, PAGE)
            done.append(_folded(RowFolding(store, view, rewind, dry_run=dry_run), state, progress))
        elif view is None and state.name in own and not newer and _is_newer(state, own[state.name]):
            done.append(Compacted(state.name, state.id, False, 0, 0, 0, 0, newer=True))
        elif view is None and (state.name in own or (removed and state.name not in names)):
            progress(f"{state.name}: deleting version {state.id[:12]}")
            done.append(_drop(store, state, dry_run=dry_run))
    return done


def _folded(folding: RowFolding, state: ViewState, progress: Progress) -> Compacted:
    """Folds all pages of the generation of a view that is read."""
    counts = np.zeros(4, np.int64)
    for names in folding.pages(state.generation):
        while (found := folding.fold(names, state.generation)) is None:
            pass  # a step of the view came between: its rows are read again
        counts += found
        progress(f"{state.name}: {counts[0]:,} rows")
    rows, shrunk, deleted, less = counts.tolist()
    return Compacted(state.name, state.id, False, rows, shrunk, deleted, less)


def _is_newer(state: ViewState, own: ViewState) -> bool:
    """Whether a version came to the store after another one of its view, or went on with its rows."""
    went_on = own.successor == state.id or (state.adopted is not None and state.adopted.id == own.id)
    return went_on or state.made > own.made


def drop(store: OnlineStore, name: str) -> list[Compacted]:
    """Deletes all versions of a view.

    Raises:
        NotFoundError: the store holds none of this name.
        StoreError: the store can't be written, or a writer is at work on the view.
    """
    found = states(store)
    chosen = [state for state in found if state.name == name]
    if not chosen:
        known = sorted({state.name for state in found})
        raise NotFoundError(f"the online store holds no view '{name}'", where=store.url, hint=suggest(name, known))
    chosen.sort(key=lambda s: s.adopted is None)  # first those that read rows of others
    return [_drop(store, state, dry_run=False) for state in chosen]


def _drop(store: OnlineStore, state: ViewState, *, dry_run: bool) -> Compacted:
    state_key, load_key, files, rows = (
        keys.of_view(letter, state.id) for letter in (keys.STATES, keys.LOADS, keys.FILES, keys.ROWS)
    )
    count = taken = 0
    for page in store.pages(rows):
        count += len(page)
        taken += sum(len(key) + len(value) for key, value in page)
    if not dry_run:
        with store.writing([state.id]):
            release(store, state.id)
            store.commit(Changes(deletes=[files], drops=[state_key, load_key, keys.of_view(keys.FORMS, state.id)]))
            discard(store, state.id)
        if state.adopted is not None:
            thaw(store, state.adopted.id, state.id)
    return Compacted(state.name, state.id, True, count, 0, count, taken)
