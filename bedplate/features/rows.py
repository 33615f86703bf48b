"""Prepared rows: events of a view after its cleaning step, its condition and its row expressions.

History and the stream worker both go through `prepare_rows`; there is no other way from an event to the values that are
aggregated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np
import polars as pl

from bedplate.aggregations.attribute import Attribute
from bedplate.aggregations.text import shown_expression
from bedplate.batch import TextLookup
from bedplate.errors import DataError
from bedplate.features.decimals import decimals_as_floats
from bedplate.features.entity import encode
from bedplate.features.vectors import matrix_of, wrong_vectors
from bedplate.features.view import CompiledView
from bedplate.overlap import overlapped
from bedplate.sources.base import AVAILABLE, SEQUENCE, TIME, UNREADABLE
from bedplate.sources.events import RowName, check_events, check_unit, event_query, read_events, row_text
from bedplate.types import LATEST_TIME, Array, Bools, Int64s, Type, likely_unit

Span: TypeAlias = "tuple[int | None, int | None]"
"""A range of event times: from the first to before the second, microseconds; None: without end."""

Put: TypeAlias = Callable[[Array, Array], None]
"""Fills the second array with the rows of the first one in some order."""

_PIECE = 1 << 17
"""Rows of a table that are read at once."""


@final
@dataclass(frozen=True, slots=True)
class SelectedValues:
    """The values of one selection for n rows.

    Attributes:
        valid: [n] which rows count; None: all.
        inputs: one array [n] an input (of vectors [n, width]), of the input type's dtype; arbitrary where not valid.
        texts: for each input that is a string, the text behind each id; None for the others.
    """

    valid: Bools | None
    inputs: tuple[Array, ...]
    texts: tuple[TextLookup | None, ...]


@final
@dataclass(frozen=True, slots=True)
class Rows:
    """n events in their order of arrival.

    Attributes:
        times: [n] int64 microseconds.
        keys: [n, entities] int64.
        selections: one for each of the view's selections.
        key_texts: for each entity with string keys, the text behind each id.
        known: [n] int64 microseconds, when each event could be known, never before its time; None: the source does not
            say by row.
        sequence: [n] int64, the order of events of equal time; None: the source declares none.
    """

    times: Int64s
    keys: Int64s
    selections: tuple[SelectedValues, ...]
    key_texts: tuple[TextLookup | None, ...] = ()
    known: Int64s | None = None
    sequence: Int64s | None = None

    @property
    def visible(self) -> Int64s:
        """[n] int64 microseconds: after which time each event counts, apart from a delay."""
        return self.times if self.known is None else self.known

    @property
    def ties(self) -> tuple[Int64s, ...]:
        """What orders events of equal time, the first of it first; then they are in order of arrival."""
        return tuple(x for x in (self.sequence, self.known) if x is not None)

    def order(self) -> Int64s:
        """[n] the events in order of key, time, what orders ties, and arrival."""
        return np.lexsort((*self.ties[::-1], self.times, *self.keys.T[::-1]))

    def where(self, kept: Bools) -> Rows:
        """The events that are marked."""
        return Rows(
            times=self.times[kept],
            keys=self.keys[kept],
            selections=tuple(
                SelectedValues(None if s.valid is None else s.valid[kept], tuple(i[kept] for i in s.inputs), s.texts)
                for s in self.selections
            ),
            key_texts=self.key_texts,
            known=None if self.known is None else self.known[kept],
            sequence=None if self.sequence is None else self.sequence[kept],
        )

    def __len__(self) -> int:
        """The number of events."""
        return len(self.times)


@final
@dataclass(frozen=True, slots=True)
class GroupedRows:
    """Events of k keys, sorted by (key, time, ties, arrival), for the bulk load of an online store.

    Attributes:
        keys: [k, entities] int64, in ascending order.
        offsets: [k + 1] int64; the events of key i are `offsets[i]` to `offsets[i + 1]`.
        times: [n] int64 microseconds, ascending within a key.
        selections: one for each of the view's selections, of n rows.
        key_texts: for each entity with string keys, the text behind each id.
        known: as for `Rows`.
        sequence: as for `Rows`.
    """

    keys: Int64s
    offsets: Int64s
    times: Int64s
    selections: tuple[SelectedValues, ...]
    key_texts: tuple[TextLookup | None, ...] = ()
    known: Int64s | None = None
    sequence: Int64s | None = None

    @property
    def visible(self) -> Int64s:
        """As for `Rows`."""
        return self.times if self.known is None else self.known

    @property
    def ties(self) -> tuple[Int64s, ...]:
        """As for `Rows`."""
        return tuple(x for x in (self.sequence, self.known) if x is not None)


def prepare_rows(
    view: CompiledView,
    raw: pl.LazyFrame,
    only: Sequence[int] | None = None,
    name: RowName | None = None,
    span: Span | None = None,
) -> Rows:
    """The rows of a part of a view's source: all of it, or a micro-batch.

    Args:
        view: the compiled view.
        raw: rows as the table holds them, before the source's cleaning step.
        only: the positions of the selections wanted, in the order in which they are given back; None: all.
        name: what a message calls a row of `raw`; None: it is the source's whole table.
        span: only events in this range of times; None: all.

    Raises:
        DataError: rows that can't be read, a null or impossible time, a null key, an infinite number, an integer beyond
            int64.
    """
    name, where = name or view.view.source.table(view.root).row_name, _condition(view, raw, span)
    source = view.view.source
    columns, keys = _columns(view, only), _keys(view)
    try:
        frame = read_events(source, raw, columns, keys=keys, place=view.place, name=name, where=where)
    except DataError as error:
        if isinstance(error.__cause__, UNREADABLE):
            _check_given(view, raw, only, name, where)
        raise
    times = frame[TIME]

    def row(position: int) -> str:
        return row_text(source, raw, times, position, name=name, where=where)

    return _rows(view, frame, only, row)


def prepare_table(
    view: CompiledView,
    raw: pl.LazyFrame,
    rows: int,
    only: Sequence[int] | None = None,
    name: RowName | None = None,
    span: Span | None = None,
) -> Rows:
    """As `prepare_rows`, for a whole table: a large one is read in pieces, so that no part of it is held twice.

    Args:
        view: the compiled view.
        raw: rows as the table holds them.
        rows: about how many there are.
        only: as for `prepare_rows`.
        name: as for `prepare_rows`.
        span: as for `prepare_rows`.

    Raises:
        DataError: as `prepare_rows`.
    """
    joined = join_batches(view, raw, rows, only, span) if rows > _PIECE else None
    # Of rows that are wrong, a look at the whole table says how many they are, and which is the first.
    return prepare_rows(view, raw, only, name, span) if joined is None else joined


def join_batches(
    view: CompiledView,
    raw: pl.LazyFrame,
    rows: int,
    only: Sequence[int] | None,
    span: Span | None,
    arrange: Callable[[Rows], Put] | None = None,
) -> Rows | None:
    """All rows of a table, read in pieces; None: some are wrong, and `prepare_rows` says which.

    Args:
        view: the compiled view.
        raw: rows as the table holds them.
        rows: about how many there are.
        only: as for `prepare_rows`.
        span: as for `prepare_rows`.
        arrange: gives what puts the rows of each piece in order; None: they stay as they come.
    """
    joined = JoinedRows(view, rows, only)

    def add(batch: Rows) -> None:
        joined.add(batch, None if arrange is None else arrange(batch))

    try:
        overlapped(add, prepare_batches(view, raw, only, span))
        return joined.rows()
    except (DataError, *UNREADABLE):
        return None


def prepare_batches(
    view: CompiledView,
    raw: pl.LazyFrame,
    only: Sequence[int] | None = None,
    span: Span | None = None,
    at_once: int = _PIECE,
) -> Iterator[Rows]:
    """As `prepare_rows`, a batch of rows at a time; what is wrong is named by its place in its batch.

    Args:
        view: the compiled view.
        raw: as for `prepare_rows`.
        only: as for `prepare_rows`.
        span: as for `prepare_rows`.
        at_once: how many rows a batch has at most, about.

    Raises:
        DataError: as `prepare_rows`.
        Exception: one of `UNREADABLE`, for rows that can't be read.
    """
    source = view.view.source
    query = event_query(source, raw, _columns(view, only), _condition(view, raw, span))
    for frame in query.collect_batches(chunk_size=at_once):
        check_events(frame, source, raw, keys=_keys(view), place=view.place, row=str)
        yield _rows(view, frame, only, str)


def _check_given(
    view: CompiledView, raw: pl.LazyFrame, only: Sequence[int] | None, name: RowName, where: pl.Expr | None
) -> None:
    """Looks for what makes the input of an aggregation fail, such as the bucket of an infinite number.

    Raises:
        DataError: there is an infinite number.
    """
    source = view.view.source
    for given in [g for s in _wanted(view, only) if (g := view.selections[s].given) is not None]:
        try:
            frame = event_query(source, raw, [given.cast(pl.Float64).alias("given")], where).collect()
        except UNREADABLE:
            continue

        def row(position: int, times: pl.Series = frame[TIME]) -> str:
            return row_text(source, raw, times, position, name=name, where=where)

        _floats(frame["given"].to_numpy(), f"{view.place}, source '{source.name}', {shown_expression(given)}", row)


def _condition(view: CompiledView, raw: pl.LazyFrame, span: Span | None) -> pl.Expr | None:
    """The view's condition and the range of times; a row without a time is kept, to be found."""
    where = view.view.where
    if span is None or span == (None, None):
        return where
    inside = view.view.source.during(raw, *span)
    return inside if where is None else inside & where


