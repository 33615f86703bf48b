"""The prefix sums of a column of floats, made and written in runs of keys side by side."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from bedplate.offline import kernels
from bedplate.offline.writing import PIECE, write_pieces
from bedplate.types import Array, Int64s


def write_sums(path: Path, values: Array, starts: Int64s, threads: int) -> dict[str, Array]:
    """Writes the sums of each key's values; see `kernels.prefix_sums`.

    Args:
        path: the file.
        values: [m].
        starts: [k + 1] where each key's values begin.
        threads: how many threads sum up.

    Returns:
        what is needed beside them, by name: nothing, or the exact sums of some keys.
    """
    exact_starts, used = np.full(len(starts) - 1, -1, np.int64), dict[int, tuple[slice, int]]()
    bounds = np.unique(np.searchsorted(starts, [*range(0, len(values), PIECE), len(values)], side="right") - 1)

    def make(first: int, stop: int) -> Array:
        keys = slice(*np.searchsorted(starts, (first, stop)).tolist())
        sums = np.empty(stop - first, np.float64)
        own = starts[keys.start : keys.stop + 1] - first
        used[first] = keys, int(kernels.prefix_sums(values[first:stop], own, sums, exact_starts[keys]))
        return sums

    pieces = list(pairwise(np.unique(starts[bounds]).tolist()))
    write_pieces(path, np.dtype(np.float64), (len(values),), pieces, make, threads)
    total = 0
    for first, _ in pieces:
        keys, count = used[first]
        exact_starts[keys] += np.where(exact_starts[keys] >= 0, total, 0)
        total += count
    if not total:
        return {}
    exact = np.empty((total, 2), np.float64)
    kernels.exact_sums(values, starts, exact_starts, exact)
    return {"exact": exact, "exact starts": exact_starts}
