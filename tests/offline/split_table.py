"""A table that tests split into pieces as they like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise

import polars as pl

from bedplate.canonical import digest, digest_bytes
from bedplate.sources.base import Piece, Snapshot, Table, is_time
from bedplate.sources.pruning import Bounds


class SplitTable(Table):
    """The rows of a frame in pieces that begin at some rows."""

    def __init__(self, frame: pl.DataFrame, cuts: Sequence[int] = ()) -> None:
        self.frame = frame
        bounds = [0, *cuts, frame.height]
        self.parts = [frame[a:b] for a, b in pairwise(bounds)]

    @property
    def name(self) -> str:
        return "split"

    def schema(self) -> Mapping[str, pl.DataType]:
        return dict(self.frame.schema)

    def snapshot(self) -> Snapshot:
        return Snapshot(digest([p.id for p in self.pieces()]), self.frame.height, f"{self.frame.height} rows")

    def scan(self) -> pl.LazyFrame:
        return self.frame.lazy()

    def pieces(self) -> Sequence[Piece]:
        ids = [
            digest_bytes([str(i).encode(), p.rechunk().write_ipc(None).getvalue()]) for i, p in enumerate(self.parts)
        ]
        return [Piece(i, p.height, p.lazy, bounds=partial(_bounds, p)) for i, p in zip(ids, self.parts, strict=True)]


def _bounds(rows: pl.DataFrame, column: str) -> Bounds | None:
    values = rows[column] if column in rows.columns else None
    if values is None or not is_time(values.dtype):
        return None
    nulls = values.null_count()
    return Bounds(values.min(), values.max(), is_null=nulls == len(values), has_null=nulls > 0)
