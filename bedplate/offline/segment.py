"""Segments: the parts of a timeline that are built, merged and deleted as wholes.

A segment holds the events of some pieces of the source's table, one after the other, and may be confined to a range of
event times. Its keys are spread over buckets by their hash. A view at a snapshot is read from the segments that
together cover the table's pieces: new pieces become a new segment, and the older segments stay as they are.

While a process reads or builds a segment it holds a lock on its folder, so that nobody deletes it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, final

import msgspec

from bedplate.canonical import digest
from bedplate.errors import StoreError
from bedplate.offline.cuts import Cut, part_counts
from bedplate.offline.index import FORMAT, Timeline

FOLDER = "segments"
MANIFEST = "segment.json"


@final
class Span(msgspec.Struct, frozen=True, array_like=True):
    """A range of event times: from `begin` to before `until`, microseconds; None: without end."""

    begin: int | None = None
    until: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether every time is in it."""
        return self.begin is None and self.until is None

    def holds(self, other: Span) -> bool:
        """Whether all of another range is in it.

        >>> Span().holds(Span(3, 5)), Span(3, 5).holds(Span(3, None))
        (True, False)
        """
        starts = self.begin is None or (other.begin is not None and self.begin <= other.begin)
        return starts and (self.until is None or (other.until is not None and other.until <= self.until))

    def meets(self, other: Span) -> bool:
        """Whether a time is in both.

        >>> Span(3, 5).meets(Span(5, 8)), Span(3, 5).meets(Span(None, 4))
        (False, True)
        """
        before = self.until is not None and other.begin is not None and self.until <= other.begin
        after = other.until is not None and self.begin is not None and other.until <= self.begin
        return not (before or after)


@final
class Read(msgspec.Struct, frozen=True):
    """Rows that were read and cleaned together: of these pieces, one after the other, in this range of times."""

    pieces: list[str]
    span: Span


@final
class SegmentManifest(msgspec.Struct, frozen=True):
    """What a segment is.

    Attributes:
        format: `FORMAT`.
        source: the source's name.
        snapshot: the id of the snapshot that it was built from.
        entities: the entities' names.
        pieces: the ids of the pieces that it covers, in order.
        span: the range of event times that it covers.
        reads: how its rows were read, in order.
        buckets: how many buckets its keys are in: a power of two.
        rows: how many events it has.
        keys: how many keys.
        first: the smallest event time, microseconds; -1 without events.
        end: the greatest event time; -1 without events.
        known: when the last of the events could be known, apart from a delay; -1 without events.
        low: the smallest time of the pieces' rows, as they are in the table where it can be told; None: not looked at.
        high: the greatest of them.
        seconds: how long the sorting took.
        cuts: where buckets that are too large for one part are cut, ascending; see `cuts`.
    """

    format: int
    source: str
    snapshot: str
    entities: list[str]
    pieces: list[str]
    span: Span
    reads: list[Read]
    buckets: int
    rows: int
    keys: int
    first: int
    end: int
    known: int
    low: int | None
    high: int | None
    seconds: float
    cuts: list[Cut] = []


def segment_id(pieces: Sequence[str], span: Span) -> str:
    """The id of the segment of these pieces in this range of times."""
    return digest([FORMAT, list(pieces), span.begin, span.until])[:24]


@final
class Segment:
    """An open segment.

    Args:
        folder: its folder.
        manifest: what it is, where that is known already.

    Attributes:
        parts: of all buckets, one after the other.
    """

    __slots__ = ("_first", "folder", "manifest", "parts")

    def __init__(self, folder: Path, manifest: SegmentManifest | None = None) -> None:
        self.folder = folder
        self.manifest = manifest or read_manifest(folder)
        counts = part_counts(self.manifest.buckets, self.manifest.cuts)
        self._first = [0, *accumulate(counts)]
        self.parts = tuple(Timeline(folder / str(p)) for p in range(self._first[-1]))

    def parts_of(self, bucket: int) -> range:
        """The numbers of the parts of a bucket, in order of time."""
        return range(self._first[bucket], self._first[bucket + 1])

    def times_of(self, bucket: int) -> list[tuple[int, int]]:
        """The first and the last time that events of each part of a bucket may have."""
        cuts = [cut.time for cut in self.manifest.cuts if cut.bucket == bucket]
        return list(pairwise([self.manifest.first, *cuts, self.manifest.end]))

    def has(self, name: Path) -> bool:
        """Whether every bucket has a column or reduction, named by its path in the bucket."""
        return all((part.folder / name).exists() for part in self.parts)

    def facts(self) -> dict[str, Any]:
        """The manifest and the size on disk, for listings."""
        return msgspec.to_builtins(self.manifest) | {"id": self.folder.name, "bytes": bytes_of(self.folder)}


def bytes_of(folder: Path) -> int:
    """The size of the files below a folder; files that go away meanwhile are not counted."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(parent, name).stat().st_size
    return total


def read_manifest(folder: Path) -> SegmentManifest:
    """What the segment in a folder is.

    Raises:
        StoreError: it can't be read.
    """
    path = folder / MANIFEST
    try:
        return msgspec.json.decode(path.read_bytes(), type=SegmentManifest)
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(
            f"can't read the manifest: {error}", where=str(path), hint="delete its folder and run: bedplate apply"
        ) from error


def segments_of(timeline: Path) -> list[Segment]:
    """The segments of a timeline, in no order that means anything."""
    folder = timeline / FOLDER
    if not folder.is_dir():
        return []
    names = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    found: list[Segment] = []
    for path in names:
        try:
            found.append(Segment(path))
        except StoreError:
            if path.exists():  # else it was deleted meanwhile
                raise
    return found


@final
class Lock:
    """A lock on a folder that lasts as long as this object, or the process.

    Args:
        descriptor: the open folder, locked.
    """

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        """Gives the lock back; when the interpreter ends, the module's own names may be gone before its locks."""
        if self._descriptor >= 0:
            close(self._descriptor)

    def release(self) -> None:
        """Gives the lock back; it may be called once."""
        os.close(self._descriptor)
        self._descriptor = -1

    @staticmethod
    def shared(folder: Path) -> Lock | None:
        """A lock that others may hold too; None: the folder is gone, or is being deleted."""
        return _lock(folder, fcntl.LOCK_SH)

    @staticmethod
    def alone(folder: Path, *, wait: bool = False) -> Lock | None:
        """A lock that nobody else holds; None: the folder is gone, or (unless this waits) somebody holds one."""
        return _lock(folder, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock(folder: Path, kind: int) -> Lock | None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    lock = Lock(descriptor)
    try:
        fcntl.flock(descriptor, kind)
        # It may have been renamed away, for deletion, before the lock was there.
        now, locked = folder.stat(), os.fstat(descriptor)
    except (BlockingIOError, FileNotFoundError):
        return None
    return lock if (now.st_dev, now.st_ino) == (locked.st_dev, locked.st_ino) else None
