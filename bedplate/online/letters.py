"""Dead letters: events of a stream that can't be taken in, kept with the reason, to be mended and taken in later.

Files of JSON lines. Each is written whole, before the step that moves the position past its events, and is named by its
first event. A letter is known by where its event came from (topic, partition and offset, or stream, file and row), and
is written once: what a killed worker left, or another view's worker, stays as it is, mended or not. A file that is
there is never changed.

That an event was withheld from a view is kept in the store, by the step that moved the view's position past it: only
then a replay takes the letter into this view, in the step that takes the note away. So nothing depends on the files.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import glob
import hashlib
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Literal, Self, final

import msgspec

from bedplate.errors import DataError, StoreError, reason
from bedplate.files import write_atomic

_NOT_THERE = -1


@final
class Letter(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An event that can't be taken in, of a topic or of a file.

    Attributes:
        topic: where it came from.
        partition: of the topic.
        offset: in the partition.
        stream: which directory the file is in, `streams.Origin.id`.
        file: where it came from, in the directory.
        row: in the file, counted from 0; of a file of JSON the line.
        reason: why it can't be taken in.
        form: of the payload, where that is not the form of the stream's payloads.
        payload: its bytes as text.
        base64: its bytes, where they are no text in UTF-8; then `payload` is empty until somebody mends it.

    >>> Letter.of("clicks", 0, 7, "why", b"{").place, Letter.of_row("1f", "a/1.jsonl", 7, "why", b"{").place
    ('partition 0 at offset 7', 'row 7 of a/1.jsonl')
    """

    topic: str = ""
    partition: int = _NOT_THERE
    offset: int = _NOT_THERE
    stream: str = ""
    file: str = ""
    row: int = _NOT_THERE
    reason: str
    form: Literal["", "json"] = ""
    payload: str = ""
    base64: str = ""

    def __post_init__(self) -> None:
        """Checks that it says where its event came from, `ValueError` otherwise."""
        if min(self.partition, self.offset) < 0 if self.topic else not self.file or self.row < 0:
            raise ValueError("expected topic, partition and offset, or stream, file and row")

    @property
    def name(self) -> str:
        """By what it is known; no topic's name has a slash."""
        if self.topic:
            return f"{self.topic}@{self.partition}@{self.offset}"
        return f"{self.stream}/{self.file}@{self.row}"

    @property
    def place(self) -> str:
        """What a message calls the place of its event in the stream."""
        if self.topic:
            return f"partition {self.partition} at offset {self.offset}"
        return f"row {self.row} of {self.file}"

    @property
    def data(self) -> bytes:
        """The payload's bytes."""
        return self.payload.encode() if self.payload else base64.b64decode(self.base64)

    @classmethod
    def of(cls, topic: str, partition: int, offset: int, reason: str, payload: bytes | None) -> Self:
        """The letter of an event of a topic."""
        text, coded = _written(payload or b"")
        return cls(topic=topic, partition=partition, offset=offset, reason=reason, payload=text, base64=coded)

    @classmethod
    def of_row(
        cls, stream: str, file: str, row: int, reason: str, payload: bytes, form: Literal["", "json"] = ""
    ) -> Self:
        """The letter of an event of a file."""
        text, coded = _written(payload)
        return cls(stream=stream, file=file, row=row, reason=reason, form=form, payload=text, base64=coded)


def _written(payload: bytes) -> tuple[str, str]:
    """A payload as text, or where it is none in base64."""
    try:
        return payload.decode(), ""
    except UnicodeDecodeError:
        return "", base64.b64encode(payload).decode()


_NEAR = 3
"""Files of one name but for so many last digits hold all letters of so many offsets: a file holds no others."""


def write_letters(directory: Path, letters: Sequence[Letter]) -> int:
    """Writes the letters of one micro-batch that are in no file yet, and says how many these were.

    Raises:
        StoreError: they can't be written.
    """
    near: dict[str, list[Letter]] = {}
    for letter in letters:
        near.setdefault(_file_name(letter)[:-_NEAR], []).append(letter)
    written = 0
    with _telling(directory), _alone(directory):
        for begin, found in near.items():
            there = {name for path in directory.glob(f"{glob.escape(begin)}*.jsonl") for name in _names(path)}
            new = [letter for letter in found if letter.name not in there]
            if new:
                lines = b"".join(msgspec.json.encode(letter) + b"\n" for letter in new)
                write_atomic(_free(directory, _file_name(new[0])), lines)
            written += len(new)
    return written


_LONGEST = 150
"""Bytes of a file's name that are in the name of a file of its letters."""


def _file_name(letter: Letter) -> str:
    if letter.topic:
        return f"{letter.topic}-{letter.partition}-{letter.offset:020}"
    name = letter.file.replace("/", "-")
    if len(name.encode()) > _LONGEST:
        name = hashlib.sha256(letter.file.encode()).hexdigest()
    return f"{name}-{letter.row:020}"


def _free(directory: Path, name: str) -> Path:
    """A file that is not there: one of the name may be, from which somebody took the letter out."""
    path, number = directory / f"{name}.jsonl", 1
    while path.exists():
        number += 1
        path = directory / f"{name}-{number}.jsonl"
    return path


def _names(path: Path) -> list[str]:
    """By what the letters of a file are known, those left out that somebody is at work on."""
    names: list[str] = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            names.append(msgspec.json.decode(line, type=Letter).name)
    return names


@contextlib.contextmanager
def _telling(directory: Path) -> Generator[None]:
    """Says which letters can't be written."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"can't write the dead letters: {reason(error)}",
            where=str(directory),
            hint="make room or choose another directory with --letters, then run again: nothing was passed over",
        ) from error


@contextlib.contextmanager
def _alone(directory: Path) -> Generator[None]:
    """Lets no two workers write letters into a directory at once."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_letters(path: Path) -> list[Letter]:
    """The letters of a file, each once, in their order.

    Raises:
        DataError: it can't be read, or a line is no letter.
    """
    found: dict[str, Letter] = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"can't read the dead letters: {error}", where=str(path)) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            letter = msgspec.json.decode(line, type=Letter)
            found[letter.name] = letter
            len(letter.data)
        except ValueError as error:
            raise DataError(
                f"it is no dead letter: {error}",
                where=f"{path}, line {number}",
                hint="a line is one, as it was written",
            ) from error
    return list(found.values())
