"""The running sums of a column of floats, made and written in runs of keys side by side."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from bedplate.offline import running
from bedplate.offline.writing import PIECE, write_pieces
from bedplate.types import Array, Int64s


def write_sums(path: Path, values: Array, starts: Int64s, threads: int) -> dict[str, Array]:
    """Writes the sums of each key's values; see `running.prefix_sums`.

    Args:
        path: the file.
        values: [m].
        starts: [k + 1] where each key's values begin.
        threads: how many threads sum up.

    Returns:
        what is needed beside them, by name: nothing, or what rounding left off the sums.
    """
    bounds = np.unique(np.searchsorted(starts, [*range(0, len(values), PIECE), len(values)], side="right") - 1)
    rests, is_rounded = np.empty(len(values) // running.RESTS, np.float64), list[bool]()

    def make(first: int, stop: int) -> Array:
        keys = slice(*np.searchsorted(starts, (first, stop)).tolist())
        sums, own = np.empty(stop - first, np.float64), starts[keys.start : keys.stop + 1] - first
        is_rounded.append(bool(running.prefix_sums(values[first:stop], own, first, sums, rests)))
        return sums

    pieces = list(pairwise(np.unique(starts[bounds]).tolist()))
    write_pieces(path, np.dtype(np.float64), (len(values),), pieces, make, threads)
    return {"rests": rests} if any(is_rounded) else {}
