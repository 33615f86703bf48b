"""Fitting encodings: one pass over training batches gives every scale and vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import final

import msgspec
import numpy as np

from bedplate.batch import Batch, Column, Dense, Embedding, Ids
from bedplate.errors import DataError, DefinitionError, suggest
from bedplate.features.block import elements_of_lists, id_values, list_column, vector_column, wrong_form
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import CANDIDATE, TAKES, Bag, Category, Encoding, Field, Level, Number, Sequence, Vector
from bedplate.features.vocabulary import Vocabulary
from bedplate.types import Array, Bools, Int64s


def fit(encodings: Mapping[str, Encoding], batches: Iterable[Batch]) -> Encoder:
    """The encoder of these features, fitted on training batches.

    Args:
        encodings: the wanted encoding of each feature by full name, and of `"candidate"` for the candidate's own key.
        batches: batches of the training period only: what is fitted on later data would leak it. The level of a
            feature is where the batches have it; a request counts once however many candidates it has.

    Raises:
        DefinitionError: encodings contradict each other (one vocabulary with two `min_count`, a group of sequences with
            two lengths or without a category), or one does not suit its column.
        DataError: no batch, a feature that the batches do not have, or a number that is not finite.

    >>> columns = {"u.spend": Dense(np.array([1.0, 3.0]), np.array([True, True]))}
    >>> zeros = np.zeros(2, np.int64)
    >>> batch = Batch(columns, {}, np.array([0, 1, 2]), zeros, np.arange(2), np.array([7, 9]))
    >>> encoder = fit({"u.spend": Number(), "candidate": Category()}, [batch])
    >>> encoder.fields[0].encoding
    Number(log=False, mean=2.0, scale=1.0, presence=False, nan=False)
    >>> encoder.encode(batch)["item_ids"].tolist()
    [[3], [4]]
    """
    check_encodings(encodings)
    levels: dict[str, Level] = {}
    moments = {n: _Moments(e) for n, s in encodings.items() if isinstance(e := _element(s), Number)}
    widths = {n: _Widths() for n, e in encodings.items() if isinstance(e, Vector)}
    counts: dict[str, _Counts] = {}
    for batch in batches:
        if not levels:
            levels = {name: _level(batch, name) for name in encodings}
        for name, encoding in encodings.items():
            column = _column(batch, name, levels[name], encoding)
            if isinstance(column, Embedding):
                widths[name].add(column, name)
            elif name in moments:
                moments[name].add(column, name)
            else:
                counts.setdefault(_vocabulary(name, encoding), _Counts()).add(column)
    if not levels:
        raise DataError("got no batch to fit on, expected at least one", where="encoding")
    fields = [
        Field(n, levels[n], widths[n].fitted(e) if isinstance(e, Vector) else _fitted(n, e, moments))
        for n, e in encodings.items()
    ]
    limits = {_vocabulary(n, e): _min_count(e) for n, e in encodings.items() if n not in moments}
    return Encoder(fields, {name: Vocabulary(c.keys(limits[name])) for name, c in counts.items()})


def _element(encoding: Encoding) -> Number | Category | Bag | Vector:
    return encoding.of if isinstance(encoding, Sequence) else encoding


def _vocabulary(name: str, encoding: Encoding) -> str:
    element = _element(encoding)
    return name if isinstance(element, Number | Vector) else element.vocabulary or name


def _min_count(encoding: Encoding) -> int:
    element = _element(encoding)
    return 1 if isinstance(element, Number | Vector) else element.min_count


def _fitted(name: str, encoding: Encoding, moments: Mapping[str, _Moments]) -> Encoding:
    element = _element(encoding)
    if isinstance(element, Number):
        fitted = moments[name].fitted(element)
        return msgspec.structs.replace(encoding, of=fitted) if isinstance(encoding, Sequence) else fitted
    if isinstance(element, Vector):
        return element
    named = msgspec.structs.replace(element, vocabulary=_vocabulary(name, encoding))
    return msgspec.structs.replace(encoding, of=named) if isinstance(encoding, Sequence) else named


def check_encodings(encodings: Mapping[str, Encoding]) -> None:
    """Checks that the encodings of several features fit each other.

    Raises:
        DefinitionError: none, one vocabulary with two `min_count`, a group of sequences with two lengths or without a
            category.
    """
    if not encodings:
        raise DefinitionError("got no feature, expected at least one", where="encodings")
    limits: dict[str, int] = {}
    lengths: dict[str, int] = {}
    marked: set[str] = set()
    for name, encoding in encodings.items():
        place = f"encoding of '{name}'"
        element = _element(encoding)
        if not isinstance(element, Number | Vector):
            vocabulary = _vocabulary(name, encoding)
            known = limits.setdefault(vocabulary, element.min_count)
            if known != element.min_count:
                raise DefinitionError(
                    f"min_count is {element.min_count}, but {known} elsewhere for vocabulary '{vocabulary}'",
                    where=place,
                    hint="features that share a vocabulary share its min_count",
                )
        if isinstance(encoding, Sequence):
            known = lengths.setdefault(encoding.group, encoding.length)
            if known != encoding.length:
                raise DefinitionError(
                    f"length is {encoding.length}, but {known} elsewhere in group '{encoding.group}'", where=place
                )
            if isinstance(element, Category):
                marked.add(encoding.group)
    for group in lengths.keys() - marked:
        raise DefinitionError(
            f"the group '{group}' holds only numbers, expected a category too",
            where="encodings",
            hint="its ids tell elements from padding: add the id column of the same LastN to the group",
        )


def _level(batch: Batch, name: str) -> Level:
    if name in batch.request:
        return "request"
    if name in batch.item or name == CANDIDATE:
        return "item"
    known = [*batch.request, *batch.item, CANDIDATE]
    raise DataError(
        f"the batches have no feature '{name}'", where="encodings", hint=suggest(name, known, "features of the batches")
    )


def _column(batch: Batch, name: str, level: Level, encoding: Encoding) -> Dense | Ids | Embedding:
    """The values of a feature, or the elements of its lists that are encoded, checked against the encoding."""
    if name == CANDIDATE and name not in batch.item:
        column: Column = Ids(batch.candidates)
    else:
        source = batch.request if level == "request" else batch.item
        if name not in source:
            raise DataError(f"a later batch has no {level} feature '{name}'", where="encodings")
        column = source[name]
    try:
        if isinstance(encoding, Sequence | Bag):
            if isinstance(encoding, Sequence) and level == "item":
                raise DataError("got lists of candidates, expected lists of the request for a Sequence")
            lists = list_column(column, name)
            column, _ = elements_of_lists(lists, encoding.length, last=isinstance(encoding, Sequence))
        if isinstance(encoding, Vector):
            return vector_column(column, name)
        if isinstance(_element(encoding), Number):
            if not isinstance(column, Dense):
                raise wrong_form(name, column, "numbers")
            return column
        return Ids(*id_values(column, name))
    except DataError as error:
        kind = type(encoding).__name__
        raise DefinitionError(
            error.message,
            where=f"encoding {kind} of '{name}'",
            hint=TAKES,
        ) from None


@final
class _Moments:
    """Count, mean and squared deviations in float64, merged batch by batch (Chan, Golub, LeVeque 1979)."""

    def __init__(self, encoding: Number) -> None:
        self.log = encoding.log
        self.count, self.nulls = 0, 0
        self.mean, self.squares = 0.0, 0.0

    def add(self, column: Dense | Ids, name: str) -> None:
        values: Array = column.values if column.present is None else column.values[column.present]
        self.nulls += len(column.values) - len(values)
        if len(values) == 0:
            return
        x = values.astype(np.float64)
        if not np.isfinite(x).all():
            raise DataError(
                f"feature '{name}' holds {int((~np.isfinite(x)).sum())} values that are not finite",
                where="encodings",
                hint="make them null where the feature is defined (a division by 0?)",
            )
        if self.log:
            x = np.copysign(np.log1p(np.abs(x)), x)
        mean = float(x.mean())
        total = self.count + len(x)
        change = mean - self.mean
        self.squares += float(((x - mean) ** 2).sum()) + change * change * self.count * len(x) / total
        self.mean += change * len(x) / total
        self.count = total

    def fitted(self, encoding: Number) -> Number:
        deviation = (self.squares / self.count) ** 0.5 if self.count else 0.0
        # Rounding leaves a trace of deviation in a constant feature; dividing by that would blow up its noise.
        scale = deviation if deviation > 1e-12 * max(1.0, abs(self.mean)) else 1.0
        return Number(log=encoding.log, mean=self.mean, scale=scale, presence=self.nulls > 0)


@final
class _Widths:
    """How many numbers the vectors have, and whether one is null."""

    def __init__(self) -> None:
        self.width, self.nulls = 0, False

    def add(self, column: Embedding, name: str) -> None:
        self.width = vector_column(column, name, self.width).values.shape[1]
        self.nulls = self.nulls or (column.present is not None and not column.present.all())

    def fitted(self, encoding: Vector) -> Vector:
        return Vector(unit=encoding.unit, width=self.width, presence=self.nulls)


@final
class _Counts:
    """How often each id was seen."""

    def __init__(self) -> None:
        self.ids: Int64s = np.zeros(0, np.int64)
        self.seen: Int64s = np.zeros(0, np.int64)

    def add(self, column: Dense | Ids) -> None:
        present: Bools | None = column.present
        ids, seen = np.unique(column.values if present is None else column.values[present], return_counts=True)
        both, place = np.unique(np.concatenate((self.ids, ids)), return_inverse=True)
        self.seen = np.bincount(place, np.concatenate((self.seen, seen)), len(both)).astype(np.int64)
        self.ids = both

    def keys(self, min_count: int) -> Int64s:
        return self.ids[self.seen >= min_count]
