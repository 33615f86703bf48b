"""Request-grouped batches: the one structure that loader, model and server share.

A batch holds R requests and N candidate rows. What belongs to the request is held once per request, in columns of
length R; what belongs to a candidate in columns of length N. `offsets` says which candidates belong to which request.
All arrays are NumPy arrays; nothing here copies them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, final

import msgspec
import numpy as np

from bedplate.errors import DataError
from bedplate.types import Array, Bools, Float32s, Int64s

if TYPE_CHECKING:
    import polars as pl

REQUEST_ID, TIME, CANDIDATE, WEIGHT, KEY, LABEL = "request_id", "time", "candidate", "weight", "key.", "label."
"""The columns of a batch beside its features where it is a table; those of keys begin with `key.` and end with the
entity's name, those of labels with `label.`."""

_SHOWN = 8
"""How many columns of a kind are named where a batch is shown."""

TextLookup: TypeAlias = "Mapping[int, str]"
"""The text behind each 64-bit string id of a column (see `canonical.string_ids`)."""


class ManyTexts(Mapping[int, str]):
    """Texts that lie where each read costs a step, such as in a store: many are read in one."""

    __slots__ = ()

    @abstractmethod
    def load(self, ids: Sequence[int]) -> None:
        """Reads the texts of these ids at once, so that asking for them is a look-up in memory."""


def texts_of(texts: TextLookup, ids: Sequence[int]) -> list[str]:
    """The texts of many ids.

    >>> texts_of({7: "mug"}, [7, 7])
    ['mug', 'mug']

    Raises:
        KeyError: an id has no text.
    """
    if isinstance(texts, ManyTexts):
        texts.load(ids)
    return [texts[i] for i in ids]


def known_texts(texts: TextLookup, ids: Sequence[int], name: str = "") -> pl.Series:
    """The texts of many ids, null where an id has none that is known.

    >>> known_texts({7: "mug"}, [7, 8]).to_list()
    ['mug', None]
    """
    import polars as pl

    if isinstance(texts, ManyTexts):
        texts.load(ids)
    return pl.Series(name, [texts.get(i) for i in ids], dtype=pl.String)


@final
class Dense(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Numbers: `values` [n] of float64, int64, float32 or bool; `present` [n] says which are there (None: all)."""

    values: Array
    present: Bools | None = None

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.values)

    def take(self, rows: Int64s) -> Dense:
        """The rows at these positions, copied."""
        return Dense(self.values[rows], None if self.present is None else self.present[rows])


@final
class Ids(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Identities: `values` [n] int64, an integer itself or the id of a string; `texts` gives the strings back."""

    values: Int64s
    present: Bools | None = None
    texts: TextLookup | None = None

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.values)

    def take(self, rows: Int64s) -> Ids:
        """The rows at these positions, copied."""
        return Ids(self.values[rows], None if self.present is None else self.present[rows], self.texts)


@final
class Ragged(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Lists: row i is `values[offsets[i]:offsets[i + 1]]`; `offsets` [n + 1] int64 begins at 0. Empty: no value."""

    values: Dense | Ids
    offsets: Int64s

    def __len__(self) -> int:
        """The number of rows (lists)."""
        return len(self.offsets) - 1

    def take(self, rows: Int64s) -> Ragged:
        """The lists at these positions, copied.

        >>> r = Ragged(Dense(np.array([1., 2., 3.])), np.array([0, 1, 1, 3]))
        >>> r.take(np.array([2, 0])).values.values.tolist()
        [2.0, 3.0, 1.0]
        """
        starts, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        flat: Int64s = np.arange(int(offsets[-1]), dtype=np.int64) + np.repeat(starts - offsets[:-1], lengths)
        return Ragged(self.values.take(flat), offsets)


@final
class Embedding(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Vectors: `values` [n, d] float32; `present` [n] says which rows have one (None: all)."""

    values: Float32s
    present: Bools | None = None

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.values)

    def take(self, rows: Int64s) -> Embedding:
        """The rows at these positions, copied."""
        return Embedding(self.values[rows], None if self.present is None else self.present[rows])


Column: TypeAlias = Dense | Ids | Ragged | Embedding


