"""The contract suite of online stores."""

from __future__ import annotations

import numpy as np
import polars as pl

from bedplate.features.rows import GroupedRows, SelectedValues, prepare_rows
from bedplate.features.view import CompiledView


def grouped(view: CompiledView, raw: pl.DataFrame) -> GroupedRows:
    """The events of a frame as a bulk load takes them: by key, in order (time, arrival)."""
    rows = prepare_rows(view, raw.lazy())
    order = np.lexsort((rows.times, *rows.keys.T[::-1]))
    keys, counts = np.unique(rows.keys, axis=0, return_counts=True)
    selections = tuple(
        SelectedValues(None if s.valid is None else s.valid[order], tuple(v[order] for v in s.inputs), s.texts)
        for s in rows.selections
    )
    offsets = np.append(0, counts.cumsum())
    return GroupedRows(keys, offsets, rows.times[order], selections, rows.key_texts)