def _keys(view: CompiledView) -> dict[str, str]:
    return {f"key {i}": e.key for i, e in enumerate(view.view.entities)}


def _columns(view: CompiledView, only: Sequence[int] | None) -> list[pl.Expr]:
    """Keys and selections."""
    inputs = [
        expression.alias(f"selection {s} {i}")
        for s in _wanted(view, only)
        for i, expression in enumerate(view.selections[s].expressions)
    ]
    return [*(pl.col(column).alias(alias) for alias, column in _keys(view).items()), *inputs]


def _wanted(view: CompiledView, only: Sequence[int] | None) -> Sequence[int]:
    return range(len(view.selections)) if only is None else only


def _rows(view: CompiledView, frame: pl.DataFrame, only: Sequence[int] | None, row: RowName) -> Rows:
    """Checked rows as arrays; columns are taken out of the frame, so that none is held twice."""
    key_texts = tuple(dict[int, str]() if kind is Type.STRING else None for kind in view.key_types)
    columns = [encode(frame.drop_in_place(f"key {i}"), texts) for i, texts in enumerate(key_texts)]
    times = np.ascontiguousarray(frame.drop_in_place(TIME).to_numpy())
    source = view.view.source
    return Rows(
        times=times,
        known=None if source.available is None else np.maximum(times, frame.drop_in_place(AVAILABLE).to_numpy()),
        sequence=None if source.sequence is None else np.ascontiguousarray(frame.drop_in_place(SEQUENCE).to_numpy()),
        keys=np.stack(columns, axis=1) if len(columns) > 1 else columns[0].reshape(-1, 1),
        selections=tuple(_selected(view, frame, s, row) for s in _wanted(view, only)),
        key_texts=key_texts,
    )


