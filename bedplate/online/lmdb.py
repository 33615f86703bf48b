"""The embedded online store: LMDB. Any number of processes read it, and never wait, while others write.

Threads that read beside one of the same process that writes pause for half a millisecond a read.

One step is one transaction, on the disk when `commit` returns. The map begins small and doubles when it is full.

A process looks now and then whether the files that it has open are those of the folder still: it reads others that
were put there, and the store is down while there are none.

On a file system that is mounted read-only it is read without locks: LMDB's readers would write them into a file. Before
and after each read is looked whether that still holds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar, final

import lmdb

from bedplate.errors import ConflictError, StoreError
from bedplate.online import keys
from bedplate.online.base import PAGE, Changes, OnlineStore, Values, check_deadline, conflict
from bedplate.online.lmdb_files import DATA, disk_of, is_frozen, make_lock_file

log = logging.getLogger("bedplate.online")

FORMAT = b"2"
"""The version of the store's form: kept in the store, and checked when it is opened."""

MAP_SIZE = 1 << 30
"""The size of a new map in bytes; the file only takes the space that is used."""

RECENT_BYTES = 64 << 20
"""So much of what was read of the store's present state is remembered in a process."""

_REQUEST = 10_000  # keys at most of a read whose values are remembered: one of more is no request's, but a writer's
_ENTRY_BYTES = 160  # what Python adds to a key and a value in a dictionary
_READERS = 1022
_PAUSE = 0.0005  # seconds
_CHECK_SECONDS = 10.0  # between two looks of a writer for readers that were killed
_LOOK_SECONDS = 0.2
"""Between two looks of a reader for files that were taken away: each gives up the interpreter's lock."""
_DISK_ERRORS = (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT)


@final
class _Gate:
    """Lets transactions of this process run side by side, and a change of the map's size only alone.

    A transaction runs inside the gate: `with gate`. Whoever wants to be alone goes first: readers that come later wait
    for the moment that it takes.
    """

    __slots__ = ("_changed", "_inside", "_lock", "_wanted", "_writers")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside = self._wanted = self._writers = 0

    def __enter__(self) -> None:
        with self._lock:
            while self._wanted:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *details: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._wanted:
                self._changed.notify_all()

    @contextlib.contextmanager
    def writing(self) -> Generator[None]:
        """Inside the gate, while readers of this process `make_way`."""
        with self:
            with self._lock:
                self._writers += 1
            try:
                yield
            finally:
                with self._lock:
                    self._writers -= 1

    def make_way(self) -> None:
        """A moment's pause of a reader while another thread writes.

        Whoever writes gives up the interpreter's lock at every key, and gets it back from a thread that computes only
        after 5 ms (`sys.getswitchinterval`): beside a reader that never pauses, a step of 200 keys would take seconds.
        """
        if self._writers:
            time.sleep(_PAUSE)

    @contextlib.contextmanager
    def alone(self) -> Generator[None]:
        with self._lock:
            self._wanted += 1
            while self._inside:
                self._changed.wait()
            try:
                yield
            finally:
                self._wanted -= 1
                self._changed.notify_all()


@final
class _Recent:
    """Values that were read of one step's state, so that what many requests ask for is looked up once."""

    __slots__ = ("_room", "_values", "step")

    def __init__(self, step: int) -> None:
        self.step = step
        self._values: dict[bytes, bytes] = {}
        self._room = RECENT_BYTES

    @property
    def is_full(self) -> bool:
        """Whether nothing more is remembered; then it begins afresh."""
        return self._room <= 0

    def get(self, transaction: Any, wanted: Sequence[bytes]) -> list[bytes]:
        """The values of keys as a transaction of this step sees them; empty for a key that is not there."""
        values = self._values
        found: list[Any] = list(map(values.get, wanted))
        if None in found:
            for i, key in enumerate(wanted):
                if found[i] is None:
                    value = found[i] = transaction.get(key, b"")
                    if self._room > 0:
                        values[key] = value
                        self._room -= len(key) + len(value) + _ENTRY_BYTES
        return found


