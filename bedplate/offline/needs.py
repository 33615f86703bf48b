"""What projects need of an offline store, on record, so that `gc` in one does not delete what another one reads.

needs/<project>.json    the project's folder and git branch, and by timeline the segments, columns and reductions of the
                        last apply there, and of the backfills since

What can't be seen is not taken for gone. A project whose folder is not there (it may be on another host, or on a disk
that is not mounted) keeps what it needs until it is forgotten by name. Git that fails to tell the branches is an error.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import final

import msgspec

from bedplate.canonical import digest
from bedplate.config import CONFIG_FILE
from bedplate.errors import NotFoundError, StoreError, suggest
from bedplate.files import write_record
from bedplate.offline.branches import Branches, branches_of, is_reachable
from bedplate.offline.segment import Lock

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
    commit: str = ""  # the one that was checked out where no branch was
    known: bool = True  # whether git could tell the two


@final
@dataclass(frozen=True, slots=True)
class Claim:
    """What another project, or another branch of this one, has on record as needed.

    Attributes:
        root: the project's folder.
        branch: its git branch; empty where it has none.
        commit: the commit that was checked out where no branch was.
        timelines: what is needed, by timeline.
        unseen: why it can't be told whether the project or branch is still there; empty: it is.
    """

    root: str
    branch: str
    commit: str
    timelines: Mapping[str, Needs]
    unseen: str


def record_needs(store: Path, root: Path, needs: Mapping[str, Needs], *, more: bool = False) -> None:
    """Puts on record what a project needs on its git branch, by timeline.

    Args:
        store: the offline store's folder.
        root: the project's folder.
        needs: what it needs.
        more: beside what is on record for it; False: in place of that.

    Raises:
        StoreError: the record can't be written.
    """
    place = _place(root)
    path, folder = _path(store, place), store / _FOLDER
    with suppress(OSError):  # the writing below says what is wrong
        folder.mkdir(parents=True, exist_ok=True)
    lock = Lock.alone(folder, wait=True) if folder.is_dir() else None
    timelines = _added(_read(path) if more else {}, needs)
    record = msgspec.json.encode(msgspec.structs.replace(place, timelines=timelines), order="sorted")
    write_record(path, record, "what the project needs")
    if place.branch or place.commit:  # the folder's record of before there was a repository
        _path(store, _Record(str(root), {})).unlink(missing_ok=True)
    if lock is not None:
        lock.release()


def recorded_needs(store: Path, root: Path) -> Mapping[str, Needs]:
    """What a project needed at its last apply on its git branch, by timeline; nothing where no record can be read."""
    return _read(_path(store, _place(root)))


def claims_of_others(store: Path, root: Path, forgotten: Sequence[Path] = ()) -> list[Claim]:
    """What other projects that share a store need, and other branches of this one, unless they are known to be gone.

    Args:
        store: the offline store's folder.
        root: the project's folder.
        forgotten: folders of projects that are passed over.

    Raises:
        StoreError: a record can't be read, or git can't tell whether a branch is still there.
    """
    own, found = _path(store, _place(root)), list[Claim]()
    passed = {str(folder) for folder in forgotten}

    @functools.cache
    def branches(folder: str) -> Branches | None:
        return branches_of(Path(folder))

    for path, record in _records(store):
        if path == own or record.root in passed:
            continue
        unseen = _unseen(record, branches)
        if unseen is not None:
            found.append(Claim(record.root, record.branch, record.commit, record.timelines, unseen))
    return found


def needs_of_others(store: Path, root: Path, forgotten: Sequence[Path] = ()) -> dict[str, Needs]:
    """The needs of `claims_of_others` put together, by timeline.

    Raises:
        StoreError: as `claims_of_others`.
    """
    found: dict[str, Needs] = {}
    for claim in claims_of_others(store, root, forgotten):
        found = _added(found, claim.timelines)
    return found


def forgettable(store: Path, folder: Path) -> Path:
    """A project's folder as it is on record.

    Raises:
        NotFoundError: nothing is on record for it.
    """
    roots = sorted({record.root for _, record in _records(store)})
    spelt = next((s for s in (str(folder), str(folder.absolute()), str(folder.resolve())) if s in roots), None)
    if spelt is None:
        raise NotFoundError(
            f"nothing is on record for the project '{folder}'",
            where=str(store / _FOLDER),
            hint=suggest(str(folder), roots),
        )
    return Path(spelt)


def forget(store: Path, folders: Sequence[Path]) -> None:
    """Deletes all records of some projects, of all their branches.

    Raises:
        StoreError: a record can't be read.
        OSError: a record can't be deleted.
    """
    for path, record in _records(store):
        if Path(record.root) in folders:
            path.unlink(missing_ok=True)


def _records(store: Path) -> list[tuple[Path, _Record]]:
    found: list[tuple[Path, _Record]] = []
    for path in sorted((store / _FOLDER).glob("*.json")):
        try:
            found.append((path, msgspec.json.decode(path.read_bytes(), type=_Record)))
        except FileNotFoundError:  # it was replaced by that of a branch just now
            continue
        except (OSError, msgspec.MsgspecError) as error:
            raise StoreError(
                f"can't read what another project needs: {error}",
                where=str(path),
                hint="delete the file, and run 'bedplate apply' in that project",
            ) from error
    return found


def _read(path: Path) -> Mapping[str, Needs]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Record).timelines
    except (OSError, msgspec.MsgspecError):
        return {}


def _added(one: Mapping[str, Needs], other: Mapping[str, Needs]) -> dict[str, Needs]:
    found: dict[str, Needs] = {}
    for timeline, needs in (*one.items(), *other.items()):
        found.setdefault(timeline, Needs()).add(needs)
    return found


def _unseen(record: _Record, branches: Callable[[str], Branches | None]) -> str | None:
    """Why it can't be told whether a recorded project or branch is still there; empty: it is; None: it is gone."""
    root = Path(record.root)
    if not _is_project(root):
        return "its folder can't be seen from here"
    if not record.known:
        return "git could not tell its branch"
    if not record.branch and not record.commit:
        return ""
    found = branches(record.root)
    if found is None:
        return "its git repository can't be seen from here"
    if record.branch:
        return "" if record.branch in found.there else None
    return "" if not found.current or is_reachable(root, record.commit) else None


def _is_project(root: Path) -> bool:
    try:
        return (root / CONFIG_FILE).is_file()
    except OSError:  # this user may not look into the folder
        return False


def _place(root: Path) -> _Record:
    """A record without needs of what is checked out in a project's folder."""
    try:
        found = branches_of(root)
    except StoreError:
        return _Record(str(root), {}, known=False)
    return _Record(str(root), {}) if found is None else _Record(str(root), {}, found.current, found.commit)


def _path(store: Path, place: _Record) -> Path:
    """The file of a record: one for each branch, one where none is checked out, one where that is not known."""
    named = [place.root, place.branch] if place.branch else place.root
    if place.commit:
        named = [place.root, "", "commit"]
    if not place.known:
        named = [place.root, "", "unknown"]
    return store / _FOLDER / f"{digest(named)[:16]}.json"
