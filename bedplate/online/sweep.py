"""Folding rows anew at the watermark: all of a view's at once by a compaction, and a few at a time by its worker.

What is too old for every window goes, and rows of which nothing counts any more. That is a matter of the watermark,
which only a step of the view moves, never of the clock: no store forgets rows by itself, and what a read at the
watermark gives is the same however long no worker runs. While one does, it sweeps: memory does not grow with keys that
are gone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic
from typing import final

import msgspec
import numpy as np

from bedplate.errors import ConflictError, StoreError
from bedplate.features.view import CompiledView
from bedplate.online import keys
from bedplate.online.base import Changes, OnlineStore
from bedplate.online.codec import LAST_FOLDED, PENDING, Layout
from bedplate.online.expiry import ends_of
from bedplate.online.folding import merge_into_rows
from bedplate.online.rows import check_rows, split_rows
from bedplate.online.state import ViewState, decoded
from bedplate.types import Int64s

log = logging.getLogger("bedplate.online")

PAGE = 2_000
"""So many rows are folded anew in one step."""

_REST = 60.0  # seconds from one sweep to the next, and before the first
_SHARE = 50  # sweeping takes at most so small a part of a worker's time
_LONGEST = 0.02  # seconds of a turn, beside those of a page


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
        """The keys of the rows of a generation, some at a time, or none: so long as it takes to look for some."""
        for page in self._store.pages(keys.rows_of(self._view, generation), PAGE):
            yield [key for key, _ in page]

    def fold(self, names: list[bytes], generation: int) -> Int64s | None:
        """Folds some rows, and deletes those of which nothing counts.

        Returns:
            [4] int64: how many there were, are smaller now, are gone, and bytes fewer; None: a step of the view came
            between, and nothing was done.

        Raises:
            StoreError: the store can't be read or written, a row is not of the view, or the view was loaded anew.
        """
        page = self._page(names, generation)
        if page is None:
            raise StoreError("the view was loaded anew", where=self._view.place, hint="run it again")
        there = np.flatnonzero(np.diff(page.offsets))
        begins = check_rows(self._store, self._layout, page.words, page.offsets)
        line = page.state.watermark - self._rewind
        folded, ends = self._folded(page.words, page.offsets, begins, line)
        is_over = ends_of(self._layout, page.words, begins) <= line
        less = np.diff(page.offsets)[there] - np.diff(ends)[there]
        is_less = (less > 0) & ~is_over
        rows = split_rows(folded, ends)
        puts: list[tuple[bytes, bytes]] = [(names[i], rows[i]) for i in there[is_less].tolist()]
        if not self._commit(page, puts, [names[i] for i in there[is_over].tolist()], line):
            return None
        gone = int(np.diff(page.offsets)[there][is_over].sum()) + int(less[is_less].sum())
        return np.array([len(there), is_less.sum(), is_over.sum(), 8 * gone], np.int64)

    def delete(self, names: list[bytes], generation: int) -> Deleted | None:
        """Deletes those of some rows of which nothing counts; others, and those that can't be read, stay as they are.

        So what stays can be read as of times before the watermark, and a damaged row stops nobody: `online verify` and
        a step of its key name it.

        Returns:
            what became of them; None: a step of the view came between, and nothing was done.

        Raises:
            StoreError: the store can't be read or written.
        """
        page = self._page(names, generation)
        if page is None:
            return Deleted(0, 0)
        rows, unreadable = _readable(self._layout, page.words, page.offsets)
        line = page.state.watermark - self._rewind
        is_over = ends_of(self._layout, page.words, page.offsets[rows]) <= line
        drops: list[bytes] = [names[i] for i in rows[is_over].tolist()]
        return Deleted(len(drops), unreadable) if self._commit(page, [], drops, line) else None

    def _page(self, names: list[bytes], generation: int) -> _Page | None:
        """Rows and the state of the view as one step left them; None: the view is of another generation now."""
        values = self._store.read_many([*names, keys.state_of(self._view)])
        (before,) = values.last(1)
        state = decoded(before) if before else None
        if state is None or not state.complete or state.generation != generation:
            return None
        return _Page(*values.rows(len(names)), state, before)

    def _commit(self, page: _Page, puts: list[tuple[bytes, bytes]], drops: list[bytes], line: int) -> bool:
        """Whether no step of the view came between."""
        if self._dry_run or not (puts or drops):
            return True
        if drops:
            swept = msgspec.structs.replace(page.state, swept=max(page.state.swept, line))
            puts = [*puts, swept.put(self._view)]
        try:
            self._store.commit(Changes(puts, drops=drops, expects=[(keys.state_of(self._view), page.before)]))
        except ConflictError:
            return False
        return True

    def _folded(self, words: Int64s, offsets: Int64s, begins: Int64s, line: int) -> tuple[Int64s, Int64s]:
        """The rows as if something of the line had been folded last, so that what is too old then is left out.

        They say so: a read before the line is refused, as it would miss that.
        """
        raised = words.copy()
        raised[begins + LAST_FOLDED] = np.maximum(raised[begins + LAST_FOLDED], line - 1)
        none = np.zeros(len(offsets), np.int64)
        return merge_into_rows(self._layout, raised, offsets, none[:0], none, line)


@final
@dataclass(frozen=True, slots=True)
class _Page:
    words: Int64s
    offsets: Int64s
    state: ViewState
    before: bytes


@final
@dataclass(frozen=True, slots=True)
class Deleted:
    """What became of some rows.

    Attributes:
        rows: how many went.
        unreadable: how many can't be read.
    """

    rows: int
    unreadable: int


def _readable(layout: Layout, words: Int64s, offsets: Int64s) -> tuple[Int64s, int]:
    """The places of the rows whose end can be told, and how many there are of which it can't."""
    sizes = np.diff(offsets)
    there = np.flatnonzero(sizes)
    rows = there[sizes[there] >= layout.fixed]
    rows = rows[words[offsets[rows]] == layout.fingerprint]
    pending = words[offsets[rows] + PENDING]
    rows = rows[(pending >= 0) & (pending <= (sizes[rows] - layout.fixed) // layout.width)]
    return rows, len(there) - len(rows)


@final
class Sweep:
    """A worker deletes the rows of a view of which nothing counts any more, some pages now and then, as it takes in.

    Several workers of a view sweep each for itself, which does no harm: a step that comes between is not overwritten.

    Args:
        store: the store.
        view: the compiled view.
        rewind: as for `RowFolding`.
        rest: seconds from one sweep to the next.
    """

    def __init__(self, store: OnlineStore, view: CompiledView, rewind: int, rest: float = _REST) -> None:
        self._folding, self._rest, self._place = RowFolding(store, view, rewind), rest, view.place
        self._ended = monotonic()
        self._due = self._ended + rest
        self._swept = self._generation = -1
        self._pages, self._names = iter(list[list[bytes]]()), list[bytes]()
        self._unreadable = 0

    def turn(self, state: ViewState) -> int:
        """Sweeps as many pages as its share of the time since the last turn allows, if it is time to; rows that went.

        Nothing is done where the watermark has not moved since the last sweep. A page of which a step of the view
        changed the state meanwhile is tried again in the next turn.

        Raises:
            StoreError: the store can't be read or written.
        """
        began, deleted = monotonic(), 0
        if not self._folding.ends or began < self._due:
            return 0
        if state.generation != self._generation:
            self._generation, self._swept = state.generation, -1
            self._pages, self._names = iter(list[list[bytes]]()), []
        allowed = min((began - self._ended) / _SHARE, _LONGEST) if _SHARE else 0.0
        while self._next(state):
            found = self._folding.delete(self._names, state.generation) if self._names else Deleted(0, 0)
            if found is not None:
                deleted += found.rows
                self._unreadable += found.unreadable
                self._names = []
            if found is None or monotonic() - began >= allowed:
                break
        else:
            self._due = monotonic() + self._rest
            self._ended = monotonic()
            return deleted
        self._ended = monotonic()
        self._due = self._ended + _SHARE * max(0.0, self._ended - began - allowed)
        return deleted

    def _next(self, state: ViewState) -> bool:
        """Whether there is a page, which is in `_names` then: it may hold nothing."""
        if self._names:
            return True
        names = next(self._pages, None)
        if names is None and self._unreadable:
            log.warning(
                "%s: %d rows can't be read, and are not swept: 'bedplate online verify' names them",
                self._place,
                self._unreadable,
            )
        if names is None:
            self._unreadable = 0
        if names is None and self._swept < state.watermark:
            self._swept, self._pages = state.watermark, self._folding.pages(state.generation)
            names = next(self._pages, None)
        self._names = names or []
        return names is not None
