"""Merging partials of a fixed number of values a key: first events, moments, decayed sums; see `merge`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from bedplate.aggregations.base import Decayed, Moments, Oldest
from bedplate.aggregations.decay import decay
from bedplate.aggregations.moments import merge_moments
from bedplate.types import Array, Int64s

Fixed: TypeAlias = Oldest | Moments | Decayed
"""The kinds of partials that are merged here."""


def merge_fixed(pieces: Fixed, half_life: int, owners: Int64s) -> Fixed:
    """The partials of n keys from those of their m pieces.

    Args:
        pieces: the partial over m pieces.
        half_life: of a decayed one, microseconds.
        owners: [n + 1] int64 from 0 to m, as for `merge`.

    >>> two = Moments(np.array([1, 1]), np.array([1.0, 3.0]), np.zeros(2), np.zeros(2))
    >>> both = merge_fixed(two, 0, np.array([0, 2, 2]))
    >>> both.counts.tolist(), both.means.tolist(), both.squares.tolist()
    ([2, 0], [2.0, 0.0], [2.0, 0.0])
    """
    if isinstance(pieces, Oldest):
        return _oldest(pieces, owners)
    return _moments(pieces, owners) if isinstance(pieces, Moments) else _decayed(pieces, half_life, owners)


def interleave_fixed(sets: Sequence[Fixed]) -> Fixed:
    """The pieces of n keys, key by key, from k partials of one kind with n keys each; texts are those of the first."""
    first = sets[0]
    columns: list[Any] = [
        getattr(first, field) if field == "texts" else np.stack([getattr(s, field) for s in sets], axis=1).reshape(-1)
        for field in first.__struct_fields__
    ]
    return type(first)(*columns)


def reduced(operation: np.ufunc, values: Array, owners: Int64s, nothing: int | float) -> Array:
    """The values of each owner's pieces reduced; `nothing` where it has none."""
    out = np.full(len(owners) - 1, nothing, values.dtype)
    there = owners[1:] > owners[:-1]
    if there.any():  # the next start of a piece is the end of the one before, as owners without pieces are left out
        out[there] = operation.reduceat(values[: owners[-1]], owners[:-1][there])
    return out


def _oldest(pieces: Oldest, owners: Int64s) -> Oldest:
    latest, count = np.iinfo(np.int64).max, len(pieces.times)
    times = np.where(pieces.present, pieces.times, latest)
    first = reduced(np.minimum, times, owners, latest)
    present = reduced(np.logical_or, pieces.present, owners, 0)
    if not count:
        none = np.zeros(len(present), np.int64)
        return Oldest(present, none, none.astype(pieces.values.dtype), pieces.texts)
    # Of the pieces with that time the first.
    place = np.where(pieces.present & (times == np.repeat(first, np.diff(owners))), np.arange(count), count - 1)
    best = reduced(np.minimum, place, owners, 0)
    return Oldest(present, pieces.times[best], pieces.values[best], pieces.texts)


def _moments(pieces: Moments, owners: Int64s) -> Moments:
    def join(*columns: Array) -> Sequence[Array]:
        # A variance that is beyond the range of a float is none: see `Variance`.
        with np.errstate(over="ignore", invalid="ignore"):
            return columns[0] + columns[4], *merge_moments(*columns)

    return Moments(*_in_pairs([pieces.counts, pieces.means, pieces.rests, pieces.squares], owners, join))


def merge_sums(values: Array, rests: Array | None, owners: Int64s) -> tuple[Array, Array]:
    """The sums of floats of n keys from those of their m pieces, and what is to be added for twice the digits.

    Args:
        values: [m].
        rests: [m], what is to be added to the values; None: nothing.
        owners: [n + 1] int64 from 0 to m, as for `merge`.

    >>> total, rest = merge_sums(np.array([1e15, 0.01, -1e15]), None, np.array([0, 3]))
    >>> total.tolist()
    [0.01]
    """
    total, rest = _in_pairs([values, np.zeros(len(values)) if rests is None else rests], owners, add_sums)
    return total, rest


def add_sums(total: Array, rest: Array, other: Array, other_rest: Array) -> tuple[Array, Array]:
    """Sums of floats and others, each with what is to be added to it for twice the digits (TAOCP 2, 4.2.2, theorem B).

    Beyond the range of a float nothing is to be added.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        whole = total + other
        part = whole - total
        left = (total - (whole - part)) + (other - part)
        low = rest + other_rest + np.where(np.isfinite(whole), left, 0.0)
        high = whole + low
        return high, np.where(np.isfinite(high), (whole - high) + low, 0.0)


def _in_pairs(columns: Sequence[Array], owners: Int64s, join: Callable[..., Sequence[Array]]) -> Sequence[Array]:
    """The columns of n keys from those of their m pieces, 0 where there is none.

    Pairs of neighbours, then pairs of pairs, so that it takes the logarithm of the most pieces of a key.

    Args:
        columns: [m] each.
        owners: [n + 1] int64 from 0 to m, as for `merge`.
        join: takes the columns of pieces and then those of others, 0 where there is none, and gives those of both.
    """
    while np.diff(owners).max(initial=0) > 1:
        lengths = np.diff(owners)
        rank = np.arange(int(owners[-1])) - np.repeat(owners[:-1], lengths)
        left = np.flatnonzero(rank % 2 == 0)
        alone = np.append(rank, 0)[left + 1] == 0
        right = np.where(alone, 0, left + 1)
        columns = join(*(c[left] for c in columns), *(np.where(alone, 0, c[right]) for c in columns))
        owners = np.append(0, np.cumsum((lengths + 1) // 2))
    there = np.diff(owners) > 0
    found = [np.zeros(len(there), c.dtype) for c in columns]
    for whole, column in zip(found, columns, strict=True):
        whole[there] = column
    return found


def _decayed(pieces: Decayed, half_life: int, owners: Int64s) -> Decayed:
    never = np.iinfo(np.int64).min
    there = pieces.values != 0
    newest = reduced(np.maximum, np.where(there, pieces.times, never), owners, never)
    elapsed = np.where(there, np.repeat(newest, np.diff(owners)) - pieces.times, 0)
    with np.errstate(over="ignore"):
        values = reduced(np.add, decay(pieces.values, elapsed, half_life), owners, 0)
    return Decayed(values, np.where(newest == never, 0, newest))
