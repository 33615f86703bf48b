"""What packed rows hold, as a description that outlives the definition of their view, and the way from one to another.

A view that has changed may need nothing but what the rows of its old version hold: features were removed or renamed, a
mean was added where its sum and count are kept, a list became shorter. Then rows of the old form are read as rows of
the new one, word by word; what is in them is the same, as both say the same of the same selections of the same events.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, final

import msgspec
import numpy as np

from bedplate.canonical import digest
from bedplate.online.codec import (
    COUNTS,
    DEPTH,
    DISTINCT,
    FINGERPRINT,
    HOP,
    KEEP,
    KIND,
    LAST_FOLDED,
    LATEST,
    LATEST_BY,
    MISSING,
    PENDING,
    SELECTION,
    SMALLEST,
    TILES,
    VALID_BITS,
    WIDTH,
    Group,
    Layout,
)
from bedplate.online.compiled import jit
from bedplate.types import Int64s


@final
class Form(msgspec.Struct, frozen=True, eq=False):
    """What the rows of a version of a view hold. It is equal to nothing but itself.

    Attributes:
        id: of the view.
        events: which events there are: the id of source, cleaning step, condition, entities, and types of keys.
        fingerprint: as of `Layout`.
        width: as of `Layout`.
        fixed: as of `Layout`.
        selections: the id of each selection with its types.
        inputs: by the id of an input and its type the first word in an event, and how many it takes.
        slots: by selection the first word in the row, and how many it takes.
        sections: kind, width, selection, depth, keep and hop of each.
        tiles: by the number of its section the words of each partial result in a tile.
        totals: the words of each partial result in the row.
        lifetime: as of `Layout`: a row of which nothing counts any more after it may be gone.
    """

    id: str
    events: str
    fingerprint: int
    width: int
    fixed: int
    selections: list[str]
    inputs: dict[str, tuple[int, int]]
    slots: dict[int, tuple[int, int]]
    sections: list[tuple[int, int, int, int, int, int]]
    tiles: dict[int, dict[str, tuple[int, int]]]
    totals: dict[str, tuple[int, int]]
    lifetime: int


@functools.lru_cache(maxsize=64)
def form_of(layout: Layout) -> Form:
    """The form of a layout's rows."""
    view = layout.view
    selections = [
        digest([s.form, [str(t) for t in types]]) for s, types in zip(view.selections, view.types, strict=True)
    ]
    inputs: dict[str, tuple[int, int]] = {}
    for selection, types, words in zip(view.selections, view.types, layout.words, strict=True):
        at = 0
        for form, kind in zip(selection.form["inputs"], types, strict=True):
            taken = -(-kind.width // 2) or 1
            inputs[digest([form, str(kind)])] = words[at], taken
            at += taken
    columns = (KIND, WIDTH, SELECTION, DEPTH, KEEP, HOP)
    base: dict[str, Any] = view.base() | {"keys": [str(t) for t in view.key_types]}
    return Form(
        view.id,
        digest(base),
        layout.fingerprint,
        layout.width,
        layout.fixed,
        selections,
        inputs,
        {s: (at, 1 + number) for s, at, _, number in layout.slots.tolist()},
        [tuple(row[c] for c in columns) for row in layout.sections.tolist()],
        {section: _words(group, 1, selections) for section, group in layout.tiles.values()},
        _words(layout.totals, layout.totals_at, selections),
        layout.lifetime,
    )


def _words(group: Group, at: int, selections: Sequence[str]) -> dict[str, tuple[int, int]]:
    places: list[tuple[str, int]] = []
    for reduce, selection, half_life in group.partials:
        places.append(
            (f"{reduce.value} {half_life} {selections[selection]}", at + group.at(reduce, selection, half_life))
        )
    ends = [*(place for _, place in places), at + group.width][1:]
    return {name: (place, end - place) for (name, place), end in zip(places, ends, strict=True)}


@final
class Conversion:
    """The way from rows of one form to rows of another; `conversion` says whether there is one.

    Args:
        old: the form of the rows that are there.
        new: the form wanted.
        fixed: [new.fixed - COUNTS - sections] the words of the old fixed part.
        from_sections: of each slot that an old section holds the last of: first word, how many, section.
        sections: [sections, 2] of each section the old one, and how many of its last entries are taken; -1: all.
        columns: [sections, widest] the words of the old entry.
    """

    def __init__(
        self,
        old: Form,
        new: Form,
        fixed: Sequence[int],
        from_sections: Sequence[tuple[int, int, int]],
        sections: Sequence[tuple[int, int]],
        columns: Sequence[Sequence[int]],
    ) -> None:
        self.old, self.new = old, new
        self._shape = np.array(
            [old.fingerprint, old.width, old.fixed, new.fingerprint, new.width, new.fixed, len(new.sections)], np.int64
        )
        events = [0] * new.width
        for name, (at, count) in new.inputs.items():
            events[at : at + count] = range(old.inputs[name][0], old.inputs[name][0] + count)
        ties = new.width - 1 - -(-len(new.selections) // VALID_BITS) - sum(n for _, n in set(new.inputs.values()))
        for tie in range(1, ties + 1):
            events[-tie] = old.width - tie
        self._events = np.array(events, np.int64)
        self._selections = np.array([old.selections.index(s) for s in new.selections], np.int64)
        self._fixed = np.array(fixed, np.int64)
        self._from = np.array(from_sections, np.int64).reshape(-1, 3)
        self._sections = np.array(sections, np.int64).reshape(-1, 2)
        widest = max((len(c) for c in columns), default=1)
        self._columns = np.array([[*c, *[0] * (widest - len(c))] for c in columns], np.int64).reshape(-1, widest)
        self._old_widths = np.array([s[1] for s in old.sections], np.int64)
        self._new_widths = np.array([s[1] for s in new.sections], np.int64)

    def rows(self, words: Int64s, offsets: Int64s) -> tuple[Int64s, Int64s]:
        """Rows of the new form: words, and offsets [k + 1]; of a missing row there are none.

        Args:
            words: rows of the old form, one after the other.
            offsets: [k + 1] where each begins.
        """
        # No entry gets wider than the new form's widest; what a new section has, an old one has.
        grown = max([self.new.width, self.new.fixed, *self._new_widths.tolist(), 1]) * (1 + len(self.new.sections))
        out, ends = np.zeros(len(words) * grown, np.int64), np.zeros(len(offsets), np.int64)
        _convert(
            words, offsets, self._shape, self._events, self._selections, self._fixed, self._from, self._sections,
            self._columns, self._old_widths, self._new_widths, out, ends,
        )  # fmt: skip
        return out[: ends[-1]].copy(), ends


def conversion(old: Form, new: Form) -> Conversion | None:
    """The way from one form to another; None: the old rows do not hold all that the new ones need.

    Rows of which nothing counted any more for the old version may be gone, so that the new one must not need them.
    """
    if not _is_long_enough(old.lifetime, new.lifetime):
        return None
    same_events = old.events == new.events and set(new.selections) <= set(old.selections)
    if not same_events or any(old.inputs.get(name, (0, 0))[1] != n for name, (_, n) in new.inputs.items()):
        return None
    fixed = [-1] * (new.fixed - COUNTS - len(new.sections))
    from_sections: list[tuple[int, int, int]] = []
    for selection, (at, count) in new.slots.items():
        of_old = old.selections.index(new.selections[selection])
        if of_old in old.slots:
            _put(fixed, new, at, range(old.slots[of_old][0], old.slots[of_old][0] + count))
            continue
        deeper = [i for i, s in enumerate(old.sections) if (s[0], s[2]) == (LATEST, of_old)]
        if not deeper:
            return None
        from_sections.append((at, count, deeper[0]))
    if any(name not in old.totals for name in new.totals):
        return None
    for name, (at, count) in new.totals.items():
        _put(fixed, new, at, range(old.totals[name][0], old.totals[name][0] + count))
    sections: list[tuple[int, int]] = []
    columns: list[list[int]] = []
    for number in range(len(new.sections)):
        found = _section(old, new, number)
        if found is None:
            return None
        sections.append(found[:2])
        columns.append(found[2])
    return Conversion(old, new, fixed, from_sections, sections, columns)


def _put(fixed: list[int], new: Form, at: int, words: Iterable[int]) -> None:
    for number, word in enumerate(words, at - COUNTS - len(new.sections)):
        fixed[number] = word


def _section(old: Form, new: Form, number: int) -> tuple[int, int, list[int]] | None:
    """The old section that holds what a new one needs, how many of its last entries are taken, and which words."""
    kind, width, selection, depth, keep, hop = new.sections[number]
    if kind != TILES:
        is_ring = selection < 0
        if is_ring and (old.selections, old.inputs, old.width) != (new.selections, new.inputs, new.width):
            return None  # its entries are events as they are
        of_old = -1 if is_ring else old.selections.index(new.selections[selection])
        for i, s in enumerate(old.sections):
            if (s[0], s[2], s[5]) == (kind, of_old, hop) and _is_kept(s, kind, depth, keep):
                return i, depth if kind in (LATEST, LATEST_BY) else -1, list(range(width))
        return None
    for i, s in enumerate(old.sections):
        if (s[0], s[5]) == (TILES, hop) and _is_kept(s, kind, depth, keep):
            known = old.tiles[i]
            if any(name not in known for name in new.tiles[number]):
                return None
            words = [0] * width
            for name, (at, count) in new.tiles[number].items():
                words[at : at + count] = range(known[name][0], known[name][0] + count)
            return i, -1, words
    return None


def _is_kept(section: tuple[int, ...], kind: int, depth: int, keep: int) -> bool:
    """Whether an old section keeps so many entries, for so long."""
    if kind == SMALLEST and section[3] != depth:
        return False
    if kind in (LATEST, LATEST_BY):
        return section[3] >= depth
    long_enough = _is_long_enough(section[4], keep)
    return long_enough if kind in (TILES, DISTINCT, SMALLEST) else long_enough and (section[4] < 0) == (keep < 0)


def _is_long_enough(old: int, new: int) -> bool:
    """Whether what is kept for so long is there for all of another time; -1: for ever."""
    return old < 0 or 0 <= new <= old


@jit
def _convert(
    words: Any, offsets: Any, shape: Any, events: Any, selections: Any, fixed: Any, from_sections: Any, sections: Any,
    columns: Any, old_widths: Any, new_widths: Any, out: Any, ends: Any,
) -> None:  # fmt: skip
    old_width, old_fixed, width, size, count = shape[1], shape[2], shape[4], shape[5], shape[6]
    at = np.empty(len(old_widths), np.int64)
    to = ends[0]
    for k in range(len(offsets) - 1):
        row, begin = to, offsets[k]
        if offsets[k + 1] > begin:
            pending = words[begin + PENDING]
            out[row + FINGERPRINT], out[row + LAST_FOLDED] = shape[3], words[begin + LAST_FOLDED]
            out[row + PENDING] = pending
            place = begin + old_fixed + pending * old_width
            for s in range(len(old_widths)):
                at[s] = place
                place += words[begin + COUNTS + s] * old_widths[s]
            for i in range(len(fixed)):
                if fixed[i] >= 0:
                    out[row + COUNTS + count + i] = words[begin + fixed[i]]
            for i in range(len(from_sections)):
                first, number, s = from_sections[i]
                kept = words[begin + COUNTS + s]
                out[row + first] = MISSING
                for c in range(number if kept > 0 else 0):
                    out[row + first + c] = words[at[s] + (kept - 1) * old_widths[s] + c]
            to = row + size
            for p in range(pending):
                event = begin + old_fixed + p * old_width
                for c in range(width):
                    out[to + c] = words[event + events[c]] if events[c] > 0 else 0
                out[to] = words[event]
                for s in range(len(selections)):
                    o = selections[s]
                    bit = (words[event + 1 + o // VALID_BITS] >> (o % VALID_BITS)) & 1
                    out[to + 1 + s // VALID_BITS] |= bit << (s % VALID_BITS)
                to += width
            for s in range(count):
                o, last = sections[s]
                kept = words[begin + COUNTS + o]
                taken = min(kept, last) if last >= 0 else kept
                out[row + COUNTS + s] = taken
                for i in range(kept - taken, kept):
                    entry = at[o] + i * old_widths[o]
                    for c in range(new_widths[s]):
                        out[to + c] = words[entry + columns[s, c]]
                    to += new_widths[s]
        ends[k + 1] = to
