"""Dead letters: events of a stream that can't be taken in, kept with the reason, to be mended and taken in later.

Files of JSON lines. Each is written whole, before the step that moves the position past its events, and is named by its
first event. A letter is known by topic, partition and offset, and written once: what a killed worker left, or another
view's worker, stays as it is, mended or not. A file that is there is never changed.

That an event was withheld from a view is kept in the store, by the step that moved the view's position past it: only
then a replay takes the letter into this view, in the step that takes the note away. So nothing depends on the files.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import final

import msgspec

from bedplate.errors import DataError
from bedplate.files import write_atomic


@final
class Letter(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event that can't be taken in.

    Attributes:
        topic: where it came from.
        partition: of the topic.
        offset: in the partition.
        reason: why it can't be taken in.
        payload: its bytes as text.
        base64: its bytes, where they are no text in UTF-8; then `payload` is empty.
    """

    topic: str
    partition: int
    offset: int
    reason: str
    payload: str = ""
    base64: str = ""

    @property
    def name(self) -> str:
        """By what it is known."""
        return f"{self.topic}@{self.partition}@{self.offset}"

    @property
    def data(self) -> bytes:
        """The payload's bytes."""
        return base64.b64decode(self.base64) if self.base64 else self.payload.encode()

    @staticmethod
    def of(topic: str, partition: int, offset: int, reason: str, payload: bytes | None) -> Letter:
        """The letter of an event."""
        try:
            return Letter(topic, partition, offset, reason, payload=(payload or b"").decode())
        except UnicodeDecodeError:
            return Letter(topic, partition, offset, reason, base64=base64.b64encode(payload or b"").decode())


_NEAR = 3
"""Files of one name but for so many last digits hold all letters of so many offsets: a file holds no others."""


def write_letters(directory: Path, letters: Sequence[Letter]) -> int:
    """Writes the letters of one micro-batch that are in no file yet, and says how many these were."""
    near: dict[str, list[Letter]] = {}
    for letter in letters:
        near.setdefault(_file_name(letter)[:-_NEAR], []).append(letter)
    directory.mkdir(parents=True, exist_ok=True)
    written = 0
    with _alone(directory):
        for begin, found in near.items():
            there = {name for path in directory.glob(f"{begin}*.jsonl") for name in _names(path)}
            new = [letter for letter in found if letter.name not in there]
            if new:
                lines = b"".join(msgspec.json.encode(letter) + b"\n" for letter in new)
                write_atomic(_free(directory, _file_name(new[0])), lines)
            written += len(new)
    return written


def _file_name(letter: Letter) -> str:
    return f"{letter.topic}-{letter.partition}-{letter.offset:020}"


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
def _alone(directory: Path) -> Generator[None]:
    """Lets no two workers write letters into a directory at once."""
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
