"""The packed row: what the store keeps of a view's events for one key, as 64-bit words (little-endian).

    fixed part   fingerprint | when the last folded event could be seen | number of pending events | number of entries
                 of each section | a slot for each LATEST of depth 1: time, inputs | totals over all history
    pending      events that may not count yet, in order (time, ties, arrival): time, valid bits, inputs, ties
    sections     one after the other, in the order of `Layout.sections`:
      LATEST     the last events of a selection, in order: time, inputs; at most `depth`
                 (selection -1: the last events of the view as they are, for exact windows)
      LATEST_BY  of each value of a selection's last input the last event: as LATEST
      DISTINCT   by value, ascending: value, time last seen
      SMALLEST   by hash, ascending: hash, time last seen; without those of which `depth` smaller ones were seen later,
                 or at the same time: in every window that holds them there are so many smaller ones
      COUNTED    by value and tile, ascending: value, number of events, time last seen, start of the tile; over all
                 history by value, without a start
      TILES      by start, ascending: start of the tile, one partial result a reduction; one section a hop

Events of one key and time are in the order of their *ties*: the source's sequence, and when the event could be known,
each where the source declares it; then of their arrival. Slots and entries of LATEST sections end with them too.

An event is *folded* into slots, totals and sections when it could be seen (`time + delay`, or when it could be known)
before the line that the writer gives. A read at any time after that of the last folded event is exact: everything
folded counts, and of the pending events those that can be seen by then. These are the first ones, unless the source
says by row when it could be known: then a read folds them into a copy of the row first (`folding.settle`). Floats are
bit-cast, two of a vector in a word; a slot without an event has the time `MISSING`.

The layout follows from the view alone. A row begins with the fingerprint of format and view, and its key with the
view's id, so that no row is ever read with the layout of another definition.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from bedplate.aggregations.base import Reduce, Reduction
from bedplate.aggregations.window import Window
from bedplate.canonical import to_json
from bedplate.features.rows import GroupedRows, Rows
from bedplate.features.view import CompiledView
from bedplate.types import Array, Int64s, Type

FORMAT = 1
"""The version of the row's form."""

MISSING = np.iinfo(np.int64).min
"""The time of an event that is not there; before every time."""

FINGERPRINT, LAST_FOLDED, PENDING, COUNTS = range(4)
"""The words that a row begins with; from `COUNTS` on the number of entries of each section."""

LATEST, DISTINCT, TILES, LATEST_BY, SMALLEST, COUNTED = range(6)
"""The kinds of sections."""

KIND, WIDTH, SELECTION, DEPTH, KEEP, HOP, FIRST, NUMBER = range(8)
"""The columns of `Layout.sections`. FIRST and NUMBER choose rows of `columns` (LATEST, LATEST_BY) or of `partials`
(TILES); FIRST is the word of the value in an event (DISTINCT, SMALLEST, COUNTED). KEEP is how long entries are kept,
-1: for ever. HOP is 0 where there are no tiles."""

REDUCE, OF_SELECTION, WORD, IS_FLOAT, COUNT_AT, PLACE, HALF_LIFE, TIES, TIE_WORD = range(9)
"""The columns of `Layout.partials`. COUNT_AT is where in the tile the number of events behind it is, PLACE where the
partial result is; TIES words of an event from TIE_WORD on order those of equal time."""

PARTIAL_WIDTH = 9
"""The number of columns of `Layout.partials`."""

CODES: dict[Reduce, int] = {
    Reduce.MIN: 0,
    Reduce.MAX: 1,
    Reduce.SUM: 2,
    Reduce.COUNT: 3,
    Reduce.DISTINCT: 4,
    Reduce.EARLIEST: 5,
    Reduce.MOMENTS: 6,
    Reduce.DECAYED_SUM: 7,
    Reduce.DECAYED_COUNT: 8,
}
"""The codes of scalar reductions. Counts come last in a tile, so that the others see them before they are raised."""

WIDE = 5
"""The first code of those with partial results of several words; see `wide`."""

_WORDS = {Reduce.EARLIEST: 2, Reduce.MOMENTS: 3, Reduce.DECAYED_SUM: 2, Reduce.DECAYED_COUNT: 2}
_COUNTING = (Reduce.MIN, Reduce.MAX, Reduce.EARLIEST, Reduce.MOMENTS)

LISTED = (Reduce.LATEST, Reduce.DISTINCT, Reduce.LATEST_BY, Reduce.SMALLEST, Reduce.COUNTS)
"""Reductions that have slots or sections of their own; the others have words in each tile, or in the totals."""

VALID_BITS = 63
"""How many selections one word of valid bits holds."""


