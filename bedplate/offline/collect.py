"""Garbage collection: deleting what no definition needs.

Needed is what the project's definitions read of the sources as they are now, and what other projects that share the
store read at their last apply, also where their folder can't be seen from here. A model needs nothing of an index: its
evidence is in its own folder. What a process reads is kept until it ends, and a timeline at which a build is at work is
left as it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from bedplate.files import aside, leftovers
from bedplate.offline.buckets import BUILDING
from bedplate.offline.extend import Build, needs_of
from bedplate.offline.needs import Needs, claims_of_others, forget, needs_of_others
from bedplate.offline.segment import FOLDER, Lock, bytes_of

_KINDS = ("columns", "reductions")


@final
@dataclass(frozen=True, slots=True)
class Garbage:
    """What nobody needs.

    Attributes:
        path: a timeline, a segment, a column or reduction of a segment, or what was left of a build.
        kind: "timeline", "segment", "column", "reduction", "build" or "leftover".
        bytes: its size.
        in_use: whether a process reads or writes it, so that it stays.
    """

    path: Path
    kind: str
    bytes: int
    in_use: bool


def collect(
    store: Path, root: Path, builds: Sequence[Build], *, dry_run: bool, forgotten: Sequence[Path] = ()
) -> list[Garbage]:
    """Deletes what no definition needs.

    Args:
        store: the offline store's folder.
        root: the project's folder.
        builds: the builds of all views and labels that the project has.
        dry_run: finds it only.
        forgotten: folders of projects whose needs do not count, and whose records are deleted.

    Returns:
        what was deleted, or would be, and what stays only because a process uses it.

    Raises:
        StoreError: it is not known what another project or branch needs.
        OSError: a file can't be deleted.
    """
    if not store.is_dir():
        return []
    claims_of_others(store, root, forgotten)  # refused before anything is deleted
    if not dry_run:
        forget(store, forgotten)
    found: list[Garbage] = []
    for timeline in sorted(p for p in store.iterdir() if (p / "timeline.json").exists() and p.name[0] != "."):
        lock = Lock.alone(timeline)
        needed = needs_of(builds)
        for name, needs in needs_of_others(store, root, forgotten).items():
            needed.setdefault(name, Needs()).add(needs)
        for path, kind, owner in list(_unneeded(timeline, needed)):
            garbage = Garbage(path, kind, bytes_of(path), in_use=lock is None)
            found.append(garbage if lock is None else _delete(garbage, owner, dry_run=dry_run))
        if lock is not None:
            _delete_empty(timeline, needed, dry_run=dry_run)
    for path in (left for folder in _folders(store) for left in leftovers(folder)):
        found.append(Garbage(path, "leftover", bytes_of(path), in_use=False))
        if not dry_run:
            shutil.rmtree(path, ignore_errors=True)
    return found


def _folders(store: Path) -> list[Path]:
    """The folders in which builds write aside."""
    inner = [p for t in store.iterdir() if t.is_dir() for p in (t / FOLDER, t / BUILDING) if p.is_dir()]
    work = [p for t in inner if t.name == BUILDING for p in t.iterdir() if p.is_dir()]
    buckets = [p for w in work for p in (w / "segment", w / "merged", w / "spill") if p.is_dir()]
    parts = [p for t in inner if t.name == FOLDER for kind in _KINDS for p in t.glob(f"*/*/{kind}")]
    return [store, *inner, *work, *buckets, *parts]


def _unneeded(timeline: Path, needed: Mapping[str, Needs]) -> Iterator[tuple[Path, str, Path]]:
    """What nobody needs of a timeline: its path, its kind, and the folder that is locked while it is used."""
    segments = timeline / FOLDER
    if not segments.is_dir():  # a layout of another version
        yield timeline, "timeline", timeline
        return
    needs = needed.get(timeline.name, Needs())
    for segment in sorted(p for p in segments.iterdir() if not p.name.startswith(".")):
        if segment.name not in needs.segments:
            yield segment, "segment", segment
            continue
        for bucket in sorted(p for p in segment.iterdir() if p.name.isdigit()):
            for kind in _KINDS:
                for part in sorted((bucket / kind).iterdir()):
                    if not part.name.startswith(".") and f"{kind}/{part.name}" not in needs.parts:
                        yield part, kind.removesuffix("s"), segment
    work = timeline / BUILDING
    for folder in sorted(work.iterdir()) if work.is_dir() else []:
        if not folder.name.startswith(".") and folder.name not in needs.work:
            yield folder, "build", folder


def _delete(garbage: Garbage, owner: Path, *, dry_run: bool) -> Garbage:
    """Renames a folder, so that nobody finds half of it, and deletes it, unless it is in use."""
    # A timeline is locked by the caller already.
    lock = None if garbage.kind == "timeline" else Lock.alone(owner)
    if lock is None and garbage.kind != "timeline":
        return Garbage(garbage.path, garbage.kind, garbage.bytes, in_use=True)
    if not dry_run:
        away = aside(garbage.path)
        garbage.path.rename(away)
        shutil.rmtree(away)
    return garbage


def _delete_empty(timeline: Path, needed: Mapping[str, Needs], *, dry_run: bool) -> None:
    """Deletes the folder of a timeline of which nothing is left and nothing needed."""
    if dry_run or timeline.name in needed or not timeline.exists():
        return
    rest = [p for folder in (timeline / FOLDER, timeline / BUILDING) if folder.is_dir() for p in folder.iterdir()]
    if not rest:
        away = aside(timeline)
        timeline.rename(away)
        shutil.rmtree(away)
