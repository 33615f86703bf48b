"""From columns of equal length to one matrix of numbers and one of ids: the inner loop of the encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, final

import numpy as np

from bedplate.batch import Column, Columns, Dense, Embedding, Ids, Places, Ragged, Stack
from bedplate.errors import DataError
from bedplate.features.encoding import CANDIDATE, Field, Number, Vector
from bedplate.features.vocabulary import Vocabularies
from bedplate.types import Array, Bools, Float32s, Int64s

_Values: TypeAlias = "tuple[Array, Bools | None]"
"""The values [k, n] of k features, and which are present."""


@final
class Block:
    """Features whose values (or list elements) become the columns of one dense and one ids matrix.

    Attributes:
        numbers: the features that are numbers, those with a logarithm first: each step is one operation on all.
        vectors: the features that are vectors.
        ids: the features that are categories, in the order given.
        names: all of them.
        dense_columns: the feature behind each column of the dense matrix, with its place `[i]` in a vector; a presence
            column ends in `?`.
    """

    def __init__(self, fields: Sequence[Field], vocabularies: Vocabularies) -> None:
        numbers = [(f.feature, f.element) for f in fields]
        scaled = [(name, e) for name, e in numbers if isinstance(e, Number)]
        scaled.sort(key=lambda pair: not pair[1].log)
        self.numbers = tuple(name for name, _ in scaled)
        self._logs = sum(e.log for _, e in scaled)
        self._means = np.array([[e.mean] for _, e in scaled[self._logs :]], np.float64)
        self._log_means = np.array([[e.mean] for _, e in scaled[: self._logs]], np.float32)
        self._factors = np.array([[1.0 / e.scale] for _, e in scaled], np.float32).reshape(-1, 1)
        self._nulls = np.array([[np.nan if e.nan else 0.0] for _, e in scaled], np.float32).reshape(-1, 1)
        self._nullable: Int64s = np.array([i for i, (_, e) in enumerate(scaled) if e.presence], np.int64)
        self.vectors = {f.feature: f.encoding for f in fields if isinstance(f.encoding, Vector)}
        elements = [f"{name}[{i}]" for name, vector in self.vectors.items() for i in range(vector.width)]
        nullable = [*(name for name, e in scaled if e.presence), *(n for n, v in self.vectors.items() if v.presence)]
        self.dense_columns = (*self.numbers, *elements, *(f"{name}?" for name in nullable))
        named = {f.feature: f.vocabulary for f in fields if f.vocabulary is not None}
        self.ids = tuple(named)
        self._vocabularies, self._choice = vocabularies, vocabularies.choose(list(named.values()))
        self._candidate = self.ids.index(CANDIDATE) if CANDIDATE in self.ids else None
        self._take_numbers, self._take_ids = Takes(self.numbers, numbers_of), Takes(self.ids, _identities)
        self.names = (*self.numbers, *self.vectors, *self.ids)

    def dense(self, columns: Columns, n: int) -> Float32s:
        """[n, numbers + presence columns] float32, C-contiguous."""
        count, logs = len(self.numbers), self._logs
        raw = np.empty((count, n), np.float64)
        present = self._take_numbers.fill(columns, raw)
        # A feature is a row until the end, so that each step is one operation on contiguous memory.
        wide = np.empty((len(self.dense_columns), n), np.float32)
        if logs:
            wide[:logs] = raw[:logs]
            _signed_log(wide[:logs])
            wide[:logs] -= self._log_means
        if logs < count:  # subtracted in float64: a large value with a small spread keeps its digits
            np.subtract(raw[logs:], self._means, out=wide[logs:count], casting="unsafe")
        wide[:count] *= self._factors
        if present is None:
            wide[count:] = 1.0
        else:
            np.copyto(wide[:count], self._nulls, where=~present)
            wide[len(wide) - len(self._nullable) :] = present[self._nullable]
        if self.vectors:
            self._fill_vectors(columns, wide, present)
        return np.ascontiguousarray(wide.T)

    def _fill_vectors(self, columns: Columns, wide: Float32s, present: Bools | None) -> None:
        """Fills the rows after the numbers': of the vectors, then of what is present, the numbers' first."""
        at, flag = len(self.numbers), len(self.dense_columns) - sum(v.presence for v in self.vectors.values())
        numbers = slice(flag - len(self._nullable), flag)
        wide[numbers] = 1.0 if present is None else present[self._nullable]
        for name, vector in self.vectors.items():
            column = vector_column(columns[name], name, vector.width)
            values, there = column.values, column.present
            if vector.unit:
                values = unit_vectors(values)
            wide[at : at + vector.width] = values.T
            if there is not None:
                wide[at : at + vector.width, ~there] = 0.0
            at += vector.width
            if vector.presence:
                wide[flag] = 1.0 if there is None else there
                flag += 1

    def rows(self, columns: Columns, n: int, candidates: Int64s | None = None) -> Int64s:
        """[n, categories] int64 rows of the embedding table, C-contiguous; `candidates` [n]: the candidates' keys."""
        values = np.empty((len(self.ids), n), np.int64)
        if self._candidate is not None:
            if candidates is None:
                raise DataError(
                    f"'{CANDIDATE}' is the key of the candidates, no feature of a request", where="encoding"
                )
            values[self._candidate] = candidates
        present = self._take_ids.fill(columns, values)
        return self._vocabularies.rows_of(self._choice, values, present)


