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
    unknowns: Any,
    nulls: Any,
    slot_keys: Any,
    slot_rows: Any,
    out: Any,
) -> None:
    """Looks ids up in hash tables with open addressing and linear probing.

    Args:
        values: [c, n] int64 ids.
        present: [c, n], or [0, 0] where all are present.
        shifts: [c] uint64, 64 less the bits of each feature's table.
        bases: [c] int64, its first slot.
        unknowns: [c] int64, the row of an id that is not in it; an empty slot holds this row.
        nulls: [c] int64, the row of an id that is not present.
        slot_keys: the id of each slot.
        slot_rows: its row.
        out: [n, c] int64, filled with rows.
    """
    all_present = present.shape[0] == 0
    for c in range(values.shape[0]):
        shift, base, unknown = shifts[c], bases[c], unknowns[c]
        for i in range(values.shape[1]):
            if not (all_present or present[c, i]):
                out[i, c] = nulls[c]
                continue
            slot = base + np.int64((np.uint64(values[c, i]) * MULTIPLIER) >> shift)
            while slot_rows[slot] != unknown and slot_keys[slot] != values[c, i]:
                slot += 1
            out[i, c] = slot_rows[slot]
