"""Merging partials of a fixed number of values a key: first events, moments, decayed sums; see `merge`."""

from __future__ import annotations

from collections.abc import Sequence
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
    """Pairs of neighbours, then pairs of pairs, so that it takes the logarithm of the most pieces of a key."""
    counts, means, rests, squares = pieces.counts, pieces.means, pieces.rests, pieces.squares
    while np.diff(owners).max(initial=0) > 1:
        lengths = np.diff(owners)
        rank = np.arange(int(owners[-1])) - np.repeat(owners[:-1], lengths)
        left = np.flatnonzero(rank % 2 == 0)
        alone = np.append(rank, 0)[left + 1] == 0
        right = np.where(alone, 0, left + 1)
        more: list[Array] = [np.where(alone, 0, c[right]) for c in (counts, means, rests, squares)]
        merged = merge_moments(counts[left], means[left], rests[left], squares[left], *more)
        counts = counts[left] + more[0]
        means, rests, squares = merged
        owners = np.append(0, np.cumsum((lengths + 1) // 2))
    there = np.diff(owners) > 0
    columns = [np.zeros(len(there), c.dtype) for c in (counts, means, rests, squares)]
    for column, found in zip(columns, (counts, means, rests, squares), strict=True):
        column[there] = found
    return Moments(*columns)


def _decayed(pieces: Decayed, half_life: int, owners: Int64s) -> Decayed:
    never = np.iinfo(np.int64).min
    there = pieces.values != 0
    newest = reduced(np.maximum, np.where(there, pieces.times, never), owners, never)
    elapsed = np.where(there, np.repeat(newest, np.diff(owners)) - pieces.times, 0)
    values = reduced(np.add, decay(pieces.values, elapsed, half_life), owners, 0)
    return Decayed(values, np.where(newest == never, 0, newest))
