"""Compaction: several segments become one, so that a lookup has few to merge.

The rows of the segments are taken from their files in order of arrival and sorted once more, bucket by bucket; the
table is not read. The old segments stay until `gc`: who reads them is not disturbed, and a compaction that is
interrupted loses nothing but its work.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import final

import msgspec
import numpy as np

from bedplate.batch import TextLookup
from bedplate.canonical import to_json
from bedplate.errors import StoreError
from bedplate.features.rows import JoinedRows, Rows, SelectedValues
from bedplate.features.view import CompiledView
from bedplate.files import new_folder, write_atomic
from bedplate.offline.buckets import in_threads, working_folder
from bedplate.offline.build import PartBuild, Progress, column_ids, wanted_reductions
from bedplate.offline.extend import Build
from bedplate.offline.index import Timeline
from bedplate.offline.lookup import values_at
from bedplate.offline.memory import Budget
from bedplate.offline.segment import FOLDER, MANIFEST, Lock, Segment, SegmentManifest, Span, segment_id
from bedplate.offline.spill import bucket_numbers
from bedplate.types import Array

FAN = 4
"""How many segments of about the same size `apply` merges into one."""


def tail(rows: Sequence[int]) -> int:
    """How many of the last segments to merge, by their numbers of rows; 0: none.

    Sizes are in tiers, each four times the one before; four segments of a tier become one, with what is smaller after
    them. So a row is written again once a tier, and the cost of all compactions together stays near linear.

    >>> tail([1000, 10, 10, 10]), tail([1000, 10, 10, 10, 10]), tail([1000, 40, 40, 10, 10, 10, 10])
    (0, 4, 4)
    """
    tiers = [count.bit_length() // 2 for count in rows]
    for tier in sorted(set(tiers)):
        count = 0
        while count < len(rows) and tiers[-count - 1] <= tier:
            count += 1
        if tiers[len(tiers) - count :].count(tier) >= FAN:
            return count
    return 0


def compact(
    builds: Sequence[Build],
    budget: Budget,
    threads: int,
    *,
    whole: bool = False,
    progress: Progress = lambda _: None,
) -> list[Segment]:
    """Merges segments of the timelines that some views read.

    Args:
        builds: the builds of the views; those that lack something are left out.
        budget: the memory that it may use.
        threads: how many buckets are merged at once.
        whole: merges all segments of a timeline into one; else those that `tail` says. Segments with a key whose events
            do not fit into memory together stay as they are.
        progress: told each step.

    Returns:
        the new segments.

    Raises:
        StoreError: the store can't be written.
    """
    by_timeline: dict[tuple[Path, ...], list[Build]] = {}
    for build in builds:
        if len(build.slots) > 1 and build.is_complete:
            by_timeline.setdefault(tuple(s.folder for s in build.segments), []).append(build)
    merged: list[Segment] = []
    for together in by_timeline.values():
        segments = together[0].segments
        count = len(segments) if whole else tail([s.manifest.rows for s in segments])
        chosen = segments[len(segments) - count :]
        if count and _lie_together(chosen) and _fit(chosen, together, budget, threads):
            try:
                merged.append(Compaction(together, budget, threads).run(count, progress))
            except OSError as error:
                raise StoreError(
                    f"can't write the merged segment: {error}",
                    where=str(together[0].folder),
                    hint="check free space and permissions; the segments that were to be merged are as they were",
                ) from error
    return merged


@final
class Compaction:
    """Merges segments of one timeline.

    Args:
        builds: the builds of the views that read the timeline, complete; what none of them needs is not taken along.
        budget: the memory that it may use.
        threads: how many buckets are merged at once.
    """

    __slots__ = ("_budget", "_folder", "_segments", "_threads", "_views")

    def __init__(self, builds: Sequence[Build], budget: Budget, threads: int) -> None:
        self._folder = builds[0].folder
        self._segments = builds[0].segments
        self._views = [build.view for build in builds]
        self._budget, self._threads = budget, threads

    def run(self, count: int, progress: Progress = lambda _: None) -> Segment:
        """Merges the last `count` segments; what an earlier call has finished is not done again."""
        chosen, began = self._segments[-count:], time.perf_counter()
        manifests = [s.manifest for s in chosen]
        pieces, span = _joined(manifests)
        rows, name = sum(m.rows for m in manifests), self._views[0].name
        wanted = max(self._budget.buckets(v, rows, self._threads) for v in self._views)
        buckets = max(wanted, *(m.buckets for m in manifests))
        target = self._folder / FOLDER / segment_id(pieces, span)
        locks = [Lock.shared(s.folder) for s in chosen]
        with working_folder(self._folder, target.name) as work:
            if not target.exists():
                progress(f"{name}: merge {count} segments, {rows:,} events")
                finished = work / "merged"
                finished.mkdir(exist_ok=True)

                def build(bucket: int) -> None:
                    place = finished / str(bucket)
                    if place.exists() and not _has_buckets(place, buckets):
                        raise FileExistsError(place)
                    if not place.exists():
                        self._merge(chosen, bucket, buckets, place)

                in_threads(build, range(buckets), self._threads)
                keys = [len(np.load(finished / str(b) / "keys.npy", mmap_mode="r")) for b in range(buckets)]
                merged = _manifest(manifests, pieces, span, buckets, sum(keys), time.perf_counter() - began)
                write_atomic(finished / MANIFEST, to_json(merged))
                finished.rename(target)
        del locks
        return Segment(target)

    def _merge(self, segments: Sequence[Segment], bucket: int, buckets: int, target: Path) -> None:
        with new_folder(target) as folder:
            (folder / "buckets.json").write_bytes(to_json(buckets))
            timeline = Timeline(folder)
            for number, view in enumerate(self._views):
                build, ids = PartBuild(view, timeline), column_ids(view)
                if number == 0:
                    build.write_timeline(folder, _rows(view, segments, bucket, buckets, []))
                for position in build.missing_columns():
                    column = timeline.column_folder(ids[position])
                    column.mkdir()
                    rows = _rows(view, segments, bucket, buckets, [position])
                    build.write_column(column, position, rows.selections[0])
                for position, reduction in wanted_reductions(view):
                    target = timeline.reduction_folder(ids[position], reduction.stored)
                    if not target.exists():
                        target.mkdir()
                        build.write_reduction(target, position, reduction)


def _has_buckets(folder: Path, buckets: int) -> bool:
    return msgspec.json.decode((folder / "buckets.json").read_bytes()) == buckets


def _lie_together(segments: Sequence[Segment]) -> bool:
    """Whether segments cover a run of pieces in one range of times, or one run of pieces in ranges without a gap."""
    manifests = [s.manifest for s in segments]
    first = manifests[0]
    if all(m.span == first.span for m in manifests):
        return True
    pairs = pairwise(sorted((m.span for m in manifests), key=lambda s: -1 if s.begin is None else s.begin))
    return all(m.pieces == first.pieces for m in manifests) and all(a.until == b.begin for a, b in pairs)


def _fit(segments: Sequence[Segment], builds: Sequence[Build], budget: Budget, threads: int) -> bool:
    """Whether each key's events of all segments are few enough for one part: compaction cuts no bucket."""
    if any(s.manifest.cuts for s in segments):
        return False
    rows = sum(max(int(np.diff(part.offsets).max(initial=0)) for part in s.parts) for s in segments)
    return all(budget.parts(build.view, rows, threads) == 1 for build in builds)


