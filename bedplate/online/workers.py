"""Workers at work: in turns, until nothing is left or a signal comes, and through the absence of their store."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Protocol, TypeAlias, final

from bedplate.errors import ConflictError, StoreError, UnavailableError, UncertainError
from bedplate.online.measures import Measures
from bedplate.online.streams import StuckError
from bedplate.online.stuck import all_in_one
from bedplate.stopping import stop_signals

POLL = 1.0
"""How often the stream is asked for new events when following, in seconds."""

PATIENCE = 30.0
"""How long a store that can't be reached is tried again when not following, in seconds."""

STORE_PATIENCE = 3.0
"""How long the store of a worker had best try by itself, in seconds: until then nobody hears of it."""

_BUSY = 0.02  # seconds between two attempts at a partition that another worker has
_PASSING = (ConflictError, UnavailableError, UncertainError)
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0  # seconds


Progress: TypeAlias = "Callable[[Measures], None]"
"""Called with how a worker stands: after each micro-batch, when it waits for more, and when its store is away."""


@final
@dataclass(frozen=True, slots=True)
class Turn:
    """What became of a turn.

    Attributes:
        taken: whether something was taken in.
        busy: whether another worker was at work on a partition.
        over: whether there is nothing left before the time until which to take in.
        stuck: why partitions can't go on.
    """

    taken: bool
    busy: bool
    over: bool
    stuck: tuple[StuckError, ...] = ()


class Worker(Protocol):
    """What takes in a stream, such as `ingest.Ingest`."""

    @property
    def measures(self) -> Measures:
        """How it stands."""
        ...

    def turn(self, until: int | None = None, progress: Progress | None = None) -> Turn:
        """Takes in at most one micro-batch of each partition."""
        ...


@final
class _Waiting:
    """How long to wait for a store that can't be reached: longer each time, and no two workers in step."""

    __slots__ = ("_since", "_until", "_wait")

    def __init__(self, patience: float | None) -> None:
        self._until, self._since, self._wait = patience, -1.0, _FIRST_WAIT

    def after(self, error: StoreError) -> float:
        """Seconds to wait after an error.

        Raises:
            StoreError: it has been away for too long.
        """
        now = monotonic()
        if self._since < 0:
            self._since = now
        if self._until is not None and now - self._since >= self._until:
            raise type(error)(
                f"{error.message}; it was tried again for {now - self._since:.0f} s", where=error.where, hint=error.hint
            ) from error
        wait, self._wait = self._wait, min(2 * self._wait, _LONGEST_WAIT)
        return wait * random.uniform(0.5, 1.0)

    def over(self) -> None:
        """It was reached."""
        self._since, self._wait = -1.0, _FIRST_WAIT


def run_workers(
    workers: Sequence[Worker],
    until: int | None = None,
    *,
    follow: bool = False,
    progress: Progress | None = None,
    poll: float = POLL,
    patience: float = PATIENCE,
) -> bool:
    """Lets the workers of several sources take in what is there, in turns, and with `follow` what comes.

    SIGINT (Ctrl-C) and SIGTERM end it after the micro-batch at work; a second one at once, which is safe too. A store
    that can't be reached is tried again, at most five seconds later each time. A step of which it is not known whether
    it was taken is looked up: it goes on from where the view is.

    Args:
        workers: the workers.
        until: leave out a file with an event at this time or later, and what comes after it; microseconds.
        follow: wait for more until a signal comes, or `until` is reached, and for the store as long as it takes.
        progress: see `Progress`.
        poll: seconds between two looks at a stream that has nothing new.
        patience: without `follow`, how long a store that can't be reached is tried again, seconds.

    Returns:
        whether a signal ended it.

    Raises:
        StoreError, DataError: as `Ingest.turn`; or the store could not be reached for too long.
        StuckError: partitions could not go on when it ended; the others were taken in.
    """
    with stop_signals() as stop:
        left = list(workers)
        waiting = {id(w): _Waiting(None if follow else patience) for w in workers}
        stuck: dict[int, tuple[StuckError, ...]] = {}
        while left and not stop.asked:
            taken = busy = away = False
            for worker in list(left):
                try:
                    turn = worker.turn(until, progress)
                except _PASSING as error:
                    wait, away = waiting[id(worker)].after(error), True
                    _note(worker.measures, error)
                    _show(progress, [worker])
                    stop.wait(wait)
                else:
                    waiting[id(worker)].over()
                    stuck[id(worker)], worker.measures.trouble = turn.stuck, ""
                    taken, busy = taken or turn.taken, busy or turn.busy
                    if turn.over and not turn.busy:
                        left.remove(worker)
                if stop.asked:
                    break
            if taken or away or not left:
                continue
            if not follow and not busy:
                break
            _show(progress, left)
            stop.wait(_BUSY if busy else poll)
        _check_none(stuck.values())
        return stop.asked


def _check_none(stuck: Iterable[Sequence[StuckError]]) -> None:
    """Raises `StuckError` where partitions can't go on."""
    if errors := [error for of_worker in stuck for error in of_worker]:
        raise all_in_one(errors)


def _note(measures: Measures, error: StoreError) -> None:
    if isinstance(error, ConflictError):
        measures.conflicts += 1
    else:
        measures.failed(error)


def _show(progress: Progress | None, workers: Sequence[Worker]) -> None:
    if progress is not None:
        for worker in workers:
            progress(worker.measures)
