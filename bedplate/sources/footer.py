"""The footer of a Parquet file: the bounds of its columns, from the statistics that writers keep by row group.

The footer is a structure in Thrift's compact protocol, as the Apache Parquet format (`parquet.thrift`) describes it:
fields with numbers, of which only those that are named here are looked at. The last eight bytes of a file are the
footer's length and a mark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias, final

from bedplate.sources.pruning import Bounds

Fields: TypeAlias = "dict[int, Any]"
"""A structure: its fields by number; a structure within is one of these, a text is bytes."""

_MARK = b"PAR1"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INT32, _INT64 = 1, 2
"""Physical types."""

_CONVERTED = {6: "date", 9: "ms", 10: "us", 15: "int", 16: "int", 17: "int", 18: "int"}
"""What older writers say of a column: `ConvertedType`."""


@final
@dataclass(frozen=True, slots=True)
class _Column:
    """A column at the top of the schema, and what its numbers are: "int", "date", "ms", "us" or "ns"."""

    name: str
    kind: str


def read_bounds(file: Path) -> Mapping[str, Bounds]:
    """The bounds of the columns of integers, dates and times of which every row group tells them.

    Raises:
        OSError: the file can't be read.
        ValueError: it has no footer that can be read.
    """
    try:
        footer = _Reader(_footer(file)).structure()
        columns = {c.name.encode(): c for c in _columns(footer[2])}
        groups = [_statistics(group) for group in footer[4] if group[3]]
        found: dict[str, Bounds] = {}
        for name, column in columns.items():
            known = [g[name] for g in groups if name in g]
            bounds = _joined(known, column.kind) if len(known) == len(groups) else None
            if bounds is not None:
                found[column.name] = bounds
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"the footer of {file.name} can't be read: {error}") from error
    return found


def _footer(file: Path) -> bytes:
    with file.open("rb") as opened:
        opened.seek(0, 2)
        size = opened.tell()
        opened.seek(max(0, size - 8))
        end = opened.read(8)
        length = int.from_bytes(end[:4], "little")
        if end[4:] != _MARK or length > size - 8:
            raise ValueError("it does not end with a mark")
        opened.seek(size - 8 - length)
        return opened.read(length)


def _columns(schema: Sequence[Fields]) -> list[_Column]:
    """The columns of single whole numbers, dates or times; the schema is a tree, written from its root on."""
    found: list[_Column] = []
    inner = 0
    for element in schema[1:]:
        if inner:
            inner += element.get(5, 0) - 1
            continue
        inner = element.get(5, 0)
        kind = None if inner or element.get(3) == 2 else _kind(element)  # 2: it is repeated
        if kind is not None:
            found.append(_Column(element[4].decode(), kind))
    return found


def _kind(element: Fields) -> str | None:
    if element.get(1) not in (_INT32, _INT64):
        return None
    logical = element.get(10)
    if logical is not None:
        if 6 in logical:
            return "date"
        if 8 in logical:  # the unit is a structure with the one field that says it
            return {1: "ms", 2: "us", 3: "ns"}.get(next(iter(logical[8][2])))
        if 10 in logical:
            return "int" if logical[10].get(2) else None  # an unsigned number is ordered in another way
        return None
    return "int" if 6 not in element else _CONVERTED.get(element[6])


@final
@dataclass(frozen=True, slots=True)
class _Statistics:
    """What a row group says of a column; `low` and `high` are None where every value is null."""

    low: int | None
    high: int | None
    has_null: bool


def _statistics(group: Fields) -> dict[bytes, _Statistics]:
    """What a row group says of each column at the top that it says enough of."""
    found: dict[bytes, _Statistics] = {}
    for chunk in group[1]:
        known = chunk[3]
        said = known.get(12, {})
        low, high, nulls = said.get(6), said.get(5), said.get(3)
        if len(known[3]) != 1:
            continue
        if nulls is not None and nulls == known[5]:
            found[known[3][0]] = _Statistics(None, None, has_null=True)
        elif low is not None and high is not None:
            found[known[3][0]] = _Statistics(_number(low), _number(high), has_null=nulls != 0)
    return found


def _number(form: bytes) -> int:
    return int.from_bytes(form, "little", signed=True)


def _joined(groups: Sequence[_Statistics], kind: str) -> Bounds | None:
    """The bounds of all row groups together; None: there is no row."""
    low = min((g.low for g in groups if g.low is not None), default=None)
    high = max((g.high for g in groups if g.high is not None), default=None)
    if low is None or high is None:
        return Bounds(is_null=True) if groups else None
    return Bounds(_value(low, kind), _value(high, kind), has_null=any(g.has_null for g in groups))


def _value(number: int, kind: str) -> int | date | datetime:
    if kind == "int":
        return number
    if kind == "date":
        return date(1970, 1, 1) + timedelta(days=number)
    # What is finer than a microsecond is cut off, as it is of event times.
    micros = {"ms": number * 1000, "us": number, "ns": number // 1000}[kind]
    return _EPOCH + timedelta(microseconds=micros)


@final
class _Reader:
    """Reads a structure in the compact protocol.

    Args:
        data: the bytes, the structure at their begin.
    """

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def structure(self) -> Fields:
        """The fields of the structure that begins here."""
        found: Fields = {}
        number = 0
        while (head := self._byte()) != 0:
            number = number + (head >> 4) if head >> 4 else self._signed()
            kind = head & 15
            found[number] = kind == 1 if kind in (1, 2) else self._value(kind)
        return found

    def _value(self, kind: int) -> Any:
        if kind in (1, 2):  # a boolean in a list has a byte of its own
            return self._byte() == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._signed()
        if kind == 7:
            return self._bytes(8)
        if kind == 8:
            return self._bytes(self._unsigned())
        if kind in (9, 10):
            return self._list()
        if kind == 12:
            return self.structure()
        raise ValueError(f"a field of the kind {kind}")

    def _list(self) -> list[Any]:
        head = self._byte()
        count = head >> 4 if head >> 4 != 15 else self._unsigned()
        if count > len(self._data):
            raise ValueError("a list that is longer than the footer")
        return [self._value(head & 15) for _ in range(count)]

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, count: int) -> bytes:
        self._at += count
        if self._at > len(self._data):
            raise ValueError("it ends too early")
        return self._data[self._at - count : self._at]

    def _unsigned(self) -> int:
        result = shift = 0
        while True:
            byte = self._byte()
            result |= (byte & 127) << shift
            if byte < 128:
                return result
            shift += 7

    def _signed(self) -> int:
        number = self._unsigned()
        return (number >> 1) ^ -(number & 1)
