"""The layout of a training set in files: which column of a batch is which column of Parquet, and back, value by value.

A part is two tables. `requests` has a row for each request, `items` one for each candidate, those of a request together
and in the order of the requests; both have `request_id`. A feature is in the table of its level, under its full name.
Ids of texts are hashes, 64 bits wide; the text behind each is in a column of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import msgspec
import numpy as np
import polars as pl

from bedplate.batch import (
    CANDIDATE,
    KEY,
    LABEL,
    REQUEST_ID,
    TIME,
    WEIGHT,
    Batch,
    Column,
    Dense,
    Embedding,
    Ids,
    Ragged,
    TextLookup,
    column_to_series,
    known_texts,
)
from bedplate.datasets.dataset import CompiledDataset
from bedplate.datasets.negatives import LOG_Q, SAMPLED
from bedplate.errors import DefinitionError
from bedplate.features.assemble import Join
from bedplate.features.encoding import Level
from bedplate.features.entity import encode
from bedplate.features.vectors import matrix_of
from bedplate.types import Array, Bools, Int64s, Type

BATCH, ITEMS, REQUEST_TEXT, KEY_TEXT = "batch", "items", "request_text", "text."
"""The columns of `requests` before its features, beside `request_id`, `time`, and `key.ENTITY` for each entity of the
request: the number of the batch in its epoch, the number of candidates, and the texts behind ids and keys that are
texts, of an entity's keys in `text.ENTITY`."""

CANDIDATE_TEXT = "candidate_text"
"""The column of `items` beside `request_id`, `candidate` (the key), `label.NAME` for each label (null where it is not
known yet), `weight` where there are weights, and its features: the text behind a key that is one, where it is known."""


class WrittenColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A feature, or a column of the negatives, in a file.

    Attributes:
        name: of the column, the feature's full name.
        level: the table that it is in.
        type: of the value, or of a list's elements.
        is_list: whether the value is a list.
        is_single: whether a number has 32 bits. Such a one, of the negatives, means something where it is not present
            too: it is written as it is, and whether it is present in a column of its name and `?`.
    """

    name: str
    level: Level
    type: Type
    is_list: bool = False
    is_single: bool = False

    @property
    def dtype(self) -> pl.DataType:
        """The Polars type in the file."""
        if self.type.width:
            return pl.Array(pl.Float32(), self.type.width)
        inner: pl.DataType = {
            Type.INT: pl.Int64(),
            Type.FLOAT: pl.Float32() if self.is_single else pl.Float64(),
            Type.BOOL: pl.Boolean(),
            Type.STRING: pl.String(),
            Type.TIME: pl.Datetime("us", "UTC"),
        }[self.type]
        return pl.List(inner) if self.is_list else inner


def columns_of(compiled: CompiledDataset) -> tuple[WrittenColumn, ...]:
    """The columns of a dataset's batches.

    Raises:
        DefinitionError: a feature has the name of another column of the files.
    """
    levels = Join(compiled.selected, compiled.dataset.spine.item.name).levels
    found = [
        WrittenColumn(f.name, "request" if levels[f.name] else "item", f.type, f.is_list)
        for f in compiled.selected.features
    ]
    if compiled.negatives is not None:
        found += [WrittenColumn(LOG_Q, "item", Type.FLOAT, is_single=True), WrittenColumn(SAMPLED, "item", Type.BOOL)]
    taken = {REQUEST_ID, REQUEST_TEXT, TIME, BATCH, ITEMS, CANDIDATE, CANDIDATE_TEXT, WEIGHT}
    taken |= {f"{LABEL}{label.label.name}" for label in compiled.labels}
    taken |= {f"{prefix}{e.name}" for e in compiled.dataset.spine.entities for prefix in (KEY, KEY_TEXT)}
    wrong = [c.name for c in found if c.name in taken]
    if wrong:
        raise DefinitionError(
            f"the feature '{wrong[0]}' has the name of another column of a training set's files",
            where=compiled.dataset.place,
            hint="rename the feature",
        )
    return tuple(found)


@final
class Layout:
    """From batches to the two tables of a part, and back.

    Args:
        columns: of the features.
        labels: their names.
        keys: the names of the request's entities.
    """

    __slots__ = ("_columns", "_keys", "_labels")

    def __init__(self, columns: Sequence[WrittenColumn], labels: Sequence[str], keys: Sequence[str] = ()) -> None:
        self._columns, self._labels, self._keys = tuple(columns), tuple(labels), tuple(keys)

    def tables(self, batch: Batch, number: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        """A batch as rows of `requests` and of `items`.

        Args:
            batch: the batch.
            number: its number in its epoch.
        """
        counts = np.diff(batch.offsets)
        requests: list[pl.Series] = [
            pl.Series(REQUEST_ID, batch.request_ids),
            pl.Series(TIME, batch.times).cast(pl.Datetime("us", "UTC")),
            pl.Series(BATCH, np.full(batch.requests, number, np.int64)),
            pl.Series(ITEMS, counts),
            *_texts(batch, REQUEST_ID, batch.request_ids, REQUEST_TEXT),
        ]
        for name in self._keys:
            keys = batch.keys[name]
            requests += [pl.Series(f"{KEY}{name}", keys), *_texts(batch, f"{KEY}{name}", keys, f"{KEY_TEXT}{name}")]
        items: list[pl.Series] = [
            pl.Series(REQUEST_ID, np.repeat(batch.request_ids, counts)),
            pl.Series(CANDIDATE, batch.candidates),
            *_texts(batch, CANDIDATE, batch.candidates, CANDIDATE_TEXT),
        ]
        items += [
            pl.Series(f"{LABEL}{name}", batch.labels[name].astype(np.float32), nan_to_null=True)
            for name in self._labels
        ]
        if batch.weights is not None:
            items.append(pl.Series(WEIGHT, batch.weights.astype(np.float32)))
        for column in self._columns:
            read, series = (batch.request, requests) if column.level == "request" else (batch.item, items)
            series += _all_series(read[column.name], column)
        return pl.DataFrame(requests), pl.DataFrame(items)

    def batch(self, requests: pl.DataFrame, items: pl.DataFrame) -> Batch:
        """The rows of a part as one batch."""
        offsets = np.concatenate(([0], np.cumsum(requests[ITEMS].to_numpy())))
        read: dict[Level, dict[str, Column]] = {"request": {}, "item": {}}
        tables: Mapping[Level, pl.DataFrame] = {"request": requests, "item": items}
        for column in self._columns:
            table = tables[column.level]
            found = _column(table[column.name], column)
            if column.is_single and isinstance(found, Dense):
                found = Dense(found.values, _mask(table[f"{column.name}?"]))
            read[column.level][column.name] = found
        return Batch(
            request=read["request"],
            item=read["item"],
            offsets=offsets.astype(np.int64),
            times=_whole(requests[TIME].to_physical()),
            request_ids=_whole(requests[REQUEST_ID]),
            candidates=_whole(items[CANDIDATE]),
            labels={name: _floats(items[f"{LABEL}{name}"]) for name in self._labels},
            weights=_floats(items[WEIGHT]) if WEIGHT in items.columns else None,
            keys={name: _whole(requests[f"{KEY}{name}"]) for name in self._keys},
            texts=self._texts_of(requests, items),
        )

    def _texts_of(self, requests: pl.DataFrame, items: pl.DataFrame) -> dict[str, TextLookup]:
        """The texts that the rows hold."""
        columns = [(requests, f"{KEY}{name}", f"{KEY_TEXT}{name}") for name in self._keys]
        columns += [(requests, REQUEST_ID, REQUEST_TEXT), (items, CANDIDATE, CANDIDATE_TEXT)]
        found: dict[str, TextLookup] = {}
        for table, ids, texts in columns:
            if texts in table.columns:
                known = table.select(ids, texts).drop_nulls().unique()
                found[ids] = dict(zip(known[ids].to_list(), known[texts].to_list(), strict=True))
        return found


def _texts(batch: Batch, ids: str, values: Int64s, name: str) -> list[pl.Series]:
    """The column of the texts behind ids, where they are texts."""
    return [known_texts(batch.texts[ids], values.tolist(), name)] if ids in batch.texts else []


def _whole(series: pl.Series) -> Int64s:
    return np.ascontiguousarray(series.to_numpy(), np.int64)


def _floats(series: pl.Series) -> Array:
    return np.ascontiguousarray(series.to_numpy(), np.float32)


def _mask(series: pl.Series) -> Bools | None:
    present: Bools = series.to_numpy()
    return None if present.all() else present


def _all_series(column: Column, written: WrittenColumn) -> list[pl.Series]:
    if written.is_single and isinstance(column, Dense):
        present = np.ones(len(column), np.bool_) if column.present is None else column.present
        return [pl.Series(written.name, column.values), pl.Series(f"{written.name}?", present)]
    return [_series(column, written)]


def _series(column: Column, written: WrittenColumn) -> pl.Series:
    return column_to_series(column, written.name).cast(written.dtype)


def _column(series: pl.Series, written: WrittenColumn) -> Column:
    if not written.is_list:
        return _values(series, written)
    lengths = series.list.len().fill_null(0).to_numpy()
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    inner = _values(series.filter(series.list.len() > 0).explode(), written)
    if isinstance(inner, Embedding):
        raise DefinitionError("lists of vectors are no feature", where=written.name)
    return Ragged(inner, offsets)


def _values(series: pl.Series, written: WrittenColumn) -> Dense | Ids | Embedding:
    if written.type.width:
        return Embedding(*matrix_of(series))
    present = series.is_not_null().to_numpy() if series.null_count() else None
    if written.type is Type.STRING:
        texts: dict[int, str] = {}
        return Ids(encode(series.fill_null(""), texts), present, texts)
    plain = series.to_physical() if written.type is Type.TIME else series
    filled: Any = plain if present is None else plain.fill_null(value=False if written.type is Type.BOOL else 0)
    return Dense(np.ascontiguousarray(filled.to_numpy()), present)
