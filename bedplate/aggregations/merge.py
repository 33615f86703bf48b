"""Merging: partials of disjoint sets of events of one key become the partial of all of them.

History is stored in pieces (segments of an index; rows that could be known at different times), each of which gives
partials of its own. `Reduction` is a commutative monoid over disjoint sets of events, and this is its operation.

Pieces of a key are in order of arrival: of two events with the same time, the one of the earlier piece comes first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TypeAlias, TypeVar, cast, final

import msgspec
import numpy as np

from bedplate.aggregations.base import (
    Counts,
    Decayed,
    Hashes,
    Latest,
    Moments,
    Newest,
    Oldest,
    Partial,
    Reduce,
    Reduction,
    Scalar,
    Values,
)
from bedplate.aggregations.merge_fixed import add_sums, interleave_fixed, merge_fixed, merge_sums, reduced
from bedplate.batch import TextLookup
from bedplate.errors import DataError, DefinitionError
from bedplate.types import Array, Bools, Int64s

Piece: TypeAlias = Partial | Values
"""What a piece gives: a partial, or the values behind a distinct count."""

_Kind = TypeVar("_Kind", bound=Piece)

_FIXED: Mapping[Reduce, type[Oldest | Moments | Decayed]] = {
    Reduce.EARLIEST: Oldest,
    Reduce.MOMENTS: Moments,
    Reduce.DECAYED_SUM: Decayed,
    Reduce.DECAYED_COUNT: Decayed,
}


def merge(reduction: Reduction, pieces: Piece, owners: Int64s) -> Partial:
    """The partials of n keys from those of their m pieces.

    Args:
        reduction: what all of them are partials of.
        pieces: the partial over m pieces. For a DISTINCT it is `Values`, as numbers of different values do not add up;
            where no key has more than one piece, a `Scalar` will do.
        owners: [n + 1] int64 from 0 to m; the pieces of key i are `owners[i]` to `owners[i + 1]`, in order of arrival.

    Returns:
        the partial over n keys; of a key without pieces that of no event.

    Raises:
        DataError: a sum of whole numbers is beyond 64 bits.
        DefinitionError: the partial is not of a kind that the reduction has.

    >>> from bedplate.aggregations.arithmetic import Sum
    >>> (total,) = Sum("price").reductions
    >>> merge(total, Scalar(np.array([1, 2, 3])), np.array([0, 2, 2, 3])).values.tolist()
    [3, 0, 3]
    """
    reduce = reduction.reduce
    if reduce is Reduce.DISTINCT:
        return _distinct(pieces, owners)
    if reduce is Reduce.COUNTS:
        return _counts(_expect(pieces, Counts, reduce), owners)
    if reduce is Reduce.SMALLEST:
        return _hashes(_expect(pieces, Hashes, reduce), reduction.depth, owners)
    if reduce is Reduce.LATEST_BY:
        return _latest_by(_expect(pieces, Latest, reduce), reduction.depth, owners)
    if reduce is Reduce.LATEST:
        if isinstance(pieces, Newest):
            return _newest(pieces, owners)
        return _latest(_expect(pieces, Latest, reduce), reduction.depth, owners)
    if reduce in _FIXED:
        return merge_fixed(_expect(pieces, _FIXED[reduce], reduce), reduction.half_life, owners)
    scalars = _expect(pieces, Scalar, reduce)
    if reduce in (Reduce.COUNT, Reduce.SUM):
        if scalars.values.dtype.kind != "f":
            return Scalar(_whole_sums(scalars.values, owners))
        total, rest = merge_sums(scalars.values, scalars.rests, owners)
        return Scalar(total, rests=rest)
    return _extremes(scalars, owners, largest=reduce is Reduce.MAX)


def merge_sets(reduction: Reduction, sets: Sequence[Piece]) -> Partial:
    """The partials of n keys from those of k disjoint sets of events, of the same n keys each.

    Args:
        reduction: what all of them are partials of.
        sets: at least one, in order of arrival, as `merge` takes them.

    Raises:
        DataError, DefinitionError: as `merge`.

    >>> from bedplate.aggregations.ordered import Last
    >>> (last,) = Last("price").reductions
    >>> old = Newest(np.array([True, True]), np.array([5, 9]), (np.array([1.0, 2.0]),), (None,))
    >>> new = Newest(np.array([True, True]), np.array([5, 7]), (np.array([3.0, 4.0]),), (None,))
    >>> merge_sets(last, [old, new]).columns[0].tolist()
    [3.0, 2.0]
    """
    if len(sets) == 1 and not isinstance(sets[0], Values):
        return sets[0]
    if reduction.reduce in _ONE_BY_ONE:
        return _one_by_one(reduction.reduce, _all(sets, Scalar))
    pieces = interleave(sets)
    keys = _length(pieces) // len(sets)
    return merge(reduction, pieces, np.arange(keys + 1, dtype=np.int64) * len(sets))


_ONE_BY_ONE = (Reduce.COUNT, Reduce.SUM, Reduce.MIN, Reduce.MAX)


def _one_by_one(reduce: Reduce, sets: Sequence[Scalar]) -> Scalar:
    """What `merge` gives, one set after the other: no larger arrays are made."""
    values, present = sets[0].values.copy(), sets[0].present
    if reduce in (Reduce.COUNT, Reduce.SUM):
        if values.dtype.kind == "f":
            rest = _rests(sets[0])
            for other in sets[1:]:
                values, rest = add_sums(values, rest, other.values, _rests(other))
            return Scalar(values, rests=rest)
        if sum(_largest(s.values) for s in sets) > np.iinfo(np.int64).max:
            owners = np.arange(len(values) + 1, dtype=np.int64) * len(sets)
            return Scalar(_whole_sums(_zipped([s.values for s in sets]), owners))
        for other in sets[1:]:
            values += other.values
        return Scalar(values)
    best = np.maximum if reduce is Reduce.MAX else np.minimum
    for other in sets[1:]:
        mine, theirs = _there(values, present), _there(other.values, other.present)
        values = np.where(mine & theirs, best(values, other.values), np.where(mine, values, other.values))
        present = mine | theirs
    there = _there(values, present)
    return Scalar(np.where(there, values, 0).astype(values.dtype, copy=False), there)


def _rests(scalars: Scalar) -> Array:
    return np.zeros(len(scalars.values)) if scalars.rests is None else scalars.rests


def _largest(values: Array) -> int:
    """The largest amount among whole numbers."""
    return max(int(values.max()), -int(values.min())) if len(values) else 0


def _there(values: Array, present: Bools | None) -> Bools:
    return np.ones(len(values), np.bool_) if present is None else present


def interleave(sets: Sequence[Piece]) -> Piece:
    """The pieces of n keys, key by key, from k partials of one kind with n keys each."""
    first = sets[0]
    if isinstance(first, Scalar):
        return _interleaved_scalars(_all(sets, Scalar))
    if isinstance(first, Newest):
        newest = _all(sets, Newest)
        return Newest(
            _zipped([s.present for s in newest]),
            _zipped([s.times for s in newest]),
            tuple(_zipped([s.columns[c] for s in newest]) for c in range(len(first.columns))),
            _texts([s.texts for s in newest]),
        )
    if isinstance(first, Values):
        offsets, order = _interleaved_rows([s.offsets for s in _all(sets, Values)])
        return Values(offsets, np.concatenate([s.values for s in _all(sets, Values)])[order])
    if isinstance(first, Hashes):
        offsets, order = _interleaved_rows([s.offsets for s in _all(sets, Hashes)])
        return Hashes(offsets, np.concatenate([s.values for s in _all(sets, Hashes)])[order])
    if isinstance(first, Oldest):
        oldest = _all(sets, Oldest)
        return msgspec.structs.replace(interleave_fixed(oldest), texts=chain_texts([s.texts for s in oldest]))
    if isinstance(first, Moments | Decayed):
        return interleave_fixed(_all(sets, type(first)))
    if isinstance(first, Counts):
        return _interleaved_counts(_all(sets, Counts))
    lists = _all(sets, Latest)
    offsets, order = _interleaved_rows([s.offsets for s in lists])
    return Latest(
        offsets,
        np.concatenate([s.times for s in lists])[order],
        tuple(np.concatenate([s.columns[c] for s in lists])[order] for c in range(len(first.columns))),
        _texts([s.texts for s in lists]),
    )


def union(pieces: Values, owners: Int64s) -> Values:
    """The different values of n keys from those of their m pieces, ascending; for what merges again later.

    >>> both = union(Values(np.array([0, 2, 3]), np.array([7, 5, 7])), np.array([0, 2]))
    >>> both.offsets.tolist(), both.values.tolist()
    ([0, 2], [5, 7])
    """
    keys, order, new = _by_value(pieces.offsets, pieces.values, owners)
    return Values(_offsets(np.bincount(keys[new], minlength=len(owners) - 1)), pieces.values[order[new]])


@final
class ChainedTexts(Mapping[int, str]):
    """The strings behind ids that several pieces know, looked for in one after the other."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[TextLookup]) -> None:
        self._parts = tuple(parts)

    def __getitem__(self, key: int) -> str:
        """The string of an id."""
        for part in self._parts:
            if key in part:
                return part[key]
        raise KeyError(key)

    def __iter__(self) -> Iterator[int]:
        """The ids."""
        return iter(dict.fromkeys(chain.from_iterable(self._parts)))

    def __len__(self) -> int:
        """How many strings there are."""
        return sum(1 for _ in self)


