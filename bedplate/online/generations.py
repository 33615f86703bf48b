"""Generations of a view's rows: a load fills the next one beside the one that is read, then one step switches.

A view's state names the generation that is read. Whoever reads rows reads the state in the same call, and reads again
where it names another generation than the keys were made with. So a switch is one step for every reader, and what an
interrupted load has left is never seen: the next load deletes it, as it deletes what was read before its own switch.

A store may lose the last steps that it said were taken, such as a server that is started again. So a load counts its
steps in the store, and nothing is deleted but in a step that finds that the state does not name it.
"""

from __future__ import annotations

import uuid
from typing import final

import msgspec

from bedplate.errors import ConflictError, UncertainError
from bedplate.features.rows import GroupedRows
from bedplate.features.view import CompiledView
from bedplate.online import keys
from bedplate.online.base import Changes, OnlineStore
from bedplate.online.forms import Form
from bedplate.online.rows import MOST_TEXTS, texts_of
from bedplate.online.state import ViewState, decode, decoded

DELETED = 10_000
"""So many keys are deleted in one step."""


@final
class LoadState(msgspec.Struct, frozen=True):
    """A load that is at work or was interrupted.

    Attributes:
        generation: which it fills.
        until: every event before this time; microseconds.
        token: of this load, different from those of all others.
        texts: as in `ViewState`.
        steps: how many it has taken.
    """

    generation: int
    until: int
    token: str
    texts: str = ""
    steps: int = 0


@final
class Loading:
    """A load at work. It ends in an error as soon as another one has begun, or the store has lost one of its steps.

    Args:
        store: the store.
        view: the compiled view.
        state: of the load.

    Attributes:
        generation: which is filled.
        token: of the load.
    """

    __slots__ = ("_claim", "_state", "_store", "_texts", "_view", "generation", "token")

    def __init__(self, store: OnlineStore, view: CompiledView, state: LoadState) -> None:
        self._store, self._view, self.generation, self.token = store, view, state.generation, state.token
        self._claim: tuple[bytes, bytes] = keys.load_of(view), msgspec.json.encode(state)
        self._state: LoadState = state
        self._texts: set[int] = set()

    @staticmethod
    def begin(store: OnlineStore, view: CompiledView, until: int, now: int = 0) -> Loading:
        """Claims the next generation, and deletes what earlier loads have left of others than the one that is read.

        Args:
            store: the store.
            view: the compiled view.
            until: as of `LoadState`.
            now: the time; microseconds.

        Raises:
            ConflictError: another writer was first.
            StoreError: the store can't be written.
        """
        names, token = [keys.state_of(view), keys.load_of(view)], uuid.uuid4().hex
        while True:
            expects = list(zip(names, store.read_many(names), strict=True))
            read = _generation(expects[0][1])
            loading = Loading(store, view, LoadState(_next(read), until, token))
            puts = [loading._claim]
            if read < 0:
                begun = ViewState(view.name, view.id, complete=False, until=until, watermark=until, made=now)
                puts.append(begun.put(view))
            try:
                store.commit(Changes(puts, expects=expects))
                break
            except ConflictError:
                if _token(store.read_many(names[1:]).data) != _token(expects[1][1]):
                    raise
        for left in {_next(read), (read - 1) % keys.GENERATIONS} if read >= 0 else {_next(read)}:
            discard(store, view.id, left)
        return loading

    def add(self, puts: list[tuple[bytes, bytes]], part: GroupedRows) -> None:
        """Puts rows of the generation that is filled, and the texts of their events.

        Raises:
            ConflictError: another load has begun, or the store has lost a step of this one.
            StoreError: the store can't be written.
        """
        while True:
            texts = texts_of(part, self._texts)
            state = msgspec.structs.replace(self._state, steps=self._state.steps + 1)
            claim = self._claim[0], msgspec.json.encode(state)
            try:
                self._store.commit(Changes([*puts, *texts, claim], expects=[self._claim]))
                self._claim, self._state = claim, state
                break
            except ConflictError:
                self._go_on()
        if len(self._texts) > MOST_TEXTS:
            self._texts.clear()

    def _go_on(self) -> None:
        """After a conflict: texts are dropped meanwhile, so that all are put again; or raises it."""
        (found,) = self._store.read_many([self._claim[0]])
        if _token(found) != self.token:
            raise ConflictError("another load has begun", where=self._view.place, hint="let one of them run")
        state = decode(found, LoadState, "a load")
        if state.steps != self._state.steps:
            raise _lost(self._view.place, "steps of the load")
        self._texts.clear()
        self._claim, self._state = (self._claim[0], found), state

    def switch(self, state: ViewState, form: Form) -> ViewState:
        """Makes the generation the one that is read, its stream beginning anew, then deletes the one before it.

        Args:
            state: of the view, as it is from now on, but for when it came to the store.
            form: of its rows.

        Returns:
            the state.

        Raises:
            ConflictError: another load has begun, or a changed version of the view reads the rows that would go.
            StoreError: the store can't be written.
        """
        names = [keys.state_of(self._view), keys.load_of(self._view)]
        while True:
            (before,) = self._store.read_many(names[:1])
            if before:
                state = msgspec.structs.replace(state, made=self._before(before).made)
            switched = Changes(
                [state.put(self._view), (keys.of_view(keys.FORMS, self._view.id), msgspec.json.encode(form))],
                [keys.files_of(self._view)],
                expects=[(names[0], before), self._claim],
                drops=[names[1]],
            )
            try:
                self._store.commit(switched)
                break
            except ConflictError:
                self._go_on()
        if _generation(before) not in (-1, self.generation):
            discard(self._store, self._view.id, _generation(before))
        return state

    def _before(self, value: bytes) -> ViewState:
        """The state before a switch, from its bytes."""
        before = decoded(value)
        if before.successor:
            raise ConflictError(
                f"a changed version of the view ({before.successor[:12]}) began to read its rows meanwhile",
                where=self._view.place,
                hint="run it again",
            )
        return before