@final
class RowsColumn:
    """An array that grows by pieces; room that is never filled takes no memory.

    Args:
        shape: of the array as it is expected to become.
        dtype: of its values.
    """

    __slots__ = ("_array", "_used")

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self._array, self._used = np.empty(shape, dtype), 0

    def add(self, piece: Array, put: Put | None = None) -> None:
        """Appends rows, as they stand or as `put` gives them."""
        room = self.room(len(piece))
        if put is None:
            room[...] = piece
        else:
            put(piece, room)

    def room(self, rows: int) -> Array:
        """Room for so many rows more, to be filled."""
        start, stop = self._used, self._used + rows
        if stop > len(self._array):
            wider = np.empty((2 * stop, *self._array.shape[1:]), self._array.dtype)
            wider[:start] = self._array[:start]
            self._array = wider
        self._used = stop
        return self._array[start:stop]

    def array(self) -> Array:
        """The rows."""
        return self._array[: self._used]


@final
class JoinedRows:
    """The rows of many batches.

    Args:
        view: the compiled view.
        rows: about how many rows there will be.
        only: as for `prepare_rows`.
    """

    def __init__(self, view: CompiledView, rows: int, only: Sequence[int] | None) -> None:
        wanted = _wanted(view, only)
        self._expected, self._rows = rows, 0
        self._times = RowsColumn((rows,), np.int64)
        source = view.view.source
        self._known = None if source.available is None else RowsColumn((rows,), np.int64)
        self._sequence = None if source.sequence is None else RowsColumn((rows,), np.int64)
        self._keys = RowsColumn((rows, len(view.key_types)), np.int64)
        self._inputs = [[RowsColumn((rows, *kind.shape), kind.dtype) for kind in view.types[s]] for s in wanted]
        self._valid: list[RowsColumn | None] = [None for _ in wanted]
        self._key_texts = [dict[int, str]() if kind is Type.STRING else None for kind in view.key_types]
        self._texts = [[dict[int, str]() if k is Type.STRING else None for k in view.types[s]] for s in wanted]

    def add(self, piece: Rows, put: Put | None = None) -> None:
        """Copies the rows of a piece.

        Args:
            piece: the rows.
            put: puts them in order; None: they stay as they stand.

        Raises:
            DataError: two different strings have the same id.
        """
        self._times.add(piece.times, put)
        for column, values in ((self._known, piece.known), (self._sequence, piece.sequence)):
            if column is not None and values is not None:
                column.add(values, put)
        self._keys.add(piece.keys, put)
        _add_texts(self._key_texts, piece.key_texts)
        for s, selected in enumerate(piece.selections):
            self._add_valid(s, len(piece), selected.valid, put)
            _add_texts(self._texts[s], selected.texts)
            for column, values in zip(self._inputs[s], selected.inputs, strict=True):
                column.add(values, put)

        self._rows += len(piece)

    def _add_valid(self, selection: int, rows: int, valid: Bools | None, put: Put | None) -> None:
        """Takes which rows of a selection count; nothing is kept as long as all do."""
        known = self._valid[selection]
        if known is None and valid is not None:
            known = self._valid[selection] = RowsColumn((max(self._expected, self._rows + rows),), np.bool_)
            known.room(self._rows)[...] = True
        if known is not None and valid is None:
            known.room(rows)[...] = True
        elif known is not None and valid is not None:
            known.add(valid, put)

    def rows(self) -> Rows:
        """All rows."""
        valid = [None if v is None else v.array() for v in self._valid]
        return Rows(
            times=self._times.array(),
            known=None if self._known is None else self._known.array(),
            sequence=None if self._sequence is None else self._sequence.array(),
            keys=self._keys.array(),
            selections=tuple(
                SelectedValues(None if v is None or v.all() else v, tuple(i.array() for i in inputs), tuple(texts))
                for v, inputs, texts in zip(valid, self._inputs, self._texts, strict=True)
            ),
            key_texts=tuple(self._key_texts),
        )


