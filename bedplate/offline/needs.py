"""What projects need of an offline store, on record, so that `gc` in one does not delete what another one reads.

needs/<project>.json    the project's folder and git branch, and by timeline the segments, columns and reductions of the
                        last apply there
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import final

import msgspec

from bedplate.canonical import digest
from bedplate.config import CONFIG_FILE
from bedplate.errors import StoreError
from bedplate.files import write_record
from bedplate.offline.branches import branches_of

_FOLDER = "needs"


@final
class Needs(msgspec.Struct, frozen=True):
    """What is needed of a timeline.

    Attributes:
        segments: ids of segments.
        parts: paths of columns and reductions in a bucket.
        work: names of what an interrupted build goes on from.
    """

    segments: set[str] = msgspec.field(default_factory=set[str])
    parts: set[str] = msgspec.field(default_factory=set[str])
    work: set[str] = msgspec.field(default_factory=set[str])

    def add(self, other: Needs) -> None:
        """Takes in what else is needed."""
        self.segments.update(other.segments)
        self.parts.update(other.parts)
        self.work.update(other.work)


@final
class _Record(msgspec.Struct, frozen=True):
    root: str
    timelines: dict[str, Needs]
    branch: str = ""


def record_needs(store: Path, root: Path, needs: Mapping[str, Needs]) -> None:
    """Puts on record what a project needs on its git branch, by timeline, in place of what it needed there before.

    Raises:
        StoreError: the record can't be written.
    """
    branch = branches_of(root).current
    record = msgspec.json.encode(_Record(str(root), dict(needs), branch), order="sorted")
    write_record(_path(store, root, branch), record, "what the project needs")


def recorded_needs(store: Path, root: Path) -> Mapping[str, Needs]:
    """What a project needed at its last apply on its git branch, by timeline; nothing where no record can be read."""
    try:
        path = _path(store, root, branches_of(root).current)
        return msgspec.json.decode(path.read_bytes(), type=_Record).timelines
    except (OSError, msgspec.MsgspecError):
        return {}


def needs_of_others(store: Path, root: Path) -> dict[str, Needs]:
    """What the other projects that share a store need, and other branches of this one, those that are still there.

    Returns:
        the needs by timeline.

    Raises:
        StoreError: a record can't be read.
    """
    found: dict[str, Needs] = {}
    own = _path(store, root, branches_of(root).current)
    for path in sorted((store / _FOLDER).glob("*.json")):
        try:
            record = msgspec.json.decode(path.read_bytes(), type=_Record)
        except (OSError, msgspec.MsgspecError) as error:
            raise StoreError(
                f"can't read what another project needs: {error}",
                where=str(path),
                hint="delete the file, and run 'bedplate apply' in that project",
            ) from error
        if path != own and _is_there(record):
            for timeline, needs in record.timelines.items():
                found.setdefault(timeline, Needs()).add(needs)
    return found


def _is_there(record: _Record) -> bool:
    root = Path(record.root)
    return (root / CONFIG_FILE).is_file() and record.branch in branches_of(root).there


def _path(store: Path, root: Path, branch: str) -> Path:
    name = digest([str(root), branch] if branch else str(root))
    return store / _FOLDER / f"{name[:16]}.json"
