"""The registry: runs, model versions and aliases, kept as plain folders with a SQLite index beside them.

    <root>/runs/<id>/                   a run (see `run`)
    <root>/models/<name>/<version>/     a model version: the artifact, manifest.json and its hash; never changed
    <root>/models/<name>/aliases.jsonl  the history of its aliases (see `aliases`)
    <root>/studies/<name>/<id>/         a study, whose trials are runs (see `training.study`)
    <root>/index.sqlite                 the index (see `index`)

Any number of processes on one machine may read and write at once. A writer prepares aside, takes the index's write lock
for the short last step (number, rename, row) and commits. A process killed at any moment leaves a version, or a change
of an alias, that is wholly there or not there at all; the next opening clears away what was left aside.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import Any, Self, final

import msgspec
from msgspec import UNSET, UnsetType

from bedplate.clock import Clock, system_clock
from bedplate.errors import ArtifactError, ConflictError, NotFoundError, StoreError
from bedplate.files import aside, fsync_dir, move_folder, new_folder, write_atomic
from bedplate.registry import lookup, recovery, removal
from bedplate.registry.aliases import LOG_NAME, AliasChange, append_log, current_user
from bedplate.registry.index import (
    FULL,
    INDEX_NAME,
    FileIndex,
    FileOrFolderIndex,
    FolderIndex,
    Index,
    SnapshotIndex,
    raise_unless_full,
)
from bedplate.registry.lineage import Lineage, RunFacts
from bedplate.registry.lookup import CHAMPION, ModelSummary
from bedplate.registry.manifest import (
    MANIFEST_NAME,
    SEAL_NAME,
    Manifest,
    encode_manifest,
    git_state,
    plain_config,
    read_manifest,
    seal,
)
from bedplate.registry.recovery import MODELS, RUNS
from bedplate.registry.references import Removal, examine
from bedplate.registry.run import (
    ARTIFACT_NAME,
    RUN_NAME,
    Run,
    RunRecord,
    StoredRun,
    encode_record,
    read_record,
    stored_run,
    this_process,
    write_record,
)
from bedplate.registry.version import (
    ALIAS_PATTERN,
    NAME_PATTERN,
    ModelVersion,
    check_name,
    copy_artifact,
    parse_reference,
)
from bedplate.types import format_time

_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


@final
class Registry:
    """The registry in a folder, which is created where there is none.

    A folder that can't be written (a read-only mount) can be read, and is then seen as it was when it was opened.

    Args:
        root: the folder.
        clock: what time it is.

    Raises:
        StoreError: the folder can't be created or read, or its index is damaged or of a newer version.

    Attributes:
        root: the folder.
    """

    def __init__(self, root: Path | str, *, clock: Clock = system_clock) -> None:
        self.root = Path(root).absolute()
        self._clock = clock
        with _storing(self.root):
            self._index = _open_index(self.root)

    @classmethod
    def rebuild(cls, root: Path, *, clock: Clock = system_clock) -> Self:
        """Builds the index again from the folders, whatever state it is in, and opens the registry.

        Runs, versions, aliases and their history come back as they were: all of them are in plain files.

        Raises:
            StoreError: a folder can't be read or written.
        """
        index = FileIndex(root.absolute() / INDEX_NAME)
        with _storing(root):
            if not root.is_dir():
                raise StoreError("there is no registry here", where=str(root))
            index.recreate()
            with index.write() as db:
                recovery.refill(root.absolute(), db)
                recovery.cut_incomplete(root.absolute(), db)
        return cls(root, clock=clock)

    def start_run(
        self,
        name: str,
        config: Any,
        *,
        project: Path | None = None,
        definitions: Mapping[str, str] | None = None,
        sources: Mapping[str, str] | None = None,
    ) -> Run:
        """Starts a run in a new folder.

        Args:
            name: what the job is called.
            config: the job's config: a `msgspec.Struct`, a dataclass or a mapping that JSON can hold.
            project: the folder whose git state is recorded; the registry's own where none is given.
            definitions: the id of each definition that the job uses, by kind and name.
            sources: the snapshot id of each source that the job reads.

        Raises:
            DataError: the config can't be written as a JSON object.
            StoreError: the folder can't be written.
        """
        check_name(name, "a run", NAME_PATTERN)
        started = self._clock()
        stamp = format_time(started)[:19].replace("-", "").replace(":", "").replace("T", "-")
        record = RunRecord(
            id=f"{stamp}-{secrets.token_hex(3)}",
            name=name,
            status="running",
            config=plain_config(config, f"run '{name}'"),
            definitions=dict(definitions or {}),
            sources=dict(sources or {}),
            git=git_state(project or self.root),
            started=started,
            **this_process(),
        )
        folder = self.root / RUNS / record.id
        with _storing(self.root):
            _require_writable(self._index, self.root)
            with new_folder(folder) as temporary:
                (temporary / ARTIFACT_NAME).mkdir()
                (temporary / RUN_NAME).write_bytes(encode_record(record))
            self._put_run(record)
        return Run(folder, record, self._clock, self._put_run)

    def resume_run(self, run: str, config: Any = None) -> Run:
        """Goes on with a run that was interrupted or failed: same id, same folder, metrics appended.

        Args:
            run: its id, or an unambiguous beginning of it.
            config: the config that it goes on with, in place of the one that it has; None: that one.

        Raises:
            DataError: the config can't be written as a JSON object.
            NotFoundError: there is no such run.
            StoreError: it is still running, has finished, or its `run.json` is damaged.
        """
        stored = self.run(run)
        with _storing(self.root), self._index.write() as db:
            stored = StoredRun(_folder_of_run(self.root, stored.id), read_record(stored.folder))
            if stored.status not in ("interrupted", "failed"):
                raise StoreError(
                    f"the run is {stored.status} (process {stored.record.pid} on {stored.record.host})",
                    where=f"run '{stored.id}'",
                    hint="a run that was interrupted or failed can be resumed; start a new one otherwise",
                )
            record = msgspec.structs.replace(stored.record, status="running", ended=None, error=None, **this_process())
            if config is not None:
                record = msgspec.structs.replace(record, config=plain_config(config, f"run '{stored.id}'"))
            write_record(stored.folder, record)
            recovery.put_run(db, record)
        return Run(stored.folder, record, self._clock, self._put_run)

    def _put_run(self, record: RunRecord) -> None:
        with self._index.write() as db:
            # It may be gone: it can be removed as soon as its `run.json` says that it has ended.
            if (self.root / RUNS / record.id).is_dir():
                recovery.put_run(db, record)

    def run(self, run: str) -> StoredRun:
        """A run by its id, or by an unambiguous beginning of it.

        Raises:
            NotFoundError: there is no such run.
            ConfigError: several runs begin so.
        """
        with self._index.read() as db:
            folder = _folder_of_run(self.root, lookup.resolve_run(db, run))
        return StoredRun(folder, read_record(folder))

    def runs(self, name: str | None = None, *, status: str | None = None) -> list[StoredRun]:
        """The runs, newest first; those of one name or one status if given."""
        with self._index.read() as db:
            records = recovery.run_records(db)
        found = [stored_run(self.root / RUNS / record.id, record) for record in records if name in (None, record.name)]
        return [run for run in found if status in (None, run.status)]

    def remove_runs(self, runs: Iterable[str], *, skip_kept: bool = False, dry_run: bool = False) -> Removal:
        """Removes runs for good: all that are named, or none where one of them has to stay.

        What has to stay: a run at work, one that made a model version, a trial of a study that is there, and one that
        the config of another run names. A run that a killed process was removing is there whole, or is gone.

        Args:
            runs: their ids, or unambiguous beginnings of them.
            skip_kept: leaves those that have to stay where they are, and removes the others.
            dry_run: says what would be removed, and removes nothing.

        Raises:
            NotFoundError: there is no such run.
            ConfigError: several runs begin so.
            StoreError: one has to stay, or the registry can't be written: nothing was removed; or files of runs that
                are gone can't be deleted.
        """
        ids = list(dict.fromkeys(self.run(run).id for run in runs))
        with _storing(self.root):
            if dry_run:
                with self._index.read() as db:
                    found = examine(self.root, db, ids, skip_kept=skip_kept)
                return msgspec.structs.replace(found, bytes=sum(map(removal.bytes_below, found.folders(self.root))))
            _require_writable(self._index, self.root)
            return removal.remove(self.root, self._index, ids, skip_kept=skip_kept)

    def register(self, name: str, artifact: Path, *, manifest: Manifest, run_id: str | None = None) -> ModelVersion:
        """Registers a copy of a folder as the next version of a model.

        The copy is complete, hashed and on the disk before it gets its number. If a version with equal content is there
        (see `Manifest.content_id`) and intact, that is returned instead.

        Args:
            name: the model.
            artifact: the folder to copy; holds no `manifest.json` and no links.
            manifest: its facts; model, version, time, run and files are filled here.
            run_id: the run that made it.

        Raises:
            ArtifactError: the folder is missing, empty, or holds something that is not a file.
            NotFoundError: the run or a parent is not there.
            StoreError: the registry can't be written; it is as it was.
        """
        check_name(name, "a model", NAME_PATTERN)
        run = None if run_id is None else self.run(run_id).id
        parents = tuple(str(self.get(parent)) for parent in manifest.parents)
        folder = self.root / MODELS / name
        with _storing(self.root):
            _require_writable(self._index, self.root)
            folder.mkdir(exist_ok=True)
            fsync_dir(folder.parent)
            temporary = aside(folder / "new")
            temporary.mkdir()
            try:
                files = copy_artifact(artifact, temporary)
                complete = msgspec.structs.replace(manifest, model=name, run=run, parents=parents, files=files)
                version = self._publish(temporary, complete)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return self.get(name, version)

    def _publish(self, temporary: Path, manifest: Manifest) -> int:
        name, content = manifest.model, manifest.content_id()
        folder = self.root / MODELS / name
        with self._index.read() as db:
            changed = {v for v in _versions_with(db, name, content) if not _intact(folder, v)}
        with self._writing(name) as db:
            if manifest.run is not None:
                _folder_of_run(self.root, manifest.run)
            equal = [v for v in _versions_with(db, name, content) if v not in changed]
            if equal:
                return equal[-1]
            version = max(recovery.version_numbers(folder) | recovery.indexed_versions(db, name), default=0) + 1
            manifest = msgspec.structs.replace(manifest, version=version, created=self._clock())
            content = encode_manifest(manifest)
            for file, text in ((MANIFEST_NAME, content), (SEAL_NAME, seal(content))):
                write_atomic(temporary / file, text)
                (temporary / file).chmod(0o444)
            if not move_folder(temporary, folder / str(version)):
                raise StoreError(f"version {version} was put there by hand", where=str(folder))
            recovery.put_version(db, name, version, manifest)
        return version

    def get(self, name: str, which: int | str | None = None) -> ModelVersion:
        """A model version.

        Args:
            name: the model, or a reference `name:3` or `name@champion`.
            which: a version, an alias, or None for the one of the reference, else for the alias `champion`.

        Raises:
            NotFoundError: there is no such model, version or alias; the hint names what there is.
            ConfigError: the name or the reference is malformed.
            ArtifactError: the version's folder was deleted, or its manifest is damaged.
        """
        if which is None:
            name, which = parse_reference(name)
        with self._index.read() as db:
            version = lookup.resolve_version(db, name, CHAMPION if which is None else which)
            aliases = tuple(alias for alias, held in lookup.aliases_of(db, name).items() if held == version)
        path = self.root / MODELS / name / str(version)
        if not path.is_dir():
            others = sorted(recovery.version_numbers(path.parent))
            there = f"versions that are there: {', '.join(map(str, others))}" if others else "no other version is there"
            raise ArtifactError(
                f"the folder of version {version} of model '{name}' is gone",
                where=str(path),
                hint=f"restore it, or promote another version: bedplate models promote {name} VERSION; {there}",
            )
        return ModelVersion(name, version, path, read_manifest(path), aliases)

    def models(self) -> list[ModelSummary]:
        """Every model, by name."""
        with self._index.read() as db:
            return lookup.summaries(db)

    def versions(self, name: str) -> list[int]:
        """The versions of a model, ascending.

        Raises:
            NotFoundError: there is no such model.
        """
        with self._index.read() as db:
            return sorted(lookup.require_model(db, name))

    def aliases(self, name: str) -> dict[str, int]:
        """The version that each alias of a model points to.

        Raises:
            NotFoundError: there is no such model.
        """
        with self._index.read() as db:
            lookup.require_model(db, name)
            return lookup.aliases_of(db, name)

    def promote(
        self,
        name: str,
        version: int,
        alias: str = CHAMPION,
        reason: str | None = None,
        *,
        previous: int | UnsetType | None = UNSET,
    ) -> AliasChange:
        """Gives an alias to a version. If the version has it already, nothing changes and the last change is returned.

        Args:
            name: the model.
            version: the version.
            alias: the alias.
            reason: why, for the history.
            previous: the version that must hold the alias until then, None: none may hold it; unset: any may.

        Raises:
            NotFoundError: there is no such model or version.
            ConflictError: another version holds the alias than `previous`.
            StoreError: it can't be written; the alias is as it was.
        """
        check_name(alias, "an alias", ALIAS_PATTERN)

        def target(db: sqlite3.Connection) -> int | None:
            lookup.resolve_version(db, name, version)
            held = recovery.held(db, name, alias)
            now = held[-1] if held else None
            if now == version:
                return None
            if previous is not UNSET and now != previous:
                was, is_now = (f"version {v}" if v else "no version" for v in (previous, now))
                raise ConflictError(
                    f"{is_now} has the alias '{alias}', expected {was}",
                    where=f"model '{name}'",
                    hint=f"see who changed it: bedplate models show {name}",
                )
            return version

        return self._change(name, alias, "promote", reason, target)

    def rollback(self, name: str, alias: str = CHAMPION, reason: str | None = None) -> AliasChange:
        """Gives an alias back to the version that held it before. Again: to the one before that.

        Raises:
            NotFoundError: there is no such model or alias, or no version held it before.
            StoreError: it can't be written; the alias is as it was.
        """

        def target(db: sqlite3.Connection) -> int | None:
            now = lookup.resolve_version(db, name, alias)
            held = recovery.held(db, name, alias)
            if len(held) < 2:
                raise NotFoundError(
                    f"no version held the alias '{alias}' before version {now}",
                    where=f"model '{name}'",
                    hint="see the history: bedplate models show " + name,
                )
            return held[-2]

        return self._change(name, alias, "rollback", reason, target)

    def _change(
        self, name: str, alias: str, action: str, reason: str | None, target: Callable[[sqlite3.Connection], int | None]
    ) -> AliasChange:
        check_name(name, "a model", NAME_PATTERN)
        with _storing(self.root), self._writing(name) as db:
            version = target(db)
            history = recovery.changes_of(db, name)
            if version is None:
                return [change for change in history if change.alias == alias][-1]
            change = AliasChange(
                sequence=len(history) + 1,
                time=self._clock(),
                alias=alias,
                action=action,
                previous=lookup.aliases_of(db, name).get(alias),
                version=version,
                who=current_user(),
                reason=reason,
            )
            size = append_log(self.root / MODELS / name / LOG_NAME, change, recovery.log_size(db, name))
            recovery.put_change(db, name, change)
            recovery.put_log_size(db, name, size)
        return change

    @contextlib.contextmanager
    def _writing(self, name: str) -> Generator[sqlite3.Connection]:
        """The write lock, with the model's rows brought up to its folder first."""
        with self._index.write() as db:
            recovery.catch_up_model(self.root, db, name)
            yield db

    def history(self, name: str) -> list[AliasChange]:
        """Every change of a model's aliases, oldest first.

        Raises:
            NotFoundError: there is no such model.
        """
        with self._index.read() as db:
            lookup.require_model(db, name)
            return recovery.changes_of(db, name)

    def lineage(self, name: str, which: int | str | None = None) -> Lineage:
        """Where a model version comes from, down to the snapshots of the sources, its parents' included.

        Raises:
            NotFoundError: there is no such model, version or alias, or a parent was deleted.
            ArtifactError: a manifest is damaged.
        """
        found = self.get(name, which)
        manifest = found.manifest
        return Lineage(
            model=found.name,
            version=found.version,
            created=manifest.created,
            run=None if manifest.run is None else _run_facts(self, manifest.run),
            git=manifest.git,
            definitions=manifest.definitions,
            sources=manifest.sources,
            parents=tuple(self.lineage(parent) for parent in manifest.parents),
        )