def _joined(manifests: Sequence[SegmentManifest]) -> tuple[list[str], Span]:
    """The pieces and the range of times of segments that lie together."""
    first = manifests[0]
    if all(m.span == first.span for m in manifests):
        return [p for m in manifests for p in m.pieces], first.span
    spans = sorted((m.span for m in manifests), key=lambda s: -1 if s.begin is None else s.begin)
    return first.pieces, Span(spans[0].begin, spans[-1].until)


def _manifest(
    parts: Sequence[SegmentManifest], pieces: list[str], span: Span, buckets: int, keys: int, seconds: float
) -> SegmentManifest:
    there = [m for m in parts if m.rows]
    lows, highs = [m.low for m in parts if m.low is not None], [m.high for m in parts if m.high is not None]
    return msgspec.structs.replace(
        parts[-1],
        pieces=pieces,
        span=span,
        reads=[read for m in parts for read in m.reads],
        buckets=buckets,
        rows=sum(m.rows for m in parts),
        keys=keys,
        first=min((m.first for m in there), default=-1),
        end=max((m.end for m in there), default=-1),
        known=max((m.known for m in there), default=-1),
        low=min(lows, default=None),
        high=max(highs, default=None),
        seconds=round(sum(m.seconds for m in parts) + seconds, 3),
    )


def _rows(view: CompiledView, segments: Sequence[Segment], bucket: int, buckets: int, only: Sequence[int]) -> Rows:
    """The rows of a bucket of several segments, in order of arrival."""
    joined = JoinedRows(view, 0, only)
    for segment in segments:
        part = segment.parts[bucket * segment.manifest.buckets // buckets]
        joined.add(_arrived(view, part, bucket, buckets, only))
    return joined.rows()


def _arrived(view: CompiledView, part: Timeline, bucket: int, buckets: int, only: Sequence[int]) -> Rows:
    """The rows of a bucket that are in a part, in order of arrival."""
    place = np.empty(len(part.order), np.int64)
    place[part.order] = np.arange(len(place))
    of_key = np.repeat(np.arange(len(part.keys)), np.diff(part.offsets))[place]
    own = (bucket_numbers(part.keys, buckets) == bucket)[of_key]
    if not own.all():
        place, of_key = place[own], of_key[own]
    known, sequence = part.known, part.sequence
    return Rows(
        times=part.times[place],
        keys=part.keys[of_key],
        selections=tuple(_selected(view, part, s, place) for s in only),
        key_texts=tuple(_texts(part.key_texts(e)) for e in range(len(view.key_types))),
        known=None if known is None else known.rows[place],
        sequence=None if sequence is None else sequence[place],
    )


def _texts(texts: TextLookup | None) -> TextLookup | None:
    return None if texts is None else dict(texts)


def _selected(view: CompiledView, part: Timeline, position: int, rows: Array) -> SelectedValues:
    found = values_at(part.column(column_ids(view)[position], view.types[position]), rows)
    return SelectedValues(found.valid, found.inputs, tuple(map(_texts, found.texts)))
