"""How far a distribution has moved: the population stability index of two samples that are kept as small summaries."""

from __future__ import annotations

import numpy as np

from bedplate.errors import DataError
from bedplate.types import Array, Float64s

_LEAST = 1e-4
"""The least share of a bin: an empty one would make the index infinite."""

BINS = 10


def stability_index(before: Array, after: Array) -> float:
    """`sum((q - p) log(q / p))` of the shares of bins: the population stability index (Siddiqi 2006, chapter 6).

    It is the symmetric divergence of Jeffreys (1946). By custom below 0.1 counts as the same and above 0.25 as another
    distribution. Shares are held 1e-4 above 0.

    Args:
        before: [bins] shares p, of sum 1.
        after: [bins] shares q.

    >>> round(stability_index(np.array([0.5, 0.5]), np.array([0.4, 0.6])), 4)
    0.0405
    """
    if len(before) != len(after):
        raise DataError(f"got shares of {len(before)} and {len(after)} bins, expected the same bins", where="metrics")
    p, q = (np.clip(np.asarray(shares, np.float64), _LEAST, None) for shares in (before, after))
    return float(((q - p) * np.log(q / p)).sum())


def shares_of_numbers(points: Array, reference: Array) -> Float64s:
    """The shares of the bins that a reference's tenths make, of a sample that is kept as its quantiles.

    A value that many share is a bin of its own where it is more than a tenth.

    Args:
        points: quantiles of the sample at even steps from 0 to 1, values that occur.
        reference: quantiles of the one that makes the bins.

    >>> points = np.arange(101.0)
    >>> shares_of_numbers(points, points).round(2).tolist()
    [0.11, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    """
    tenths = np.asarray(reference)[np.linspace(0, len(reference) - 1, BINS + 1).round().astype(np.int64)]
    edges = np.unique(tenths[1:-1])
    # A value with many rows ends one bin and makes the next begin above it; below it a bin ends just before.
    heavy = np.unique(tenths[1:][tenths[1:] == tenths[:-1]])
    edges = np.unique(np.concatenate((edges, np.nextafter(heavy, -np.inf))))
    below = np.searchsorted(np.sort(points), edges, side="right") / len(points)
    return np.diff(np.concatenate(([0.0], below, [1.0])))
