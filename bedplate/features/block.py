"""From columns of equal length to one matrix of numbers and one of ids: the inner loop of the encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np

from bedplate.batch import Column, Dense, Embedding, Ids, Ragged
from bedplate.errors import DataError
from bedplate.features.encoding import Field, Number
from bedplate.features.vocabulary import Vocabularies
from bedplate.types import Array, Bools, Float32s, Int64s


@final
class Block:
    """Features whose values (or list elements) become the columns of one dense and one ids matrix.

    Attributes:
        numbers: the features that are numbers, those with a logarithm first: each step is one operation on all.
        ids: the features that are categories, in the order given.
        names: both.
        dense_columns: the feature behind each column of the dense matrix; a presence column ends in `?`.
    """

    def __init__(self, fields: Sequence[Field], vocabularies: Vocabularies) -> None:
        numbers = [(f.feature, f.element) for f in fields]
        scaled = [(name, e) for name, e in numbers if isinstance(e, Number)]
        scaled.sort(key=lambda pair: not pair[1].log)
        self.numbers = tuple(name for name, _ in scaled)
        self._logs = sum(e.log for _, e in scaled)
        self._means = np.array([[e.mean] for _, e in scaled[self._logs :]], np.float64)
        self._log_means = np.array([[e.mean] for _, e in scaled[: self._logs]], np.float32)
        self._factors = np.array([[1.0 / e.scale] for _, e in scaled], np.float32)
        self._nullable: Int64s = np.array([i for i, (_, e) in enumerate(scaled) if e.presence], np.int64)
        self.dense_columns = (*self.numbers, *(f"{self.numbers[i]}?" for i in self._nullable))
        named = {f.feature: f.vocabulary for f in fields if f.vocabulary is not None}
        self.ids = tuple(named)
        self._vocabularies, self._choice = vocabularies, vocabularies.choose(list(named.values()))
        self.names = (*self.numbers, *self.ids)

    def dense(self, columns: Mapping[str, Column], n: int) -> Float32s:
        """[n, numbers + presence columns] float32, C-contiguous."""
        count, logs = len(self.numbers), self._logs
        values: list[Array] = []
        presences: list[Bools | None] = []
        for name in self.numbers:
            column = columns[name]
            if type(column) is not Dense:
                raise wrong_form(name, column, "numbers")
            values.append(column.values)
            presences.append(column.present)
        # A feature is a row until the end, so that each step is one operation on contiguous memory.
        wide = np.empty((len(self.dense_columns), n), np.float32)
        if logs:
            np.concatenate(values[:logs], out=wide[:logs].reshape(-1), casting="unsafe")
            _signed_log(wide[:logs])
            wide[:logs] -= self._log_means
        if logs < count:  # subtracted in float64: a large value with a small spread keeps its digits
            raw = np.empty((count - logs, n), np.float64)
            np.concatenate(values[logs:], out=raw.reshape(-1), casting="unsafe")
            np.subtract(raw, self._means, out=wide[logs:count], casting="unsafe")
        wide[:count] *= self._factors
        present = _joined(presences, n)
        if present is None:
            wide[count:] = 1.0
        else:
            np.copyto(wide[:count], 0.0, where=~present)
            wide[count:] = present[self._nullable]
        return np.ascontiguousarray(wide.T)

    def rows(self, columns: Mapping[str, Column], n: int) -> Int64s:
        """[n, categories] int64 rows of the embedding table, C-contiguous."""
        found = [id_values(columns[name], name) for name in self.ids]
        values = np.empty((len(found), n), np.int64)
        np.concatenate([v for v, _ in found], out=values.reshape(-1))
        rows = self._vocabularies.rows_of(self._choice, values, _joined([p for _, p in found], n))
        return np.ascontiguousarray(rows.T)


def _joined(presences: Sequence[Bools | None], n: int) -> Bools | None:
    """[columns, n], or None: all of them are present."""
    if not any(p is not None for p in presences):
        return None
    every = np.ones(n, np.bool_)
    return np.concatenate([every if p is None else p for p in presences]).reshape(len(presences), n)


def _signed_log(x: Float32s) -> None:
    """`sign(x) log(1 + |x|)` in place; in float32 `log` is vectorised where `log1p` is not, and takes a fifth of it."""
    size = np.abs(x)
    size += 1.0
    np.log(size, out=size)
    np.copysign(size, x, out=x)


def wrong_form(name: str, column: Column, expected: str) -> DataError:
    """The error for a column of another form than its encoding takes."""
    forms = {Dense: "numbers", Ids: "ids", Ragged: "lists", Embedding: "vectors"}
    return DataError(f"feature '{name}' holds {forms[type(column)]}, expected {expected}", where="encoding")


def id_values(column: Column, name: str) -> tuple[Int64s, Bools | None]:
    """The ids of a column and which are present; whole numbers and booleans count as ids.

    Raises:
        DataError: the column holds something else.
    """
    if type(column) is Ids:
        return column.values, column.present
    if type(column) is Dense and column.values.dtype.kind in "ib":
        return column.values.astype(np.int64), column.present
    raise wrong_form(name, column, "ids or whole numbers")


def list_column(column: Column, name: str) -> Ragged:
    """The column as lists.

    Raises:
        DataError: it holds something else.
    """
    if type(column) is not Ragged:
        raise wrong_form(name, column, "lists")
    return column


def window_of_lists(offsets: Int64s, length: int, *, last: bool) -> tuple[Int64s | None, Bools]:
    """Which elements of the lists are kept, and where in the padded array they go.

    Args:
        offsets: [n + 1] of the lists.
        length: keep at most so many of each.
        last: the last ones, not the first.

    Returns:
        the positions of the kept elements (None: all) and the mask [n, longest] that is True at their places.

    >>> window_of_lists(np.array([0, 3, 4]), 2, last=True)
    (array([1, 2, 3]), array([[ True,  True],
           [ True, False]]))
    """
    lengths = offsets[1:] - offsets[:-1]
    longest = int(lengths.max(initial=1))
    if longest <= length:
        return None, np.arange(longest) < lengths[:, None]
    positions = np.arange(int(offsets[-1]))
    if last:
        kept = positions >= np.repeat(offsets[1:] - length, lengths)
    else:
        kept = positions < np.repeat(offsets[:-1] + length, lengths)
    return np.flatnonzero(kept), np.arange(length) < lengths[:, None]


def pad(flat: Array, mask: Bools) -> Array:
    """Elements [total, ...] in the order of their lists, placed where the mask [n, length] is True; 0 elsewhere."""
    if len(flat) == mask.size:
        return flat.reshape(*mask.shape, *flat.shape[1:])
    out = np.zeros((*mask.shape, *flat.shape[1:]), flat.dtype)
    out[mask] = flat
    return out