def _open_index(root: Path) -> Index:
    if root.is_dir() and not os.access(root, os.W_OK):
        return SnapshotIndex(root, lambda db: recovery.catch_up(root, db))
    for folder in (root / RUNS, root / MODELS):
        folder.mkdir(parents=True, exist_ok=True)
    index = FileIndex(root / INDEX_NAME)
    folders = FolderIndex(index, lambda db: recovery.catch_up(root, db))
    try:
        running = _brought_up(root, index)
    except (StoreError, OSError) as error:
        raise_unless_full(error)
        folders.tell(error)
        return folders
    recovery.sweep(root, running)
    return FileOrFolderIndex(index, folders)


def _brought_up(root: Path, index: FileIndex) -> list[RunRecord]:
    """Brings the index up to the folders; the runs that it has as running."""
    index.create()
    index.check()
    with index.read() as db:
        behind = recovery.index_behind(root, db)
        running = recovery.run_records(db, "running")
    if behind:
        with index.write() as db:
            recovery.catch_up(root, db)
            recovery.cut_incomplete(root, db)
    return running


def _folder_of_run(root: Path, run: str) -> Path:
    folder = root / RUNS / run
    if not folder.is_dir():
        raise NotFoundError("the run's folder is no longer there", where=str(folder))
    return folder


