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
from bedplate.sources.base import TIME, check_keys, check_times
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


def prepare_rows(view: CompiledView, raw: pl.LazyFrame, only: Sequence[int] | None = None) -> Rows:
    """The rows of a part of a view's source: all of it, or a micro-batch.

    Args:
        view: the compiled view.
        raw: rows as the table holds them, before the source's cleaning step.
        only: the positions of the selections wanted, in the order in which they are given back; None: all.

    Raises:
        DataError: rows that can't be read, a null or impossible time, a null key, an infinite number, an integer beyond
            int64.
    """
    source, definition = view.view.source, view.view
    events = source.events(raw)
    if definition.where is not None:
        events = events.filter(definition.where)
    keys = [pl.col(e.key).alias(f"key {i}") for i, e in enumerate(definition.entities)]
    wanted = range(len(view.selections)) if only is None else only
    inputs = [
        expression.alias(f"selection {s} {i}")
        for s in wanted
        for i, expression in enumerate(view.selections[s].expressions)
    ]
    try:
        frame = events.select(pl.col(TIME), *keys, *inputs).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"can't read the rows: {error}",
            where=f"{view.place}, source '{source.name}'",
            hint="every file of the table must be whole and have the same columns, and every value fit the expressions",
        ) from error
    check_times(frame, source)
    check_keys(frame, [f"key {i}" for i in range(len(keys))], source, view.place)
    key_texts = tuple(dict[int, str]() if kind is Type.STRING else None for kind in view.key_types)
    columns = [encode(frame[f"key {i}"], texts) for i, texts in enumerate(key_texts)]
    return Rows(
        times=np.ascontiguousarray(frame[TIME].to_numpy()),
        keys=np.stack(columns, axis=1) if len(columns) > 1 else columns[0].reshape(-1, 1),
        selections=tuple(_selected(view, frame, s) for s in wanted),
        key_texts=key_texts,
    )


def _selected(view: CompiledView, frame: pl.DataFrame, index: int) -> SelectedValues:
    selection, kinds = view.selections[index], view.types[index]
    valid: pl.Series | None = None
    if selection.where is not None:
        valid = frame[f"selection {index} {len(kinds)}"].fill_null(value=False)
    arrays: list[Array] = []
    texts: list[TextLookup | None] = []
    for i, kind in enumerate(kinds):
        series = frame[f"selection {index} {i}"]
        if series.null_count() or kind is Type.FLOAT:
            there = series.is_not_null()
            if kind is Type.FLOAT:
                series = series.cast(pl.Float64)
                there = there & series.is_not_nan().fill_null(value=False)
                _check_finite(view, series, str(selection.inputs[i]))
            if not there.all():
                valid = there if valid is None else valid & there
        known: dict[int, str] | None = {} if kind is Type.STRING else None
        arrays.append(_array(series, kind, known))
        texts.append(known)
    mask = None if valid is None or valid.all() else valid.to_numpy()
    return SelectedValues(mask, tuple(arrays), tuple(texts))


def _array(series: pl.Series, kind: Type, texts: dict[int, str] | None) -> Array:
    if kind is Type.FLOAT:
        return np.ascontiguousarray(series.fill_null(0.0).to_numpy())
    if kind is Type.BOOL:
        return np.ascontiguousarray(series.fill_null(value=False).to_numpy())
    if kind is Type.STRING:
        filled = series.cast(pl.String)
        if not filled.null_count():
            return encode(filled, texts)
        result = np.zeros(len(filled), np.int64)
        result[filled.is_not_null().to_numpy()] = encode(filled.drop_nulls(), texts)
        return result
    if kind is Type.TIME:
        return np.ascontiguousarray(series.dt.epoch("us").fill_null(0).to_numpy())
    return np.ascontiguousarray(series.cast(pl.Int64).fill_null(0).to_numpy())


def _check_finite(view: CompiledView, series: pl.Series, expression: str) -> None:
    infinite = series.is_infinite().fill_null(value=False)
    if infinite.any():
        raise DataError(
            f"{infinite.sum():,} infinite values in {expression}, the first in row {infinite.arg_max():,}",
            where=f"{view.place}, source '{view.view.source.name}'",
            hint="an infinite number can't be summed; make it null in the row expression",
        )
