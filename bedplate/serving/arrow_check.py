"""Checks of an Arrow IPC stream before it is decoded: what its headers say fits its bytes and the limits of a request.

Decoding takes memory by what the headers say, and a library that trusts a damaged one may fail in ways that can't be
answered. Form: https://arrow.apache.org/docs/format/Columnar.html and Message.fbs, Schema.fbs beside it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np

from bedplate.errors import RequestError
from bedplate.serving.flat import FlatTable
from bedplate.types import Int64s

MOST_TEXT = 64 << 20
"""The texts of a request hold so many bytes at most; each row's counts, as many rows may name one text."""

_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
_INT, _FLOAT, _UTF8, _BOOL, _DATE, _TIMESTAMP = 2, 3, 5, 6, 8, 10
_LIST, _FIXED_LIST, _LARGE_UTF8, _LARGE_LIST, _UTF8_VIEW = 12, 16, 20, 21, 24
_FLOAT_BITS = (16, 32, 64)
_WIDTHS = {_UTF8: 4, _LARGE_UTF8: 8, _LIST: 4, _LARGE_LIST: 8}
_CATEGORIES = re.compile(rb"0;0;(u8|u16|u32);")
"""What Polars says beside a column of texts with numbers."""

_INLINE = 12  # bytes of a text that a view holds itself
_SECONDS = 62_135_596_800  # so many before 1970 the years of a calendar begin
_UNITS = (1, 1_000, 1_000_000, 1_000_000_000)  # of times, in a second


class CompressedError(RequestError):
    """The body is compressed."""

    http_status = 415


class TooLargeError(RequestError):
    """A body holds more than a request may."""

    http_status = 413


@final
class TooManyRowsError(TooLargeError):
    """A body has more rows than a request may."""


@final
@dataclass(frozen=True, slots=True)
class _Field:
    """A column, or the elements of one: what its buffers must be.

    Attributes:
        kind: number of its type.
        bits: of a value, 0 where these vary.
        elements: of a list.
        size: of each list of a fixed size.
        dictionary: the id of the dictionary whose entries the values number, or None.
        texts: kind of the dictionary's texts.
        most: how far from 1970 a time may be, in its unit; 0: it is none.
    """

    kind: int
    bits: int
    elements: _Field | None = None
    size: int = 0
    dictionary: int | None = None
    texts: int = 0
    most: int = 0


def check_stream(body: bytes, most_rows: int) -> None:
    """Checks a stream.

    Raises:
        RequestError: it is damaged, or has columns of types that no key and no context has.
        CompressedError: it is compressed.
        TooLargeError: it has more rows or texts than a request may.
    """
    try:
        checked = _Checked(body, most_rows)
        for kind, header, begin, end in _messages(body):
            checked.message(kind, header, begin, end)
        checked.finish()
    except (struct.error, ValueError, IndexError, OverflowError, RecursionError) as error:
        raise RequestError(f"not an Arrow IPC stream: {error}", where="body") from None


def _messages(body: bytes) -> Iterator[tuple[int, FlatTable, int, int]]:
    """The kind and header of each message, and where what follows it begins and ends."""
    at = 0
    while at < len(body):
        (size,) = struct.unpack_from("<i", body, at)
        at += 4
        if size == -1:
            (size,) = struct.unpack_from("<i", body, at)
            at += 4
        if size == 0:
            return
        if size < 0 or size > len(body) - at:
            raise ValueError("a header is longer than the stream")
        message = FlatTable.root(body[at : at + size])
        at += size
        length = message.number(3, "<q")
        if length < 0 or length > len(body) - at:
            raise ValueError("the stream ends early")
        yield message.number(1, "<B"), message.table(2), at, at + length
        at += length


