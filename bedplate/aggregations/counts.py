"""How often each value occurs: the most frequent values, and a histogram over categories.

Both read one reduction, COUNTS: the different values of the events that count, how often each occurs and when last.
Counts of disjoint sets of events add up and of two times the later one counts, so that neither the order of events nor
how they are split into tiles, segments or files makes a difference.

State, in history: 12 bytes an event (20 where a table has 2^32 events or more) and 8 bytes a key. Online: 24 bytes for
each different value of a key over all history, and 32 for each different value of each hop in the longest window of
that hop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from bedplate.aggregations.base import (
    Counts,
    ExpressionLike,
    OneInput,
    Output,
    Partial,
    Reduce,
    Reduction,
)
from bedplate.aggregations.window import WindowLike
from bedplate.batch import Column, Dense, Ids, Ragged
from bedplate.canonical import string_ids
from bedplate.errors import DefinitionError
from bedplate.types import Array, Bools, Int64s, Type

_DISCRETE = (Type.INT, Type.STRING, Type.BOOL, Type.TIME)

OTHER = "other"
"""The suffix of a histogram's last feature: what is in none of its categories."""


def counts(partial: Partial) -> Counts:
    """The partial as counts of values."""
    if not isinstance(partial, Counts):
        raise DefinitionError(f"got a {type(partial).__name__} partial, expected counts")
    return partial


@final
class TopK(OneInput):
    """The `k` most frequent values, the most frequent first: a list. No event: an empty list.

    Of values that are equally frequent the one seen last comes first; of those last seen at the same time the smallest
    (of strings, the one whose id is smallest). A null is no value.

    Args:
        expression: the row expression: integers, strings, booleans or times. Round floats to something that recurs.
        k: at most so many values.
        counts: gives one more list, `<name>_counts`: how often each occurs (int64), aligned with the first.
        windows: as for `Aggregation`.
        where: as for `Aggregation`.

    >>> top = TopK("category", 3, counts=True, windows="7d")
    >>> top.outputs([Type.STRING])[1]
    Output(suffix='counts', type=<Type.INT: 'int64'>, is_list=True)
    """

    __slots__ = ("counts", "k")

    def __init__(
        self,
        expression: ExpressionLike,
        k: int,
        counts: bool = False,
        windows: WindowLike | Sequence[WindowLike] | None = None,
        where: ExpressionLike | None = None,
    ) -> None:
        # Whoever writes definitions may run no type checker.
        given: list[Any] = [k, counts]
        if not isinstance(given[0], int) or isinstance(given[0], bool) or k <= 0 or not isinstance(given[1], bool):
            raise DefinitionError(
                f"got k={k!r} and counts={counts!r}, expected a whole k above zero and True or False",
                where="TopK",
                hint='for example TopK("category", 3, counts=True)',
            )
        super().__init__(expression, windows, where)
        self.k, self.counts = k, counts

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """How often each value occurs."""
        return (Reduction(Reduce.COUNTS, self.selection),)

    @property
    def leading(self) -> int:
        """The `k` values of the list."""
        return self.k

    def outputs(self, types: Sequence[Type]) -> tuple[Output, ...]:
        """A list of values, and one of counts if asked for."""
        self.require(_DISCRETE, types[0])
        values = Output("", types[0], is_list=True)
        return (values, Output("counts", Type.INT, is_list=True)) if self.counts else (values,)

    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        """The first k of each key's values, by count and then by time."""
        partial = counts(partials[0])
        offsets = np.zeros(len(partial.offsets), np.int64)
        np.cumsum(np.minimum(np.diff(partial.offsets), self.k), out=offsets[1:])
        chosen = _first(_ranks(partial), partial.offsets, offsets, self.k)
        values = partial.values[chosen]
        column = Dense(values) if partial.texts is None else Ids(values, None, partial.texts)
        lists: tuple[Column, ...] = (Ragged(column, offsets),)
        return (*lists, Ragged(Dense(partial.counts[chosen]), offsets)) if self.counts else lists

    def options(self) -> Mapping[str, Any]:
        """The number of values, and whether their counts are wanted."""
        return {"k": self.k, "counts": self.counts}


def _ranks(partial: Counts) -> Int64s:
    """Numbers that are smaller the more frequent a value is and, where that is equal, the later it was last seen."""
    if not len(partial.counts):
        return partial.counts
    newest = int(partial.times.max())
    span = newest - int(partial.times.min()) + 1
    if span * (int(partial.counts.max()) + 1) < 2**63:
        return (newest - partial.times) - partial.counts * span
    ranks = np.empty(len(partial.counts), np.int64)
    ranks[np.lexsort((-partial.times, -partial.counts))] = np.arange(len(ranks))
    return ranks


