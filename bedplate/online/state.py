"""The state of a view in an online store: how far it is, and which rows of it are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar, final

import msgspec

from bedplate.errors import StoreError
from bedplate.features.view import CompiledView
from bedplate.online import keys
from bedplate.online.base import OnlineStore
from bedplate.online.streams import BEGINNING, Origin, Position
from bedplate.types import MINUTE

_Kind = TypeVar("_Kind")

REWIND = MINUTE
"""How far before the watermark a read may ask, by default: events that recent stay pending, so that a request that is
answered a little after its time still gets the values of its time."""


@final
class Adopted(msgspec.Struct, frozen=True):
    """The rows of an old version that a view goes on with; see `adoption`.

    Attributes:
        id: of the old version.
        generation: of its rows.
    """

    id: str
    generation: int


@final
class ViewState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a store holds of a view.

    Attributes:
        name: the view's.
        id: the view's.
        complete: whether the bulk load came to its end.
        until: every event before this time was in the bulk load; microseconds.
        watermark: reads at this time or later are exact; microseconds.
        newest: the time of the newest event taken in, microseconds; -1: none.
        events: how many events were taken in.
        positions: up to where each partition of the stream was taken in; see `streams`.
        generation: of the rows that are read; see `generations`.
        adopted: the old rows that are read where there is none of the generation; None: none.
        successor: the id of the version that goes on with these rows, which never change any more; empty: none.
        made: when the version came to the store, by the clock; microseconds. Loading it again does not change that.
        seen: up to when each partition of the stream was taken in, microseconds: the time of its newest event, or of a
            look at it that found no more.
        origins: of which stream the position of each partition is, where that is known; see `origins`.
        swept: rows of which nothing counts any more at this time may be gone: an earlier read may lack what they held;
            microseconds, see `sweep`.
        project: the name of the project that loaded it; empty: not known, or the store is the project's own.
        texts: changes whenever texts are about to be dropped: a writer then puts again all that it names; see `texts`.
    """

    name: str
    id: str
    complete: bool
    until: int
    watermark: int
    newest: int = -1
    events: int = 0
    positions: dict[str, Position] = {}
    generation: int = 0
    adopted: Adopted | None = None
    successor: str = ""
    texts: str = ""
    made: int = 0
    seen: dict[str, int] = {}
    origins: dict[str, Origin] = {}
    swept: int = 0
    project: str = ""

    def position(self, partition: str) -> Position:
        """Up to where a partition of the stream was taken in."""
        return self.positions.get(partition, BEGINNING)

    def went_back(self, before: ViewState) -> bool:
        """Whether it is of an earlier moment than one that was read before: the store lost its last steps since.

        A store that starts again, or a replica that takes over, may have lost steps that it said were taken.
        """
        if (self.generation, self.until) != (before.generation, before.until):
            return False
        return any(self.position(partition) < at for partition, at in before.positions.items())

    def is_of_another(self, project: str) -> bool:
        """Whether it is on record as another project's than the one of a name; empty: nobody's."""
        return bool(self.project and project) and self.project != project

    @property
    def fresh_until(self) -> int:
        """Up to when the stream is known to be taken in, of all its partitions; microseconds."""
        return fresh_until(self.watermark, self.seen)

    def put(self, view: CompiledView) -> tuple[bytes, bytes]:
        """What to put so that this is the view's state."""
        return keys.state_of(view), msgspec.json.encode(self)


def fresh_until(watermark: int, seen: Mapping[str, int]) -> int:
    """See `ViewState.fresh_until`.

    >>> fresh_until(20, {}), fresh_until(20, {"a": 20, "b": 90}), fresh_until(20, {"a": 20, "b": 5})
    (20, 20, 5)
    """
    return min(seen.values(), default=watermark)


@final
class Gone(msgspec.Struct, frozen=True):
    """That a version of a view was deleted from a store, because another one of the view is defined.

    Attributes:
        name: the view's.
        project: whose it was, as of `ViewState`.
        after: the id of the version that was defined.
        made: when, by the clock; microseconds.
    """

    name: str
    project: str
    after: str
    made: int


class NotHeldError(StoreError):
    """A store does not hold a version of a view, or only in part.

    Attributes:
        views: why, of all views of a read that are so, by their ids; empty where nothing is known of others.
    """

    views: Mapping[str, NotHeldError] = MappingProxyType({})