@final
class _Checked:
    """What was seen of a stream."""

    def __init__(self, body: bytes, most_rows: int) -> None:
        self._body, self._most_rows = body, most_rows
        self._fields: list[_Field] | None = None
        self._dictionaries: dict[int, Int64s] = {}  # of each the lengths of its texts
        self._rows = self._text = 0

    def message(self, kind: int, header: FlatTable, begin: int, end: int) -> None:
        if kind == _SCHEMA and self._fields is None:
            if header.number(0, "<h"):
                raise ValueError("its numbers are big-endian")
            self._fields = [_field(column) for column in header.tables(1)]
        elif kind == _BATCH and self._fields is not None:
            self._rows += header.number(0, "<q")
            if self._rows > self._most_rows:
                raise TooManyRowsError(
                    f"got {self._rows:,} rows, expected at most {self._most_rows:,}",
                    where="body",
                    hint="ask in several calls",
                )
            buffers = _Buffers(self._body, begin, end, header)
            for field in self._fields:
                self._count(self._column(buffers, field, header.number(0, "<q")))
            buffers.finish()
        elif kind == _DICTIONARY and self._fields is not None:
            self._dictionary(header, begin, end)
        else:
            raise ValueError("its messages are not a schema, dictionaries and record batches")

    def finish(self) -> None:
        if self._fields is None:
            raise ValueError("it has no schema")

    def _dictionary(self, header: FlatTable, begin: int, end: int) -> None:
        number, values = header.number(0, "<q"), header.table(1)
        texts = next((f.texts for f in self._fields or () if f.dictionary == number), None)
        if texts is None or number in self._dictionaries or header.number(2, "<B"):
            raise ValueError("a dictionary is of no column, or comes in parts")
        buffers = _Buffers(self._body, begin, end, values)
        self._dictionaries[number] = self._column(buffers, _Field(texts, 0), values.number(0, "<q"))
        buffers.finish()

    def _count(self, lengths: Int64s) -> None:
        self._text += int(lengths.sum())
        if self._text > MOST_TEXT:
            raise TooLargeError(
                f"its texts hold more than {MOST_TEXT:,} bytes", where="body", hint="ask in several calls"
            )

    def _column(self, buffers: _Buffers, field: _Field, rows: int) -> Int64s:
        """Checks the buffers of a column; the lengths of its texts."""
        there = buffers.validity(rows)
        if field.kind in (_UTF8, _LARGE_UTF8):
            offsets = buffers.offsets(rows, _WIDTHS[field.kind])
            if offsets[-1] > len(buffers.next()):
                raise ValueError("a text ends after the column's bytes")
            return np.diff(offsets)
        if field.kind == _UTF8_VIEW:
            return buffers.views(rows)
        if field.elements is not None:
            inner = rows * field.size
            if field.kind != _FIXED_LIST:
                inner = int(buffers.offsets(rows, _WIDTHS[field.kind])[-1])
            return self._column(buffers, field.elements, inner)
        values = buffers.next()
        if len(values) * 8 < rows * field.bits:
            raise ValueError("a column has fewer values than rows")
        if field.most:
            times = np.frombuffer(values, f"<i{field.bits // 8}", rows)[there].astype(np.int64)
            if len(times) and (times.min() < -field.most or times.max() > field.most):
                raise ValueError("a time is of no year from 1 to 3938")
        if field.dictionary is None:
            return np.zeros(0, np.int64)
        return self._chosen(field, values, there, rows)

    def _chosen(
        self, field: _Field, values: memoryview, there: np.ndarray[tuple[int], np.dtype[np.bool_]], rows: int
    ) -> Int64s:
        """The lengths of the texts that a column names."""
        form = np.dtype(f"<{'u' if field.size else 'i'}{field.bits // 8}")
        places = np.frombuffer(values, form, rows)[there].astype(np.int64)
        lengths = self._dictionaries.get(field.dictionary or 0, np.zeros(0, np.int64))
        if len(places) and not 0 <= places.min() <= places.max() < len(lengths):
            raise ValueError("a value is of no entry of its dictionary")
        return lengths[places]


def _field(column: FlatTable) -> _Field:
    """What is known about a column from its header.

    Raises:
        RequestError: its type is one that no key and no context has.
    """
    field = _plain_field(column)
    if not column.has(4):
        return field
    encoding = column.table(4)
    if field.kind not in (_UTF8, _LARGE_UTF8, _UTF8_VIEW):
        raise _unknown("dictionary of what is no text")
    index = encoding.table(1) if encoding.has(1) else None
    bits = 32 if index is None else index.number(0, "<i")
    is_unsigned = index is not None and not index.number(1, "<B")
    if bits not in (8, 16, 32, 64):
        raise _unknown(f"dictionary by integers of {bits} bits")
    return _Field(_INT, bits, size=int(is_unsigned), dictionary=encoding.number(0, "<q"), texts=field.kind)