def _first(ranks: Int64s, offsets: Int64s, ends: Int64s, k: int) -> Int64s:
    """The positions of the k smallest ranks of each key, in order; equal ones stay as they are.

    Lists of about one length are ordered together, as the rows of a matrix: many times faster than one sort of all.

    Args:
        ranks: [m].
        offsets: [n + 1] the list of each key.
        ends: [n + 1] where what is chosen of each begins, as offsets.
        k: at most so many.
    """
    sizes, chosen = np.diff(offsets), np.empty(int(ends[-1]), np.int64)
    widths = np.frexp(np.maximum(sizes - 1, 0))[1]  # a list fits in so many powers of two
    powers: list[int] = np.unique(widths[sizes > 0]).tolist()
    for power in powers:
        keys = np.flatnonzero((widths == power) & (sizes > 0))
        column: Int64s = np.arange(1 << power)
        there: Bools = column < sizes[keys, None]
        at = offsets[keys, None] + np.where(there, column, 0)
        best = np.argsort(np.where(there, ranks[at], np.iinfo(np.int64).max), axis=1, kind="stable")[:, :k]
        taken: Bools = column[:k] < sizes[keys, None]
        chosen[(ends[keys, None] + column[:k])[taken]] = (offsets[keys, None] + best)[taken]
    return chosen


@final
class Histogram(OneInput):
    """How many events have each of a few known values: one number a category, and one for all other values.

    Each category is a feature of its own, `<name>_<category>`, and the rest is `<name>_other`: a model takes them as
    numbers, each with a scale of its own, and parity, drift and lineage name the category. No event: 0.

    Args:
        expression: the row expression: integers or strings.
        categories: the values, or a mapping from what a feature is called to its value.
        share: gives the share of the events (float64, null without an event) instead of their number.
        windows: as for `Aggregation`.
        where: as for `Aggregation`.

    >>> Histogram("device", ["phone", "web"], share=True).outputs([Type.STRING])[0]
    Output(suffix='phone', type=<Type.FLOAT: 'float64'>, is_list=False)
    """

    __slots__ = ("categories", "share")

    def __init__(
        self,
        expression: ExpressionLike,
        categories: Sequence[str | int] | Mapping[str, str | int],
        share: bool = False,
        windows: WindowLike | Sequence[WindowLike] | None = None,
        where: ExpressionLike | None = None,
    ) -> None:
        self.categories = _named(categories)
        if not isinstance(share, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"got share={share!r}, expected True or False", where="Histogram")
        super().__init__(expression, windows, where)
        self.share = share

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """How often each value occurs."""
        return (Reduction(Reduce.COUNTS, self.selection),)

    def outputs(self, types: Sequence[Type]) -> tuple[Output, ...]:
        """One number a category, and one for the rest."""
        self.require((Type.INT, Type.STRING), types[0])
        known = next(iter(self.categories.values()))
        if (types[0] is Type.STRING) != isinstance(known, str):
            raise DefinitionError(
                f"the categories are {'strings' if isinstance(known, str) else 'integers'}, the values {types[0]}",
                where="Histogram",
                hint="cast the expression, or give the categories as values of its type",
            )
        kind = Type.FLOAT if self.share else Type.INT
        return tuple(Output(name, kind) for name in (*self.categories, OTHER))

    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        """The counts or shares, by category."""
        partial = counts(partials[0])
        keys, width = len(partial.offsets) - 1, len(self.categories)
        key = np.repeat(np.arange(keys), np.diff(partial.offsets))
        wanted = [v if isinstance(v, int) else string_ids([v])[0] for v in self.categories.values()]
        place = _positions(np.array(wanted, np.int64), partial.values)
        table = np.zeros((keys, width + 1), np.int64)
        # A value that is known is there once a key; of the others there may be many.
        known = place < width
        table[key[known], place[known]] = partial.counts[known]
        np.add.at(table[:, width], key[~known], partial.counts[~known])
        if not self.share:
            return tuple(Dense(np.ascontiguousarray(table[:, c])) for c in range(width + 1))
        total = table.sum(axis=1)
        there: Bools = total > 0
        return tuple(Dense(table[:, c] / np.maximum(total, 1), there) for c in range(width + 1))

    def options(self) -> Mapping[str, Any]:
        """The categories in their order, and whether shares are wanted."""
        return {"categories": [[n, v] for n, v in self.categories.items()], "share": self.share}


def _positions(known: Int64s, values: Array) -> Int64s:
    """Where each value is among the known ones; their number where it is not there."""
    order = np.argsort(known)
    at = np.minimum(np.searchsorted(known[order], values), len(known) - 1)
    return np.where(known[order][at] == values, order[at], len(known))


def _named(categories: Any) -> dict[str, str | int]:
    """The categories by the suffixes of their features.

    Raises:
        DefinitionError: none, of several types, twice the same, or named as no feature can be.
    """
    pairs: list[tuple[Any, Any]] = []
    if isinstance(categories, Mapping):
        pairs = list(categories.items())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    elif isinstance(categories, Sequence) and not isinstance(categories, str | bytes):
        pairs = [(str(c), c) for c in categories]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if not pairs or not any(all(type(value) is kind for _, value in pairs) for kind in (str, int)):
        raise DefinitionError(
            f"got the categories {categories!r}, expected strings or integers, in a list or by name",
            where="Histogram",
            hint='for example Histogram("device", ["phone", "web"])',
        )
    wrong = [n for n, _ in pairs if not isinstance(n, str) or not n or "." in n or n == OTHER]
    values = {value for _, value in pairs}
    if wrong or len(values) < len(pairs):
        raise DefinitionError(
            f"got the categories {wrong or [v for _, v in pairs]}, expected different values with names without dots, "
            f"none of them '{OTHER}', which is the feature for the rest",
            where="Histogram",
            hint='name them: Histogram("domain", {"own": "example.com"})',
        )
    return dict(pairs)
