"""Cells: values of features that stay the same for a while if no event comes, kept ready in resident records.

Most values (counts, sums, ratios, extremes, last values, attributes) change only when an event comes, and those of a
window when its tail moves on by a hop. So such a value is finalised once and holds for all times between two edges. All
others (ages, decay, rates, exact windows, lists, what a `ttl` or `valid_to` ends, aggregations that a project brings)
are finalised of the packed row at each read, by the plan and kernels that read the store.

A record, 64-bit words:

    key | the first time at which all events of the row count | presence bits | a cell a column, vectors several
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np

from bedplate.aggregations.attribute import Attribute
from bedplate.aggregations.base import Aggregation, Reduce
from bedplate.aggregations.counts import Histogram
from bedplate.aggregations.distinct import CountDistinct
from bedplate.aggregations.extremes import Max, Min
from bedplate.aggregations.moments import StdDev, Variance
from bedplate.aggregations.ordered import First
from bedplate.aggregations.ratio import Ratio
from bedplate.aggregations.sketches import ApproxCountDistinct, Quantile
from bedplate.aggregations.window import Window
from bedplate.batch import Column, Columns, Dense, Embedding, Ids, Ragged, Stack, TextLookup
from bedplate.features.view import Call, CompiledView
from bedplate.online import resident_kernels as kernels
from bedplate.online.codec import columns_of, to_words, vectors_from
from bedplate.online.plan import ReadPlan
from bedplate.types import Array, Bools, Int64s

ALWAYS = np.iinfo(np.int64).min, np.iinfo(np.int64).max
"""The times, from the first to before the second, for which a value without a window holds."""


_STEADY = (ApproxCountDistinct, CountDistinct, First, Histogram, Max, Min, Quantile, StdDev, Variance)


@final
class Place(NamedTuple):
    """Where a record has a column.

    Attributes:
        words: its words.
        bit: its presence bit; -1: it is always there.
        window: of the feature.
    """

    words: range
    bit: int
    window: Window | None


@final
class Cells:
    """Where the records of a view have the values of which features.

    Args:
        view: the compiled view.

    Attributes:
        view: as given.
        places: by the full name of each feature that has cells.
        bits_at: the word of the first presence bit.
        width: words of a record.
    """

    __slots__ = ("_plan", "bits_at", "places", "view", "width")

    def __init__(self, view: CompiledView) -> None:
        self.view = view
        windows = {f"{view.name}.{n}": c.window for c in view.calls if _holds(view, c) for n in c.names}
        self._plan = ReadPlan(view, [name for name in view.features if name in windows])
        none = np.zeros(0, np.int64)
        empty = self._plan.read(none, np.zeros(2, np.int64), np.zeros(1, np.int64), {})
        self.bits_at = len(view.view.entities) + 1
        sizes = {name: _words(empty[name]) for name in self._plan.names}
        bits = {name: i for i, name in enumerate(n for n in self._plan.names if _present(empty[n]) is not None)}
        at, self.places = self.bits_at + -(-len(bits) // 64), dict[str, Place]()
        for name, size in sizes.items():
            self.places[name] = Place(range(at, at + size), bits.get(name, -1), windows[name])
            at += size
        self.width = at

    def records(self, keys: Int64s, words: Int64s, offsets: Int64s, time: int) -> Int64s:
        """[k + 1, width] int64: the records of packed rows as of a time, and last that of a key without a row.

        Args:
            keys: [k, entities] int64.
            words: the packed rows; none is empty.
            offsets: [k + 1] into them.
            time: microseconds.
        """
        layout, k, entities = self._plan.layout, len(keys), keys.shape[1]
        settled = np.full(k + 1, ALWAYS[0], np.int64)
        kernels.settled_at(words, offsets, layout.shape, layout.delay, layout.known_at, settled[:k])
        # A row that is settled only after a window has moved on has a value of then: no read takes it, as none is both
        # after all events of the row and before the edge.
        times = np.maximum(settled, time)
        records = np.zeros((k + 1, self.width), np.int64)
        records[:k, :entities], records[:, entities] = keys, settled
        found = self._plan.read(words, np.append(offsets, offsets[-1]), times, {})
        for name, place in self.places.items():
            column = found[name]
            for word, values in zip(place.words, columns_of(_values(column)), strict=True):
                records[:, word] = values
            if place.bit >= 0:
                there = _present(column)
                bits = np.ones((1, k + 1), np.bool_) if there is None else there.reshape(1, -1)
                kernels.put_bits(np.ascontiguousarray(bits), place.bit, self.bits_at, records)
        return records

    def lifetimes(self, time: int) -> dict[str, tuple[int, int]]:
        """By name the times for which records as of a time hold, from the first to before the second."""
        return {n: ALWAYS if p.window is None else lifetime(p.window, time) for n, p in self.places.items()}


@final
class CellPlan:
    """How cells of some features become the columns that a read of the packed rows gives.

    Args:
        cells: of the view.
        names: full names of features that have cells.

    Attributes:
        plan: of a read of the packed rows.
    """

    __slots__ = ("_bits", "_bits_at", "_makers", "_words", "plan")

    def __init__(self, cells: Cells, names: Sequence[str]) -> None:
        self.plan = ReadPlan(cells.view, names)
        none = np.zeros(0, np.int64)
        empty = self.plan.read(none, np.zeros(2, np.int64), np.zeros(1, np.int64), {})
        words, bits = list[int](), list[int]()
        self._makers: list[functools.partial[Stack | Column]] = []
        ordered = sorted(self._named(empty), key=lambda placed: placed[:2])
        for part, like in enumerate(empty.parts):
            places = [cells.places[name] for at, _, name in ordered if at == part]
            first = len(words), len(bits)
            words += [word for place in places for word in place.words]
            bits += [place.bit for place in places if place.bit >= 0]
            rows = slice(first[0], len(words)), slice(first[1], len(bits))
            self._makers.append(functools.partial(_part, like, *rows))
        self._bits_at = cells.bits_at
        self._words, self._bits = np.array(words, np.int64), np.array(bits, np.int64)

    def read(self, records: Int64s, rows: Int64s, texts: TextLookup) -> Columns:
        """The values of n keys: those that the records at `rows` [n] have."""
        n = len(rows)
        out, present = np.empty((len(self._words), n), np.int64), np.empty((len(self._bits), n), np.bool_)
        kernels.take_cells(records, rows, self._words, self._bits_at, self._bits, out, present)
        return Columns([make(out, present, texts) for make in self._makers], self.plan.places)

    def _named(self, columns: Columns) -> list[tuple[int, int, str]]:
        return [(*columns.places[name], name) for name in columns]


def lifetime(window: Window, time: int) -> tuple[int, int]:
    """The times for which a window begins where it does at a time, from the first to before the second.

    >>> lifetime(Window(length=100, hop=10), 1_005)
    (1000, 1010)
    """
    begin = window.start(time)
    return begin + window.length, begin + window.length + window.hop


def _holds(view: CompiledView, call: Call) -> bool:
    """Whether a value stays the same between events and the edges of its window."""
    aggregation = call.aggregation
    carried = any(r.reduce in (Reduce.LATEST, Reduce.LATEST_BY) for r in aggregation.reductions)
    if (carried and view.view.ttl is not None) or (call.window is not None and not call.window.hop):
        return False
    outputs = aggregation.outputs(view.input_types(aggregation))
    return _is_steady(aggregation) and not any(output.is_list for output in outputs)


def _is_steady(aggregation: Aggregation) -> bool:
    """Whether `finalize` makes the same of the same partials at every time."""
    if isinstance(aggregation, Ratio):
        return _is_steady(aggregation.numerator) and _is_steady(aggregation.denominator)
    if isinstance(aggregation, Attribute):
        return aggregation.valid_to is None
    return aggregation.finish is not None or isinstance(aggregation, _STEADY)


def _part(
    like: Stack | Column, words: slice, bits: slice, out: Int64s, present: Bools, texts: TextLookup
) -> Stack | Column:
    """A part of columns of the same form as another one, of cells and presence bits."""
    there = present[bits] if bits.stop > bits.start else None
    if isinstance(like, Embedding):
        vectors = vectors_from(out[words], like.values.shape[1])
        return Embedding(vectors, None if there is None else there[0])
    kind = _values(like).dtype
    values: Array = out[words].view(np.float64) if kind == np.float64 else out[words].astype(kind, copy=False)
    if isinstance(like, Stack):
        return Stack(values, there, like.is_ids, texts if like.texts is not None else None)
    of_one = None if there is None else there[0]
    if isinstance(like, Ids):
        return Ids(values[0], of_one, texts if like.texts is not None else None)
    return Dense(values[0], of_one)


def _values(column: Stack | Column) -> Array:
    if isinstance(column, Ragged):
        raise TypeError("lists have no cells")
    return column.values


def _present(column: Column) -> Bools | None:
    return None if isinstance(column, Ragged) else column.present


def _words(column: Column) -> int:
    values = _values(column)
    return len(columns_of(values)) if values.ndim > 1 else len([to_words(values)])