class _Take(NamedTuple):
    """Rows of a part of `Columns`, and where they go."""

    part: int
    source: slice | Int64s
    target: slice | Int64s
    name: str


@final
class Takes:
    """Puts the columns of given names into the rows of a matrix; remembers how for the places that it saw last."""

    __slots__ = ("_last", "_names", "_values")

    def __init__(self, names: tuple[str, ...], values: Callable[[Stack | Column, str], _Values]) -> None:
        self._names, self._values = names, values
        self._last: tuple[Places, list[_Take]] | None = None

    def fill(self, columns: Columns, out: Array) -> Bools | None:
        """Fills `out` [names, n]; which values are present [names, n], or None: all of them."""
        last = self._last
        if last is None or last[0] is not columns.places:
            # One assignment: other threads use the same block.
            last = self._last = columns.places, self._plan(columns.places)
        present: Bools | None = None
        for take in last[1]:
            values, there = self._values(columns.parts[take.part], take.name)
            out[take.target] = values[take.source]
            if there is not None:
                if present is None:
                    present = np.ones(out.shape, np.bool_)
                present[take.target] = there[take.source]
        return present

    def _plan(self, places: Places) -> list[_Take]:
        by_part: dict[int, list[tuple[int, int]]] = {}
        for target, name in enumerate(self._names):
            if name != CANDIDATE:
                part, position = places[name]
                by_part.setdefault(part, []).append((max(position, 0), target))
        return [
            _Take(part, _span([p for p, _ in taken]), _span([t for _, t in taken]), self._names[taken[0][1]])
            for part, taken in by_part.items()
        ]


def _span(positions: list[int]) -> slice | Int64s:
    """Positions as an index: a slice where they follow each other, which is read without a copy."""
    first, last = positions[0], positions[-1]
    if positions == list(range(first, last + 1)):
        return slice(first, last + 1)
    return np.array(positions, np.int64)


def numbers_of(part: Stack | Column, name: str) -> _Values:
    """The numbers [k, n] of a stack or column and which are present.

    Raises:
        DataError: it holds something else.
    """
    if type(part) is Stack and not part.is_ids:
        return part.values, part.present
    if type(part) is Dense:
        return part.values[None], None if part.present is None else part.present[None]
    raise wrong_form(name, part, "numbers")


def _identities(part: Stack | Column, name: str) -> _Values:
    if type(part) is Stack:
        if part.is_ids or part.values.dtype.kind in "ib":
            return part.values, part.present
        raise wrong_form(name, part, "ids or whole numbers")
    values, present = id_values(part, name)
    return values[None], None if present is None else present[None]


def _signed_log(x: Float32s) -> None:
    """`sign(x) log(1 + |x|)` in place; in float32 `log` is vectorised where `log1p` is not, and takes a fifth of it."""
    size = np.abs(x)
    size += 1.0
    np.log(size, out=size)
    np.copysign(size, x, out=x)


def wrong_form(name: str, column: Stack | Column, expected: str) -> DataError:
    """The error for a column of another form than its encoding takes."""
    forms = {Dense: "numbers", Ids: "ids", Ragged: "lists", Embedding: "vectors"}
    form = ("ids" if column.is_ids else "numbers") if isinstance(column, Stack) else forms[type(column)]
    return DataError(f"feature '{name}' holds {form}, expected {expected}", where="encoding")


def id_values(column: Stack | Column, name: str) -> tuple[Int64s, Bools | None]:
    """The ids of a column and which are present; whole numbers and booleans count as ids.

    Raises:
        DataError: the column holds something else.
    """
    if type(column) is Ids:
        return column.values, column.present
    if type(column) is Dense and column.values.dtype.kind in "ib":
        return column.values.astype(np.int64), column.present
    raise wrong_form(name, column, "ids or whole numbers")


def vector_column(column: Column, name: str, width: int = 0) -> Embedding:
    """The column as vectors, of a width where it is not 0.

    Raises:
        DataError: it holds something else, or vectors of another width.
    """
    if type(column) is not Embedding:
        raise wrong_form(name, column, "vectors")
    if width and column.values.shape[1] != width:
        raise DataError(
            f"feature '{name}' holds vectors of {column.values.shape[1]} numbers, expected {width}", where="encoding"
        )
    return column


def unit_vectors(values: Float32s) -> Float32s:
    """Vectors [n, width] divided by their lengths; zeros stay zeros.

    >>> unit_vectors(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    lengths = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
    return np.divide(values, lengths[:, None], out=np.zeros_like(values), where=lengths[:, None] > 0, casting="unsafe")


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


def elements_of_lists(column: Ragged, length: int, *, last: bool) -> tuple[Dense | Ids, Bools]:
    """The elements that are kept of each list, in order, and the mask of their places; see `window_of_lists`."""
    rows, mask = window_of_lists(column.offsets, length, last=last)
    return column.values if rows is None else column.values.take(rows), mask


def pad(flat: Array, mask: Bools) -> Array:
    """Elements [total, ...] in the order of their lists, placed where the mask [n, length] is True; 0 elsewhere."""
    if len(flat) == mask.size:
        return flat.reshape(*mask.shape, *flat.shape[1:])
    out = np.zeros((*mask.shape, *flat.shape[1:]), flat.dtype)
    out[mask] = flat
    return out
