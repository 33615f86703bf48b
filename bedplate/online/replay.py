"""A stream of mended dead letters: each is taken in once, however often its file is replayed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import final

import msgspec

from bedplate.clock import Clock, system_clock
from bedplate.errors import DataError
from bedplate.features.view import CompiledView
from bedplate.online import keys
from bedplate.online.base import OnlineStore
from bedplate.online.letters import Letter, read_letters
from bedplate.online.parsers import parser
from bedplate.online.payloads import Payloads
from bedplate.online.refused import AHEAD, refused_rows
from bedplate.online.streams import MicroBatch, Position, Stream
from bedplate.types import LATEST_TIME

PARTITION = "replay"
"""The name of the partition of letters."""


@final
class LetterStream(Stream):
    """The letters of a file, their payloads mended by hand: those whose events were withheld from a view.

    Args:
        path: the file, as it was written or a part of it.
        view: the compiled view that takes them in: from another view others were withheld.
        store: knows which these are.
        form: of the payloads that are not in a form of their letter's, see `Payloads`.
        ahead: how far ahead of the clock an event of a topic may be; microseconds.
        clock: the clock.

    Raises:
        ConfigError: the form is wrong.
        DataError: the file can't be read.
    """

    def __init__(
        self,
        path: Path,
        view: CompiledView,
        store: OnlineStore,
        form: str = "json",
        *,
        ahead: int = AHEAD,
        clock: Clock = system_clock,
    ) -> None:
        self._ahead, self._clock = ahead, clock
        self._path, self._letters = path, read_letters(path)
        self._view, self._store = view, store
        root = view.root or Path()
        parsers = {"": parser(form, root), "json": parser("json", root)}

        def parse(letter: Letter, struct: type[msgspec.Struct]) -> msgspec.Struct:
            return parsers[letter.form](letter.data, struct)

        self._payloads = Payloads(parse, view.view.source.table(view.root).schema())

    @property
    def name(self) -> str:
        """The file."""
        return str(self._path)

    def partitions(self) -> Sequence[str]:
        """The one of letters."""
        return [PARTITION]

    def read(
        self, partition: str, after: Position, before: Position | None, rows: int, completed: Collection[str] = ()
    ) -> MicroBatch | None:
        """The letters that were not taken in yet.

        Raises:
            DataError: a payload is still wrong.
        """
        notes = self._store.read_many([keys.letter_of(self._view, letter.name) for letter in self._letters])
        left = [letter for letter, note in zip(self._letters, notes, strict=True) if note][:rows]
        if not left:
            return None
        frame, wrong = self._payloads.decode(left)
        decoded = [number for number in range(len(left)) if number not in wrong]
        # Rows of files are history's too, which counts them once their time has come.
        latest = self._clock() + self._ahead if any(letter.topic for letter in left) else LATEST_TIME
        refused = refused_rows([self._view], frame, latest)
        wrong |= {decoded[row]: why for row, why in refused.items()}
        if wrong:
            number, why = min(wrong.items())
            raise DataError(
                f"{len(wrong):,} of {len(left):,} letters are still wrong, the first is the one of "
                f"{left[number].place}: {why}",
                where=self.name,
                hint="mend its payload, or delete its line",
            )

        def row(number: int) -> str:
            return f"the letter of {left[number].place}"

        return MicroBatch(
            partition=partition,
            begin=after,
            end=Position("", after.at + len(left)),
            rows=frame,
            where=self.name,
            row=row,
            newest=lambda: -1,
            letters=tuple(letter.name for letter in left),
        )

    def __len__(self) -> int:
        """How many letters the file has."""
        return len(self._letters)

    def lag(self, partition: str, after: Position) -> int:
        """How many letters the file has."""
        return len(self._letters)

    def has(self, partition: str) -> bool:
        """Letters don't follow each other: they say nothing of how far a stream is taken in."""
        return False

    def close(self) -> None:
        """Nothing is held open."""