@final
class LmdbStore(OnlineStore):
    """A folder with an LMDB environment.

    Args:
        path: the folder.
        map_size: of a new store, bytes.
        create: whether a store is made where there is none.

    Raises:
        StoreError: the folder can't be written, or holds a store of another version; or it has none, and none is to be
            made.
    """

    keeps_deadlines: ClassVar[bool] = True

    def __init__(self, path: Path, map_size: int = MAP_SIZE, *, create: bool = True) -> None:
        self.path = path
        self._gate, self._process, self._recent = _Gate(), os.getpid(), _Recent(-1)
        self._map_size, self._claimed = map_size, list[str]()
        self._opened: tuple[int, int] | None = None
        self._is_frozen = False
        self._look_due = 0.0
        if create:
            self._make()
        else:
            self._open_there()

    def _make(self) -> None:
        """Opens the store, which is made where there is none."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._failure("open", error) from error
        self._open(make=True)
        if not self.read_many([keys.FORMAT_KEY]).data:
            self.commit(Changes([(keys.FORMAT_KEY, FORMAT)]))

    def _open_there(self) -> None:
        """Opens the store that must be there: a new one in its place would hide that its files are gone."""
        try:
            (self.path / DATA).stat()
        except FileNotFoundError:
            hint = "if they were moved or deleted, put them back; if nothing was loaded yet, or to load it anew, run: "
            raise StoreError(
                "the files of the online store are not there", where=self.url, hint=f"{hint}bedplate materialize"
            ) from None
        except OSError as error:
            raise self._failure("open", error) from error
        self._open(make=False)

    @property
    def url(self) -> str:
        """`lmdb:` and the folder."""
        return f"lmdb:{self.path}"

    def read_many(self, wanted: Sequence[bytes], runs: Sequence[slice] = (), deadline: float | None = None) -> Values:
        """The values of keys, all as one step left them; runs are walked where that is shorter."""
        self._check()
        check_deadline(deadline, self.url)
        self._gate.make_way()
        while True:
            try:
                with self._gate, self._environment.begin() as transaction:
                    get = self._getter(transaction) if len(wanted) <= _REQUEST else _get
                    found: list[bytes] = []
                    for run in runs:
                        found += get(transaction, wanted[len(found) : run.start])
                        found += _walk(transaction, wanted[run]) or _get(transaction, wanted[run])
                    found += get(transaction, wanted[len(found) :])
                    is_frozen = self._is_frozen
                if not is_frozen or self._stays_frozen():
                    return Values(found)
            except lmdb.MapResizedError:
                self._resize(0)
            except lmdb.Error as error:
                if not self._is_frozen or self._stays_frozen():  # or it can be written now, and is read anew
                    raise self._failure("read", error) from error

    def _getter(self, transaction: Any) -> Callable[[Any, Sequence[bytes]], list[bytes]]:
        """How to look keys up. The first read of a step is not remembered: a writer reads about once a step."""
        recent, step = self._recent, transaction.id()
        if recent.step == step and not recent.is_full:
            return recent.get
        if step >= recent.step:  # an older reader leaves what newer ones remember
            self._recent = _Recent(step)
        return _get

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The keys with a prefix and their values."""
        return self._scan(prefix, prefix, None)

    def pages(self, prefix: bytes, size: int = PAGE) -> Iterator[list[tuple[bytes, bytes]]]:
        """The keys with a prefix, ascending, each page as one step left it; none comes twice."""
        first = prefix
        while page := self._scan(prefix, first, size):
            first = page[-1][0] + b"\0"  # the next key that there can be
            yield page

    def _scan(self, prefix: bytes, first: bytes, limit: int | None) -> list[tuple[bytes, bytes]]:
        """The keys with a prefix from a first one on, at most so many, and their values."""
        self._check()
        self._gate.make_way()
        while True:
            try:
                with self._gate, self._environment.begin() as transaction:
                    found: list[tuple[bytes, bytes]] = []
                    cursor = transaction.cursor()
                    there = cursor.set_range(first)
                    while there and len(found) != limit and cursor.key().startswith(prefix):
                        found.append(cursor.item())
                        there = cursor.next()
                    is_frozen = self._is_frozen
                if not is_frozen or self._stays_frozen():
                    return found
            except lmdb.MapResizedError:
                self._resize(0)
            except lmdb.Error as error:
                if not self._is_frozen or self._stays_frozen():  # or it can be written now, and is read anew
                    raise self._failure("read", error) from error

    @contextlib.contextmanager
    def writing(self, names: Sequence[str]) -> Generator[None]:
        """Claims names for writing with a locked file each, which the system unlocks when the process ends."""
        self._check(now=True)
        with contextlib.ExitStack() as claimed:
            for name in sorted(set(names)):
                digest = hashlib.blake2b(name.encode(), digest_size=10).hexdigest()
                try:
                    descriptor = os.open(self.path / f"writer-{digest}.lock", os.O_RDWR | os.O_CREAT, 0o666)
                except OSError as error:
                    raise self._failure("write", error) from error
                claimed.callback(os.close, descriptor)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise ConflictError(
                        f"another writer is at work on '{name}'",
                        where=self.url,
                        hint="a load or an ingest is running; stop it first, or wait until it is done",
                    ) from None
                self._claimed.append(name)
                claimed.callback(self._claimed.remove, name)
            yield

    def commit(self, changes: Changes) -> None:
        """Applies all changes in one transaction; the map is doubled as often as they need it."""
        self._check(now=True)
        while True:
            try:
                with self._gate.writing(), self._environment.begin(write=True) as transaction:
                    for key, value in changes.expects:
                        if transaction.get(key, b"") != value:
                            raise conflict(self.url)
                    for prefix in changes.deletes:
                        _delete(transaction, prefix)
                    for key in changes.drops:
                        transaction.delete(key)
                    cursor = transaction.cursor()
                    cursor.putmulti(changes.puts)
                self._check_readers()
                return
            except lmdb.MapFullError:
                self._resize(2 * self._environment.info()["map_size"])
            except lmdb.MapResizedError:
                self._resize(0)
            except (OSError, lmdb.Error) as error:
                raise self._failure("write", error) from error

    def _check_readers(self) -> None:
        """Frees now and then what killed readers held: no page that they could see is used again."""
        if time.monotonic() >= self._check_due:
            self._environment.reader_check()
            self._check_due = time.monotonic() + _CHECK_SECONDS

    def close(self) -> None:
        """Closes the environment."""
        with self._gate.alone():
            self._environment.close()

    def _resize(self, size: int) -> None:
        """Sets the size of the map, 0 for the one that another process gave it; waits for this process's readers."""
        try:
            with self._gate.alone():
                self._environment.set_mapsize(size)
        except (OSError, lmdb.Error) as error:
            raise self._failure("grow", error) from error

    def _open(self, *, make: bool) -> None:
        """Opens the files of the folder, which are made where there are none, or must be there."""
        try:
            while True:
                opened = _identity(self.path)
                if opened is None and not make:  # LMDB would make them
                    raise _gone(self.url)
                self._environment: Any = self._map(make=make)
                # Others may replace the files meanwhile: those that are there before and after are those that it has.
                if opened is not None and _identity(self.path) == opened:
                    break
                self._environment.close()
            self._check_due = 0.0
            self._check_readers()
            with self._environment.begin() as transaction:
                found: bytes = transaction.get(keys.FORMAT_KEY, b"")
        except (OSError, lmdb.Error) as error:
            raise self._failure("open", error) from error
        if found not in (b"", FORMAT):
            self._environment.close()
            raise StoreError(
                f"the store has format {found.decode(errors='replace')}, expected {FORMAT.decode()}",
                where=self.url,
                hint="load it anew into another folder with this version of Bedplate",
            )
        if not found and not make:
            self._environment.close()
            raise StoreError("the online store is only being made", where=self.url, hint="run: bedplate materialize")
        self._opened = opened

    def _map(self, *, make: bool) -> Any:
        self._is_frozen = not make and is_frozen(self.path)
        if self._is_frozen:
            return lmdb.open(str(self.path), map_size=self._map_size, readonly=True, lock=False)
        make_lock_file(self.path)
        # A map that another process made larger is larger here too; see LMDB's mdb_env_set_mapsize.
        return lmdb.open(str(self.path), map_size=self._map_size, max_readers=_READERS, create=make)

    def _check(self, *, now: bool = False) -> None:
        """Opens other files where the folder has others now, and refuses where it has none.

        Args:
            now: whether to look at once; otherwise now and then.

        Raises:
            StoreError: the files are gone, or a process that writes would go on in others.
        """
        if os.getpid() != self._process:
            raise StoreError(
                "the store was opened before the process forked", where=self.url, hint="open it in each process"
            )
        if self._is_frozen:
            self._stays_frozen()
        if self._opened is not None and not now and time.monotonic() < self._look_due:
            return
        found = _identity(self.path)
        if found is None:
            self._look_due = 0.0
            raise _gone(self.url)
        if found != self._opened:
            self._reopen(found)
        self._look_due = time.monotonic() + _LOOK_SECONDS

    def _stays_frozen(self) -> bool:
        """Whether still nobody can write the store that was opened without locks; otherwise opens it with them."""
        if is_frozen(self.path):
            return True
        with self._gate.alone():
            if self._is_frozen:
                self._environment.close()
                self._opened, self._recent = None, _Recent(-1)
                self._open(make=False)
        return False

    def _reopen(self, found: tuple[int, int]) -> None:
        if self._claimed:
            raise StoreError(
                f"the files of the online store were replaced while '{self._claimed[0]}' was being written",
                where=self.url,
                hint="run the load or the ingest again: what it wrote is in the files that were taken away",
            )
        with self._gate.alone():
            if found == self._opened:
                return
            self._environment.close()
            self._opened, self._recent = None, _Recent(-1)
            self._open(make=False)
        log.warning("the files of the online store '%s' were replaced: the new ones are read from now on", self.url)

    def _failure(self, what: str, error: Exception) -> StoreError:
        number = error.errno if isinstance(error, OSError) else None
        text = str(error).lower()
        hint = "check that the folder holds a store of Bedplate"
        if number in (errno.EACCES, errno.EROFS, errno.EPERM) or "permission" in text or "read-only" in text:
            readers = ", also for who only reads, unless its whole file system is mounted read-only"
            hint = f"the folder must be writable{readers if what in ('open', 'read') else ''}: make it so, or name "
            hint += "another one in the store's URL"
        elif number in _DISK_ERRORS or any(os.strerror(e).lower() in text for e in _DISK_ERRORS):
            hint = f"{disk_of(self.path)}; nothing of this step was written: make room or repair it, and run it again"
        elif isinstance(error, lmdb.ReadersFullError):
            hint = f"more than {_READERS} readers are at work"
        return StoreError(f"can't {what} the online store: {error}", where=self.url, hint=hint)


