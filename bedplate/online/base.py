"""The online store: a table from keys to values with atomic steps. Five methods, one file a kind of store.

A store keeps packed rows (`codec`), the texts behind string ids, and the state of each view: how far it is loaded and
what it has taken in of its stream. Rows, texts and stream position change together, in one step, or not at all.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import ClassVar, final

import numpy as np

from bedplate.batch import ManyTexts
from bedplate.config import ONLINE_SCHEMES, ONLINE_URLS, Config, without_password
from bedplate.errors import ConfigError, ConflictError, DeadlineError, missing_extra
from bedplate.online import keys
from bedplate.types import Bools, Int64s

PAGE = 10_000
"""How many keys a page of a scan has, by default."""

KNOWN_TEXTS = 500_000
"""So many texts a reader keeps twice: about 100 MB of short ones."""


@final
class Values:
    """Values read at one moment, one after the other.

    Args:
        found: the values of n keys, bytes or views of bytes; empty for a key that is not there.

    Attributes:
        data: the values, joined.
        ends: [n + 1] int64: value i is `data[ends[i]:ends[i + 1]]`.

    >>> Values([b"ab", b"", b"c"]).ends.tolist()
    [0, 2, 2, 3]
    """

    __slots__ = ("data", "ends")

    def __init__(self, found: Sequence[bytes]) -> None:
        self.data = b"".join(found)
        self.ends = np.zeros(len(found) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, found), np.int64, len(found)), out=self.ends[1:])

    def __iter__(self) -> Iterator[bytes]:
        """The values; empty for a key that is not there."""
        ends: list[int] = self.ends.tolist()
        for begin, end in pairwise(ends):
            yield self.data[begin:end]

    def last(self, count: int) -> list[bytes]:
        """The last `count` values."""
        ends: list[int] = self.ends[-count - 1 :].tolist()
        return [self.data[begin:end] for begin, end in pairwise(ends)]

    def rows(self, count: int) -> tuple[Int64s, Int64s]:
        """The first `count` values as packed rows, which are whole words: the words, and offsets [count + 1]."""
        offsets = self.ends[: count + 1] >> 3
        return np.frombuffer(self.data, np.int64, int(offsets[-1])), offsets


@final
@dataclass(frozen=True, slots=True)
class Changes:
    """What one step changes: first keys are deleted, then values are put; none of them is empty.

    Attributes:
        puts: keys and values.
        deletes: prefixes of keys: all that begin so are deleted.
        expects: keys and the values that they must have still, empty for a key that is not there; otherwise the step is
            not taken. All that a writer read before it made the step changes only together with one of these. A step
            expects texts only where it changes nothing else.
        drops: keys that are deleted, each whether it is there or not.
    """

    puts: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])
    deletes: list[bytes] = field(default_factory=list[bytes])
    expects: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])
    drops: list[bytes] = field(default_factory=list[bytes])


class OnlineStore(ABC):
    """Where online rows are. Prove an implementation with `bedplate.testing.online_store`.

    Attributes:
        keeps_deadlines: whether `read_many` itself comes back by its deadline whatever happens, so that it needs no
            thread that can be left behind (`guard.GuardedStore`). True of what waits for no other process.
        project: the name of the project that the store was opened for, on whose record views are put that it loads;
            empty: none, and whose views are is not looked at. See `state.check_owner`.
        step_events: of so many events of a stream a step is best made: of more where a step costs much apart from its
            rows, such as a flush to the disk; of fewer where nobody else is answered while one is taken.
    """

    project: str = ""
    keeps_deadlines: ClassVar[bool] = False
    step_events: ClassVar[int] = 50_000

    @property
    @abstractmethod
    def url(self) -> str:
        """What opens the store, and what a message calls it."""

    @abstractmethod
    def read_many(self, wanted: Sequence[bytes], runs: Sequence[slice] = (), deadline: float | None = None) -> Values:
        """The values of keys, those of each view as one step left them. Readers never wait for a writer.

        Args:
            wanted: the keys.
            runs: a hint: the keys in each of these slices differ in their last eight bytes only, so that a store that
                keeps its keys in order has them side by side.
            deadline: of the monotonic clock, seconds; None: however long it takes.

        Raises:
            DeadlineError: the deadline has passed.
            StoreError: the store can't be read.
        """

    @abstractmethod
    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The keys with a prefix, ascending, with their values, as one step left them.

        Raises:
            StoreError: the store can't be read.
        """

    def pages(self, prefix: bytes, size: int = PAGE) -> Iterator[list[tuple[bytes, bytes]]]:
        """The keys with a prefix and their values, some at a time, in an order of the store's own.

        They are not of one moment: a key that is there all the time comes once, or more than once where the store says
        so; one that is put or deleted meanwhile may come or not. Writers are not held up between two pages.

        Args:
            prefix: of the keys.
            size: about how many are in a page.

        Raises:
            StoreError: the store can't be read.
        """
        found = self.scan(prefix)
        for first in range(0, len(found), size):
            yield found[first : first + size]

    @abstractmethod
    def writing(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """Claims names for writing as long as the context lasts, which a killed process gives up too.

        Raises:
            ConflictError: another writer has claimed one of them.
            StoreError: the store can't be written.
        """

    @abstractmethod
    def commit(self, changes: Changes) -> None:
        """Applies all changes, or (an error, a killed process) none; when it returns they are as safe as the store is.

        A store that is shared by several servers keeps what begins with the same view together (`keys.group_of`): a
        step is then atomic for each view, and texts are put before what names them.

        Raises:
            ConflictError: a value is not what the changes expect; nothing has changed.
            UncertainError: the connection to the store was lost: the step was taken, or was not, or will be unless what
                it expects changes first. Read again what it expects to know.
            StoreError: the changes can't be written; nothing has changed.
        """

    @abstractmethod
    def close(self) -> None:
        """Gives up what the store holds open; it can't be used after that."""

    @final
    def __enter__(self) -> OnlineStore:
        """The store, closed when the context ends."""
        return self

    @final
    def __exit__(self, *details: object) -> None:
        """Closes the store."""
        self.close()


def check_deadline(deadline: float | None, url: str) -> None:
    """Raises `DeadlineError` where a deadline of the monotonic clock has passed."""
    if deadline is not None and monotonic() > deadline:
        raise DeadlineError("the answer was needed earlier", where=url, hint="allow it more time, or find what is slow")


def conflict(url: str) -> ConflictError:
    """The error of a step that expected something else."""
    return ConflictError("another writer was first", where=url, hint="read again, then write")


@final
class StoredTexts(ManyTexts):
    """The texts behind string ids: those of keys and of values. Read from the store when first asked for.

    Those read last are kept: where they are more than a number, those read before as many others are forgotten.

    Args:
        store: the store.
        most: the number.
    """

    __slots__ = ("_known", "_most", "_older", "_store")

    def __init__(self, store: OnlineStore, most: int = KNOWN_TEXTS) -> None:
        self._store, self._most = store, most
        self._known: dict[int, str] = {}
        self._older: dict[int, str] = {}

    def __getitem__(self, key: int) -> str:
        """The text behind an id.

        Raises:
            KeyError: the store has never seen it.
        """
        found = self._get(key)
        if found is None:
            self.load([key])
            found = self._get(key)
        if found is None:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[int]:
        """Every id in the store."""
        for key, _ in self._store.scan(keys.TEXTS):
            yield int.from_bytes(key[len(keys.TEXTS) :], "big", signed=True)

    def __len__(self) -> int:
        """How many texts the store has."""
        return len(self._store.scan(keys.TEXTS))

    def known(self, ids: Int64s) -> Bools:
        """Which of these ids [n] need no read of the store."""
        return np.fromiter((self._get(i) is not None for i in ids.tolist()), np.bool_, len(ids))

    def load(self, ids: Sequence[int]) -> None:
        """Reads many texts at once, so that asking for them is a look-up in memory."""
        self.loads_all(ids)

    def loads_all(self, ids: Sequence[int]) -> bool:
        """As `load`; whether the store has all of them."""
        missing = [i for i in dict.fromkeys(ids) if self._get(i) is None]
        if not missing:
            return True
        values = list(self._store.read_many(keys.text_keys(np.array(missing, np.int64))))
        if len(self._known) >= self._most:
            self._older, self._known = self._known, {}
        self._known.update((i, _text(v)) for i, v in zip(missing, values, strict=True) if v)
        return all(values)

    def _get(self, key: int) -> str | None:
        found = self._known.get(key)
        return self._older.get(key) if found is None else found


_PUT, _UNMARKED = b"#", b"="
_MARK_BYTES = 8


def text_puts(texts: Mapping[int, str]) -> list[tuple[bytes, bytes]]:
    """What to put so that texts are found behind their ids.

    Each call marks them with random bytes of its own, so that whoever drops texts sees that one was put again.
    """
    ids = np.fromiter(texts.keys(), np.int64, len(texts))
    begin = _PUT + os.urandom(_MARK_BYTES)
    return list(zip(keys.text_keys(ids), (begin + t.encode() for t in texts.values()), strict=True))


def text_mark(value: bytes) -> bytes:
    """The mark of the call that put a text; zeros for one of a store that was written before there were marks."""
    return value[1 : 1 + _MARK_BYTES] if value[:1] == _PUT else bytes(_MARK_BYTES)


def _text(value: bytes) -> str:
    return value[1 if value[:1] == _UNMARKED else 1 + _MARK_BYTES :].decode()


def open_store(
    url: str, root: Path | None = None, patience: float | None = None, *, project: str = "", create: bool = True
) -> OnlineStore:
    """Opens the store of a URL: `lmdb:PATH` (a folder), `redis://HOST:PORT/DB` or `memory:`.

    Args:
        url: the URL.
        root: where a relative path starts, the project's folder.
        patience: how long a store of servers tries a lost connection again by itself, seconds; None: as it does unless
            told.
        project: as of `OnlineStore`: `Config.online_project`.
        create: whether a store is made where there is none, as whoever writes it needs; one of memory is made anyway.

    Raises:
        ConfigError: the URL names no known kind of store.
        MissingExtraError: the library that the store needs is not installed.
        StoreError: the store can't be opened; or there is none, and none is to be made.

    >>> open_store("memory:").url
    'memory:'
    """
    store = _opened(url, root, patience, create=create)
    store.project = project
    return store


def open_own(config: Config, patience: float | None = None, *, create: bool = True) -> OnlineStore:
    """Opens the store that a project's configuration names, as the project; `Project.open_store` does.

    Args:
        config: of the project.
        patience: as of `open_store`.
        create: as of `open_store`.

    Raises:
        ConfigError: it is `memory:`, so that it would be empty, and gone with this process.
        MissingExtraError: the library that the store needs is not installed.
        StoreError: it can't be opened; or there is none, and none is to be made.
    """
    if config.online_url == "memory:":
        raise ConfigError(
            "the online store 'memory:' is gone when the process ends",
            where="bedplate.toml: online.url",
            hint='name one that stays, such as "lmdb:.bedplate/online"; a program opens one of its own by '
            'open_store("memory:")',
        )
    return open_store(config.online_url, config.root, patience, project=config.online_project, create=create)


def _opened(url: str, root: Path | None, patience: float | None, *, create: bool) -> OnlineStore:
    kind, _, rest = url.partition(":")
    if kind == "memory" and not rest:
        from bedplate.online.memory import MemoryStore

        return MemoryStore()
    if kind == "lmdb" and rest:
        from bedplate.online.lmdb import LmdbStore

        return LmdbStore((root or Path()) / rest, create=create)
    if kind in ONLINE_SCHEMES and rest.startswith("//"):
        return _redis(url, root, patience, create=create)
    raise ConfigError(f"got the online store '{without_password(url)}', expected {ONLINE_URLS}", where="online")


def _redis(url: str, root: Path | None, patience: float | None, *, create: bool) -> OnlineStore:
    try:
        from bedplate.online.redis import PATIENCE, RedisStore
    except ModuleNotFoundError as error:
        raise missing_extra(error) or error from error
    return RedisStore(url, root, patience=PATIENCE if patience is None else patience, create=create)