def decode(value: bytes, kind: type[_Kind], what: str) -> _Kind:
    """What a store keeps of a view beside its rows, from its bytes.

    Args:
        value: the bytes.
        kind: what they are of.
        what: what a message calls it.

    Raises:
        StoreError: it has a form that is not known here.
    """
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.DecodeError as error:
        raise StoreError(
            f"the online store holds {what} in a form that is not known here: {error}",
            where="online store",
            hint="another version of Bedplate wrote it: use that one, or load the view anew into another store",
        ) from error


def decoded(value: bytes) -> ViewState:
    """A state from its bytes; raises as `decode`."""
    return decode(value, ViewState, "a view's state")


def decode_state(value: bytes, view: CompiledView, store: OnlineStore) -> ViewState:
    """The state from its bytes; empty: there is none.

    Raises:
        NotHeldError: the view was never loaded, or not completely.
    """
    if not value:
        raise NotHeldError(
            f"the online store '{store.url}' does not hold this version of the view",
            where=view.place,
            hint="the definition is new, or has changed since it was loaded; run: bedplate materialize",
        )
    state = decoded(value)
    if not state.complete or state.id != view.id:
        raise NotHeldError(
            f"the online store '{store.url}' holds the view only in part",
            where=view.place,
            hint="its load is at work or was interrupted; run again: bedplate materialize",
        )
    return state


def check_held(store: OnlineStore, views: Sequence[CompiledView]) -> None:
    """Checks that a store holds views completely.

    Raises:
        NotHeldError: it does not hold some of them; names all of these.
        StoreError: it can't be read.
    """
    lacking: dict[str, NotHeldError] = {}
    values = store.read_many([keys.state_of(view) for view in views])
    for view, value in zip(views, values, strict=True):
        try:
            decode_state(value, view, store)
        except NotHeldError as error:
            lacking[view.name] = error
    if len(lacking) > 1:
        raise NotHeldError(
            f"the online store '{store.url}' does not hold, or only in part, {len(lacking)} of {len(views)} views: "
            + ", ".join(lacking),
            hint=next(iter(lacking.values())).hint,
        )
    for error in lacking.values():
        raise error


def read_state(store: OnlineStore, view: CompiledView) -> ViewState:
    """The state of a view that is completely loaded, for those who write.

    Raises:
        StoreError: the view was never loaded, or not completely, or a changed version of it goes on with its rows, or
            another project loaded it.
    """
    return decode_to_write(store.read_many([keys.state_of(view)]).data, view, store)


def decode_to_write(value: bytes, view: CompiledView, store: OnlineStore) -> ViewState:
    """The state from its bytes, for those who write.

    Raises:
        StoreError: as `read_state`.
    """
    state = decode_state(value, view, store)
    check_owner(state, store, view.place)
    if state.successor:
        raise StoreError(
            "a changed version of the view goes on with these rows, which can only be read as they were: "
            f"{state.successor[:12]}",
            where=view.place,
            hint="take the stream in with the changed definition; or let this one go on too: bedplate materialize",
        )
    return state


def check_owner(state: ViewState, store: OnlineStore, where: str) -> None:
    """Raises `StoreError` where a version of a view is another project's than the one that a store was opened for."""
    if state.is_of_another(store.project):
        raise StoreError(
            f"the online store '{store.url}' holds it for the project '{state.project}', and this one is "
            f"'{store.project}': a load or a stream of one would replace what the other one reads",
            where=where,
            hint="give each project a store of its own: another path, or for Redis a namespace (online.url = "
            '"redis://HOST:PORT/DB?namespace=NAME"); if they are one project, give it one name ([project] name in '
            f"bedplate.toml), and where it was renamed, run: bedplate online claim {state.project}",
        )


def own_states(store: OnlineStore, views: Sequence[CompiledView]) -> list[ViewState]:
    """The states in a store but those of other projects, as `states`.

    Raises:
        StoreError: one of these views is held for another project.
    """
    places, found = {view.id: view.place for view in views}, states(store)
    for state in found:
        if state.id in places:
            check_owner(state, store, places[state.id])
    return [state for state in found if not state.is_of_another(store.project)]


def states(store: OnlineStore) -> list[ViewState]:
    """The states of all views in a store, by name, those in part included."""
    found = [decoded(value) for _, value in store.scan(keys.STATES)]
    return sorted(found, key=lambda s: (s.name, s.id))
