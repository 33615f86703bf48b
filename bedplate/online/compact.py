"""Compaction of an online store: what no read can see any more is taken out of it, while it is read and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias, final

import msgspec
import numpy as np

from bedplate.clock import Clock, system_clock
from bedplate.errors import NotFoundError, StoreError, suggest
from bedplate.features.view import CompiledView
from bedplate.online import keys
from bedplate.online.adoption import finish, release, thaw
from bedplate.online.base import Changes, OnlineStore
from bedplate.online.generations import discard
from bedplate.online.readers import readers, without_old_notices
from bedplate.online.state import REWIND, Gone, ViewState, check_owner, states
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
        kept: why nothing was done to it; empty where something was, or could have been.
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
    kept: str = ""


def compact(
    store: OnlineStore,
    views: Sequence[CompiledView],
    *,
    removed: bool = False,
    newer: bool = False,
    in_use: bool = False,
    needed: Mapping[str, str] = MappingProxyType({}),
    dry_run: bool = False,
    rewind: int = REWIND,
    clock: Clock = system_clock,
    progress: Progress = lambda _: None,
) -> list[Compacted]:
    """Folds the rows of views anew at their watermark, and deletes old versions of them.

    Of rows go what is too old for every window, and whole rows of which nothing counts any more: what is read at the
    watermark or later stays the same. An old version goes once the store holds the one that is defined and nobody reads
    it; not a newer one, another project's, or where it is not known whose it is.

    Args:
        store: the store.
        views: all views of the project.
        removed: views of names that the project does not have go too, also those that are on nobody's record.
        newer: versions that came to the store after the ones that are defined go too; nobody else may need them.
        in_use: versions that somebody reads go too.
        needed: by the id of a version who reads it, beside the servers that say so in the store (`readers.Notices`).
        dry_run: only says what would be done.
        rewind: as for `bulk_load`.
        clock: when a version went.
        progress: told what is under way.

    Raises:
        StoreError: the store can't be read or written, or a writer is at work on a version that is to go.
    """
    by_id, found = {view.id: view for view in views}, states(store)
    names = {v.name for v in views}
    done = [_left(s, f"of project '{s.project}'") for s in found if s.is_of_another(store.project) and s.name in names]
    found = [s for s in found if not s.is_of_another(store.project)]
    own = {s.name: s for s in found if s.complete and s.id in by_id}
    used = {} if in_use else readers(store, clock(), needed)
    if not dry_run:
        without_old_notices(store, clock())
    found.sort(key=lambda s: s.id not in by_id)  # what others went on with goes after they have taken all of it over
    for state in found:
        view = by_id.get(state.id)
        if view is not None and state.complete:
            if not dry_run:
                finish(store, view.id, PAGE)
            done.append(_folded(RowFolding(store, view, rewind, dry_run=dry_run), state, progress))
        elif view is None and state.name in own and store.project and not state.project:
            done.append(_left(state, "of no known project"))
        elif view is None and state.name in own and not newer and _is_newer(state, own[state.name]):
            done.append(_left(state, "newer than the project's", newer=True))
        elif view is None and state.id in used:
            done.append(_left(state, f"read by {' and '.join(used[state.id])}"))
        elif view is None and (state.name in own or (removed and state.name not in names)):
            progress(f"{state.name}: deleting version {state.id[:12]}")
            after = own[state.name].id if state.name in own else ""
            done.append(_drop(store, state, dry_run=dry_run, gone=Gone(state.name, state.project, after, clock())))
    return done


def _folded(folding: RowFolding, state: ViewState, progress: Progress) -> Compacted:
    """Folds all pages of the generation of a view that is read."""
    counts = np.zeros(4, np.int64)
    for names in filter(None, folding.pages(state.generation)):
        while (found := folding.fold(names, state.generation)) is None:
            pass  # a step of the view came between: its rows are read again
        counts += found
        progress(f"{state.name}: {counts[0]:,} rows")
    rows, shrunk, deleted, less = counts.tolist()
    return Compacted(state.name, state.id, False, rows, shrunk, deleted, less)


def _left(state: ViewState, kept: str, *, newer: bool = False) -> Compacted:
    return Compacted(state.name, state.id, False, 0, 0, 0, 0, newer, kept)


def _is_newer(state: ViewState, own: ViewState) -> bool:
    """Whether a version came to the store after another one of its view, or went on with its rows."""
    went_on = own.successor == state.id or (state.adopted is not None and state.adopted.id == own.id)
    return went_on or state.made > own.made


def drop(
    store: OnlineStore,
    name: str,
    *,
    in_use: bool = False,
    needed: Mapping[str, str] = MappingProxyType({}),
    clock: Clock = system_clock,
) -> list[Compacted]:
    """Deletes all versions of a view but those of other projects.

    Args:
        store: the store.
        name: the view's.
        in_use: also where somebody reads one of them.
        needed: as for `compact`.
        clock: gives the time now.

    Raises:
        NotFoundError: the store holds none of this name.
        StoreError: all are other projects', or somebody reads one, and nothing is deleted; or the store can't be
            written, or a writer is at work on the view.
    """
    found = states(store)
    chosen = [state for state in found if state.name == name]
    if not chosen:
        known = sorted({state.name for state in found})
        raise NotFoundError(f"the online store holds no view '{name}'", where=store.url, hint=suggest(name, known))
    own = [state for state in chosen if not state.is_of_another(store.project)]
    if not own:
        check_owner(chosen[0], store, f"view '{name}'")
    used = {} if in_use else readers(store, clock(), needed)
    if who := [f"version {s.id[:12]} by {' and '.join(used[s.id])}" for s in own if s.id in used]:
        raise StoreError(
            f"view '{name}' is read: {', '.join(who)}",
            where=store.url,
            hint="stop what reads it first, or let it read what is defined now; --in-use deletes it all the same",
        )
    own.sort(key=lambda s: s.adopted is None)  # first those that read rows of others
    return [_drop(store, state, dry_run=False) for state in own]


def _drop(store: OnlineStore, state: ViewState, *, dry_run: bool, gone: Gone | None = None) -> Compacted:
    """Deletes a version of a view; that another one took its place is noted for those who look for it."""
    letters = keys.STATES, keys.LOADS, keys.FILES, keys.ROWS, keys.FORMS, keys.LOADED, keys.GONE
    state_key, load_key, files, rows, form, loaded, of_gone = (keys.of_view(letter, state.id) for letter in letters)
    count = taken = 0
    for page in store.pages(rows):
        count += len(page)
        taken += sum(len(key) + len(value) for key, value in page)
    if not dry_run:
        with store.writing([state.id]):
            release(store, state.id)
            noted = [] if gone is None or not gone.after else [(of_gone, msgspec.json.encode(gone))]
            store.commit(Changes(noted, [files], drops=[state_key, load_key, form, loaded]))
            discard(store, state.id)
        if state.adopted is not None:
            thaw(store, state.adopted.id, state.id)
    return Compacted(state.name, state.id, True, count, 0, count, taken)
