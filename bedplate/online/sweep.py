"""Folding rows anew at the watermark: all of a view's at once by a compaction, and a few at a time by its worker.

What is too old for every window goes, and rows of which nothing counts any more. That is a matter of the watermark,
which only a step of the view moves, never of the clock: no store forgets rows by itself, and what a read at the
watermark gives is the same however long no worker runs. While one does, it sweeps: memory does not grow with keys that
are gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import final

import msgspec
import numpy as np

from bedplate.errors import ConflictError, StoreError
from bedplate.features.view import CompiledView
from bedplate.online import keys
from bedplate.online.base import Changes, OnlineStore
from bedplate.online.codec import LAST_FOLDED, Layout
from bedplate.online.expiry import ends_of
from bedplate.online.folding import merge_into_rows
from bedplate.online.rows import check_rows, split_rows
from bedplate.online.state import ViewState, decoded
from bedplate.types import Int64s

PAGE = 2_000
"""So many rows are folded anew in one step."""

_REST = 60.0  # seconds from one sweep to the next, and before the first
_SHARE = 50  # sweeping takes at most so small a part of a worker's time


@final
class RowFolding:
    """The folding of a view's rows anew.

    Args:
        store: the store.
        view: the compiled view.
        rewind: reads may ask for a time so much before the watermark; microseconds.
        dry_run: only says what would be done.
    """

    def __init__(self, store: OnlineStore, view: CompiledView, rewind: int, *, dry_run: bool = False) -> None:
        self._store, self._view, self._rewind, self._dry_run = store, view, rewind, dry_run
        self._layout = Layout(view)

    @property
    def ends(self) -> bool:
        """Whether a row may come to hold nothing that counts: each feature has a window, or last values and a `ttl`."""
        return self._layout.lifetime >= 0

    def pages(self, generation: int) -> Iterator[list[bytes]]:
        """The keys of the rows of a generation, some at a time."""
        for page in self._store.pages(keys.rows_of(self._view, generation), PAGE):
            yield [key for key, _ in page]

    def fold(self, names: list[bytes], generation: int, *, shrinks: bool = True) -> Int64s | None:
        """Folds some rows; `shrinks`: those too of which something counts.

        Returns:
            [4] int64: how many there were, are smaller now, are gone, and bytes fewer; None: a step of the view came
            between, and nothing was done.

        Raises:
            StoreError: the store can't be read or written, or the view was loaded anew.
        """
        state_key = keys.state_of(self._view)
        values = self._store.read_many([*names, state_key])
        (before,) = values.last(1)
        state = decoded(before) if before else None
        if state is None or not state.complete or state.generation != generation:
            raise StoreError("the view was loaded anew", where=self._view.place, hint="run it again")
        words, offsets = values.rows(len(names))
        there = np.flatnonzero(np.diff(offsets))
        begins = check_rows(self._store, self._layout, words, offsets)
        line = state.watermark - self._rewind
        folded, ends = self._folded(words, offsets, begins, line)
        is_over = ends_of(self._layout, words, begins) <= line
        less = np.diff(offsets)[there] - np.diff(ends)[there]
        is_less = (less > 0) & ~is_over & shrinks
        rows = split_rows(folded, ends)
        puts: list[tuple[bytes, bytes]] = [(names[i], rows[i]) for i in there[is_less].tolist()]
        changes = Changes(puts, drops=[names[i] for i in there[is_over].tolist()], expects=[(state_key, before)])
        if changes.drops:
            changes.puts.append(msgspec.structs.replace(state, swept=max(state.swept, line)).put(self._view))
        if not self._dry_run and (changes.puts or changes.drops):
            try:
                self._store.commit(changes)
            except ConflictError:
                return None
        gone = int(np.diff(offsets)[there][is_over].sum()) + int(less[is_less].sum())
        return np.array([len(there), is_less.sum(), is_over.sum(), 8 * gone], np.int64)

    def _folded(self, words: Int64s, offsets: Int64s, begins: Int64s, line: int) -> tuple[Int64s, Int64s]:
        """The rows as if something of the line had been folded last, so that what is too old then is left out.

        They say so: a read before the line is refused, as it would miss that.
        """
        raised = words.copy()
        raised[begins + LAST_FOLDED] = np.maximum(raised[begins + LAST_FOLDED], line - 1)
        none = np.zeros(len(offsets), np.int64)
        return merge_into_rows(self._layout, raised, offsets, none[:0], none, line)


@final
class Sweep:
    """A worker deletes the rows of a view of which nothing counts any more: a page now and then, as it takes in.

    Several workers of a view sweep each for itself, which does no harm: a step that comes between is not overwritten.

    Args:
        store: the store.
        view: the compiled view.
        rewind: as for `RowFolding`.
        rest: seconds from one sweep to the next.

    Attributes:
        deleted: rows that went so far.
    """

    def __init__(self, store: OnlineStore, view: CompiledView, rewind: int, rest: float = _REST) -> None:
        self._folding, self._rest = RowFolding(store, view, rewind), rest
        self._due = monotonic() + rest
        self._swept, self._generation, self._pages = -1, -1, iter(list[list[bytes]]())
        self.deleted = 0

    def turn(self, state: ViewState) -> None:
        """Sweeps the next page, if it is time to.

        Nothing is done where the watermark has not moved since the last sweep.

        Raises:
            StoreError: the store can't be read or written.
        """
        if not self._folding.ends or monotonic() < self._due:
            return
        began = monotonic()
        if state.generation != self._generation:
            self._generation, self._swept, self._pages = state.generation, -1, iter(list[list[bytes]]())
        names = next(self._pages, None)
        if names is None and self._swept < state.watermark:
            self._swept, self._pages = state.watermark, self._folding.pages(state.generation)
            names = next(self._pages, None)
        if names is None:
            self._due = monotonic() + self._rest
            return
        # A row that stays is left as it is, so that it can be read as of times before the watermark.
        found = self._folding.fold(names, state.generation, shrinks=False)
        self.deleted += 0 if found is None else int(found[2])
        self._due = monotonic() + _SHARE * (monotonic() - began)
