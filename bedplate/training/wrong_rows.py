"""Rows that training stopped for, saved to a file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from bedplate.files import write_atomic
from bedplate.types import Array, Bools, Int64s

FILE = "not-finite.parquet"
"""The rows, in the folder of the checkpoints: `request_id`, `candidate` (null: all of the request) and `what`."""

_MOST = 10_000  # rows


def written_rows(
    folder: Path, wrong: Mapping[str, Bools], request_ids: Int64s, requests: Int64s, candidates: Int64s
) -> str:
    """Writes the rows, and says for a message how many and where; an empty text where there are none.

    Args:
        folder: where `FILE` goes.
        wrong: what is wrong, and in which of N candidates or R requests: [N] or [R] bool.
        request_ids: [R].
        requests: [N], the id of each candidate's request.
        candidates: [N].
    """
    parts: list[pl.DataFrame] = []
    for name, rows in wrong.items():
        at: Array = np.flatnonzero(rows)[:_MOST]
        of_items = len(rows) == len(candidates)
        columns = {
            "request_id": (requests if of_items else request_ids)[at],
            "candidate": pl.Series(candidates[at] if of_items else [None] * len(at), dtype=pl.Int64),
            "what": pl.Series([name] * len(at), dtype=pl.String),
        }
        parts.append(pl.DataFrame(columns))
    found = pl.concat(parts)[:_MOST] if parts else pl.DataFrame()
    if not len(found):
        return ""
    buffer = io.BytesIO()
    found.write_parquet(buffer)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / FILE, buffer.getvalue())
    return f" ({len(found):,} rows: {folder / FILE})"
