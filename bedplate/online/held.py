"""What a store holds of some keys of a view, row by row: what of it can be read, and which events it shows.

`OnlineReader` answers or raises. Who looks for what is wrong with a store reads rows that no reader could read, and
asks what rows of other events would have answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import final

import numpy as np

from bedplate.batch import Columns, TextLookup
from bedplate.features.view import CompiledView
from bedplate.online import keys as store_keys
from bedplate.online.base import OnlineStore
from bedplate.online.codec import (
    COUNTS,
    FINGERPRINT,
    KIND,
    LAST_FOLDED,
    LATEST,
    LATEST_BY,
    MISSING,
    PENDING,
    WIDTH,
    Layout,
)
from bedplate.online.folding import merge_into_rows
from bedplate.online.forms import form_of
from bedplate.online.old_rows import with_old_rows
from bedplate.online.plan import ReadPlan
from bedplate.online.state import ViewState, decode_state
from bedplate.types import Int64s


class Condition(Enum):
    """What can be done with a row at a time."""

    READABLE = "readable"
    ABSENT = "absent"
    AHEAD = "ahead"
    OLD = "old"
    BROKEN = "broken"


@final
@dataclass(frozen=True, slots=True)
class Held:
    """The rows of n keys and the state of their view, as one step of the store left them.

    Attributes:
        state: of the view.
        words: [total] int64, the rows one after the other.
        offsets: [n + 1] int64, where each begins.
    """

    state: ViewState
    words: Int64s
    offsets: Int64s

    @staticmethod
    def read(store: OnlineStore, view: CompiledView, keys: Int64s) -> Held:
        """Reads the rows of keys [n, entities] int64.

        Raises:
            StoreError: the store can't be read or does not hold the view.
        """
        of_state = store_keys.state_of(view)
        state = decode_state(store.read_many([of_state]).data, view, store)
        while True:  # again where the view is switched to another generation meanwhile
            values = store.read_many([*store_keys.row_keys(view, keys, state.generation), of_state])
            before, state = state, decode_state(values.last(1)[0], view, store)
            if state.generation != before.generation:
                continue
            found = words, offsets = values.rows(len(keys))
            if state.adopted is not None:
                found = with_old_rows(store, form_of(Layout(view)), state.adopted, keys, words, offsets)
            if found is not None:
                return Held(state, *found)

    def row(self, position: int) -> HeldRow:
        """One of the rows."""
        return HeldRow(self.words[self.offsets[position] : self.offsets[position + 1]])

    def chosen(self, positions: Int64s) -> tuple[Int64s, Int64s]:
        """Some of the rows: their words, and where each begins."""
        parts = [self.row(i).words for i in positions.tolist()]
        offsets: Int64s = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(p) for p in parts], out=offsets[1:])
        return np.concatenate([self.words[:0], *parts]), offsets


@final
@dataclass(frozen=True, slots=True)
class HeldRow:
    """A packed row as the store has it.

    Attributes:
        words: [w] int64; none where the key has no row.
    """

    words: Int64s

    def condition(self, layout: Layout, time: int) -> Condition:
        """What can be done with it at a time, microseconds."""
        if not len(self.words):
            return Condition.ABSENT
        if int(self.words[FINGERPRINT]) != layout.fingerprint:
            return Condition.OLD
        if self._size(layout) != len(self.words):
            return Condition.BROKEN
        return Condition.AHEAD if int(self.words[LAST_FOLDED]) >= time else Condition.READABLE

    def pending(self, layout: Layout) -> Int64s:
        """[p, width] int64: the events that may not count yet."""
        count = int(self.words[PENDING])
        return self.words[layout.fixed : layout.fixed + count * layout.width].reshape(count, layout.width)

    def times(self, layout: Layout) -> set[int]:
        """The times of the events that it shows one by one: pending, in slots and in lists of last ones."""
        found: list[Int64s] = [self.pending(layout)[:, 0]]
        found += [self.words[at : at + 1] for at in layout.slots[:, 1].tolist()]
        for spec, entries in self._sections(layout):
            if spec[KIND] in (LATEST, LATEST_BY):
                found.append(entries[:, 0])
        return {t for t in np.concatenate(found).tolist() if t != MISSING}

    def counts(self, layout: Layout) -> list[int]:
        """How many events it keeps pending, and how many entries each section has."""
        return [int(self.words[PENDING]), *self._counts(layout)]

    def _counts(self, layout: Layout) -> list[int]:
        return self.words[COUNTS : COUNTS + len(layout.sections)].tolist()

    def _size(self, layout: Layout) -> int:
        """How many words it must have by what it says; -1: it says nonsense."""
        if len(self.words) < layout.fixed or min(counts := self.counts(layout)) < 0:
            return -1
        widths = [layout.width, *layout.sections[:, WIDTH].tolist()]
        return layout.fixed + sum(c * w for c, w in zip(counts, widths, strict=True))

    def _sections(self, layout: Layout) -> Iterator[tuple[list[int], Int64s]]:
        at = layout.fixed + int(self.words[PENDING]) * layout.width
        for spec, count in zip(layout.sections.tolist(), self._counts(layout), strict=True):
            size = count * spec[WIDTH]
            yield spec, self.words[at : at + size].reshape(count, spec[WIDTH])
            at += size


def stored_keys(store: OnlineStore, view: CompiledView, count: int, seed: int) -> Int64s:
    """[n, entities] int64: at most so many of the keys that have rows, each as likely as the others.

    Args:
        store: the store.
        view: the compiled view.
        count: how many.
        seed: equal seeds choose equal keys of equal stores.
    """
    state = decode_state(store.read_many([store_keys.state_of(view)]).data, view, store)
    places, entities = [store_keys.rows_of(view, state.generation)], len(view.view.entities)
    if state.adopted is not None:
        places.append(store_keys.rows_under(state.adopted.id, state.adopted.generation))
    # A key ends with those of its entities; what comes before them is not the same where rows were taken over.
    ends = sorted({name[-8 * entities :] for rows in places for page in store.pages(rows) for name, _ in page})
    if len(ends) > count:
        chosen: list[int] = np.random.default_rng(seed).choice(len(ends), count, replace=False).tolist()
        ends = [ends[i] for i in chosen]
    return store_keys.entities_in(ends, entities)


def answers(plan: ReadPlan, events: Int64s, parts: Sequence[Int64s], time: int, texts: TextLookup) -> Columns:
    """What rows with some events and no others would answer.

    Args:
        plan: what is read.
        events: [n, width] int64, packed events in order (time, ties, arrival).
        parts: for each of m rows the positions of its events, in order.
        time: the time asked for, microseconds.
        texts: the texts behind string ids.

    Returns:
        m values of each feature.

    Raises:
        OverflowError: a sum of whole numbers is beyond 64 bits.
    """
    rows, offsets = rows_of_events(plan.layout, events, parts, time)
    return plan.read(rows, offsets, np.full(len(parts), time, np.int64), texts)


def rows_of_events(layout: Layout, events: Int64s, parts: Sequence[Int64s], line: int) -> tuple[Int64s, Int64s]:
    """Rows with some events and no others, those folded that can be seen before a line; see `answers`."""
    ends: Int64s = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(p) for p in parts], out=ends[1:])
    chosen = np.ascontiguousarray(events[np.concatenate([*parts, np.zeros(0, np.int64)]).astype(np.int64)])
    none: Int64s = np.zeros(len(parts) + 1, np.int64)
    return merge_into_rows(layout, none[:0], none, chosen, ends, line)
