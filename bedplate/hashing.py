"""The hash behind approximate distinct counts: fixed for ever, as sketches that are stored hold it.

The hash of a value is the first number that the generator splitmix64 (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014) draws when the value's 64 bits are its seed. It is a bijection: different
values have different hashes. As a signed integer, with its highest bit flipped, it is in the order of the unsigned one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bedplate.compiling import compiled


@compiled
def finalized(word: Any) -> Any:
    """The finaliser of splitmix64: a bijection of uint64 that spreads what differs in few bits."""
    x = np.uint64(word)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def hash_word(word: Any) -> Any:
    """The hash of an int64, an int64.

    >>> [hash_word(np.int64(word)) + 2**63 for word in (0, 1, -1)]
    [16294208416658607535, 10451216379200822465, 16490336266968443936]
    """
    mixed = finalized(np.uint64(word) + np.uint64(0x9E3779B97F4A7C15))
    return np.int64(mixed ^ np.uint64(0x8000000000000000))