@final
@dataclass(frozen=True, slots=True)
class Group:
    """Partial results that are kept side by side: those of a tile, or the totals over all history."""

    partials: tuple[tuple[Reduce, int, int], ...]
    ties: int

    @staticmethod
    def of(needs: Iterable[Need], ties: int = 0) -> Group:
        """The group for these reductions; some bring along the count of their selection."""
        wanted = {(n.reduction.reduce, n.selection, n.reduction.half_life) for n in needs}
        wanted |= {(Reduce.COUNT, s, 0) for reduce, s, _ in wanted if reduce in _COUNTING}
        return Group(tuple(sorted(wanted, key=lambda p: (p[0] is Reduce.COUNT, CODES[p[0]], *p[1:]))), ties)

    @property
    def width(self) -> int:
        """How many words it takes."""
        return sum(map(self._words, self.partials))

    def at(self, reduce: Reduce, selection: int, half_life: int = 0) -> int:
        """Where the partial result is in the group."""
        return sum(map(self._words, self.partials[: self.partials.index((reduce, selection, half_life))]))

    def count_at(self, reduce: Reduce, selection: int, half_life: int = 0) -> int:
        """Where the number of events behind it is, or for a sum the sum itself."""
        has_count = reduce in _COUNTING or reduce is Reduce.COUNT
        return self.at(Reduce.COUNT, selection) if has_count else self.at(reduce, selection, half_life)

    def _words(self, partial: tuple[Reduce, int, int]) -> int:
        return _WORDS.get(partial[0], 1) + (self.ties if partial[0] is Reduce.EARLIEST else 0)


@final
@dataclass(frozen=True, slots=True)
class Need:
    """A reduction that a feature asks for: of which selection, over which window."""

    reduction: Reduction
    selection: int
    window: Window | None

    @property
    def is_exact(self) -> bool:
        """Whether it is read from the ring of the view's last events."""
        return self.window is not None and self.window.hop == 0

    @property
    def hop(self) -> int:
        """The hop of the window, 0 for all history."""
        return 0 if self.window is None else self.window.hop


def needs_of(view: CompiledView) -> list[Need]:
    """Every reduction over every window that a view's features ask for, call by call."""
    return [Need(r, view.reduction_index(r), call.window) for call in view.calls for r in call.aggregation.reductions]


def lifetime_of(view: CompiledView) -> int:
    """How long after an event could be known it can count for some value, microseconds; -1: for ever.

    It is finite where every feature has windows, or gives last values that the view's `ttl` ends.
    """
    longest, ttl = 0, view.view.ttl
    for need in needs_of(view):
        if need.window is not None:
            longest = max(longest, need.window.length + need.window.hop)
        elif ttl is not None and need.reduction.reduce in (Reduce.LATEST, Reduce.LATEST_BY):
            longest = max(longest, ttl)
        else:
            return -1
    return longest