def chain_texts(parts: Sequence[TextLookup | None]) -> TextLookup | None:
    """One mapping for those of several pieces; None where there is none."""
    found = list({id(p): p for p in parts if p is not None}.values())
    return ChainedTexts(found) if len(found) > 1 else next(iter(found), None)


def _texts(sets: Sequence[tuple[TextLookup | None, ...]]) -> tuple[TextLookup | None, ...]:
    return tuple(chain_texts(parts) for parts in zip(*sets, strict=True))


def _by_value(offsets: Int64s, values: Array, owners: Int64s) -> tuple[Int64s, Int64s, Bools]:
    """The values of n keys by key and value: their keys, their positions, and which of them differ from the one before.

    Equal values stay in the order of their pieces.
    """
    starts = offsets[owners]
    keys = np.repeat(np.arange(len(owners) - 1), np.diff(starts))
    order = np.lexsort((values[starts[0] : starts[-1]], keys)) + starts[0]
    keys, ordered = keys[order - starts[0]], values[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (ordered[1:] != ordered[:-1]) | (keys[1:] != keys[:-1])
    return keys, order, new


def _counts(pieces: Counts, owners: Int64s) -> Counts:
    keys, order, new = _by_value(pieces.offsets, pieces.values, owners)
    runs = np.append(np.flatnonzero(new), len(order))
    return Counts(
        _offsets(np.bincount(keys[new], minlength=len(owners) - 1)),
        pieces.values[order[new]],
        reduced(np.add, pieces.counts[order], runs, 0),
        reduced(np.maximum, pieces.times[order], runs, 0),
        pieces.texts,
    )


def _hashes(pieces: Hashes, depth: int, owners: Int64s) -> Hashes:
    keys, order, new = _by_value(pieces.offsets, pieces.values, owners)
    sizes = np.bincount(keys[new], minlength=len(owners) - 1)
    place = np.arange(int(sizes.sum())) - np.repeat(_offsets(sizes)[:-1], sizes)
    return Hashes(_offsets(np.minimum(sizes, depth)), pieces.values[order[new]][place < depth])


def _latest_by(pieces: Latest, depth: int, owners: Int64s) -> Latest:
    """Of each value of the last input the last event, of these the last `depth`."""
    whole = _latest(pieces, int(np.diff(pieces.offsets[owners]).max(initial=0)), owners)
    each = np.arange(len(owners), dtype=np.int64)
    keys, order, _ = _by_value(whole.offsets, whole.columns[-1], each)
    last = np.ones(len(order), np.bool_)
    values = whole.columns[-1][order]
    last[:-1] = (values[1:] != values[:-1]) | (keys[1:] != keys[:-1])
    kept = np.sort(order[last])
    offsets = np.searchsorted(kept, whole.offsets)
    distinct = Latest(offsets, whole.times[kept], tuple(c[kept] for c in whole.columns), whole.texts)
    return _latest(distinct, depth, each)


def _interleaved_counts(sets: Sequence[Counts]) -> Counts:
    offsets, order = _interleaved_rows([s.offsets for s in sets])
    return Counts(
        offsets,
        np.concatenate([s.values for s in sets])[order],
        np.concatenate([s.counts for s in sets])[order],
        np.concatenate([s.times for s in sets])[order],
        chain_texts([s.texts for s in sets]),
    )


def _expect(pieces: Piece, kind: type[_Kind], reduce: Reduce) -> _Kind:
    if not isinstance(pieces, kind):
        raise DefinitionError(f"got a {type(pieces).__name__} partial of a {reduce}, expected a {kind.__name__}")
    return pieces


def _all(sets: Sequence[Piece], kind: type[_Kind]) -> list[_Kind]:
    for pieces in sets:
        if not isinstance(pieces, kind):
            raise DefinitionError(
                f"got a {type(pieces).__name__} beside a {kind.__name__}, expected partials of a kind"
            )
    return cast("list[_Kind]", list(sets))


def _length(pieces: Piece) -> int:
    if isinstance(pieces, Scalar):
        return len(pieces.values)
    if isinstance(pieces, Oldest | Moments | Decayed | Newest):
        return len(pieces.means if isinstance(pieces, Moments) else pieces.times)
    return len(pieces.offsets) - 1


def _offsets(counts: Array) -> Int64s:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _zipped(arrays: Sequence[Array]) -> Array:
    whole = np.stack(arrays, axis=1)
    return whole.reshape(whole.shape[0] * whole.shape[1], *whole.shape[2:])


def _interleaved_scalars(sets: Sequence[Scalar]) -> Scalar:
    values = _zipped([s.values for s in sets])
    rests = None if all(s.rests is None for s in sets) else _zipped([_rests(s) for s in sets])
    if all(s.present is None for s in sets):
        return Scalar(values, rests=rests)
    return Scalar(values, _zipped([_there(s.values, s.present) for s in sets]), rests)


def _interleaved_rows(offsets: Sequence[Int64s]) -> tuple[Int64s, Int64s]:
    """The offsets of the pieces key by key, and where each of their rows is among those of one set after the other."""
    counts = _zipped([np.diff(o) for o in offsets])
    before = _offsets(np.array([o[-1] for o in offsets]))[:-1]
    starts = _zipped([o[:-1] + b for o, b in zip(offsets, before, strict=True)])
    result = _offsets(counts)
    rows: Int64s = np.repeat(starts - result[:-1], counts) + np.arange(int(result[-1]))
    return result, rows


def _whole_sums(values: Array, owners: Int64s) -> Int64s:
    totals = reduced(np.add, values, owners, 0)
    # The wrapped sum and the rounded one differ by 2**64 where it wraps, and else by far less.
    rounded = reduced(np.add, values.astype(np.float64), owners, 0.0)
    wrong = np.abs(rounded - totals) > 2.0**62
    if wrong.any():
        raise beyond_words(float(rounded[wrong][0]))
    return totals


def beyond_words(about: float) -> DataError:
    """The error of a sum of whole numbers that is beyond 64 bits, and about what it is."""
    return DataError(
        f"a sum of whole numbers is beyond 64 bits, it reaches about {about:.1e}",
        hint="sum it as floats: pl.col(...).cast(pl.Float64)",
    )


def _extremes(pieces: Scalar, owners: Int64s, *, largest: bool) -> Scalar:
    values = pieces.values
    if values.dtype.kind == "f":
        least: int | float = -np.inf if largest else np.inf
    else:
        bounds = np.iinfo(values.dtype)
        least = int(bounds.min if largest else bounds.max)
    there: Bools = np.ones(len(values), np.bool_) if pieces.present is None else pieces.present
    best = reduced(np.maximum if largest else np.minimum, np.where(there, values, least), owners, least)
    present = reduced(np.logical_or, there, owners, 0)
    return Scalar(np.where(present, best, 0).astype(values.dtype), present)


def _newest(pieces: Newest, owners: Int64s) -> Newest:
    nothing = np.iinfo(np.int64).min
    times = np.where(pieces.present, pieces.times, nothing)
    latest = reduced(np.maximum, times, owners, nothing)
    present = reduced(np.logical_or, pieces.present, owners, 0)
    # Of the pieces with that time the last.
    place = np.where(times == np.repeat(latest, np.diff(owners)), np.arange(len(times)), 0)
    best = reduced(np.maximum, place, owners, 0)
    if not len(times):
        columns = tuple(np.zeros((len(present), *c.shape[1:]), c.dtype) for c in pieces.columns)
        return Newest(present, np.zeros(len(present), np.int64), columns, pieces.texts)
    return Newest(present, pieces.times[best], tuple(c[best] for c in pieces.columns), pieces.texts)


def _latest(pieces: Latest, depth: int, owners: Int64s) -> Latest:
    starts = pieces.offsets[owners]
    counts = np.diff(starts)
    keys = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((pieces.times[starts[0] : starts[-1]], keys)) + starts[0]
    kept = np.minimum(counts, depth)
    from_end: Int64s = np.repeat(starts[1:], counts) - np.arange(int(starts[0]), int(starts[-1]))
    order = order[from_end <= depth]
    return Latest(_offsets(kept), pieces.times[order], tuple(c[order] for c in pieces.columns), pieces.texts)


def _distinct(pieces: Piece, owners: Int64s) -> Scalar:
    if isinstance(pieces, Values):
        return Scalar(np.diff(union(pieces, owners).offsets))
    if np.diff(owners).max(initial=0) > 1:
        raise DefinitionError("numbers of different values do not add up: merge the values themselves")
    return Scalar(reduced(np.add, _expect(pieces, Scalar, Reduce.DISTINCT).values, owners, 0))
