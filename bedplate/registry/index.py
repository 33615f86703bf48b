"""The SQLite index of a registry: a copy of what the folders say, so that listing and looking up need no walk.

It is in WAL mode: readers see the last commit and block nobody; writers take turns. Each operation opens its own
connection, which makes it safe in threads and after a fork. Nothing is kept here alone: what a killed process wrote
into a folder but not here is taken over at the next opening, and a damaged index is built again from the folders. That
is also why a commit need not wait for the disk (`synchronous=NORMAL`): the folders did. And it is why a registry is
read on a full disk: SQLite makes files beside the index for every reader, and where it can't the folders are read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Final, final
from urllib.parse import quote

from bedplate.errors import StoreError
from bedplate.files import aside

log = logging.getLogger("bedplate.registry")

INDEX_NAME = "index.sqlite"
BUSY_SECONDS: Final = 60.0
"""How long a writer waits for others before it gives up."""

_LAYOUT = 1
_SCHEMA = """
CREATE TABLE runs (id TEXT PRIMARY KEY, status TEXT NOT NULL, record BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX runs_by_status ON runs (status);
CREATE TABLE versions (
    model TEXT NOT NULL, version INTEGER NOT NULL, created INTEGER NOT NULL, run TEXT, content TEXT, metrics BLOB,
    PRIMARY KEY (model, version)
) WITHOUT ROWID;
CREATE INDEX versions_by_content ON versions (model, content);
CREATE INDEX versions_by_run ON versions (run);
CREATE TABLE aliases (model TEXT NOT NULL, alias TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (model, alias))
    WITHOUT ROWID;
CREATE TABLE changes (
    model TEXT NOT NULL, sequence INTEGER NOT NULL, record BLOB NOT NULL, PRIMARY KEY (model, sequence)
) WITHOUT ROWID;
CREATE TABLE logs (model TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;
"""
_REBUILD = "build it again from the folders: bedplate models rebuild"
_MEANINGS: Final[dict[int, tuple[str, str]]] = {
    sqlite3.SQLITE_BUSY: (
        f"another process held the write lock for more than {BUSY_SECONDS:.0f} s",
        "try again; if it lasts, look for a stopped process that has the file open",
    ),
    sqlite3.SQLITE_READONLY: ("the registry can't be written", "check the owner and the mode of its folder"),
    sqlite3.SQLITE_FULL: ("the disk is full", "free some space and try again; what was stored before is unharmed"),
    sqlite3.SQLITE_IOERR: ("the disk failed or is full", "free some space, check the disk and try again"),
    sqlite3.SQLITE_CANTOPEN: ("the index can't be opened", "check that its folder is there and may be written"),
    sqlite3.SQLITE_CORRUPT: ("the index is damaged", _REBUILD),
    sqlite3.SQLITE_NOTADB: ("the index is damaged: it is not a SQLite file", _REBUILD),
    sqlite3.SQLITE_ERROR: ("the index is damaged: its tables are not as expected", _REBUILD),
}

_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says of a disk, or of a part of it, that has no room."""


class Index(ABC):
    """Where the tables are; both ways of access end with the `with` block."""

    @abstractmethod
    def read(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """One consistent state of all tables; blocks no writer."""

    @abstractmethod
    def write(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """A transaction that no other writer interleaves with; committed at the end, undone if an error is raised."""


@final
class FileIndex(Index):
    """The index file of a registry that may be written; created with empty tables where there is none."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def read(self) -> Generator[sqlite3.Connection]:
        """One consistent state of all tables; blocks no writer."""
        with _explained(self._path), _connected(self._path) as db:
            db.execute("BEGIN")
            yield db

    @contextlib.contextmanager
    def write(self) -> Generator[sqlite3.Connection]:
        """A transaction that no other writer interleaves with; committed at the end, undone if an error is raised."""
        with _explained(self._path), _connected(self._path) as db:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")

    def create(self) -> None:
        """Creates the file with empty tables unless it is there; of several processes at once, one does."""
        if self._path.exists():
            return
        with _locked(self._path.parent):
            if not self._path.exists():
                self._replace()

    def recreate(self) -> None:
        """Puts a file with empty tables in the place of one that is not sound."""
        if not self.intact():
            with _locked(self._path.parent):
                self._replace()

    def _replace(self) -> None:
        # The whole file is made aside, in a folder with its journals, and renamed: switching a shared file to WAL would
        # race with others. A log that is left of another file would be replayed into this one, so it goes first.
        temporary = aside(self._path)
        temporary.mkdir()
        file = temporary / INDEX_NAME
        try:
            with _explained(self._path), contextlib.closing(sqlite3.connect(file, isolation_level=None)) as db:
                db.execute("PRAGMA journal_mode=WAL")
                _create_tables(db)
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            file.rename(self._path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def check(self) -> None:
        """Reads the file's layout and checks its structure.

        Raises:
            StoreError: it is damaged, or has the layout of another version of Bedplate.
        """
        with self.read() as db:
            layout = db.execute("PRAGMA user_version").fetchone()[0]
            if layout > _LAYOUT:
                raise StoreError(
                    f"the index has layout {layout}, this version reads {_LAYOUT}",
                    where=str(self._path),
                    hint="install a newer version of bedplate",
                )
            if layout != _LAYOUT:
                raise StoreError("the index is damaged: it has no tables", where=str(self._path), hint=_REBUILD)

    def intact(self) -> bool:
        """Whether the file is there and every page of it is sound; reads all of it."""
        if not self._path.exists():
            return False
        try:
            self.check()
            with self.read() as db:
                return db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        except StoreError as error:
            if error.hint != _REBUILD:
                raise
            return False


@final
class FolderIndex(Index):
    """What the folders say, which are read anew each time: for an index that a full disk keeps from being used.

    Args:
        file: the index, which is written all the same: there may be room again.
        fill: fills empty tables from the folders.
    """

    def __init__(self, file: FileIndex, fill: Callable[[sqlite3.Connection], Any]) -> None:
        self._file, self._fill, self._has_told = file, fill, False

    @contextlib.contextmanager
    def read(self) -> Generator[sqlite3.Connection]:
        """The state of all tables as the folders are now."""
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
            _create_tables(db)
            self._fill(db)
            yield db

    def tell(self, error: StoreError | OSError) -> None:
        """Says once why the folders are read."""
        if not self._has_told:
            said = f"{error.where}: {error.message}" if isinstance(error, StoreError) else error
            log.warning("the registry is read from its folders, which takes longer: %s", said)
        self._has_told = True

    def write(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """As `FileIndex.write`; makes the file where a full disk kept it from being made."""
        self._file.create()
        return self._file.write()


@final
class FileOrFolderIndex(Index):
    """The index file of an open registry, and at a read for which the disk has no room what the folders say.

    Args:
        file: the index.
        folders: of the same registry.
    """

    def __init__(self, file: FileIndex, folders: FolderIndex) -> None:
        self._file, self._folders = file, folders

    @contextlib.contextmanager
    def read(self) -> Generator[sqlite3.Connection]:
        """One consistent state of all tables; blocks no writer."""
        with contextlib.ExitStack() as opened:
            try:
                db = opened.enter_context(self._file.read())
            except StoreError as error:
                raise_unless_full(error)
                self._folders.tell(error)
                db = opened.enter_context(self._folders.read())
            yield db

    def write(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """As `FileIndex.write`."""
        return self._file.write()


def raise_unless_full(error: StoreError | OSError) -> None:
    """Lets the folders be read in place of the index where what went wrong is that the disk has no room.

    Raises:
        StoreError: it is something else: the error itself.
        OSError: the same.
    """
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, sqlite3.Error):
        is_full = getattr(cause, "sqlite_errorcode", 0) & 0xFF in _NO_ROOM
    else:
        is_full = isinstance(cause, OSError) and cause.errno in FULL
    if not is_full:
        raise error


@final
class SnapshotIndex(Index):
    """The index of a registry that can't be written (a read-only mount): built in memory when it is opened."""

    def __init__(self, root: Path, fill: Callable[[sqlite3.Connection], Any]) -> None:
        self._root = root
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
            _create_tables(db)
            fill(db)
            self._content = db.serialize()

    @contextlib.contextmanager
    def read(self) -> Generator[sqlite3.Connection]:
        """The state of all tables when the registry was opened."""
        with _explained(self._root), contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
            db.deserialize(self._content)
            yield db

    def write(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """Always an error.

        Raises:
            StoreError: the folder can't be written.
        """
        message, hint = _MEANINGS[sqlite3.SQLITE_READONLY]
        raise StoreError(message, where=str(self._root), hint=hint)


@contextlib.contextmanager
def _locked(folder: Path) -> Generator[None]:
    """One process at a time puts the index in its place; the system releases the lock of a killed one."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _create_tables(db: sqlite3.Connection) -> None:
    db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={_LAYOUT}; COMMIT;")


@contextlib.contextmanager
def _connected(path: Path) -> Generator[sqlite3.Connection]:
    # mode=rw: a file that was deleted is an error, not a new and empty index. Leaving without COMMIT rolls back.
    uri = f"file:{quote(str(path.absolute()))}?mode=rw"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous=NORMAL")
        yield db


@contextlib.contextmanager
def _explained(path: Path) -> Generator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        message, hint = _MEANINGS.get(code, ("the index failed", _REBUILD))
        raise StoreError(f"{message} ({error})", where=str(path), hint=hint) from error
