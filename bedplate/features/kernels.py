"""The compiled loops of encoding. Definitions don't import this file: it is the encoder's alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from bedplate.compiling import compiled

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""2^64 / golden ratio: Fibonacci hashing, Knuth, TAOCP vol. 3, 6.4."""


@compiled
def find_rows(
    values: Any,
    present: Any,
    shifts: Any,
    bases: Any,
    firsts: Any,
    unknowns: Any,
    slots: Any,
    keys: Any,
    out: Any,
) -> None:
    """Looks ids up in hash tables with open addressing and linear probing.

    A vocabulary's rows are those of null, of unknown ids, and of its keys, in this order.

    Args:
        values: [c, n] int64 ids.
        present: [c, n], or [0, 0] where all are present.
        shifts: [c] uint64, 64 less the bits of each feature's table.
        bases: [c] int64, its first slot.
        firsts: [c] int64, the place of its first key.
        unknowns: [c] int64, the row of an id that is not in it.
        slots: int32, for each slot the number of its key among those of its vocabulary, from 1 on; 0 where it is empty.
        keys: int64, the keys of all vocabularies.
        out: [n, c] int64, filled with rows.
    """
    all_present = present.shape[0] == 0
    for c in range(values.shape[0]):
        shift, base, unknown, before = shifts[c], bases[c], unknowns[c], firsts[c] - 1
        for i in range(values.shape[1]):
            if not (all_present or present[c, i]):
                out[i, c] = unknown - 1
                continue
            slot = base + np.int64((np.uint64(values[c, i]) * MULTIPLIER) >> shift)
            while slots[slot] != 0 and keys[before + slots[slot]] != values[c, i]:
                slot += 1
            out[i, c] = unknown + slots[slot]
