"""The stream: events that come, in partitions, each in an order of its own. One file a kind of stream.

A worker reads a micro-batch of a partition after a position, which has the position that it ends at. The position is
kept in the store with the rows that the events changed (`state.ViewState`), not by the stream: what the store says was
taken in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import msgspec
import polars as pl

from bedplate.errors import DataError


class StuckError(DataError):
    """A partition can't go on, and the others can: what comes next in it can't be read, or can't be taken in."""


@final
class Position(msgspec.Struct, frozen=True, order=True):
    """How much of a partition was taken in: all before it.

    Attributes:
        name: of a directory the file; empty: none yet, or the stream numbers its events throughout.
        at: how many of the file's rows; of a topic the offset of the next event.

    >>> Position("1.parquet", 50_000) < Position("2.parquet", 10)
    True
    """

    name: str = ""
    at: int = 0


BEGINNING = Position()
"""The position of what was never taken in."""


@final
class Origin(msgspec.Struct, frozen=True):
    """Which stream it is.

    Attributes:
        id: the same wherever the stream is read.
        name: what a message calls it.
        made: which of several that have the same id one after the other, such as a topic that was deleted and made
            anew; empty: that is not known.
    """

    id: str
    name: str
    made: str = ""

    def is_same(self, other: Origin) -> bool:
        """Whether they are one stream, as far as is known.

        >>> Origin("a", "").is_same(Origin("a", "", "2")), Origin("a", "", "1").is_same(Origin("a", "", "2"))
        (True, False)
        """
        return self.id == other.id and (self.made == other.made or not (self.made and other.made))

    def with_known(self, before: Origin | None) -> Origin:
        """The same with what was known of it before."""
        return before if before is not None and before.id == self.id and not self.made else self


@final
@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Events of one partition that follow each other.

    Attributes:
        partition: its name.
        begin: the position after which they come.
        end: the position after them.
        rows: the events as the source's table holds them.
        where: what a message calls the place where they come from.
        row: what a message calls one of them by its number in `rows`.
        newest: the greatest time of what comes in one piece with them, at which it could be known apart from a delay;
            microseconds, -1 for none.
        completes: the names of what is wholly taken in with them, such as a file, by which it is remembered.
        refuse: keeps aside what was not or can't be taken in of the micro-batch, before it is: called with the numbers
            of further rows and why, gives the names of all that is kept aside; None: such a row stops the stream.
        letters: the names of events that were kept aside, and are taken in with this one.
    """

    partition: str
    begin: Position
    end: Position
    rows: pl.DataFrame
    where: str
    row: Callable[[int], str]
    newest: Callable[[], int]
    completes: tuple[str, ...] = ()
    refuse: Callable[[Mapping[int, str]], Collection[str]] | None = None
    letters: tuple[str, ...] = ()

    def without(self, wrong: Collection[int]) -> MicroBatch:
        """The micro-batch without the rows of some numbers."""
        kept, refuse = [number for number in range(len(self.rows)) if number not in wrong], self.refuse

        def row(number: int) -> str:
            return self.row(kept[number])

        def refused(further: Mapping[int, str]) -> Collection[str]:
            return () if refuse is None else refuse({kept[number]: why for number, why in further.items()})

        return replace(self, rows=self.rows[kept], row=row, refuse=None if refuse is None else refused)


class Stream(ABC):
    """Where events come from. A stream is read by one thread at a time.

    Attributes:
        letters_written: events so far that could not be taken in and went aside.
        strangers: names of what is where the stream is and is no part of it.
    """

    letters_written: int = 0
    strangers: Sequence[str] = ()

    @property
    def errors(self) -> int:
        """Errors of the stream so far that passed."""
        return 0

    @property
    def trouble(self) -> str:
        """Why it can't be reached now, and what to check; empty: it can."""
        return ""

    @property
    @abstractmethod
    def name(self) -> str:
        """What a message calls the stream."""

    @property
    def overlaps_history(self) -> bool:
        """Whether it also holds events from before the time a view is loaded for, which are then passed over."""
        return False

    @property
    def origin(self) -> Origin | None:
        """Which stream it is, once it was asked for its partitions; None: positions in it are of no other one."""
        return None

    def described(self) -> Origin | None:
        """As `origin`, asked for.

        Raises:
            DataError: the stream can't be read.
        """
        self.partitions()
        return self.origin

    @abstractmethod
    def partitions(self) -> Sequence[str]:
        """The partitions that this worker may read now, anew each time it is asked.

        Raises:
            DataError: the stream can't be read.
        """

    @abstractmethod
    def read(
        self, partition: str, after: Position, before: Position | None, rows: int, completed: Collection[str] = ()
    ) -> MicroBatch | None:
        """The next events of a partition that are there; None: there are none, or so few that more are waited for.

        Args:
            partition: its name.
            after: the position after which to read.
            before: read no further than this position; None: without end.
            rows: at most so many events, apart from what must be taken in as one piece.
            completed: the names of what was wholly taken in, see `MicroBatch.completes`.

        Raises:
            StuckError: the events can't be read or are not of the source's columns.
            DataError: the same of all partitions.
        """

    @abstractmethod
    def lag(self, partition: str, after: Position) -> int:
        """About how many events of a partition are there after a position.

        Raises:
            DataError: the stream can't be read.
        """

    @abstractmethod
    def close(self) -> None:
        """Gives up what the stream holds open."""

    def has(self, partition: str) -> bool:
        """Whether events may come in a partition that a view has seen, whoever reads it."""
        return partition in self.partitions()

    def all_partitions(self) -> Sequence[str]:
        """The partitions in which events may come, whoever reads them, as of the last call of `partitions`."""
        return [name for name in self.partitions() if self.has(name)]

    def check(self, partition: str, reached: Position, completed: Collection[str], until: int) -> None:  # noqa: B027  (most have nothing to check)
        """Raises `DataError` where events would be lost after a position.

        Args:
            partition: its name.
            reached: up to where it was taken in.
            completed: the names of what was wholly taken in, see `MicroBatch.completes`.
            until: events from before this time are in the store from elsewhere; microseconds.
        """