def _plain_field(column: FlatTable) -> _Field:
    kind, inner = column.number(2, "<B"), column.tables(5)
    for entry in column.tables(6):
        name, value = entry.text(0), entry.text(1)
        if name.startswith((b"_PL", b"ARROW:")) and not (
            _CATEGORIES.fullmatch(value)
            if name == b"_PL_CATEGORICAL2"
            else name == b"_PL_ENUM_VALUES2" and _is_enum(value)
        ):
            raise _unknown("of an extension")
    described = column.table(3)
    if kind == _INT and described.number(0, "<i") in (8, 16, 32, 64):
        return _Field(kind, described.number(0, "<i"))
    if kind == _FLOAT and 0 <= described.number(0, "<h") < len(_FLOAT_BITS):
        return _Field(kind, _FLOAT_BITS[described.number(0, "<h")])
    if kind in (_UTF8, _LARGE_UTF8, _UTF8_VIEW):
        return _Field(kind, 0)
    if kind == _BOOL:
        return _Field(kind, 1)
    if kind == _TIMESTAMP and 0 <= described.number(0, "<h") < len(_UNITS):
        return _Field(kind, 64, most=min(_SECONDS * _UNITS[described.number(0, "<h")], (1 << 63) - 1))
    if kind == _DATE:
        is_days = described.number(0, "<h", 1) == 0
        return _Field(kind, 32, most=_SECONDS // 86_400) if is_days else _Field(kind, 64, most=_SECONDS * 1_000)
    if kind in (_LIST, _LARGE_LIST, _FIXED_LIST) and len(inner) == 1:
        elements, size = _plain_field(inner[0]), described.number(0, "<i") if kind == _FIXED_LIST else 0
        if elements.kind in (_INT, _FLOAT) and not inner[0].has(4) and size >= 0:
            return _Field(kind, 0, elements, size)
    raise _unknown(str(kind))


def _is_enum(value: bytes) -> bool:
    """Whether this is what Polars says beside texts of a fixed list: each of it after its length; none twice."""
    texts, at = list[bytes](), 0
    while at < len(value):
        digits, colon, _ = value[at : at + 8].partition(b";")
        if not colon or not digits.isdigit():
            return False
        begin = at + len(digits) + 1
        at = begin + int(digits)
        texts.append(value[begin:at])
        if at > len(value) or not _is_text(texts[-1]):
            return False
    return len(set(texts)) == len(texts)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _unknown(kind: str) -> RequestError:
    return RequestError(
        f"a column has the Arrow type {kind}, expected integers of at most 64 bits, floats, texts, booleans, times or "
        "lists of numbers",
        where="body",
    )


@final
class _Buffers:
    """The buffers of a record batch, one after the other."""

    def __init__(self, body: bytes, begin: int, end: int, header: FlatTable) -> None:
        if header.has(3):
            raise CompressedError("the body is compressed, expected it as it is", where="body")
        self._bytes = memoryview(body)[begin:end]
        self._nodes, self._spans = header.numbers(1, 2).tolist(), header.numbers(2, 2).tolist()
        self._more = header.numbers(4)[:, 0].tolist()
        self._nodes.reverse()
        self._spans.reverse()
        self._more.reverse()

    def next(self) -> memoryview:
        """The bytes of the next buffer."""
        begin, length = self._spans.pop()
        if begin < 0 or length < 0 or begin + length > len(self._bytes):
            raise ValueError("a buffer is outside its message")
        return self._bytes[begin : begin + length]

    def validity(self, rows: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """[rows] which values are there."""
        length, nulls = self._nodes.pop()
        if length != rows or rows < 0 or not 0 <= nulls <= rows:
            raise ValueError("a column has another number of rows than its batch")
        bits = self.next()
        if nulls == 0 and not len(bits):
            return np.ones(rows, np.bool_)
        if len(bits) * 8 < rows:
            raise ValueError("a column does not say of each row whether it is null")
        there = np.unpackbits(np.frombuffer(bits, np.uint8), count=rows, bitorder="little").astype(np.bool_)
        if rows - np.count_nonzero(there) != nulls:
            raise ValueError("a column has another number of nulls than it says")
        return there

    def offsets(self, rows: int, width: int) -> Int64s:
        """[rows + 1] where each value begins, ascending."""
        data = self.next()
        if not rows and not len(data):
            return np.zeros(1, np.int64)
        if len(data) < (rows + 1) * width:
            raise ValueError("a column has fewer values than rows")
        offsets = np.frombuffer(data, f"<i{width}", rows + 1).astype(np.int64)
        if offsets[0] < 0 or (np.diff(offsets) < 0).any():
            raise ValueError("a value ends before it begins")
        return offsets

    def views(self, rows: int) -> Int64s:
        """[rows] the lengths of texts that are views of several buffers."""
        data = self.next()
        if len(data) < rows * 16:
            raise ValueError("a column has fewer values than rows")
        words = np.frombuffer(data, "<i4", rows * 4).reshape(rows, 4).astype(np.int64)
        count = self._more.pop() if self._more else 0
        if not 0 <= count <= len(self._spans):
            raise ValueError("a column has more buffers than its message")
        sizes = np.array([len(self.next()) for _ in range(count)], np.int64)
        lengths, outside = words[:, 0], words[:, 0] > _INLINE
        far = words[outside]
        if (lengths < 0).any() or (far[:, 2] < 0).any() or (far[:, 2] >= count).any() or (far[:, 3] < 0).any():
            raise ValueError("a text is in no buffer")
        if len(far) and (far[:, 3] + far[:, 0] > sizes[far[:, 2]]).any():
            raise ValueError("a text ends after its buffer")
        return lengths

    def finish(self) -> None:
        """Raises `ValueError` where something is left."""
        if self._nodes or self._spans:
            raise ValueError("a record batch has more columns than the schema")
