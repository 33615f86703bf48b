"""What an offline store holds: timelines, segments, buckets, who reads them, sizes and what they took to build."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import final

import msgspec

from bedplate.offline.build import COST
from bedplate.offline.extend import Build, timelines_of
from bedplate.offline.segment import Segment, Span, bytes_of, segments_of


@final
class SegmentFacts(msgspec.Struct, frozen=True):
    """A segment, for listings.

    Attributes:
        id: its id.
        pieces: how many pieces of the table it covers.
        begin: the first time of the range that it is confined to, microseconds; None: no range.
        until: the time after the last.
        rows: how many events it has.
        keys: how many keys.
        buckets: how many buckets.
        columns: how many columns.
        reductions: how many reductions.
        bytes: its size.
        seconds: what it took to build: sorting, columns and reductions.
        views: the views of the project that read it now.
    """

    id: str
    pieces: int
    begin: int | None
    until: int | None
    rows: int
    keys: int
    buckets: int
    columns: int
    reductions: int
    bytes: int
    seconds: float
    views: list[str]


@final
class TimelineFacts(msgspec.Struct, frozen=True):
    """A timeline, for listings.

    Attributes:
        id: its id, the name of its folder.
        source: the source's name.
        entities: the entities' names.
        views: the views and labels of the project that read it.
        segments: its segments.
        bytes: its size, what is being built included.
    """

    id: str
    source: str
    entities: list[str]
    views: list[str]
    segments: list[SegmentFacts]
    bytes: int

    @property
    def rows(self) -> int:
        """How many events its segments have."""
        return sum(s.rows for s in self.segments)

    @property
    def seconds(self) -> float:
        """What its segments took to build."""
        return sum(s.seconds for s in self.segments)


class _Described(msgspec.Struct, frozen=True):
    source: str = ""
    entities: list[str] = []


def listing(store: Path, builds: Sequence[Build]) -> list[TimelineFacts]:
    """The timelines of a store, in order of their sources' names.

    Args:
        store: the offline store's folder.
        builds: the builds of the project's views and labels.
    """
    found: list[TimelineFacts] = []
    for folder in timelines_of(store):
        readers = [b for b in builds if b.folder == folder]
        described = _Described()
        with suppress(msgspec.MsgspecError, OSError):
            described = msgspec.json.decode((folder / "timeline.json").read_bytes(), type=_Described)
        found.append(
            TimelineFacts(
                folder.name,
                described.source,
                described.entities,
                [b.view.name for b in readers],
                [_facts(segment, readers) for segment in segments_of(folder)],
                bytes_of(folder),
            )
        )
    return sorted(found, key=lambda t: (t.source, t.entities, t.id))


def _facts(segment: Segment, readers: Sequence[Build]) -> SegmentFacts:
    manifest, span = segment.manifest, segment.manifest.span
    parts = [p for part in segment.parts for k in ("columns", "reductions") for p in (part.folder / k).glob("*")]
    names = {f"{p.parent.name}/{p.name}" for p in parts if not p.name.startswith(".")}
    return SegmentFacts(
        id=segment.folder.name,
        pieces=len(manifest.pieces),
        begin=span.begin,
        until=span.until,
        rows=manifest.rows,
        keys=manifest.keys,
        buckets=manifest.buckets,
        columns=sum(n.startswith("columns/") for n in names),
        reductions=sum(n.startswith("reductions/") for n in names),
        bytes=bytes_of(segment.folder),
        seconds=round(manifest.seconds + sum(map(_seconds, parts)), 3),
        views=[b.view.name for b in readers if any(s.folder == segment.folder for s in b.segments)],
    )


def _seconds(part: Path) -> float:
    try:
        return float(msgspec.json.decode((part / COST).read_bytes(), type=dict[str, float])["seconds"])
    except (OSError, KeyError, msgspec.MsgspecError):
        return 0.0


def span_text(span: Span) -> str:
    """A range of times for a person.

    >>> span_text(Span()), span_text(Span(0, 86_400_000_000))
    ('all', '1970-01-01T00:00:00Z to 1970-01-02T00:00:00Z')
    """
    from bedplate.types import format_time

    if span.is_whole:
        return "all"
    begin = "" if span.begin is None else format_time(span.begin)
    return f"{begin} to {'' if span.until is None else format_time(span.until)}".strip()
