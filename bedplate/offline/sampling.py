"""How much memory the strings of a large table take, from a look at some of its rows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

import polars as pl

from bedplate.batch import TextLookup
from bedplate.errors import DataError
from bedplate.features.rows import prepare_batches
from bedplate.features.view import CompiledView
from bedplate.offline.memory import TextSize
from bedplate.sources.base import UNREADABLE, Piece
from bedplate.types import Type

_FEW = 1 << 17
"""Rows of a table whose strings always fit into memory."""
_RUNS, _RUN = 8, 1000
"""How many runs of rows are looked at for the lengths of strings, and how many rows each has."""


def sampled_texts(view: CompiledView, pieces: Sequence[Piece]) -> TextSize:
    """About how much memory the strings of some pieces' rows take; none are looked at where there are few rows."""
    kinds, total = [view.key_types, *view.types], sum(p.rows for p in pieces)
    if not any(kind is Type.STRING for of_column in kinds for kind in of_column) or total <= _FEW:
        return TextSize()
    looked_at, samples = 0, list[list[TextLookup]]()
    try:
        for raw in _runs(pieces, total):
            for rows in prepare_batches(view, raw):
                texts = [*rows.key_texts, *(t for s in rows.selections for t in s.texts)]
                samples.append([t for t in texts if t is not None])
                looked_at += len(rows)
    except (DataError, *UNREADABLE):  # the build says what is wrong
        return TextSize()
    columns = zip(*samples, strict=True)
    return sum((TextSize.of(column, looked_at, total) for column in columns), start=TextSize())


def _runs(pieces: Sequence[Piece], total: int) -> Iterator[pl.LazyFrame]:
    """Runs of rows from several places."""
    ends = list(accumulate(p.rows for p in pieces))
    for row in range(0, total, total // _RUNS + 1):
        piece = pieces[bisect_right(ends, row)]
        first = piece.rows - (ends[bisect_right(ends, row)] - row) if piece.slices else 0
        yield piece.scan().slice(first, _RUN)
