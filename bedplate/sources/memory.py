"""A table in memory, for tests, notebooks and small dimension tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import polars as pl

from bedplate.canonical import digest_bytes
from bedplate.sources.base import Snapshot, Table


@final
class MemoryTable(Table):
    """A Polars frame as a table; its snapshot is the hash of its content.

    >>> MemoryTable(pl.DataFrame({"a": [1, 2]})).snapshot().rows
    2
    """

    __slots__ = ("_frame",)

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame

    @property
    def name(self) -> str:
        """Always "memory"."""
        return "memory"

    def schema(self) -> Mapping[str, pl.DataType]:
        """The frame's columns."""
        return dict(self._frame.schema)

    def snapshot(self) -> Snapshot:
        """The hash of the frame as Arrow IPC bytes."""
        buffer = self._frame.rechunk().write_ipc(None)
        return Snapshot(digest_bytes([buffer.getvalue()]), self._frame.height, f"memory, {self._frame.height:,} rows")

    def scan(self) -> pl.LazyFrame:
        """The frame."""
        return self._frame.lazy()
