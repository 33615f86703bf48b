"""Random numbers by counter: the number at a place depends on the place alone, so any batch can be made by itself.

The generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): the
finalizer of a counter that grows by an odd constant. The finalizer is one to one on 64 bits.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from bedplate.types import Int64s

UInt64s: TypeAlias = npt.NDArray[np.uint64]

GAMMA = np.uint64(0x9E3779B97F4A7C15)
"""The step of the counter: 2^64 over the golden ratio, odd."""
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)


def mix(counters: UInt64s) -> UInt64s:
    """The random numbers at these counters, [n] uint64; written so that a kernel can compile it for one number too.

    >>> [hex(v) for v in mix(np.array([0, 1], np.uint64)).tolist()]
    ['0xe220a8397b1dcdaf', '0x910a2dec89025cc1']
    """
    z = counters + GAMMA
    z = (z ^ (z >> _30)) * _FIRST
    z = (z ^ (z >> _27)) * _SECOND
    return z ^ (z >> _31)


def streams(seed: int, epoch: int, purpose: int, ids: Int64s) -> UInt64s:
    """The first counter of each id's own stream of random numbers.

    Args:
        seed: of the run.
        epoch: of the run.
        purpose: what the numbers are for; different purposes have unrelated numbers.
        ids: [n] int64.

    Returns:
        [n] uint64, different for different ids.
    """
    base = mix(np.array([seed & 0xFFFF_FFFF_FFFF_FFFF], np.uint64))
    for part in (epoch, purpose):
        base = mix(base ^ np.uint64(part & 0xFFFF_FFFF_FFFF_FFFF))
    return mix(base ^ ids.view(np.uint64))


def shuffled(seed: int, epoch: int, ids: Int64s) -> Int64s:
    """A permutation of the positions of the ids, [n] int64.

    >>> sorted(shuffled(1, 0, np.array([7, 8, 9])).tolist())
    [0, 1, 2]
    """
    numbers = streams(seed, epoch, 1, ids)
    order = np.argsort(numbers)  # several times faster than a stable sort, and the same where no two are equal
    found = numbers[order]
    return np.argsort(numbers, kind="stable") if (found[1:] == found[:-1]).any() else order
