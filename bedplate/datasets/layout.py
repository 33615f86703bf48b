"""The layout of a training set in files: which column of a batch is which column of Parquet, and back, value by value.

A part is two tables. `requests` has a row for each request, `items` one for each candidate, those of a request together
and in the order of the requests; both have `request_id`. A feature is in the table of its level, under its full name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import msgspec
import numpy as np
import polars as pl

from bedplate.batch import Batch, Column, Dense, Embedding, Ids, Ragged, TextLookup, column_to_series
from bedplate.datasets.dataset import CompiledDataset
from bedplate.datasets.negatives import LOG_Q, SAMPLED
from bedplate.errors import DefinitionError
from bedplate.features.assemble import Join
from bedplate.features.encoding import Level
from bedplate.features.entity import encode
from bedplate.features.vectors import matrix_of
from bedplate.types import Array, Bools, Int64s, Type

REQUEST_ID, TIME, BATCH, ITEMS = "request_id", "time", "batch", "items"
"""The columns of `requests` before its features: the id (of a text its hash), the time, the number of the batch in its
epoch, and the number of candidates."""

CANDIDATE, CANDIDATE_TEXT, WEIGHT, LABEL = "candidate", "candidate_text", "weight", "label."
"""The columns of `items` beside `request_id` and its features: the key (of a text its hash), the text behind it where
keys are texts and it is known, the weight where there are weights, and a column for each label, which begins so; null
where the label is not known yet."""


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
    taken = {REQUEST_ID, TIME, BATCH, ITEMS, CANDIDATE, CANDIDATE_TEXT, WEIGHT}
    taken |= {f"{LABEL}{label.label.name}" for label in compiled.labels}
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
        texts: behind the candidates' keys, where these are texts.
    """

    __slots__ = ("_columns", "_labels", "_texts")

    def __init__(
        self, columns: Sequence[WrittenColumn], labels: Sequence[str], texts: TextLookup | None = None
    ) -> None:
        self._columns, self._labels, self._texts = tuple(columns), tuple(labels), texts

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
        ]
        items: list[pl.Series] = [
            pl.Series(REQUEST_ID, np.repeat(batch.request_ids, counts)),
            pl.Series(CANDIDATE, batch.candidates),
        ]
        if self._texts is not None:
            known: list[str | None] = [self._texts.get(key) for key in batch.candidates.tolist()]
            items.append(pl.Series(CANDIDATE_TEXT, known, pl.String))
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
        )


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