def discard(store: OnlineStore, view_id: str, generation: int | None = None, size: int = DELETED) -> int:
    """Deletes rows of a view that nobody reads any more, in steps that are short enough to write between them.

    Args:
        store: the store.
        view_id: of the view.
        generation: whose rows they are; None: of all.
        size: so many are deleted in one step.

    Returns:
        how many there were.

    Raises:
        ConflictError: the view's state names them: the store has lost the step after which nobody reads them.
        StoreError: the store can't be written.
    """
    of_state, count = keys.of_view(keys.STATES, view_id), 0
    prefix = keys.of_view(keys.ROWS, view_id) if generation is None else keys.rows_under(view_id, generation)
    for page in store.pages(prefix, size):
        while True:
            state = store.read_many([of_state]).data
            if _generation(state) >= 0 and generation in (None, _generation(state)):
                raise _lost(decoded(state).name, "the step after which nobody reads these rows, which were not deleted")
            try:
                store.commit(Changes(drops=[key for key, _ in page], expects=[(of_state, state)]))
                break
            except (ConflictError, UncertainError):  # of a step of the view; or it is done, and does no harm twice
                continue
        count += len(page)
    return count


def _lost(where: str, what: str) -> ConflictError:
    return ConflictError(
        f"the store has lost {what}, though it had said that it was taken",
        where=where,
        hint="it was started again, or a replica took over: run it again; docs/redis.md says how to lose nothing",
    )


def _token(load: bytes) -> str:
    """Of a load's state; empty: there is none."""
    return decode(load, LoadState, "a load").token if load else ""


def _generation(state: bytes) -> int:
    """Which generation is read by a view's state; -1: none."""
    if not state:
        return -1
    found = decoded(state)
    return found.generation if found.complete else -1


def _next(read: int) -> int:
    return (read + 1) % keys.GENERATIONS