@final
class Stack(msgspec.Struct, frozen=True, eq=False, gc=False):
    """k columns of n numbers or identities, side by side as the rows of a matrix.

    Attributes:
        values: [k, n]; int64 where they are identities.
        present: [k, n], or None: all are present.
        is_ids: whether they are identities (`Ids`), not numbers (`Dense`).
        texts: of identities, as in `Ids`.
    """

    values: Array
    present: Bools | None = None
    is_ids: bool = False
    texts: TextLookup | None = None

    def __len__(self) -> int:
        """n, the number of rows of each column."""
        return self.values.shape[1]

    def take(self, rows: Int64s) -> Stack:
        """The rows at these positions of every column, copied."""
        present = None if self.present is None else self.present[:, rows]
        return Stack(self.values[:, rows], present, self.is_ids, self.texts)

    def column(self, position: int) -> Dense | Ids:
        """One of the columns, as a view.

        >>> Stack(np.array([[1, 2], [3, 4]])).column(1).values.tolist()
        [3, 4]
        """
        present = None if self.present is None else self.present[position]
        return Ids(self.values[position], present, self.texts) if self.is_ids else Dense(self.values[position], present)


Places: TypeAlias = "Mapping[str, tuple[int, int]]"
"""Where the column of each name is: its part, and in a stack its position, else -1."""


@final
class Columns(Mapping[str, Column]):
    """Columns of equal length by name. Columns of one form may lie in stacks; a column is made when it is asked for.

    A step with many columns takes whole stacks. What it needs to know of their places it works out once: what is read
    in the same way again and again has the same `places`, the very same object.

    Attributes:
        parts: the stacks and columns.
        places: where the column of each name is.

    >>> c = Columns([Stack(np.array([[1, 2], [3, 4]]))], {"a": (0, 1), "b": (0, 0)})
    >>> list(c), c["b"].values.tolist()
    (['a', 'b'], [1, 2])
    """

    __slots__ = ("parts", "places")

    def __init__(self, parts: Sequence[Stack | Column], places: Places) -> None:
        self.parts, self.places = parts, places

    @classmethod
    def of(cls, columns: Mapping[str, Column]) -> Columns:
        """The same columns; those that are in stacks stay there."""
        if isinstance(columns, Columns):
            return columns
        return cls(list(columns.values()), {name: (i, -1) for i, name in enumerate(columns)})

    def take(self, rows: Int64s) -> Columns:
        """The rows at these positions, copied; in the same places.

        >>> Columns.of({"a": Dense(np.array([1.0, 2.0]))}).take(np.array([1]))["a"].values.tolist()
        [2.0]
        """
        return Columns([part.take(rows) for part in self.parts], self.places)

    def __getitem__(self, name: str) -> Column:
        """The column of a name."""
        at, position = self.places[name]
        part = self.parts[at]
        return part.column(position) if isinstance(part, Stack) else part

    def __contains__(self, name: object) -> bool:
        """Whether there is a column of this name."""
        return name in self.places

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self.places)

    def __len__(self) -> int:
        """How many columns there are."""
        return len(self.places)


def column_to_series(column: Column, name: str = "") -> pl.Series:
    """A Polars series of a column, nulls where a value is not present and strings where the column knows its texts.

    >>> column_to_series(Dense(np.array([1.0, 2.0]), np.array([True, False]))).to_list()
    [1.0, None]
    """
    import polars as pl

    if isinstance(column, Ragged):
        return series_of_lists(column_to_series(column.values), column.offsets, name)
    if isinstance(column, Ids) and column.texts is not None:
        return _series_of_texts(column.values, column.present, column.texts, name)
    if isinstance(column, Embedding):
        vectors = pl.Series(name, column.values, dtype=pl.Array(pl.Float32, column.values.shape[1]))
        if column.present is None:
            return vectors
        return pl.select(pl.when(pl.Series(column.present)).then(vectors).alias(name)).to_series()
    if column.present is None:
        return pl.Series(name, column.values)
    if isinstance(column, Dense) and column.values.dtype.kind == "f":
        return pl.Series(name, np.where(column.present, column.values, np.nan), nan_to_null=True)
    return pl.Series(name, column.values).scatter(np.flatnonzero(~column.present), None)


def series_of_lists(values: pl.Series, offsets: Int64s, name: str = "") -> pl.Series:
    """A series of lists: row i has the values from `offsets[i]` to `offsets[i + 1]`; a few steps for all rows together.

    Args:
        values: the values of all lists.
        offsets: [n + 1] int64, ascending.
        name: of the series.

    >>> import polars as pl
    >>> series_of_lists(pl.Series([1, 2, 3]), np.array([0, 2, 2, 3])).to_list()
    [[1, 2], [], [3]]
    """
    import polars as pl

    def gathered(places: pl.Series) -> pl.Series:
        return values.gather(places)

    bounds = pl.Series("", offsets, dtype=pl.Int64)
    # Lists of places, which Polars makes in one step, and then the values of all places in another.
    places = pl.select(pl.int_ranges(bounds[:-1], bounds[1:]).alias(name)).to_series()
    of_places = pl.element().map_batches(gathered, return_dtype=values.dtype, is_elementwise=True)
    return places.list.eval(of_places)


