"""Dead letters: events of a stream that can't be taken in, kept with the reason, to be mended and taken in later.

Files of JSON lines. Each is written whole, before the step that moves the position past its events, and
is named by its first event: what a killed worker left is written again by the next one. Two workers at the same events
may write one twice; a letter is known by topic, partition and offset.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
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


def write_letters(directory: Path, letters: Sequence[Letter]) -> None:
    """Writes the letters of one micro-batch, which has some, as a file."""
    first = letters[0]
    directory.mkdir(parents=True, exist_ok=True)
    lines = b"".join(msgspec.json.encode(letter) + b"\n" for letter in letters)
    write_atomic(directory / f"{first.topic}-{first.partition}-{first.offset:020}.jsonl", lines)


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
