"""Rows of features that were seen before, found by their bits: a table of buckets, each of a few places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, final

import numpy as np

from bedplate.compiling import compiled
from bedplate.types import Array, Int64s

_WAYS = 16
"""Rows of a bucket. A row is in its bucket or nowhere, and the oldest of a full one makes room."""
_USED, _HAND = 0, 1
"""How many places were given away, and where rows are forgotten next, in `_state`."""
_FIRST, _FACTOR = np.uint64(0xCBF29CE484222325), np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


@final
class RowCache:
    """Places of rows, each of a fixed number of bytes. One thread at a time may use it.

    Places are given away from 0 on, so that what lies beside them takes memory as rows come.

    Args:
        width: bytes of a row.
        rows: how many there may be; at least 1.

    Attributes:
        size: how many places there are.

    >>> cache = RowCache(8, 100)
    >>> rows = as_words([np.array([[5], [6], [5]])])
    >>> cache.places(rows).tolist()
    [-1, -1, -1]
    >>> added = cache.add(rows)
    >>> (cache.places(rows) == added).all(), added[0] == added[2], added[0] == added[1]
    (np.True_, np.True_, np.False_)
    """

    __slots__ = ("_following", "_keys", "_of_tags", "_state", "_tags", "size")

    def __init__(self, width: int, rows: int) -> None:
        self.size = max(1, rows)
        buckets = -(-2 * self.size // _WAYS)
        self._tags = np.zeros((buckets, _WAYS), np.uint64)
        self._of_tags = np.zeros((buckets, _WAYS), np.int64)
        self._keys = np.empty((self.size, -(-width // 8)), np.int64)
        self._following, self._state = np.zeros(buckets, np.int64), np.zeros(2, np.int64)

    def places(self, rows: Int64s) -> Int64s:
        """[n] the place of each row [n, words], -1 for one that is not there.

        Raises:
            ValueError: the rows are of another width.
        """
        self._check(rows)
        found = np.empty(len(rows), np.int64)
        find(rows, self._tags, self._of_tags, self._keys, found)
        return found

    def add(self, rows: Int64s) -> Int64s:
        """[n] the places of rows, given to them where they have none; a later one may have got that of an earlier.

        Raises:
            ValueError: the rows are of another width.
        """
        self._check(rows)
        found = np.empty(len(rows), np.int64)
        put(rows, self._tags, self._of_tags, self._keys, self._following, self._state, found)
        return found

    def _check(self, rows: Int64s) -> None:
        """The compiled loops write as many words as a row has."""
        if rows.shape[1] != self._keys.shape[1]:
            raise ValueError(f"got rows of {rows.shape[1]} words, expected {self._keys.shape[1]}")


def as_words(columns: Sequence[Array]) -> Int64s:
    """[n, words]: the bytes of each row of arrays [n, ...], one array's after the other's, filled up with zeros."""
    n = len(columns[0])
    widths = [math.prod(c.shape[1:]) * c.itemsize for c in columns]
    parts = [np.ascontiguousarray(c).view(np.uint8).reshape(n, w) for c, w in zip(columns, widths, strict=True)]
    out = np.zeros((n, -(-sum(widths) // 8) * 8), np.uint8)
    at = 0
    for part in parts:
        out[:, at : at + part.shape[1]] = part
        at += part.shape[1]
    return out.view(np.int64)


@compiled
def _tag(row: Any) -> Any:
    """A hash of a row, never 0; multiplications mix low bits into high ones, which are folded back."""
    found = _FIRST
    for word in row:
        found = (found ^ np.uint64(word)) * _FACTOR
        found ^= found >> _HALF
    return found | np.uint64(1)


@compiled
def _place(row: Any, tag: Any, bucket: Any, tags: Any, of_tags: Any, keys: Any) -> int:
    """The place of a row; -1: it has none."""
    for way in range(tags.shape[1]):
        if tags[bucket, way] == tag:
            place, same = of_tags[bucket, way], True
            for k in range(len(row)):
                if keys[place, k] != row[k]:
                    same = False
                    break
            if same:
                return place
    return -1


@compiled
def _bucket(tag: Any, tags: Any) -> Any:
    return np.int64((tag >> _HALF) % np.uint64(len(tags)))


@compiled
def find(rows: Any, tags: Any, of_tags: Any, keys: Any, found: Any) -> None:
    """Fills `found` [n] with the places of rows [n, words], -1 where there is none; arrays as of `put`."""
    for i in range(len(rows)):
        tag = _tag(rows[i])
        found[i] = _place(rows[i], tag, _bucket(tag, tags), tags, of_tags, keys)


@compiled
def put(rows: Any, tags: Any, of_tags: Any, keys: Any, following: Any, state: Any, found: Any) -> None:
    """Gives places to rows [n, words] that have none, and fills `found` [n] with the places of all.

    Args:
        rows: the rows.
        tags: [buckets, ways] uint64, 0 where nothing is.
        of_tags: [buckets, ways] the place behind each tag.
        keys: [places, words] the row of each place.
        following: [buckets] the way of each that is filled next.
        state: the number of places that were given away, and the way at which the hand is that looks for one to free.
        found: filled.
    """
    ways = tags.shape[1]
    for i in range(len(rows)):
        tag = _tag(rows[i])
        bucket = _bucket(tag, tags)
        place = _place(rows[i], tag, bucket, tags, of_tags, keys)
        if place < 0:
            way = following[bucket]
            following[bucket] = (way + 1) % ways
            if tags[bucket, way] != 0:
                place = of_tags[bucket, way]
            elif state[_USED] < len(keys):
                place = state[_USED]
                state[_USED] += 1
            else:
                hand = state[_HAND]
                while tags[hand // ways, hand % ways] == 0:
                    hand = (hand + 1) % tags.size
                place = of_tags[hand // ways, hand % ways]
                tags[hand // ways, hand % ways] = 0
                state[_HAND] = (hand + 1) % tags.size
            tags[bucket, way], of_tags[bucket, way] = tag, place
            for k in range(rows.shape[1]):
                keys[place, k] = rows[i, k]
        found[i] = place
