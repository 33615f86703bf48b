"""The catalogue: the vectors of all items, searched exactly: about a millisecond for 100,000 items of 64 numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np

from bedplate.errors import ArtifactError
from bedplate.types import Float32s, Int64s

_LARGE = 1e12
"""A number of a query beyond which inner products might overflow."""
_NOTHING = np.zeros(0, np.int64)


@final
class Catalogue:
    """All items that can be retrieved.

    Args:
        keys: [M] int64, all different.
        vectors: [M, d] float32.
        texts: [M], the texts behind keys that are strings.
        place: what a message calls the catalogue.

    Attributes:
        keys: as given.
        vectors: as given.
        wire: [M], the keys as a client knows them.
        has_texts: whether those are strings.

    Raises:
        ArtifactError: the lengths differ, a key is there twice, or a vector is not finite.

    >>> c = Catalogue(np.array([7, 8, 9]), np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], np.float32))
    >>> c.keys[c.search(np.array([1.0, 0.0], np.float32), 2)].tolist()
    [7, 9]
    """

    __slots__ = ("_order", "_sorted", "_unit", "has_texts", "keys", "vectors", "wire")

    def __init__(
        self, keys: Int64s, vectors: Float32s, texts: Sequence[str] | None = None, place: str = "catalogue"
    ) -> None:
        if vectors.ndim != 2 or len(keys) != len(vectors) or (texts is not None and len(texts) != len(keys)):
            shown = "no texts" if texts is None else f"{len(texts)} texts"
            raise ArtifactError(f"got {len(keys)} keys, vectors of shape {vectors.shape} and {shown}", where=place)
        self.keys = np.ascontiguousarray(keys, np.int64)
        self.vectors = np.ascontiguousarray(vectors, np.float32)
        self._order = np.argsort(self.keys)
        self._sorted = self.keys[self._order]
        if (self._sorted[1:] == self._sorted[:-1]).any():
            raise ArtifactError("a key is there twice", where=place)
        if not np.isfinite(self.vectors).all():
            raise ArtifactError("a vector holds NaN or infinity", where=place)
        self._unit: Float32s | None = None
        self.has_texts = texts is not None
        self.wire: Sequence[int | str] = self.keys.tolist() if texts is None else texts

    def __len__(self) -> int:
        """M, the number of items."""
        return len(self.keys)

    def search(
        self, query: Float32s, count: int, without: Int64s | None = None, always: Int64s | None = None
    ) -> Int64s:
        """The positions of the items with the largest inner products, best first.

        Args:
            query: [d] float32, finite.
            count: at most so many.
            without: keys [n] that are left out; those not in the catalogue are ignored.
            always: keys [n] that come before all others, unless left out; those not in the catalogue are ignored.

        >>> c = Catalogue(np.array([7, 8, 9]), np.array([[9e6, 0.0], [-9e6, 1.0], [0.5, 0.5]], np.float32))
        >>> c.keys[c.search(np.array([1.0, 0.0], np.float32), 2, always=np.array([8]))].tolist()
        [8, 7]
        """
        largest = np.abs(query).max(initial=0.0)
        if largest > _LARGE:  # a power of two less changes no order
            query = np.ldexp(query, -np.frexp(largest)[1])
        scores = self.vectors @ query
        excluded = _NOTHING if without is None or not len(without) else self.positions(without)
        first = _NOTHING if always is None or not len(always) else np.setdiff1d(self.positions(always), excluded)
        if len(first):  # apart from the others: their inner products may be of any size
            excluded = np.append(excluded, first)
            first = first[_largest(scores[first], min(count, len(first)))]
        scores[excluded] = -np.inf
        left = min(count - len(first), len(scores) - len(excluded))
        return np.append(first, _largest(scores, left)) if len(first) else _largest(scores, left)

    def near(self, position: int, count: int, without: Int64s) -> tuple[Int64s, Float32s]:
        """The positions [n] of the items nearest to the one at a position, nearest first, and their cosines [n].

        Args:
            position: of an item.
            count: at most so many.
            without: keys that are left out; those not in the catalogue are ignored.
        """
        scores = self.unit @ self.unit[position]
        excluded = self.positions(without)
        scores[excluded] = -np.inf
        found = _largest(scores, min(count, len(scores) - len(excluded)))
        return found, scores[found]

    def positions(self, keys: Int64s) -> Int64s:
        """The positions of those of the keys that are in the catalogue, each once."""
        if not len(self._sorted):
            return np.zeros(0, np.int64)
        at = np.minimum(np.searchsorted(self._sorted, keys), len(self._sorted) - 1)
        return np.unique(self._order[at[self._sorted[at] == keys]])

    def places(self, keys: Int64s) -> Int64s:
        """[n] the position of each of n keys; -1: it is not in the catalogue.

        >>> Catalogue(np.array([7, 3]), np.zeros((2, 1), np.float32)).places(np.array([3, 5, 7])).tolist()
        [1, -1, 0]
        """
        if not len(self._sorted):
            return np.full(len(keys), -1, np.int64)
        at = np.minimum(np.searchsorted(self._sorted, keys), len(self._sorted) - 1)
        return np.where(self._sorted[at] == keys, self._order[at], -1)

    @property
    def unit(self) -> Float32s:
        """[M, d] the vectors, each divided by its length, so that inner products are cosines; a zero stays zero."""
        if self._unit is not None:
            return self._unit
        lengths = np.linalg.norm(self.vectors, axis=1, keepdims=True)
        is_unit = bool((np.abs(lengths - 1.0) < 1e-6).all())
        unit = self.vectors if is_unit else (self.vectors / np.maximum(lengths, 1e-30)).astype(np.float32)
        self._unit = unit
        return unit


def _largest(scores: Float32s, count: int) -> Int64s:
    """The positions of the largest scores, the largest first, of equal ones the first."""
    if count <= 0:
        return np.zeros(0, np.int64)
    if count >= len(scores):
        return np.argsort(-scores, kind="stable")
    best = np.argpartition(scores, len(scores) - count)[len(scores) - count :]
    least = scores[best].min()
    if np.isnan(least):
        best.sort()
    else:  # of those that equal the last one, the partition takes any
        above = np.flatnonzero(scores > least)
        best = np.concatenate([above, np.flatnonzero(scores == least)[: count - len(above)]])
    return best[np.argsort(-scores[best], kind="stable")]
