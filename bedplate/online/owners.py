"""Whose views are: a store that projects share has on record which of them loaded each version of a view.

A version is known by its definition, so that two projects that define a view alike, over different data, would meet in
its rows. The first one that loads it is put on record by its name; the other one may read it, and is refused where it
would change it (`state.check_owner`). By the name a project is the same on every machine and in every folder.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from bedplate.online.adoption import change
from bedplate.online.base import OnlineStore
from bedplate.online.state import ViewState, states


def claim(store: OnlineStore, names: Collection[str], former: str = "") -> list[ViewState]:
    """Puts versions of views on record as those of the project that a store was opened for.

    Args:
        store: the store; where it was opened for no project, nothing is done.
        names: of the project's views.
        former: the project that they are on record for, whatever they are called; empty: those of these names that
            are on nobody's record.

    Returns:
        their states.

    Raises:
        StoreError: the store can't be read or written.
    """
    done: list[ViewState] = []
    for state in states(store) if store.project != former else []:
        is_wanted = state.project == former and (former or state.name in names)
        if store.project and is_wanted and change(store, state.id, {"project": former}, {"project": store.project}):
            done.append(msgspec.structs.replace(state, project=store.project))
    return done
