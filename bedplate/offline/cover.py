"""Which segments together hold a table's events, and which of them are missing.

The table's pieces are in a row; a segment covers a run of them, and may be confined to a range of times. An index of
all times is one row of segments. Where only ranges of times were built (`backfill`), each range is a row of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, final

from bedplate.offline.segment import Segment, Span, segment_id
from bedplate.sources.base import Piece

Bounds: TypeAlias = "Callable[[Slot], tuple[int, int] | None]"
"""The smallest and the greatest time of a slot's rows; None: it has none."""

Cost: TypeAlias = "Callable[[Slot], float]"
"""What it takes to build what a slot lacks; of a slot of several pieces as much as of slots of each."""

WHOLE = Span()


@final
@dataclass(frozen=True, slots=True)
class Slot:
    """A segment of an index, whether it is built or not.

    Attributes:
        pieces: what it covers.
        span: the range of event times.
        segment: the segment; None: it is to be built.
    """

    pieces: tuple[Piece, ...]
    span: Span
    segment: Segment | None

    @property
    def id(self) -> str:
        """The segment's id."""
        return segment_id([p.id for p in self.pieces], self.span)

    @property
    def rows(self) -> int:
        """How many rows of the table it covers, those at other times included."""
        return sum(p.rows for p in self.pieces)


def cover(
    pieces: Sequence[Piece], segments: Sequence[Segment], target: Span, cost: Cost, apart: Bounds | None
) -> list[Slot]:
    """The segments of an index in order of arrival, each of which is there or to be built.

    Args:
        pieces: the table's, in order.
        segments: those that are there, of any snapshot.
        target: the times that the index must hold; it may hold more.
        cost: what it takes to build what is missing, which is to be as little as there can be.
        apart: where rows of equal time must be in one segment (see `Prepare`), how to find the times of a slot's rows.
    """
    usable = _usable(pieces, segments)
    whole = _lane(pieces, [u for u in usable if u.span.is_whole], WHOLE, cost, apart)
    spans = _disjoint([u.span for u in usable if not u.span.is_whole])
    if _missing(whole) == 0 or (target.is_whole and not spans):
        return whole
    wanted = sorted((s for s in [*spans, *_gaps(spans, target)] if s.meets(target)), key=_start)
    ranged = [s for span in wanted for s in _lane(pieces, [u for u in usable if u.span == span], span, cost, apart)]
    if _missing(ranged) == 0:
        return ranged
    return whole if any(s.segment for s in whole) else ranged


def _missing(slots: Sequence[Slot]) -> int:
    return sum(s.segment is None for s in slots)


def _start(span: Span) -> int:
    return -1 if span.begin is None else span.begin


def _usable(pieces: Sequence[Piece], segments: Sequence[Segment]) -> list[Slot]:
    """The segments whose pieces are a run of those that the table has now."""
    place = {piece.id: i for i, piece in enumerate(pieces)}
    found: list[Slot] = []
    for segment in segments:
        ids = segment.manifest.pieces
        start = place.get(ids[0]) if ids else None
        run = tuple(pieces[start : start + len(ids)]) if start is not None else ()
        if ids and [p.id for p in run] == ids:
            found.append(Slot(run, segment.manifest.span, segment))
    return found


def _disjoint(spans: Sequence[Span]) -> list[Span]:
    """The ranges that are there, of those that overlap the first."""
    found: list[Span] = []
    for span in sorted(set(spans), key=lambda s: (_start(s), s.until or 0)):
        if not any(span.meets(other) for other in found):
            found.append(span)
    return found


def _gaps(spans: Sequence[Span], target: Span) -> list[Span]:
    """What of the target is in none of the ranges, which are in order and do not overlap."""
    found: list[Span] = []
    begin, open_ended = target.begin, True
    for span in spans:
        if not span.meets(target):
            continue
        if span.begin is not None and (begin is None or begin < span.begin):
            found.append(Span(begin, span.begin))
        begin, open_ended = span.until, span.until is not None
        if not open_ended:
            break
    if open_ended and (target.until is None or begin is None or begin < target.until):
        found.append(Span(begin, target.until))
    return found


def _lane(pieces: Sequence[Piece], usable: Sequence[Slot], span: Span, cost: Cost, apart: Bounds | None) -> list[Slot]:
    """The segments of all pieces in one range of times: as little to build, then as few segments, as there can be."""
    place = {piece.id: i for i, piece in enumerate(pieces)}
    starting: dict[int, list[Slot]] = {}
    for slot in usable:
        starting.setdefault(place[slot.pieces[0].id], []).append(slot)
    best: list[tuple[float, int, Slot | None]] = [(0.0, 0, None)] * (len(pieces) + 1)
    for i in range(len(pieces) - 1, -1, -1):
        choices: list[tuple[float, int, Slot]] = []
        for slot in [*starting.get(i, []), Slot((pieces[i],), span, None)]:
            rest, count, _ = best[i + len(slot.pieces)]
            choices.append((rest + cost(slot), count + 1, slot))
        best[i] = min(choices, key=lambda c: c[:2])
    slots: list[Slot] = []
    at = 0
    while at < len(pieces):
        slot = best[at][2]
        assert slot is not None
        at += len(slot.pieces)
        if slots and slot.segment is None and slots[-1].segment is None:
            slots[-1] = replace(slots[-1], pieces=slots[-1].pieces + slot.pieces)
        else:
            slots.append(slot)
    return slots if apart is None else _apart(slots, usable, apart)


def _apart(slots: list[Slot], usable: Sequence[Slot], bounds: Bounds) -> list[Slot]:
    """The slots with those that share a time put together: the rows of a time are then in one segment."""
    times = [bounds(slot) for slot in slots] if len(slots) > 1 else []
    for j, right in enumerate(times):
        for i, left in enumerate(times[:j]):
            if left and right and left[0] <= right[1] and right[0] <= left[1]:
                run = tuple(p for slot in slots[i : j + 1] for p in slot.pieces)
                there = [u.segment for u in usable if [p.id for p in u.pieces] == [p.id for p in run]]
                joined = Slot(run, slots[i].span, there[0] if there else None)
                return _apart([*slots[:i], joined, *slots[j + 1 :]], usable, bounds)
    return slots