@final
class Layout:
    """Where everything is in the packed row of a view.

    Attributes:
        view: the compiled view.
        delay: of the source, microseconds.
        lifetime: see `lifetime_of`.
        fingerprint: the first word of each row.
        ties: how many of the last words of an event order those of equal time.
        known_at: the word of an event that says when it could be known, the last one; -1: the source does not say.
        width: words of an event: time, valid bits, every different input once, and the ties.
        words: for each selection the words of an event that hold its inputs.
        ring: the section of the view's last events; -1: none.
        latest: the section of the last events of a selection.
        distinct: the section of each selection's different values.
        latest_by: the section of each selection's last events of different values.
        smallest: the section of each selection's smallest hashes.
        counted: the section of the counts of a selection's values, by selection and hop; the hop 0: over all history.
        tiles: for each hop its section and group.
        totals: the group over all history, and the word in the row at which it begins.
        fixed: words of the fixed part.
        shape: [4] int64: fingerprint, width, fixed, first word of the totals.
        slots: [slots, 4] int64: selection, first word in the row, FIRST, NUMBER (rows of `columns`).
        sections: [s, 8] int64, see `KIND`; partials: [p, 9] int64, see `REDUCE`; total_partials: the same for totals.
        columns: words of an event.
    """

    def __init__(self, view: CompiledView) -> None:
        self.view = view
        self.delay, self.lifetime = view.view.source.delay, lifetime_of(view)
        self.fingerprint = int.from_bytes(bytes.fromhex(view.id)[8:15] + bytes([FORMAT]), "little", signed=True)
        self._valid_words = -(-len(view.selections) // VALID_BITS)
        self.words = self._input_words()
        source = view.view.source
        self.ties = (source.sequence is not None) + (source.available is not None)
        self.width = 1 + self._valid_words + len({w for words in self.words for w in words}) + self.ties
        self.known_at = -1 if source.available is None else self.width - 1
        self._tie_words = tuple(range(self.width - self.ties, self.width))
        needs = needs_of(view)
        self._sections: list[tuple[int, ...]] = []
        self._partials: list[tuple[int, ...]] = []
        self._columns: list[int] = []
        self.ring = self._ring(needs)
        depths = _depths(needs, Reduce.LATEST)
        self.latest = {s: self._latest(s, depth, self._kept(s)) for s, depth in depths.items() if depth > 1}
        self.distinct = self._seen(needs, Reduce.DISTINCT, DISTINCT)
        self.tiles = self._tiles(needs)
        self.latest_by = {
            s: self._latest(s, depth, self._kept(s), LATEST_BY) for s, depth in _depths(needs, Reduce.LATEST_BY).items()
        }
        self.smallest = self._seen(needs, Reduce.SMALLEST, SMALLEST)
        self.counted = self._counted(needs)
        at = COUNTS + len(self._sections)
        self.slot_at: dict[int, int] = {}
        slots: list[tuple[int, ...]] = []
        for selection in (s for s, depth in depths.items() if depth == 1):
            self.slot_at[selection] = at
            slots.append((selection, at, *self._choose(self._kept(selection))))
            at += 1 + len(self._kept(selection))
        totals = (n for n in needs if n.window is None and n.reduction.reduce not in LISTED)
        self.totals = Group.of(totals, self.ties)
        self.totals_at = at
        self.fixed = at + self.totals.width
        self.shape: Int64s = np.array([self.fingerprint, self.width, self.fixed, at], np.int64)
        self.slots = _matrix(slots, 4)
        self.total_partials = _matrix(self._partial_rows(self.totals), PARTIAL_WIDTH)
        self.sections, self.partials = _matrix(self._sections, 8), _matrix(self._partials, PARTIAL_WIDTH)
        self.columns: Int64s = np.array(self._columns, np.int64)

    def pack(self, rows: Rows | GroupedRows) -> Int64s:
        """[n, width] int64: n events as words."""
        events = np.zeros((len(rows.times), self.width), np.int64)
        events[:, 0] = rows.times
        for word, values in zip(self._tie_words, rows.ties, strict=True):
            events[:, word] = values
        for s, selected in enumerate(rows.selections):
            word, bit = 1 + s // VALID_BITS, np.int64(1 << s % VALID_BITS)
            events[:, word] |= bit if selected.valid is None else selected.valid * bit
            columns = [column for values in selected.inputs for column in columns_of(values)]
            for target, words in zip(self.words[s], columns, strict=True):
                if selected.valid is None:
                    events[:, target] = words
                else:  # another selection may count more of the events
                    np.copyto(events[:, target], words, where=selected.valid)
        return events

    def _input_words(self) -> tuple[tuple[int, ...], ...]:
        """Equal inputs of different selections share a word: what is not null is the same value."""
        known: dict[bytes, range] = {}
        free = 1 + self._valid_words
        found: list[tuple[int, ...]] = []
        for selection, kinds in zip(self.view.selections, self.view.types, strict=True):
            words: list[int] = []
            for form, kind in zip(selection.form["inputs"], kinds, strict=True):
                taken = known.setdefault(to_json(form), range(free, free + words_in(kind)))
                free = max(free, taken.stop)
                words.extend(taken)
            found.append(tuple(words))
        return tuple(found)

    def _kept(self, selection: int) -> tuple[int, ...]:
        """The words of an event that its slot or entry of a selection keeps."""
        return (*self.words[selection], *self._tie_words)

    def _choose(self, words: Sequence[int]) -> tuple[int, int]:
        self._columns.extend(words)
        return len(self._columns) - len(words), len(words)

    def _latest(self, selection: int, depth: int, words: Sequence[int], kind: int = LATEST) -> int:
        first, number = self._choose(words)
        self._sections.append((kind, 1 + number, selection, depth, -1, 0, first, number))
        return len(self._sections) - 1

    def _ring(self, needs: Sequence[Need]) -> int:
        bounds = [n.window.bound for n in needs if n.window is not None and n.window.bound is not None]
        return self._latest(-1, max(bounds), range(1, self.width)) if bounds else -1

    def _seen(self, needs: Sequence[Need], reduce: Reduce, kind: int) -> dict[int, int]:
        """A section of values or hashes with the time last seen for each selection that has such a reduction."""
        found: dict[int, int] = {}
        depths = _depths(needs, reduce)
        for selection, depth in depths.items():
            windows = [
                n.window for n in needs if (n.reduction.reduce, n.selection, n.is_exact) == (reduce, selection, False)
            ]
            keep = -1 if None in windows else max(w.length + w.hop for w in windows if w is not None)
            found[selection] = len(self._sections)
            self._sections.append((kind, 2, selection, depth, keep, 0, self.words[selection][0], 1))
        return found

    def _counted(self, needs: Sequence[Need]) -> dict[tuple[int, int], int]:
        found: dict[tuple[int, int], int] = {}
        keeps: dict[tuple[int, int], int] = {}
        for need in needs:
            if need.reduction.reduce is Reduce.COUNTS and not need.is_exact:
                place = need.selection, need.hop
                keeps[place] = max(keeps.get(place, -1), -1 if need.window is None else need.window.length)
        for (selection, hop), keep in keeps.items():
            found[selection, hop] = len(self._sections)
            self._sections.append((COUNTED, 4 if hop else 3, selection, 0, keep, hop, self.words[selection][0], 1))
        return found

    def _tiles(self, needs: Sequence[Need]) -> dict[int, tuple[int, Group]]:
        found: dict[int, tuple[int, Group]] = {}
        scalars = [n for n in needs if n.hop > 0 and n.reduction.reduce not in LISTED]
        for hop in dict.fromkeys(n.hop for n in scalars):
            group = Group.of((n for n in scalars if n.hop == hop), self.ties)
            keep = max(n.window.length for n in scalars if n.window is not None and n.hop == hop)
            rows = self._partial_rows(group)
            found[hop] = len(self._sections), group
            self._sections.append((TILES, 1 + group.width, 0, 0, keep, hop, len(self._partials), len(rows)))
            self._partials.extend(rows)
        return found

    def _partial_rows(self, group: Group) -> list[tuple[int, ...]]:
        rows: list[tuple[int, ...]] = []
        for kept in group.partials:
            rows.append(self.partial_row(*kept, group.count_at(*kept), group.at(*kept)))
        return rows

    def partial_row(
        self, reduce: Reduce, selection: int, half_life: int, count_at: int = 0, place: int = 0
    ) -> tuple[int, ...]:
        """The row of `partials` for a partial result; where it is does not matter outside a group."""
        code, taken = CODES[reduce], self.input_of(reduce, selection)
        return code, selection, *taken, count_at, place, half_life, self.ties, self.width - self.ties

    def input_of(self, reduce: Reduce, selection: int) -> tuple[int, int]:
        """The word of an event that a reduction takes, and whether it is a float; zeros where it only counts."""
        if reduce in (Reduce.COUNT, Reduce.DECAYED_COUNT):
            return 0, 0
        return self.words[selection][0], int(self.view.types[selection][0] is Type.FLOAT)


def _depths(needs: Sequence[Need], reduce: Reduce) -> dict[int, int]:
    """How many events or hashes of each selection are kept for a kind of reduction."""
    depths: dict[int, int] = {}
    for need in needs:
        if need.reduction.reduce is reduce and not need.is_exact:
            depths[need.selection] = max(depths.get(need.selection, 0), need.reduction.depth)
    return depths


def _matrix(rows: Sequence[Sequence[int]], width: int) -> Int64s:
    return np.array(rows, np.int64).reshape(-1, width)


def words_in(kind: Type) -> int:
    """How many words a value of a type takes: two float32 of a vector share one.

    >>> words_in(Type.INT), words_in(Type.vector(3))
    (1, 2)
    """
    return -(-kind.width // 2) or 1


def columns_of(values: Array) -> Sequence[Int64s]:
    """The words of n values, an array [n] for each of the words that a value takes."""
    if values.ndim == 1:
        return [to_words(values)]
    n, width = values.shape
    padded = np.zeros((n, width + width % 2), np.float32)
    padded[:, :width] = values
    return list(padded.view(np.int64).T)


def vectors_from(words: Int64s, width: int) -> Array:
    """The inverse of `columns_of` for vectors: [n, width] float32 from [words, n].

    >>> vectors_from(np.array(columns_of(np.array([[1.0, 2.0, 3.0]], np.float32))), 3).tolist()
    [[1.0, 2.0, 3.0]]
    """
    return np.ascontiguousarray(words.T).view(np.float32)[:, :width]


def to_words(values: Array) -> Int64s:
    """[n] int64: floats bit-cast, integers and booleans as they are."""
    return values.view(np.int64) if values.dtype == np.float64 else values.astype(np.int64, copy=False)


def from_words(words: Int64s, kind: Type) -> Array:
    """The inverse of `to_words`.

    >>> from_words(to_words(np.array([0.5, -1.0])), Type.FLOAT).tolist()
    [0.5, -1.0]
    """
    if kind is Type.FLOAT:
        return words.view(np.float64)
    return words.astype(np.bool_) if kind is Type.BOOL else words
