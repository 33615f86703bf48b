"""Files of records, one after the other: JSON a line, Avro's container files, Protobuf with lengths before messages.

A record's row is its number in the file, of JSON that of its line. A file is read from a row on; where the last read
ended is remembered, so that a large file is gone through once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, final

import msgspec

from bedplate.errors import DataError, reason

_LONGEST_VARINT = 10  # bytes


@final
@dataclass(frozen=True, slots=True)
class Record:
    """A record of a file.

    Attributes:
        row: its number.
        begin: the row and the byte from where the file is read to get it.
        value: what the parser of its form takes; None: nothing is there, such as on an empty line.
    """

    row: int
    begin: tuple[int, int]
    value: Any


@final
@dataclass(frozen=True, slots=True)
class Records:
    """Records that follow each other in a file.

    Attributes:
        found: the records.
        end: the row after them, those included where nothing is.
        is_end: whether the file ends there.
    """

    found: list[Record]
    end: int
    is_end: bool


class RecordFiles(ABC):
    """The files of one form."""

    def __init__(self) -> None:
        self._places: dict[Path, tuple[tuple[int, int], tuple[int, int]]] = {}

    @abstractmethod
    def scan(self, file: BinaryIO, begin: tuple[int, int]) -> Iterator[Record]:
        """All records from a place on that `Record.begin` gave; (0, 0) is the beginning.

        Raises:
            DataError: what follows can't be read.
        """

    def count(self, path: Path) -> int:
        """How many rows a file has.

        Raises:
            DataError: it is damaged.
            OSError: it can't be read.
        """
        count = 0
        with path.open("rb") as file:
            for record in self.scan(file, (0, 0)):
                count = record.row + 1
        return count

    def read(self, path: Path, at: int, most: int | None, before: int | None = None) -> Records:
        """The next records of a file.

        Args:
            path: the file.
            at: the row to begin with.
            most: at most so many records; None: all, or none where the file is damaged.
            before: no record from this row on; None: without end.

        Raises:
            DataError: what comes first is damaged.
            OSError: the file can't be read.
        """
        status = path.stat()
        version = status.st_mtime_ns, status.st_size
        known = self._places.get(path)
        begin = known[1] if known is not None and known[0] == version and known[1][0] <= at else (0, 0)
        found, end, place = list[Record](), at, begin
        with path.open("rb") as file:
            try:
                for record in self.scan(file, begin):
                    place = record.begin
                    if record.row < at:
                        continue
                    if len(found) == most or (before is not None and record.row >= before):
                        break
                    if record.value is not None:
                        found.append(record)
                    end = record.row + 1
                else:
                    self._places.pop(path, None)
                    return Records(found, end, is_end=True)
            except DataError:
                if not found or most is None:
                    raise
        self._places[path] = version, place
        return Records(found, end, is_end=False)


@final
class JsonFiles(RecordFiles):
    """An object a line; the value is the line. Empty lines are rows where nothing is.

    A file whose last line does not end, and is no JSON, is damaged: it may be cut there. Any other line is a record.

    >>> import io
    >>> [(r.row, r.value) for r in JsonFiles().scan(io.BytesIO(b'{"a": 1}' + bytes([10, 10]) + b"{}"), (0, 0))]
    [(0, b'{"a": 1}'), (1, None), (2, b'{}')]
    """

    def scan(self, file: BinaryIO, begin: tuple[int, int]) -> Iterator[Record]:
        """The lines."""
        row, offset = begin
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n") and not line.strip():
                return  # blanks may begin a line of which the rest is missing: as if the file ended before them
            if not line.endswith(b"\n") and _is_cut(line):
                raise DataError(
                    f"the file ends within line {row + 1:,}, which begins at byte {offset:,} and is no JSON",
                    hint="put the whole file there, written aside and renamed, or mend and end the line, or delete it",
                )
            yield Record(row, (row, offset), line.strip() or None)
            row, offset = row + 1, offset + len(line)


def _is_cut(line: bytes) -> bool:
    """Whether a line that does not end may be the beginning of another: whatever is no JSON.

    >>> _is_cut(b'{"a": "b'), _is_cut(b'{"a": 1.'), _is_cut(b"{}")
    (True, True, False)
    """
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True
    return False


@final
class ProtobufFiles(RecordFiles):
    """Messages, each after its length as a varint; the value is the message.

    >>> import io
    >>> [r.value for r in ProtobufFiles().scan(io.BytesIO(bytes([2]) + b"ab" + bytes([0])), (0, 0))]
    [b'ab', b'']
    """

    def scan(self, file: BinaryIO, begin: tuple[int, int]) -> Iterator[Record]:
        """The messages."""
        size = file.seek(0, 2)
        row, offset = begin
        file.seek(offset)
        while offset < size:
            length, width = _varint(file)
            end = offset + width + length
            if not width or end > size:
                raise DataError(
                    f"message {row:,} at byte {offset:,} has no length, or ends after the file's {size:,} bytes",
                    hint="repair the file or move it away; what comes before it is taken in",
                )
            yield Record(row, (row, offset), file.read(length))
            row, offset = row + 1, end


def _varint(file: BinaryIO) -> tuple[int, int]:
    """A number and how many bytes it takes; none: it is no number."""
    value = 0
    for width in range(_LONGEST_VARINT):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << (7 * width)
        if byte[0] < 0x80:
            return value, width + 1
    return 0, 0


@final
class AvroFiles(RecordFiles):
    """Avro's object container files, by the schema that each has in it; the value is the decoded record.

    Args:
        schema: the schema by which they are read, in JSON; None: their own.

    Raises:
        ValueError: it is no schema.
    """

    def __init__(self, schema: bytes | None = None) -> None:
        super().__init__()
        import fastavro

        self._blocks: Any = getattr(fastavro, "block_reader")  # noqa: B009  (its types are unknown)
        self._schema = None if schema is None else fastavro.parse_schema(msgspec.json.decode(schema))

    def scan(self, file: BinaryIO, begin: tuple[int, int]) -> Iterator[Record]:
        """The records; a place is the beginning of a block."""
        size, (row, offset) = file.seek(0, 2), begin
        file.seek(0)
        try:
            blocks = self._blocks(file, self._schema)
            end = file.tell()
            if offset:
                file.seek(offset)
            for block in blocks:
                place, end = (row, block.offset), block.offset + block.size
                for value in block:
                    yield Record(row, place, value)
                    row += 1
            end = end if end == size else -1
        except Exception as error:
            raise DataError(
                f"what comes after {row:,} records is no Avro, or is not of the schema: {reason(error)}",
                hint="repair the file or move it away; what comes before is taken in",
            ) from error
        if end < 0 or not size:
            raise DataError(
                f"the file ends within a block of Avro, after {row:,} records",
                hint="write the file aside and rename it when it is whole",
            )

    def count(self, path: Path) -> int:
        """How many records a file has, as its blocks say."""
        try:
            with path.open("rb") as file:
                return sum(int(block.num_records) for block in self._blocks(file))
        except OSError:
            raise
        except Exception as error:
            raise DataError(f"it is no Avro: {reason(error)}") from error