def _add_texts(known: Sequence[dict[int, str] | None], found: Sequence[TextLookup | None]) -> None:
    for old, new in zip(known, found, strict=True):
        if old is not None and new is not None:
            if any(old[i] != new[i] for i in old.keys() & new.keys()):
                raise DataError("two different strings have the same 64-bit id")
            old.update(new)


def _selected(view: CompiledView, frame: pl.DataFrame, index: int, row: RowName) -> SelectedValues:
    """The values of one selection; its columns are taken out of the frame, so that no column is held twice."""
    selection, kinds = view.selections[index], view.types[index]
    valid: Bools | None = None
    if selection.where is not None:
        condition = frame.drop_in_place(f"selection {index} {len(kinds)}")
        valid = (condition.fill_null(value=False) if condition.null_count() else condition).to_numpy()
    arrays: list[Array] = []
    texts: list[TextLookup | None] = []
    missing: Bools | None = None
    for i, kind in enumerate(kinds):
        known: dict[int, str] | None = {} if kind is Type.STRING else None
        place = f"{view.place}, source '{view.view.source.name}', {selection.inputs[i]}"
        series = frame.drop_in_place(f"selection {index} {i}")
        if selection.keeps_null and kind is Type.STRING:
            series = series.cast(pl.String).fill_null("")
        array, there = _array(series, kind, known, place, row)
        if there is not None and selection.keeps_null:
            missing = ~there
        elif there is not None:
            valid = there if valid is None else valid & there
        arrays.append(array)
        texts.append(known)
    if missing is not None:
        arrays[-1] = np.where(missing, 0, arrays[-1])
    if selection.keeps_null:
        _check_ends(view, index, arrays[-1])
    return SelectedValues(None if valid is None or valid.all() else valid, tuple(arrays), tuple(texts))


