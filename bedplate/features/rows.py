"""Prepared rows: events of a view after its cleaning step, its condition and its row expressions.

History and the stream worker both go through `prepare_rows`; there is no other way from an event to the values that are
aggregated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import polars as pl

from bedplate.batch import TextLookup
from bedplate.errors import DataError
from bedplate.features.entity import encode
from bedplate.features.view import CompiledView
from bedplate.sources.base import TIME
from bedplate.sources.events import RowName, read_events, row_text
from bedplate.types import Array, Bools, Int64s, Type


@final
@dataclass(frozen=True, slots=True)
class SelectedValues:
    """The values of one selection for n rows.

    Attributes:
        valid: [n] which rows count; None: all.
        inputs: one array [n] an input, of the input type's dtype; arbitrary where not valid.
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
    """

    times: Int64s
    keys: Int64s
    selections: tuple[SelectedValues, ...]
    key_texts: tuple[TextLookup | None, ...] = ()

    def __len__(self) -> int:
        """The number of events."""
        return len(self.times)


@final
@dataclass(frozen=True, slots=True)
class GroupedRows:
    """Events of k keys, sorted by (key, time, arrival): what the as-of index hands to an online store's bulk load.

    Attributes:
        keys: [k, entities] int64, in ascending order.
        offsets: [k + 1] int64; the events of key i are `offsets[i]` to `offsets[i + 1]`.
        times: [n] int64 microseconds, ascending within a key.
        selections: one for each of the view's selections, of n rows.
        key_texts: for each entity with string keys, the text behind each id.
    """

    keys: Int64s
    offsets: Int64s
    times: Int64s
    selections: tuple[SelectedValues, ...]
    key_texts: tuple[TextLookup | None, ...] = ()


def prepare_rows(
    view: CompiledView, raw: pl.LazyFrame, only: Sequence[int] | None = None, name: RowName | None = None
) -> Rows:
    """The rows of a part of a view's source: all of it, or a micro-batch.

    Args:
        view: the compiled view.
        raw: rows as the table holds them, before the source's cleaning step.
        only: the positions of the selections wanted, in the order in which they are given back; None: all.
        name: what a message calls a row of `raw`; None: it is the source's whole table.

    Raises:
        DataError: rows that can't be read, a null or impossible time, a null key, an infinite number, an integer beyond
            int64.
    """
    source, definition = view.view.source, view.view
    keys = {f"key {i}": e.key for i, e in enumerate(definition.entities)}
    wanted = range(len(view.selections)) if only is None else only
    inputs = [
        expression.alias(f"selection {s} {i}")
        for s in wanted
        for i, expression in enumerate(view.selections[s].expressions)
    ]
    name = name or source.table(view.root).row_name
    frame = read_events(
        source,
        raw,
        [*(pl.col(column).alias(alias) for alias, column in keys.items()), *inputs],
        keys=keys,
        place=view.place,
        name=name,
        where=definition.where,
    )
    key_texts = tuple(dict[int, str]() if kind is Type.STRING else None for kind in view.key_types)
    columns = [encode(frame.drop_in_place(f"key {i}"), texts) for i, texts in enumerate(key_texts)]
    times = np.ascontiguousarray(frame.drop_in_place(TIME).to_numpy())

    def row(position: int) -> str:
        return row_text(source, raw, pl.Series(times), position, name=name, where=definition.where)

    return Rows(
        times=times,
        keys=np.stack(columns, axis=1) if len(columns) > 1 else columns[0].reshape(-1, 1),
        selections=tuple(_selected(view, frame, s, row) for s in wanted),
        key_texts=key_texts,
    )


def _selected(view: CompiledView, frame: pl.DataFrame, index: int, row: RowName) -> SelectedValues:
    """The values of one selection; its columns are taken out of the frame, so that no column is held twice."""
    selection, kinds = view.selections[index], view.types[index]
    valid: Bools | None = None
    if selection.where is not None:
        condition = frame.drop_in_place(f"selection {index} {len(kinds)}")
        valid = (condition.fill_null(value=False) if condition.null_count() else condition).to_numpy()
    arrays: list[Array] = []
    texts: list[TextLookup | None] = []
    for i, kind in enumerate(kinds):
        known: dict[int, str] | None = {} if kind is Type.STRING else None
        place = f"{view.place}, source '{view.view.source.name}', {selection.inputs[i]}"
        array, there = _array(frame.drop_in_place(f"selection {index} {i}"), kind, known, place, row)
        if there is not None:
            valid = there if valid is None else valid & there
        arrays.append(array)
        texts.append(known)
    return SelectedValues(None if valid is None or valid.all() else valid, tuple(arrays), tuple(texts))


def _array(
    series: pl.Series, kind: Type, texts: dict[int, str] | None, place: str, row: RowName
) -> tuple[Array, Bools | None]:
    """A column as an array, and which values are there (None: all); the others are 0."""
    if kind is Type.FLOAT:
        return _floats(series.cast(pl.Float64).to_numpy(), place, row)
    there: Bools | None = series.is_not_null().to_numpy() if series.null_count() else None
    if kind is Type.BOOL:
        whole = series if there is None else series.fill_null(value=False)
        return np.ascontiguousarray(whole.to_numpy()), there
    if there is None:
        return encode(series, texts), None
    result = np.zeros(len(series), np.int64)
    result[there] = encode(series.drop_nulls(), texts)
    return result, there


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
            hint="an infinite number can't be summed; make it null in the row expression",
        )
    return np.where(there, values, 0.0), there