def _gone(url: str) -> StoreError:
    hint = "put them back, or load it anew: bedplate materialize; they are read as soon as they are there"
    return StoreError("the files of the online store are gone", where=url, hint=hint)


def _identity(folder: Path) -> tuple[int, int] | None:
    """Which file the store of a folder is: its device and its inode; None: there is none."""
    try:
        found = os.stat(f"{folder}/{DATA}")  # noqa: PTH116  (a third of the time, and reads wait for it)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _get(transaction: Any, wanted: Sequence[bytes]) -> list[bytes]:
    return list(map(transaction.get, wanted, repeat(b"")))


def _walk(transaction: Any, run: Sequence[bytes]) -> list[bytes] | None:
    """The values of keys that differ in their last eight bytes, or None: too many others are among them.

    Two steps to a next key take about as long as one descent from the root.
    """
    found: dict[bytes, bytes] = {}
    prefix = run[0][:-8] if run else b""
    cursor = transaction.cursor()
    if run and cursor.set_range(prefix):
        for number, (key, value) in enumerate(cursor):
            if not key.startswith(prefix):
                break
            if 2 * number >= len(run):
                return None
            found[key] = value
    return list(map(found.get, run, repeat(b"")))


def _delete(transaction: Any, prefix: bytes) -> None:
    cursor = transaction.cursor()
    there = cursor.set_range(prefix)
    while there and cursor.key().startswith(prefix):
        there = cursor.delete()
