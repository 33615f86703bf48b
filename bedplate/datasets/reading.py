"""Reading the rows of a source for a dataset, with the snapshot that they are of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from bedplate.errors import DataError
from bedplate.sources.base import Source


def read_rows(
    source: Source, root: Path | None, where: pl.Expr | None, columns: Sequence[pl.Expr], place: str
) -> tuple[pl.DataFrame, str]:
    """Columns of a source's prepared rows, and the id of the snapshot that was read.

    Args:
        source: the rows.
        root: the project's folder, where relative paths start.
        where: a boolean row expression; other rows are left out.
        columns: what to read.
        place: what reads them, for the message.

    Raises:
        DataError: the table was changed while it was read.
    """
    table = source.table(root)
    before = table.snapshot()
    events = source.events(table.scan())
    if where is not None:
        events = events.filter(where)
    frame = events.select(*columns).collect()
    after = table.snapshot()
    if after.id != before.id:
        raise DataError(
            f"the table {table.name} was changed while it was read: {before.text}, now {after.text}",
            where=f"{place}, source '{source.name}'",
            hint="run it again when the table is written",
        )
    return frame, before.id
