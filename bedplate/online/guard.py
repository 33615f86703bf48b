"""Reading a store that may be slow or down: a deadline on every read, and a circuit that stops asking for a while.

A store that does not itself come back by a deadline is read on threads that can be left behind. There are few of them:
where all wait for a store that never answers, further reads give up at their deadline too.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import ClassVar, final

from bedplate.errors import DeadlineError, StoreError
from bedplate.online.base import Changes, OnlineStore, Values
from bedplate.online.circuit import Circuit
from bedplate.online.read_threads import ReadThreads

log = logging.getLogger("bedplate.online")

FAILURES = 3
"""After so many reads in a row that failed the store is not asked for a while."""
PAUSE_SECONDS = 1.0
"""How long it is not asked; then one read tries again."""
START_SECONDS = 10.0
"""How long each read may take while a server starts: nobody waits for an answer, and much is done the first time."""
THREADS = 8
"""How many reads of a store that keeps no deadlines are under way at once."""

_until: ContextVar[float] = ContextVar("until", default=math.inf)


@contextmanager
def reads_until(deadline: float) -> Generator[None]:
    """Ends the reads of guarded stores, as long as the context lasts, at a time of the monotonic clock or before."""
    token = _until.set(deadline)
    try:
        yield
    finally:
        _until.reset(token)


class UnansweredError(StoreError):
    """A store did not answer in time, failed, or was not asked because it failed a moment ago."""


def share_of(seconds: float, usual: float) -> float:
    """How much of its usual time a call got, in tenths, from 0 to 1.

    >>> share_of(0.0499, 0.05), share_of(0.012, 0.05), share_of(-1.0, 0.05)
    (1.0, 0.3, 0.0)
    """
    return min(1.0, max(0.0, math.ceil(10 * seconds / usual) / 10))


@final
class GuardedStore(OnlineStore):
    """A store whose reads end by a deadline. Any number of threads may use it.

    Args:
        store: the store.
        seconds: how long a read may take.
        failures: after so many failed reads in a row the store is left alone.
        pause_seconds: how long it is left alone.
        clock: monotonic seconds.

    Attributes:
        failed: how many reads were not answered, by why: `deadline`, `error` or `skipped`.

    >>> from bedplate.online.memory import MemoryStore
    >>> list(GuardedStore(MemoryStore(), 0.05).read_many([b"a"]))
    [b'']
    """

    __slots__ = ("_circuit", "_clock", "_last", "_seconds", "_store", "_threads", "failed")
    keeps_deadlines: ClassVar[bool] = True

    def __init__(
        self,
        store: OnlineStore,
        seconds: float,
        *,
        failures: int = FAILURES,
        pause_seconds: float = PAUSE_SECONDS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._store, self._seconds, self._clock = store, seconds, clock
        self._last = ""
        self._circuit = Circuit(failures, pause_seconds)
        self._threads = None if store.keeps_deadlines else ReadThreads(THREADS, store.url)
        self.failed = {"deadline": 0, "error": 0, "skipped": 0}

    @property
    def url(self) -> str:
        """The store's."""
        return self._store.url

    @property
    def is_up(self) -> bool:
        """Whether the store is asked; False: it failed a moment ago."""
        return self._circuit.is_closed

    def read_many(self, wanted: Sequence[bytes], runs: Sequence[slice] = (), deadline: float | None = None) -> Values:
        """The values of keys, by a deadline; see `OnlineStore.read_many`.

        Raises:
            UnansweredError: the store did not answer in time, failed, or is left alone.
        """
        if not self._circuit.lets_through(self._clock()):
            self.failed["skipped"] += 1
            raise UnansweredError(f"not asked, because a moment ago it failed: {self._last}", where=self.url)
        begin = monotonic()
        limit = min(begin + self._seconds, _until.get(), math.inf if deadline is None else deadline)
        try:
            if self._threads is None:
                values = self._store.read_many(wanted, runs, limit)
            else:
                values = self._threads.run(lambda: self._store.read_many(wanted, runs, limit), limit)
        except (StoreError, OSError) as error:
            kind = "deadline" if isinstance(error, DeadlineError | TimeoutError) else "error"
            self.failed[kind] += 1
            self._last = error.message if isinstance(error, StoreError) else str(error)
            # Clients that give little time must not keep the others from a store that is well.
            weight = share_of(limit - begin, self._seconds) if kind == "deadline" else 1.0
            if self._circuit.failed(self._clock(), weight):
                log.warning("the online store '%s' is not asked for a while: %s", self.url, error)
            raise UnansweredError(f"the store can't be read now: {self._last}", where=self.url) from error
        except BaseException:
            self._circuit.failed(self._clock())
            raise
        if self._circuit.succeeded():
            log.warning("the online store '%s' answers again", self.url)
        return values

    @contextmanager
    def starting(self, seconds: float = START_SECONDS) -> Generator[None]:
        """Gives each read so much time instead, as long as the context lasts and nobody else reads."""
        usual, self._seconds = self._seconds, max(seconds, self._seconds)
        try:
            yield
        finally:
            self._seconds = usual

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The store's; it may take its time."""
        return self._store.scan(prefix)

    def writing(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """The store's."""
        return self._store.writing(names)

    def commit(self, changes: Changes) -> None:
        """The store's."""
        self._store.commit(changes)

    def close(self) -> None:
        """Closes the store."""
        self._store.close()
