"""The catalogue: the vectors of all items, searched exactly: about a millisecond for 100,000 items of 64 numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

import numpy as np

from bedplate.errors import ArtifactError
from bedplate.types import Float32s, Int64s


@final
class Catalogue:
    """All items that can be retrieved.

    Args:
        keys: [M] int64, all different.
        vectors: [M, d] float32.
        texts: the texts behind string keys.

    Raises:
        ArtifactError: the lengths differ, a key is there twice, or a vector is not finite.

    >>> c = Catalogue(np.array([7, 8, 9]), np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], np.float32))
    >>> c.keys[c.search(np.array([1.0, 0.0], np.float32), 2)].tolist()
    [7, 9]
    """

    __slots__ = ("_order", "_sorted", "keys", "vectors", "wire")

    def __init__(self, keys: Int64s, vectors: Float32s, texts: Mapping[int, str] | None = None) -> None:
        if vectors.ndim != 2 or keys.shape != vectors.shape[:1]:
            raise ArtifactError(f"got {keys.shape} keys and {vectors.shape} vectors", where="retrieval index")
        self.keys = np.ascontiguousarray(keys, np.int64)
        self.vectors = np.ascontiguousarray(vectors, np.float32)
        self._order = np.argsort(self.keys)
        self._sorted = self.keys[self._order]
        if len(keys) and (bool((self._sorted[1:] == self._sorted[:-1]).any()) or not bool(np.isfinite(vectors).all())):
            raise ArtifactError("a key is there twice or a vector is not finite", where="retrieval index")
        names: Sequence[int] | Sequence[str] = self.keys.tolist()
        if texts is not None:
            names = [texts[k] for k in self.keys.tolist()]
        self.wire = names

    def __len__(self) -> int:
        """M, the number of items."""
        return len(self.keys)

    def search(self, query: Float32s, count: int, without: Int64s | None = None) -> Int64s:
        """The positions of the items with the largest inner products, best first.

        Args:
            query: [d] float32.
            count: at most so many.
            without: keys [n] that are left out; those not in the catalogue are ignored.
        """
        scores = self.vectors @ query
        allowed = len(scores)
        if without is not None and len(without):
            excluded = self.positions(without)
            scores[excluded] = -np.inf
            allowed -= len(excluded)
        count = min(count, allowed)
        if count <= 0:
            return np.zeros(0, np.int64)
        if count < len(scores):
            best = np.argpartition(scores, len(scores) - count)[len(scores) - count :]
            best.sort()
        else:
            best = np.arange(len(scores))
        return best[np.argsort(-scores[best], kind="stable")]

    def positions(self, keys: Int64s) -> Int64s:
        """The positions of those of the keys that are in the catalogue, each once."""
        if not len(self._sorted):
            return np.zeros(0, np.int64)
        at = np.minimum(np.searchsorted(self._sorted, keys), len(self._sorted) - 1)
        return np.unique(self._order[at[self._sorted[at] == keys]])


def load_array(path: Path, dtype: str, ndim: int) -> np.ndarray:
    """Reads a `.npy` file of an artifact.

    Raises:
        ArtifactError: it is missing, damaged, or of another type or shape.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(f"the array can't be read: {error}", where=str(path)) from error
    if array.dtype != np.dtype(dtype) or array.ndim != ndim:
        raise ArtifactError(f"got {array.dtype} {array.shape}, expected {ndim} axes of {dtype}", where=str(path))
    return array