_FEW = 1 << 10
"""Ids up to which each is looked up by itself: that is faster than to find the different ones first."""


def _series_of_texts(ids: Int64s, present: Bools | None, texts: TextLookup, name: str) -> pl.Series:
    """The texts of ids, null where none is present; of many each different one is looked up once."""
    import polars as pl

    there = np.arange(len(ids)) if present is None else np.flatnonzero(present)
    wanted = ids[there]
    if len(ids) <= _FEW:
        found: list[str | None] = [None] * len(ids)
        for row, text in zip(there.tolist(), texts_of(texts, wanted.tolist()), strict=True):
            found[row] = text
        return pl.Series(name, found, dtype=pl.String)
    different, places = np.unique(wanted, return_inverse=True)
    rows = np.full(len(ids), len(different))
    rows[there] = places
    return pl.Series(name, [*texts_of(texts, different.tolist()), None], dtype=pl.String).gather(rows)


@final
@dataclass(frozen=True, slots=True, repr=False)
class Batch:
    """R requests with N candidates in all.

    Attributes:
        request: columns of length R, by feature name (`view.feature`).
        item: columns of length N, by feature name.
        offsets: [R + 1] int64; the candidates of request i are rows `offsets[i]` to `offsets[i + 1]`.
        times: [R] int64, the time of each request in microseconds; features are as of this time.
        request_ids: [R] int64.
        candidates: [N] int64, the key of each candidate (an integer or the id of a string).
        labels: [N] float32 each, by label name; NaN where the label is not known yet.
        weights: [N] float32, or None for all ones.
        keys: [R] int64 each, the key of each entity of the request (an integer or the id of a string), by its name; a
            server leaves them out.
        texts: the texts behind the ids of strings, where they are known: of `request_ids` under `request_id`, of
            `candidates` under `candidate`, of an entity's keys under `key.` and its name.
    """

    request: Mapping[str, Column]
    item: Mapping[str, Column]
    offsets: Int64s
    times: Int64s
    request_ids: Int64s
    candidates: Int64s
    labels: Mapping[str, Float32s] = field(default_factory=dict[str, Float32s])
    weights: Float32s | None = None
    keys: Mapping[str, Int64s] = field(default_factory=dict[str, "Int64s"])
    texts: Mapping[str, TextLookup] = field(default_factory=dict[str, "TextLookup"])

    def __post_init__(self) -> None:
        """Checks that every column has the length that `offsets` says.

        Raises:
            DataError: a column is longer or shorter, or the offsets do not begin at 0 or do not ascend.
        """
        offsets = self.offsets
        if not offsets.size or int(offsets[0]) != 0 or bool((offsets[1:] < offsets[:-1]).any()):
            shown = np.array2string(offsets, threshold=8)
            raise DataError(f"got offsets {shown}, expected them to begin at 0 and to ascend", where="batch")
        requests, items = len(offsets) - 1, int(offsets[-1])
        of_request = (self.times, self.request_ids, *self.keys.values(), *_parts(self.request))
        of_item = (self.candidates, *_parts(self.item), *self.labels.values())
        if self.weights is not None:
            of_item = (*of_item, self.weights)
        # A server makes a batch for every request: names are put together only for the message.
        if {*map(len, of_request)} != {requests} or {*map(len, of_item)} != {items}:
            self._refuse(requests, items)

    def _refuse(self, requests: int, items: int) -> None:
        sized: list[tuple[str, Array | Column, int]] = [
            ("times", self.times, requests),
            ("request_ids", self.request_ids, requests),
            ("candidates", self.candidates, items),
            *((f"keys of '{k}'", c, requests) for k, c in self.keys.items()),
            *((f"request column '{k}'", c, requests) for k, c in self.request.items()),
            *((f"item column '{k}'", c, items) for k, c in self.item.items()),
            *((f"label '{k}'", c, items) for k, c in self.labels.items()),
            *([] if self.weights is None else [("weights", self.weights, items)]),
        ]
        name, column, expected = next(s for s in sized if len(s[1]) != s[2])
        raise DataError(f"{name} has {len(column)} rows, expected {expected}", where="batch")

    @property
    def requests(self) -> int:
        """R, the number of requests."""
        return len(self.offsets) - 1

    @property
    def items(self) -> int:
        """N, the number of candidate rows."""
        return int(self.offsets[-1])

    @property
    def nbytes(self) -> int:
        """The memory of its arrays in bytes; texts are not among them.

        >>> Batch({}, {}, np.array([0, 2]), np.zeros(1, np.int64), np.array([7]), np.array([8, 9])).nbytes
        48
        """
        own = (self.offsets, self.times, self.request_ids, self.candidates, *self.labels.values(), *self.keys.values())
        weights = 0 if self.weights is None else self.weights.nbytes
        columns = (*_parts(self.request), *_parts(self.item))
        return sum(array.nbytes for array in own) + weights + sum(map(_bytes_of, columns))

    def request_of_item(self) -> Int64s:
        """[N] int64: the request of each candidate row; indexing a request array with it expands it to N rows.

        >>> Batch({}, {}, np.array([0, 2, 3]), np.zeros(2, np.int64), np.arange(2), np.arange(3)).request_of_item()
        array([0, 0, 1])
        """
        return expand(self.offsets)

    def __repr__(self) -> str:
        """The numbers of rows, and the columns, a line for each kind of them.

        >>> zeros = np.zeros(2, np.int64)
        >>> Batch({}, {"price": Dense(np.zeros(3))}, np.array([0, 2, 3]), zeros, zeros, np.arange(3))
        Batch of 2 requests with 3 candidates
          item: price
        """
        columns = {"keys": self.keys, "request": self.request, "item": self.item, "labels": self.labels}
        lines = [f"  {kind}: {_listed(list(names))}" for kind, names in columns.items() if names]
        return "\n".join([f"Batch of {self.requests:,} requests with {self.items:,} candidates", *lines])

    def to_frame(self) -> pl.DataFrame:
        """A flat table for a person to look at: a row for each candidate, what belongs to its request repeated.

        Returns:
            N rows: `request_id`, `time`, `key.ENTITY` for each entity of the request, `candidate`, `label.NAME` for
            each label (null where it is not known yet), `weight` where there are weights; then the features under their
            names, those of the request first. Ids of strings are shown as the strings where these are known (null where
            some are and this one is not), lists as lists, vectors as arrays, values that are not present as nulls.

        Raises:
            DataError: a feature has the name of another column.

        >>> b = Batch({}, {}, np.array([0, 2]), np.zeros(1, np.int64), np.array([7]), np.array([8, 9]))
        >>> b.to_frame().drop("time").rows()
        [(7, 8), (7, 9)]
        """
        import polars as pl

        request = [
            self._ids(REQUEST_ID, self.request_ids),
            pl.Series(TIME, self.times, dtype=pl.Int64).cast(pl.Datetime("us", "UTC")),
            *(self._ids(f"{KEY}{name}", keys) for name, keys in self.keys.items()),
        ]
        item = [
            self._ids(CANDIDATE, self.candidates),
            *(pl.Series(f"{LABEL}{name}", values, nan_to_null=True) for name, values in self.labels.items()),
            *([] if self.weights is None else [pl.Series(WEIGHT, self.weights)]),
        ]
        taken = {series.name for series in (*request, *item)}
        wrong = next((name for name in (*self.request, *self.item) if name in taken), None)
        if wrong is not None:
            raise DataError(f"the feature '{wrong}' has the name of another column of the table", where="batch")
        features = [column_to_series(column, name) for name, column in self.request.items()]
        repeated = pl.DataFrame([*request, *features])[self.request_of_item()].get_columns()
        own = [column_to_series(column, name) for name, column in self.item.items()]
        return pl.DataFrame([*repeated[: len(request)], *item, *repeated[len(request) :], *own])

    def _ids(self, name: str, ids: Int64s) -> pl.Series:
        """Ids as their texts, where these are known."""
        import polars as pl

        texts = self.texts.get(name)
        return pl.Series(name, ids, dtype=pl.Int64) if texts is None else known_texts(texts, ids.tolist(), name)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def expand(offsets: Int64s) -> Int64s:
    """[N] int64: the request of each candidate row, of requests with these offsets [R + 1].

    >>> expand(np.array([0, 2, 2, 3])).tolist()
    [0, 0, 2]
    """
    if len(offsets) == 2:
        return np.zeros(int(offsets[1]), np.int64)
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def _parts(columns: Mapping[str, Column]) -> Iterable[Stack | Column]:
    return columns.parts if isinstance(columns, Columns) else columns.values()


def _bytes_of(column: Stack | Column) -> int:
    if isinstance(column, Ragged):
        return _bytes_of(column.values) + column.offsets.nbytes
    return column.values.nbytes + (0 if column.present is None else column.present.nbytes)