def _run_facts(registry: Registry, run: str) -> RunFacts:
    try:
        stored = registry.run(run)
    except NotFoundError:
        return RunFacts(run)
    return RunFacts(run, stored.record.name, stored.status)


def _intact(folder: Path, version: int) -> bool:
    path = folder / str(version)
    try:
        ModelVersion(folder.name, version, path, read_manifest(path), ()).verify()
    except ArtifactError:
        return False
    return True


def _versions_with(db: sqlite3.Connection, name: str, content: str) -> list[int]:
    query = "SELECT version FROM versions WHERE model = ? AND content = ? ORDER BY version"
    return [version for (version,) in db.execute(query, (name, content))]


def _require_writable(index: Index, root: Path) -> None:
    if isinstance(index, SnapshotIndex):
        raise PermissionError(errno.EROFS, "it was opened read-only", str(root))


@contextlib.contextmanager
def _storing(root: Path) -> Generator[None]:
    """Turns errors of the file system into `StoreError`s that say what to do."""
    try:
        yield
    except OSError as error:
        hint = None
        if error.errno in FULL:
            hint = "free some space and try again; what was stored before is unharmed"
        elif error.errno in _REFUSED:
            hint = "check the owner and the mode of the folder, and that it is not mounted read-only"
        elif error.errno in (errno.ENOTDIR, errno.EEXIST):
            hint = "the registry is a folder; give another path in bedplate.toml"
        place = error.filename or root
        raise StoreError(f"the registry failed: {error.strerror or error}", where=str(place), hint=hint) from error