def _check_ends(view: CompiledView, index: int, ends: Int64s) -> None:
    """Checks that the times at which rows of an entity table end can be microseconds, where their column has integers.

    Raises:
        DataError: they must be seconds or milliseconds.
    """
    said = ends[(ends > 0) & (ends < LATEST_TIME)]
    if not len(said) or likely_unit(int(said.max())) is None:
        return
    form, source = view.selections[index].form, view.view.source
    attributes = [a for a in view.view.features.values() if isinstance(a, Attribute) and a.selection.form == form]
    for column in [a.valid_to for a in attributes if a.valid_to is not None]:
        check_unit(int(said.max()), source, source.table(view.root).scan(), column)


def _array(
    series: pl.Series, kind: Type, texts: dict[int, str] | None, place: str, row: RowName
) -> tuple[Array, Bools | None]:
    """A column as an array, and which values are there (None: all); the others are 0."""
    if kind is Type.FLOAT:
        floats = decimals_as_floats(series, place, row) if series.dtype.is_decimal() else series.cast(pl.Float64)
        return _floats(floats.to_numpy(), place, row)
    if kind.width:
        return _vectors(series, place, row)
    there: Bools | None = series.is_not_null().to_numpy() if series.null_count() else None
    if kind is Type.BOOL:
        whole = series if there is None else series.fill_null(value=False)
        return np.ascontiguousarray(whole.to_numpy()), there
    if there is None:
        return encode(series, texts), None
    result = np.zeros(len(series), np.int64)
    result[there] = encode(series.drop_nulls(), texts)
    return result, there


def _vectors(series: pl.Series, place: str, row: RowName) -> tuple[Array, Bools | None]:
    """Vectors, and which are there.

    Raises:
        DataError: one is of another length, or has an infinite number in it.
    """
    values, there = matrix_of(series)
    wrong = wrong_vectors(values)
    if wrong is not None:
        raise DataError(
            f"{np.count_nonzero(wrong[0]):,} rows hold no vector of {values.shape[1]} numbers: {wrong[1]} is in "
            f"{row(int(wrong[0].argmax()))}",
            where=place,
            hint="repair the rows, or make them null in the row expression: a null is no vector",
        )
    return values, there


def _floats(values: Array, place: str, row: RowName) -> tuple[Array, Bools | None]:
    """Floats in which NaN, which nulls have become too, is not there.

    Raises:
        DataError: one is infinite.
    """
    there: Bools = np.isfinite(values)
    if there.all():
        return np.ascontiguousarray(values), None
    infinite: Bools = np.isinf(values)
    if infinite.any():
        raise DataError(
            f"{np.count_nonzero(infinite):,} infinite values, the first in {row(int(infinite.argmax()))}",
            where=place,
            hint="no sum, mean or quantile can be taken of it; make it null in the row expression",
        )
    return np.where(there, values, 0.0), there
