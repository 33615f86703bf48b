"""Workers that are replaced one after the other: each by a process that is ready before the one before it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from bedplate.http.board import Seat
from bedplate.http.worker import Worker


@final
class Replacing:
    """Replaces workers while all of them serve. For a moment there is one process more.

    Args:
        workers: those that serve; a replaced one has its successor in its place.
        spare: a seat that nobody has.
        start: starts a worker's process.
        say: tells a person what happens.
    """

    def __init__(
        self, workers: list[Worker], spare: Seat, start: Callable[[Worker], None], say: Callable[[str], None]
    ) -> None:
        self._workers, self._spare, self._start, self._say = workers, spare, start, say
        self._successor: Worker | None = None  # of the worker of the same number, until it is ready
        self._leaving: Worker | None = None  # answers what is under way

    @property
    def others(self) -> list[Worker]:
        """The workers that run beside those that serve."""
        return [worker for worker in (self._successor, self._leaving) if worker is not None]

    def look(self, signals: int) -> None:
        """Does what is to be done now.

        Args:
            signals: how many SIGHUPs there were; workers that know of fewer are replaced.
        """
        if self._leaving is not None:
            self._look_at_leaving(self._leaving)
        elif self._successor is not None:
            self._look_at_successor(self._successor)
        else:
            self._begin(signals)

    def promote(self, ended: Worker) -> bool:
        """Whether a worker that has ended by itself has a successor that starts already; that has its place then."""
        new = self._successor
        if new is None or new.number != ended.number:
            return False
        new.failures = ended.failures
        self._workers[self._workers.index(ended)] = new
        self._successor, self._spare = None, ended.seat
        return True

    def _begin(self, signals: int) -> None:
        """The one that was told longest ago goes first: signals that come often leave nobody out."""
        oldest = min(self._workers, key=lambda worker: worker.told)
        if oldest.told < signals and all(worker.is_ready for worker in self._workers):
            self._successor = Worker(oldest.number, self._spare)
            self._start(self._successor)

    def _look_at_successor(self, new: Worker) -> None:
        how = new.look()
        if how is not None:
            self._successor = None
            for worker in self._workers:
                worker.told = max(worker.told, new.told)
            self._say(
                f"{how}; the one that it was to replace stays, and so do all others: send SIGHUP again, when what "
                "keeps it from starting is mended"
            )
        elif new.is_ready:
            place = next(i for i, worker in enumerate(self._workers) if worker.number == new.number)
            old, self._workers[place] = self._workers[place], new
            self._successor, self._leaving = None, old
            if old.process is not None:
                old.process.terminate()

    def _look_at_leaving(self, old: Worker) -> None:
        how = old.look()
        if how is not None:
            self._leaving, self._spare = None, old.seat
            self._say(f"{how}; another one has taken its place")
